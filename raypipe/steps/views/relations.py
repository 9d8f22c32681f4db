"""What relations hold in one epoch: an operator that several steps have runs once, and its traces are added to once.

Operators are one where their relations have one identity (``ViewPlan.identities``). The first step that comes to one
runs it, the others find what it made. All of them read its traces as they stood before the epoch; what the epoch adds
waits until the last step that reads them has run.

An operator *begins* if an input below it was emptied, or if its traces are not kept: all rows of what it reads are then
its changes, and its traces count as empty. One that begins may read a relation that goes on, which tells it all of its
rows: what its traces held before the epoch, and the epoch's changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import pyarrow as pa

from raypipe.contracts import Readable, TraceSchema, Work
from raypipe.steps.views.exchange import ALONE, Exchange
from raypipe.steps.views.multiset import empty

NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Input:
    """What an epoch did to a relation that a step reads.

    Attributes:
        changes: Weighted rows, with at least the columns that the step's scans name.
        emptied: Whether it was truncated, so that what reads it begins.
        everything: All rows that it has now, weighted likewise.
    """

    changes: pa.Table
    emptied: bool
    everything: Callable[[], pa.Table]


@dataclass(kw_only=True)
class Rows:
    """Rows of a relation: its changes in this epoch, or everything.

    Attributes:
        made: As they came about.
        comes: Whether they are everything, so that nothing goes.
        added: Added up; None as long as nobody asked.
        arrived: Added up, those of this shard, by the key that tells whose they are.
    """

    made: pa.Table
    comes: bool
    added: pa.Table | None = None
    arrived: dict[tuple[str, ...], pa.Table] = field(default_factory=dict)


class Relations:
    """Those of one epoch. Used by one thread.

    Args:
        work: State as it stood before the epoch; takes what is to be remembered.
        held: Names of the traces that are kept: of any other the content means nothing.
        at: When the cut was made that the epoch ends at, seconds since 1970: what now() means.
        exchange: With the other shards.
        by_inputs: Traces of operators that are not kept, and by name the traces of inputs that hold the same.
    """

    def __init__(
        self,
        work: Work,
        held: Collection[str],
        at: float,
        exchange: Exchange = ALONE,
        by_inputs: Mapping[str, str] = NOTHING,
    ) -> None:
        self.held = frozenset(held)
        self.at = at
        self.exchange = exchange
        self._work = work
        self._by_inputs = by_inputs
        self._rows: dict[tuple[str, bool], Rows] = {}
        self._begins: dict[str, bool] = {}
        self._due: dict[str, tuple[pa.Table, bool]] = {}

    def begins(self, identity: str, find: Callable[[], bool]) -> bool:
        """Whether a relation begins in this epoch, which is found out once."""
        if identity not in self._begins:
            self._begins[identity] = find()
        return self._begins[identity]

    def known(self, identity: str, everything: bool) -> Rows | None:
        """What a step made of a relation already."""
        return self._rows.get((identity, everything))

    def make(self, identity: str, rows: Rows) -> Rows:
        """Keeps rows of a relation for the steps that come."""
        self._rows[identity, rows.comes] = rows
        return rows

    def before(self, schema: TraceSchema, *, begins: bool) -> Readable:
        """A trace as an operator is to see it."""
        if begins:
            return Nothing(schema)
        held = self._by_inputs.get(schema.name)
        # The input has taken its changes in already.
        return self._work.trace(schema.name) if held is None else self._work.standing(held)

    def awaits(self, trace: str) -> bool:
        """Whether it is still to be said what is added to a trace."""
        return trace not in self._due and trace not in self._by_inputs

    def add(self, trace: str, rows: pa.Table, *, anew: bool) -> None:
        """Adds rows to a trace once ``settle`` says so; ``anew`` in place of all that it holds."""
        self._due[trace] = rows, anew

    def settle(self, traces: Iterable[str]) -> None:
        """Adds what is due to traces that nobody reads any more in this epoch."""
        for name in traces:
            rows, anew = self._due.pop(name, (None, False))
            if anew:
                self._work.trace(name).clear()
            if rows is not None and rows.num_rows:
                self._work.trace(name).append(rows)

    def forget(self, identities: Iterable[str]) -> None:
        """Lets go of the rows of relations that no further step has."""
        for identity in identities:
            for everything in (False, True):
                self._rows.pop((identity, everything), None)


class Nothing:
    """A trace without rows, see ``Readable``: what an operator that begins finds, whatever the state holds."""

    def __init__(self, schema: TraceSchema) -> None:
        self.schema = schema
        self.count = 0

    def probe(self, keys: pa.Table) -> pa.Table:  # noqa: ARG002 - there is nothing to find
        """See ``Readable``."""
        return empty(self.schema.columns)

    def should_scan(self, keys: int) -> bool:  # noqa: ARG002 - likewise
        """See ``Readable``."""
        return False

    def rows(self) -> Iterator[pa.RecordBatch]:
        """See ``Readable``."""
        return iter(())
