"""Epochs, and what a sink says it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from raypipe.model.cut import Cut
from raypipe.model.table import TableSchema


class Mode(Enum):
    """How a sink table reflects its relation."""

    CURRENT = "current"  # the relation as it stands at the cut
    HISTORY = "history"  # every change as one row, in order, with op, commit, ordinal and time


@dataclass(frozen=True, kw_only=True)
class SinkTable:
    """One table of a sink, as planned.

    Attributes:
        name: In the sink.
        relation: The step or source table it is fed from, as users write it (``paid_orders``, ``shop.orders``).
        schema: Of the relation; the sink creates the table from it and widens it as later versions come.
        mode: Current or history.
        partition_by: Columns the store partitions its files by, if it does.
        view: Fingerprint of the SQL (and of all steps below it). A sink whose stored fingerprint differs empties
            the table and waits for a reload.
    """

    name: str
    relation: str
    schema: TableSchema
    mode: Mode = Mode.CURRENT
    partition_by: tuple[str, ...] = ()
    view: str = ""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The work between two cuts: the unit of replay and of commit, numbered by the cut it ends at.

    Attributes:
        after: Cut the sinks hold already; None for the beginning of the log.
        upto: Cut they hold afterwards.
        generation: Of the writer.
    """

    after: Cut | None
    upto: Cut
    generation: int

    @property
    def number(self) -> int:
        """The number of the cut it ends at."""
        return self.upto.number


@dataclass(frozen=True, kw_only=True)
class TableState:
    """What a sink knows of one of its tables.

    Attributes:
        view: Fingerprint of the view the table holds.
        awaiting: Branches (0 for a relation without) that have not been loaded since the table was made or
            emptied: their changes are ignored until their TRUNCATE arrives, which begins every load.
    """

    view: str
    awaiting: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True, kw_only=True)
class Committed:
    """What a sink holds durably, as its own commit says.

    Attributes:
        cut: Last cut committed; None if none ever was.
        generation: That owns the sink now.
        tables: State of each of its tables, by name.
    """

    cut: Cut | None
    generation: int
    tables: Mapping[str, TableState]
