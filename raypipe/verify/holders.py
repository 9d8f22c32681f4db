"""What the units of a sink hold at one cut, table by table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from raypipe.contracts import SinkContents
from raypipe.errors import Unavailable
from raypipe.model import SinkTable
from raypipe.plan.model import SinkPlan
from raypipe.sinks import open_sinks

# Tables by name with the units that hold them: one, or every shard, whose rows together are the table.
Holders = dict[str, tuple[SinkTable, dict[str, SinkContents]]]


@contextmanager
def held_at(sink: SinkPlan, pipeline: str, number: int) -> Iterator[Holders]:
    """Reads every unit of a sink in a transaction each.

    Args:
        sink: As planned.
        pipeline: Whose sink it is.
        number: Of the cut that all of them must hold.

    Raises:
        Unavailable: one holds another cut.
    """
    with ExitStack() as stack:
        holders: Holders = {}
        for unit in open_sinks(sink, pipeline):
            stack.callback(unit.close)
            contents = stack.enter_context(unit.contents())
            held = contents.committed.cut
            if held is None or held.number != number:
                raise Unavailable(
                    f"Sink {unit.name} moved on from cut {number} while it was being compared.", remedy="Do it again."
                )
            for table in unit.tables:
                holders.setdefault(table.name, (table, {}))[1][unit.name] = contents
        yield holders
