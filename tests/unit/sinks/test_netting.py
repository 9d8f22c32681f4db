"""Netting: compared, image by image, with the obvious loop over rows."""

import math
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import InvariantBroken
from raypipe.model import BRANCH, OP, ChangeBatch, Column, Image, Op, TableName, TableSchema
from raypipe.sinks.netting import WEIGHT, drop_awaited, history_rows, net_keyed, net_multiset

NAN = float("nan")


def relation(*, key=("id",), branches=1, id_type=None):
    columns = (Column(name="id", type=id_type or pa.int64()), Column(name="v", type=pa.string()))
    return TableSchema(table=TableName("", "", "r"), columns=columns, key=key, branches=branches)


def changes(schema, *rows):
    """A batch of (op, id, v), or (op, branch, id, v) if the schema has branches; each change its own ordinal."""
    ordinals, at = [], 0
    for op, *_ in rows:
        at += op != Op.UPDATE_AFTER
        ordinals.append(at)
    count = len(rows)
    arrays = [
        pa.array([int(row[0]) for row in rows], pa.int8()),
        pa.array([int(Image.FULL)] * count, pa.int8()),
        pa.array([1] * count, pa.int64()),
        pa.array(ordinals, pa.int64()),
        pa.array([None] * count, pa.timestamp("us", tz="UTC")),
    ]
    if schema.branches > 1:
        arrays.append(pa.array([row[1] for row in rows], pa.int8()))
    arrays.append(pa.array([row[-2] for row in rows], schema.columns[0].type))
    arrays.append(pa.array([row[-1] for row in rows], pa.string()))
    return ChangeBatch(schema=schema, rows=pa.RecordBatch.from_arrays(arrays, schema=ChangeBatch.arrow_schema(schema)))


def plain(table):
    return [tuple(row.values()) for row in table.to_pylist()]


def test_the_last_image_of_a_key_decides():
    net = net_keyed(
        changes(
            relation(),
            (Op.INSERT, 1, "a"),
            (Op.UPDATE_BEFORE, 1, "a"),
            (Op.UPDATE_AFTER, 1, "b"),
            (Op.INSERT, 2, "c"),
            (Op.DELETE, 2, "c"),
        )
    )
    assert (net.truncated, plain(net.upserts), plain(net.deletes)) == (frozenset(), [(1, "b")], [(2,)])


def test_an_update_that_moves_the_key_deletes_the_old_one():
    net = net_keyed(changes(relation(), (Op.UPDATE_BEFORE, 1, "a"), (Op.UPDATE_AFTER, 7, "a")))
    assert (plain(net.upserts), plain(net.deletes)) == ([(7, "a")], [(1,)])


def test_a_lone_before_image_is_a_delete_and_a_lone_after_image_an_upsert():
    net = net_keyed(changes(relation(), (Op.UPDATE_BEFORE, 1, "a"), (Op.UPDATE_AFTER, 2, "b")))
    assert (plain(net.upserts), plain(net.deletes)) == ([(2, "b")], [(1,)])


def test_null_is_one_key_and_the_zeros_and_nans_are_one_key_each():
    schema = relation(id_type=pa.float64())
    rows = [(Op.INSERT, key, "old") for key in (None, 0.0, NAN)] + [
        (Op.INSERT, key, "new") for key in (None, -0.0, NAN)
    ]
    net = net_keyed(changes(schema, *rows))
    assert net.upserts["v"].to_pylist() == ["new"] * 3
    assert net.upserts["id"].to_pylist()[0] is None
    assert math.copysign(1, net.upserts["id"].to_pylist()[1]) == -1  # the row keeps its own bits


def test_a_truncate_forgets_what_its_branch_said_before_it():
    schema = relation(branches=2)
    net = net_keyed(
        changes(
            schema, (Op.INSERT, 0, 1, "a"), (Op.INSERT, 1, 1, "b"), (Op.TRUNCATE, 0, None, None), (Op.READ, 0, 2, "c")
        )
    )
    assert net.truncated == {0}
    assert plain(net.upserts) == [(1, 1, "b"), (0, 2, "c")]
    assert net.upserts.column_names == [BRANCH, "id", "v"]
    assert net.deletes.column_names == [BRANCH, "id"]


def test_a_dictionary_column_can_be_a_key():
    schema = relation(id_type=pa.dictionary(pa.int32(), pa.string()))
    net = net_keyed(changes(schema, (Op.INSERT, "x", "a"), (Op.INSERT, "y", "b"), (Op.DELETE, "x", "a")))
    assert (plain(net.upserts), plain(net.deletes)) == ([("y", "b")], [("x",)])


def test_an_empty_batch_nets_to_nothing():
    net = net_keyed(changes(relation()))
    assert (net.truncated, net.upserts.num_rows, net.deletes.num_rows) == (frozenset(), 0, 0)
    assert net_multiset(changes(relation(key=()))).weights.num_rows == 0
    assert history_rows(changes(relation())).num_rows == 0


