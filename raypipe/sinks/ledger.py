"""What a transactional store remembers of a sink beside its data: cut, generation and the state of each table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from raypipe.model import Committed, Cut, Mode, SinkTable, TableState

LEDGER_TABLE = "raypipe_commits"

# No view has this fingerprint, so a table that comes back into the plan is always made anew.
_RETIRED = "retired"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a table's rows mean; if it changes, the rows in the store are no longer the table's.

    Attributes:
        mode: Current or history.
        key: Columns that identify a row.
        branches: Of the relation.
        shards: Stores its rows are spread over.
    """

    mode: Mode
    key: tuple[str, ...]
    branches: int
    shards: int = 1


@dataclass(frozen=True, kw_only=True)
class TableRecord:
    """What a store remembers of one of its tables.

    Attributes:
        view: Fingerprint of the view it holds.
        shape: Of its rows.
        awaiting: Branches not loaded yet.
    """

    view: str
    shape: Shape
    awaiting: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The row of a sink in ``raypipe_commits``.

    Attributes:
        generation: That owns the sink.
        cut: Last committed.
        tables: Every table raypipe has made here for this sink, also those no longer in the plan.
    """

    generation: int = 0
    cut: Cut | None = None
    tables: Mapping[str, TableRecord] = field(default_factory=dict)

    def committed(self, tables: Iterable[SinkTable]) -> Committed:
        """What the sink holds of the tables in the plan."""
        states = {
            table.name: TableState(view=self.tables[table.name].view, awaiting=self.tables[table.name].awaiting)
            for table in tables
            if table.name in self.tables
        }
        return Committed(cut=self.cut, generation=self.generation, tables=states)

    def with_table(self, name: str, record: TableRecord) -> Ledger:
        """The ledger with another record of one table."""
        return replace(self, tables={**self.tables, name: record})

    def tables_json(self) -> str:
        """The tables as one line of JSON; ``tables_from_json`` reads it back."""
        records = {
            name: {
                "view": record.view,
                "mode": record.shape.mode.value,
                "key": list(record.shape.key),
                "branches": record.shape.branches,
                "shards": record.shape.shards,
                "awaiting": sorted(record.awaiting),
            }
            for name, record in self.tables.items()
        }
        return json.dumps(records, sort_keys=True, separators=(",", ":"))


def tables_from_json(text: str) -> dict[str, TableRecord]:
    """Reads what ``Ledger.tables_json`` wrote."""
    return {
        name: TableRecord(
            view=record["view"],
            shape=Shape(
                mode=Mode(record["mode"]),
                key=tuple(record["key"]),
                branches=record["branches"],
                shards=record["shards"],
            ),
            awaiting=frozenset(record["awaiting"]),
        )
        for name, record in json.loads(text).items()
    }


def reconcile(ledger: Ledger, tables: Iterable[SinkTable], shards: int) -> tuple[Ledger, tuple[SinkTable, ...]]:
    """Brings the records in line with the plan.

    Args:
        ledger: As the store holds it.
        tables: As planned.
        shards: Stores the rows are spread over.

    Returns:
        The ledger with a record of every planned table, and the tables that must be made anew: they are unknown, or
        what they hold is another view, or its rows have another shape. These await all their branches. Tables that
        left the plan stay in the store and are retired.
    """
    planned = {table.name: table for table in tables}
    records = {
        name: record if name in planned else replace(record, view=_RETIRED) for name, record in ledger.tables.items()
    }
    anew = []
    for name, table in planned.items():
        schema = table.schema
        shape = Shape(mode=table.mode, key=schema.key, branches=schema.branches, shards=shards)
        held = records.get(name)
        if held is None or held.view != table.view or held.shape != shape:
            records[name] = TableRecord(view=table.view, shape=shape, awaiting=frozenset(range(schema.branches)))
            anew.append(table)
    return replace(ledger, tables=records), tuple(anew)
