"""What an epoch does to a Delta table: one commit, of the cheapest kind that is exact."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from delta_lab import (
    AFTER,
    BAG,
    BEFORE,
    DELETE,
    INSERT,
    KEY_ONLY,
    ORDERS,
    READ,
    TRUNCATE,
    Lab,
    changes,
    cut,
    day,
    in_history,
    relation,
    sink_table,
)

from raypipe.errors import RaypipeError, SchemaMismatch
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, TIME, ChangeBatch, Op
from raypipe.plan.model import SinkPlan
from raypipe.sinks.delta import open_delta
from raypipe.sinks.delta.types import delta_form, delta_name
from raypipe.sinks.types import STORED_TYPES

BY_DAY = sink_table(partition_by=("day",))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, BY_DAY)
    lab.open()
    return lab


def load(lab: Lab, *rows: tuple[object, ...]) -> None:
    lab.epoch(changes(lab.table.schema, (TRUNCATE,), *((READ, *row) for row in rows)))


def files(lab: Lab) -> set[str]:
    return set(lab.delta().file_uris())


def test_every_epoch_is_one_commit_whatever_it_does(lab: Lab) -> None:
    assert lab.epoch() == 1
    assert lab.epoch(changes(ORDERS, (TRUNCATE,), (READ, 1, day(1), "a"))) == 1
    assert lab.epoch(changes(ORDERS, (INSERT, 2, day(1), "b"))) == 1
    assert lab.epoch(changes(ORDERS, (DELETE, 2, day(1), "b"))) == 1
    assert lab.epoch(changes(ORDERS, (INSERT, 3, day(1), "c"), (DELETE, 3, day(1), "c"))) == 1
    assert lab.epoch(changes(ORDERS, (TRUNCATE,))) == 1
    assert (lab.rows(), lab.held().cut) == ([], cut(6))


def test_a_load_overwrites_and_only_later_changes_merge(lab: Lab) -> None:
    load(lab, (1, day(1), "a"))
    assert lab.operation() == "WRITE"
    lab.epoch(changes(ORDERS, (INSERT, 2, day(1), "b")))
    assert lab.operation() == "MERGE"


def test_rows_without_a_key_are_appended_while_none_goes(tmp_path: Path) -> None:
    lab = Lab(tmp_path, sink_table(BAG, partition_by=("day",)))
    lab.open()
    load(lab, (1, day(1), "a"), (1, day(1), "a"))
    lab.epoch(changes(BAG, (INSERT, 1, day(1), "a")))
    assert (lab.operation(), len(lab.rows())) == ("WRITE", 3)
    lab.epoch(changes(BAG, (DELETE, 1, day(1), "a"), (INSERT, 1, None, None)))
    assert lab.operation() == "MERGE"
    assert lab.rows() == [(1, None, None), (1, day(1), "a"), (1, day(1), "a")]


def test_a_merge_leaves_files_of_other_partitions_alone(lab: Lab) -> None:
    load(lab, *((number, day(number % 10), "a") for number in range(100)))
    before = files(lab)
    lab.epoch(changes(ORDERS, (BEFORE, 3, day(3), "a"), (AFTER, 3, day(3), "b"), (INSERT, 200, day(20), "c")))
    metrics = lab.delta().history(1)[0]["operationMetrics"]
    assert metrics["num_target_files_skipped_during_scan"] >= 9
    assert len(before - files(lab)) == 1
    assert (3, day(3), "b") in lab.rows()


def test_a_row_whose_partition_changes_leaves_the_old_one(lab: Lab) -> None:
    load(lab, *((number, day(number % 5), "a") for number in range(20)))
    lab.epoch(changes(ORDERS, (BEFORE, 7, day(2), "a"), (AFTER, 7, day(4), "b")))
    assert [row for row in lab.rows() if row[0] == 7] == [(7, day(4), "b")]


@pytest.mark.parametrize(
    "change",
    [
        [(AFTER, 7, day(4), "b")],  # a lone after image is an upsert, whatever partition the old row is in
        [(READ, 7, day(4), "b")],
        [(DELETE, 7, KEY_ONLY), (INSERT, 7, day(4), "b")],
        [(BEFORE, 6, day(1), "a"), (AFTER, 6, day(1), "a"), (AFTER, 7, day(4), "b")],
    ],
)
def test_a_row_whose_old_partition_is_not_told_is_found_anyway(lab: Lab, change: list[tuple[object, ...]]) -> None:
    load(lab, *((number, day(number % 5), "a") for number in range(20)))
    lab.epoch(changes(ORDERS, *change))
    assert [row for row in lab.rows() if row[0] == 7] == [(7, day(4), "b")]
    assert len(lab.rows()) == 20


def test_null_is_a_partition_like_any_other(lab: Lab) -> None:
    load(lab, (1, None, "a"), (2, day(1), "b"))
    lab.epoch(changes(ORDERS, (BEFORE, 1, None, "a"), (AFTER, 1, None, "A")))
    assert lab.operation() == "MERGE"
    assert lab.rows() == [(1, None, "A"), (2, day(1), "b")]


def test_text_partitions_hold_quotes_slashes_and_percent_signs(tmp_path: Path) -> None:
    schema = relation({"id": pa.int64(), "p": pa.string()}, key=["id"])
    lab = Lab(tmp_path, sink_table(schema, partition_by=("p",)))
    lab.open()
    odd = ["o'clock", 'in "quotes"', "a/b", "50%", "x=1", " ", "__HIVE_DEFAULT_PARTITION__ ", "ü"]
    load(lab, *enumerate(odd))
    lab.epoch(changes(schema, *(row for n, p in enumerate(odd) for row in ((BEFORE, n, p), (AFTER, n + 100, p)))))
    assert lab.rows() == sorted(((n + 100, p) for n, p in enumerate(odd)), key=repr)


def test_an_empty_text_in_a_partition_is_refused_because_delta_would_make_it_null(tmp_path: Path) -> None:
    schema = relation({"id": pa.int64(), "p": pa.string()}, key=["id"])
    lab = Lab(tmp_path, sink_table(schema, partition_by=("p",)))
    lab.open()
    with pytest.raises(SchemaMismatch, match="NULLIF"):
        load(lab, (1, ""))


@pytest.mark.parametrize("partition_by", [("x",), ("f",), ("b",), ("tags",), ("id", "f", "b", "day")])
def test_a_partitioning_delta_cannot_do_is_refused(tmp_path: Path, partition_by: tuple[str, ...]) -> None:
    schema = relation(
        {"id": pa.int64(), "f": pa.float64(), "b": pa.binary(), "tags": pa.list_(pa.string())}, key=["id"]
    )
    with pytest.raises(SchemaMismatch, match="partitioned by"):
        Lab(tmp_path, sink_table(schema, partition_by=partition_by)).open()


def test_a_table_cannot_consist_of_partition_columns_only(tmp_path: Path) -> None:
    schema = relation({"id": pa.int64()}, key=["id"])
    with pytest.raises(SchemaMismatch, match="no column beside"):
        Lab(tmp_path, sink_table(schema, partition_by=("id",))).open()


def test_a_table_that_is_partitioned_otherwise_keeps_its_rows(lab: Lab) -> None:
    load(lab, (1, day(1), "a"), (2, day(2), "b"))
    again = Lab(lab.folder, sink_table(partition_by=("v",)))
    assert again.open(2).cut == cut(1)
    assert again.delta().metadata().partition_columns == ["v"]
    again.epoch(changes(ORDERS, (BEFORE, 1, day(1), "a"), (AFTER, 1, day(1), "c")))
    assert again.rows() == [(1, day(1), "c"), (2, day(2), "b")]


def test_names_that_need_quoting_are_columns_like_any_other(tmp_path: Path) -> None:
    names = ["or der", 'say "hi"', "a.b", "tick`", "SELECT", "ä;(){}=,", "Mixed"]
    for schema in (
        relation(dict.fromkeys(names, pa.int64()), key=names[:2]),
        relation(dict.fromkeys(names, pa.int64())),
    ):
        lab = Lab(tmp_path / str(len(schema.key)), sink_table(schema, partition_by=("a.b",)))
        lab.open()
        load(lab, tuple(range(7)), tuple(range(7)) if not schema.key else tuple(range(10, 17)))
        lab.epoch(changes(schema, (BEFORE, *range(7)), (AFTER, 0, 1, 9, 9, 9, 9, 9)))
        assert (0, 1, 9, 9, 9, 9, 9) in lab.rows()
        assert len(lab.rows()) == 2
        assert lab.contents().column_names == names


def test_names_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    schema = relation({"id": pa.int64(), "ID": pa.int64()}, key=["id"])
    with pytest.raises(SchemaMismatch, match="one name"):
        Lab(tmp_path, sink_table(schema)).open()


def test_a_history_tells_each_change_in_words(tmp_path: Path) -> None:
    lab = Lab(tmp_path, in_history(BY_DAY))
    lab.open()
    load(lab, (1, day(1), "a"))
    lab.epoch(changes(ORDERS, (BEFORE, 1, day(1), "a"), (AFTER, 1, day(2), "b"), (DELETE, 1, KEY_ONLY), commit=2))
    assert lab.operation() == "WRITE"
    stored = lab.delta().to_pyarrow_table().sort_by([(COMMIT, "ascending"), (ORDINAL, "ascending")])
    assert stored[OP].to_pylist() == ["truncate", "read", "update", "delete"]
    assert stored[IMAGE].to_pylist() == ["full", "full", "full", "key"]
    assert stored.select([COMMIT, "id", "day"]).to_pylist()[2] == {COMMIT: 2, "id": 1, "day": day(2)}
    read = lab.contents()
    assert read.schema.equals(ChangeBatch.arrow_schema(ORDERS))
    assert set(read[OP].to_pylist()) == {Op.TRUNCATE, Op.READ, Op.UPDATE_AFTER, Op.DELETE}
    assert read[TIME].type == pa.timestamp("us", tz="UTC")


SAMPLES = {
    pa.bool_(): [True, False],
    pa.float32(): [1.5, -0.0],
    pa.float64(): [0.1, 1e300],
    pa.decimal128(18, 2): [Decimal("-12345678901234.56"), Decimal("0.01")],
    pa.string(): ["", "ünï\0code"],
    pa.binary(): [b"", b"\x00\xff"],
    pa.date32(): [datetime.date(1, 1, 1), datetime.date(9999, 12, 31)],
    pa.time64("us"): [datetime.time(0), datetime.time(23, 59, 59, 999999)],
    pa.timestamp("us"): [datetime.datetime(1, 1, 1), datetime.datetime(2026, 11, 23, 1, 2, 3, 1501)],
}


def samples(stored: pa.DataType) -> pa.Array:
    if pa.types.is_integer(stored):
        top = 2 ** (stored.bit_width - pa.types.is_signed_integer(stored)) - 1
        return pa.array([0, top], stored)
    if pa.types.is_timestamp(stored):
        return pa.array([-1501, 1_795_000_000_123_456], pa.int64()).cast(stored)
    return pa.array(SAMPLES[stored], stored)


@pytest.mark.parametrize("stored", [row.arrow for row in STORED_TYPES], ids=str)
def test_every_type_comes_back_as_it_went_in_by_append_and_by_merge(tmp_path: Path, stored: pa.DataType) -> None:
    schema = relation({"id": pa.int64(), "x": stored}, key=["id", "x"])
    lab = Lab(tmp_path, sink_table(schema))
    lab.open()
    first, second = samples(stored).to_pylist() if stored != pa.timestamp("ns") else samples(stored)
    load(lab, (1, first), (2, None), (3, second))
    lab.epoch(changes(schema, (DELETE, 3, second), (INSERT, 4, second), (DELETE, 2, None), (INSERT, 5, None)))
    read = lab.contents().sort_by("id")
    assert read.schema.field("x").type == stored
    assert read["id"].to_pylist() == [1, 4, 5]
    expected = pa.chunked_array([pa.concat_arrays([samples(stored), pa.nulls(1, stored)])])
    assert read["x"].equals(expected)
    assert json.loads(lab.delta().schema().to_json())["fields"][1]["type"] == delta_name(stored)
    assert pa.schema(lab.delta().schema()).field("x").type == delta_form(stored)


def test_a_decimal_of_more_digits_than_delta_has_is_refused_with_the_choices(tmp_path: Path) -> None:
    schema = relation({"id": pa.int64(), "d": pa.decimal256(39, 0)}, key=["id"])
    with pytest.raises(SchemaMismatch, match=r"Column d .*cannot hold"):
        Lab(tmp_path, sink_table(schema)).open()


def test_a_column_is_added_without_touching_a_file_and_a_wider_type_rewrites_them(lab: Lab) -> None:
    load(lab, (1, day(1), "a"))
    before = files(lab)
    wider = relation({"id": pa.int64(), "day": pa.date32(), "v": pa.string(), "n": pa.int16()}, key=["id"])
    lab.epoch(changes(wider, (INSERT, 2, day(2), "b", 7)))
    assert before < files(lab)
    widest = replace(wider, columns=(*wider.columns[:3], replace(wider.columns[3], type=pa.int64())))
    lab.epoch(changes(widest, (INSERT, 3, day(3), "c", 2**40)))
    assert not before & files(lab)
    again = Lab(lab.folder, sink_table(widest, partition_by=("day",)))
    assert again.open(2).tables["orders"].awaiting == frozenset()
    assert again.rows() == [(1, day(1), "a", None), (2, day(2), "b", 7), (3, day(3), "c", 2**40)]


def test_schemas_may_change_within_an_epoch(tmp_path: Path) -> None:
    for schema in (ORDERS, BAG):
        lab = Lab(tmp_path / str(len(schema.key)), sink_table(schema))
        lab.open()
        wider = replace(schema, columns=(*schema.columns, replace(schema.columns[0], name="n")), version=2)
        lab.epoch(
            changes(schema, (TRUNCATE,), (READ, 1, day(1), "a"), (READ, 2, day(2), "b")),
            changes(wider, (BEFORE, 1, day(1), "a", None), (AFTER, 1, day(1), "a", 5)),
        )
        again = Lab(lab.folder, sink_table(wider))
        assert again.rows() == [(1, day(1), "a", 5), (2, day(2), "b", None)]


def test_a_source_table_made_anew_with_another_key_goes_on_from_its_load(tmp_path: Path) -> None:
    lab = Lab(tmp_path, sink_table())
    lab.open()
    load(lab, (1, day(1), "a"), (2, day(1), "a"))
    by_v = replace(ORDERS, key=("v",), version=2)
    lab.epoch(changes(ORDERS, (INSERT, 3, day(1), "z")), changes(by_v, (TRUNCATE,), (READ, 1, day(1), "a")))
    lab.epoch(changes(by_v, (BEFORE, 1, day(1), "a"), (AFTER, 9, day(1), "a")))
    assert lab.rows() == [(9, day(1), "a")]
    again = Lab(lab.folder, sink_table(by_v))
    assert again.open(2).tables["orders"].awaiting == frozenset()
    with pytest.raises(SchemaMismatch, match="another key"):
        again.stage(changes(ORDERS, (INSERT, 3, day(1), "z")))


def test_duckdb_and_others_read_the_table_without_raypipe(lab: Lab) -> None:
    load(lab, (1, day(1), "a"), (2, day(2), "b"))
    orders = lab.delta().to_pyarrow_dataset()
    assert duckdb.sql("SELECT count(*), max(v) FROM orders WHERE day = DATE '2026-01-03'").fetchall() == [(1, "b")]
    assert orders.schema.names == ["id", "day", "v"]


@pytest.mark.parametrize("url", ["delta:///", "delta://host/x", "delta:///tmp/a%2520b", "delta:///tmp/a[b]"])
def test_a_folder_that_cannot_be_is_refused_before_anything_is_written(url: str) -> None:
    with pytest.raises(RaypipeError, match=r"folder") as refused:
        open_delta(SinkPlan(name="lake", url=url, tables=(BY_DAY,)), "shop")
    assert refused.value.remedy
