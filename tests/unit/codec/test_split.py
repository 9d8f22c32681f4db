"""Large batches are split where no update is torn."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from raypipe.codec import split
from raypipe.model import OP, ORDINAL, ChangeBatch, Column, Op, TableName, TableSchema

SCHEMA = TableSchema(
    table=TableName("shop", "main", "notes"),
    columns=(Column(name="text", type=pa.string()),),
    key=(),
)
INSERT = (Op.INSERT,)
UPDATE = (Op.UPDATE_BEFORE, Op.UPDATE_AFTER)
LONE_BEFORE = (Op.UPDATE_BEFORE,)
LONE_AFTER = (Op.UPDATE_AFTER,)


def batch_of(changes: list[tuple[tuple[Op, ...], int]]) -> ChangeBatch:
    """A batch of changes: their images, and the length of the text in each."""
    rows = [(int(op), 0, 1, ordinal, None, "x" * size) for ordinal, (ops, size) in enumerate(changes) for op in ops]
    fields = ChangeBatch.arrow_schema(SCHEMA)
    arrays = [pa.array([row[place] for row in rows], field.type) for place, field in enumerate(fields)]
    return ChangeBatch(schema=SCHEMA, rows=pa.record_batch(arrays, schema=fields))


change = st.tuples(st.sampled_from([INSERT, UPDATE, LONE_BEFORE, LONE_AFTER]), st.integers(0, 400))


@given(changes=st.lists(change, max_size=40), max_bytes=st.integers(1, 4000))
def test_parts_are_the_whole_in_order_and_no_update_is_torn(
    changes: list[tuple[tuple[Op, ...], int]], max_bytes: int
) -> None:
    batch = batch_of(changes)
    parts = list(split(batch, max_bytes))
    assert pa.Table.from_batches([part.rows for part in parts]).equals(pa.Table.from_batches([batch.rows]))
    ordinals = [set(part.rows.column(ORDINAL).to_pylist()) for part in parts]
    assert sum(map(len, ordinals)) == len(changes)
    for part, held in zip(parts, ordinals, strict=True):
        assert part.schema is SCHEMA
        assert part.rows.nbytes <= max_bytes or len(held) <= 1


def test_a_small_batch_is_itself() -> None:
    batch = batch_of([(INSERT, 10)])
    assert list(split(batch)) == [batch]
    assert next(split(batch)) is batch


def test_few_large_values_among_many_small_ones_are_split_where_they_are() -> None:
    batch = batch_of([(INSERT, 1)] * 500 + [(INSERT, 5_000)] * 4 + [(INSERT, 1)] * 500)
    parts = list(split(batch, 20_000))
    assert all(part.rows.nbytes <= 20_000 for part in parts)
    assert len(parts) < 10


def test_an_update_larger_than_the_bound_stays_whole() -> None:
    batch = batch_of([(UPDATE, 1_000), (UPDATE, 1_000)])
    parts = list(split(batch, 10))
    assert [part.rows.column(OP).to_pylist() for part in parts] == [[2, 3], [2, 3]]