def test_a_key_image_that_would_have_to_be_written_is_a_broken_invariant():
    batch = changes(relation(), (Op.INSERT, 1, None))
    key_only = batch.rows.set_column(1, batch.rows.schema.field(1), pa.array([int(Image.KEY)], pa.int8()))
    with pytest.raises(InvariantBroken, match="full"):
        net_keyed(ChangeBatch(schema=batch.schema, rows=key_only))


def test_equal_rows_of_a_multiset_add_up_and_cancel_out():
    schema = relation(key=(), id_type=pa.float64())
    net = net_multiset(
        changes(
            schema,
            (Op.INSERT, None, "n"),
            (Op.INSERT, None, "n"),
            (Op.INSERT, NAN, "x"),
            (Op.DELETE, NAN, "x"),
            (Op.DELETE, -0.0, "z"),
            (Op.DELETE, 0.0, "z"),
        )
    )
    assert plain(net.weights) == [(None, "n", 2), (0.0, "z", -2)]
    assert net.weights.column_names == ["id", "v", WEIGHT]


def test_history_keeps_one_row_of_an_update_and_both_ends_of_a_moved_key():
    rows = history_rows(
        changes(
            relation(),
            (Op.UPDATE_BEFORE, None, "a"),
            (Op.UPDATE_AFTER, None, "b"),
            (Op.UPDATE_BEFORE, 2, "a"),
            (Op.UPDATE_AFTER, 3, "a"),
            (Op.UPDATE_BEFORE, 4, "gone"),
            (Op.TRUNCATE, None, None),
        )
    )
    assert rows[OP].to_pylist() == [Op.UPDATE_AFTER, Op.DELETE, Op.UPDATE_AFTER, Op.DELETE, Op.TRUNCATE]
    assert rows["id"].to_pylist() == [None, 2, 3, 4, None]


def test_history_does_not_join_a_before_image_with_another_changes_after_image():
    batch = changes(relation(), (Op.UPDATE_BEFORE, 1, "a"), (Op.UPDATE_BEFORE, 2, "b"), (Op.UPDATE_AFTER, 1, "c"))
    assert history_rows(batch)[OP].to_pylist() == [Op.DELETE, Op.DELETE, Op.UPDATE_AFTER]


def test_history_of_a_relation_without_key_records_both_images():
    batch = changes(relation(key=()), (Op.UPDATE_BEFORE, 1, "a"), (Op.UPDATE_AFTER, 1, "b"))
    assert history_rows(batch)[OP].to_pylist() == [Op.DELETE, Op.UPDATE_AFTER]


def test_an_awaited_branch_counts_only_from_its_first_truncate():
    schema = relation(branches=3)
    batch = changes(
        schema,
        (Op.INSERT, 0, 1, "early"),
        (Op.INSERT, 1, 1, "other"),
        (Op.TRUNCATE, 0, None, None),
        (Op.READ, 0, 2, "a"),
        (Op.TRUNCATE, 0, None, None),
        (Op.INSERT, 2, 3, "still awaited"),
    )
    counted, awaiting = drop_awaited(batch, frozenset({0, 2}))
    assert awaiting == {2}
    assert counted.rows["v"].to_pylist() == ["other", None, "a", None]
    assert drop_awaited(batch, frozenset()) == (batch, frozenset())


IDS = st.none() | st.integers(0, 4)
IMAGES = st.tuples(st.sampled_from(list(Op)), st.integers(0, 1), IDS, st.sampled_from(["a", "b"]))


@settings(max_examples=150, deadline=None)
@given(st.lists(IMAGES, max_size=25))
def test_netting_equals_the_loop_over_rows(images):
    images = [(op, branch, None, None) if op is Op.TRUNCATE else (op, branch, id_, v) for op, branch, id_, v in images]
    state, truncated, copies = {}, set(), Counter()
    for op, branch, id_, v in images:
        if op is Op.TRUNCATE:
            truncated.add(branch)
            state = {identity: row for identity, row in state.items() if identity[0] != branch}
            copies = Counter({row: weight for row, weight in copies.items() if row[0] != branch})
        else:
            state[branch, id_] = (branch, id_, v) if op.weight > 0 else None
            copies[branch, id_, v] += op.weight
    net = net_keyed(changes(relation(branches=2), *images))
    assert net.truncated == truncated
    assert sorted(map(repr, plain(net.upserts))) == sorted(repr(row) for row in state.values() if row)
    assert sorted(map(repr, plain(net.deletes))) == sorted(repr(key) for key, row in state.items() if not row)
    weights = net_multiset(changes(relation(branches=2, key=()), *images)).weights
    assert {row[:-1]: row[-1] for row in plain(weights)} == {row: weight for row, weight in copies.items() if weight}
