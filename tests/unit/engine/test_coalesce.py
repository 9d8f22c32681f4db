"""Small batches of one topic travel together; nothing changes its place within its topic."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from raypipe.contracts import LogBatch
from raypipe.engine.coalesce import coalesce
from raypipe.model import ChangeBatch, Column, TableName, TableSchema


def schema(table: str, version: int) -> TableSchema:
    name = TableName("i", "main", table)
    return TableSchema(table=name, columns=(Column(name="n", type=pa.int64()),), key=("n",), version=version)


def logged(table: str, version: int, start: int, rows: int) -> LogBatch:
    made = schema(table, version)
    numbers = list(range(start, start + rows))
    columns = [pa.array([value] * rows, type) for value, type in ((1, pa.int8()), (0, pa.int8()), (start, pa.int64()))]
    arrays = [*columns, pa.array(numbers), pa.nulls(rows, pa.timestamp("us", tz="UTC")), pa.array(numbers)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=ChangeBatch.arrow_schema(made))
    return LogBatch(topic=table, offset=start, batch=ChangeBatch(made, batch))


PIECES = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.integers(1, 5)), max_size=30)


@given(PIECES, st.integers(1, 20))
def test_every_topic_keeps_its_changes_in_order_under_their_schemas(
    pieces: list[tuple[str, int, int]], useful: int
) -> None:
    batches = [logged(table, version, 100 * n, rows) for n, (table, version, rows) in enumerate(pieces)]
    joined = list(coalesce(batches, useful))
    for topic in "ab":
        want = [(b.batch.schema.version, n) for b in batches if b.topic == topic for n in b.batch.rows["n"].to_pylist()]
        got = [
            (batch.schema.version, n) for name, batch in joined if name == topic for n in batch.rows["n"].to_pylist()
        ]
        assert got == want


def test_many_small_batches_become_one() -> None:
    joined = list(coalesce(logged("a", 1, n, 1) for n in range(1000)))
    assert [(topic, batch.num_rows) for topic, batch in joined] == [("a", 1000)]
