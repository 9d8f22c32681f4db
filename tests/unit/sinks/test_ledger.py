"""What a store remembers, and what the plan makes of it."""

from dataclasses import replace

import pyarrow as pa

from raypipe.model import Column, Cut, Mode, SinkTable, TableName, TableSchema
from raypipe.sinks.ledger import Ledger, Shape, TableRecord, reconcile, tables_from_json

SCHEMA = TableSchema(
    table=TableName("", "", "r"), columns=(Column(name="id", type=pa.int64()),), key=("id",), branches=2
)
TABLE = SinkTable(name="t", relation="r", schema=SCHEMA, view="v1")
LOADED = TableRecord(view="v1", shape=Shape(mode=Mode.CURRENT, key=("id",), branches=2))
CUT = Cut(number=4, log="log", offsets={}, positions={})


def test_the_tables_of_a_ledger_survive_as_json():
    records = {
        "t": replace(LOADED, awaiting=frozenset({1})),
        "h": replace(LOADED, shape=replace(LOADED.shape, mode=Mode.HISTORY)),
    }
    assert tables_from_json(Ledger(tables=records).tables_json()) == records


def test_a_table_that_is_as_planned_is_left_alone():
    ledger = Ledger(generation=3, cut=CUT, tables={"t": LOADED})
    assert reconcile(ledger, [TABLE], shards=1) == (ledger, ())


def test_an_unknown_table_is_made_and_awaits_all_its_branches():
    ledger, anew = reconcile(Ledger(), [TABLE], shards=1)
    assert anew == (TABLE,)
    assert ledger.tables["t"] == replace(LOADED, awaiting=frozenset({0, 1}))


def test_a_table_is_made_anew_when_its_view_or_the_meaning_of_its_rows_changes():
    for changed in (
        replace(TABLE, view="v2"),
        replace(TABLE, mode=Mode.HISTORY),
        replace(TABLE, schema=replace(SCHEMA, key=())),
        replace(TABLE, schema=replace(SCHEMA, branches=3)),
    ):
        _, anew = reconcile(Ledger(tables={"t": LOADED}), [changed], shards=1)
        assert anew == (changed,)
    assert reconcile(Ledger(tables={"t": LOADED}), [TABLE], shards=2)[1] == (TABLE,)


def test_a_table_that_left_the_plan_is_stale_when_it_comes_back():
    ledger, _ = reconcile(Ledger(tables={"t": LOADED}), [], shards=1)
    assert ledger.committed([]).tables == {}
    assert reconcile(ledger, [TABLE], shards=1)[1] == (TABLE,)
