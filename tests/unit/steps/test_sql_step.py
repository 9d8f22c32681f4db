"""A SQL step turns changes of its inputs into changes of its view."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from raypipe_change_rows import KEY, ORDERS, batch, change, told

from raypipe.contracts import Step
from raypipe.errors import LimitExceeded, RaypipeError, SchemaMismatch, SqlError
from raypipe.model import BRANCH, COMMIT, IMAGE, OP, ORDINAL, ChangeBatch, Column, Image, Op, TableSchema
from raypipe.plan import compile_step
from raypipe.plan.sandbox import Bounds, Sandbox
from raypipe.steps import SqlStep

Make = Callable[..., SqlStep]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[SqlStep] = []

    def step(sql: str, inputs: dict[str, TableSchema] | None = None, sandbox: Sandbox | None = None) -> SqlStep:
        plan = compile_step("view", sql, inputs or {"shop.orders": ORDERS}, {})
        made.append(SqlStep(pickle.loads(pickle.dumps(plan)), sandbox))
        return made[-1]

    yield step
    for step_made in made:
        step_made.close()


def run(step: Step, changes: ChangeBatch) -> list[tuple[Any, ...]]:
    (made,) = step.apply(str(changes.schema.table), changes)
    assert made.rows.schema.equals(ChangeBatch.arrow_schema(made.schema))
    return told(made)


def test_an_update_that_leaves_the_where_becomes_a_delete(make: Make) -> None:
    step = make("SELECT id, amount FROM shop.orders WHERE status = 'paid'")
    assert run(
        step,
        batch(
            change(Op.UPDATE_BEFORE, id=1, status="paid", amount=5),
            change(Op.UPDATE_AFTER, id=1, status="gone", amount=5),
        ),
    ) == [("UPDATE_BEFORE", 1, 5)]


def test_an_update_that_enters_the_where_becomes_an_insert(make: Make) -> None:
    step = make("SELECT id, amount FROM shop.orders WHERE status = 'paid'")
    assert run(
        step,
        batch(
            change(Op.UPDATE_BEFORE, id=1, status=None, amount=5),
            change(Op.UPDATE_AFTER, id=1, status="paid", amount=6),
        ),
    ) == [("UPDATE_AFTER", 1, 6)]


def test_both_images_of_an_update_stay_adjacent_with_their_place(make: Make) -> None:
    step = make("SELECT id * 1 AS x, id AS no FROM shop.orders")
    (made,) = step.apply(
        "shop.orders",
        batch(change(Op.INSERT, id=3), change(Op.UPDATE_BEFORE, id=1), change(Op.UPDATE_AFTER, ordinal=1, id=2)),
    )
    assert told(made) == [("INSERT", 3, 3), ("UPDATE_BEFORE", 1, 1), ("UPDATE_AFTER", 2, 2)]
    assert made.rows.column(ORDINAL).to_pylist() == [0, 1, 1]
    assert made.rows.column(COMMIT).to_pylist() == [7, 7, 7]
    assert made.schema.key == ("no",)


def test_a_delete_with_the_key_alone_passes_whatever_the_where_says(make: Make) -> None:
    step = make("SELECT amount::VARCHAR AS amount, id AS no FROM shop.orders WHERE status = 'paid'")
    (made,) = step.apply(
        "shop.orders",
        batch(
            change(Op.INSERT, id=1, status="paid", amount=5),
            change(Op.DELETE, KEY, id=2),
            change(Op.INSERT, id=3, status="open", amount=5),
            change(Op.UPDATE_BEFORE, KEY, id=4),
            change(Op.UPDATE_AFTER, id=4, status="paid", amount=9),
        ),
    )
    assert told(made) == [("INSERT", "5", 1), ("DELETE", None, 2), ("UPDATE_BEFORE", None, 4), ("UPDATE_AFTER", "9", 4)]
    assert made.rows.column(IMAGE).to_pylist() == [Image.FULL, Image.KEY, Image.KEY, Image.FULL]


def test_an_image_without_row_never_meets_the_sql(make: Make) -> None:
    # coalesce() would make 'none' of the missing status, which no cast can read: the row itself never had that.
    step = make("SELECT id, coalesce(status, 'none')::INT AS level FROM shop.orders")
    assert run(step, batch(change(Op.TRUNCATE), change(Op.DELETE, KEY, id=2), change(Op.INSERT, id=1, status="7"))) == [
        ("TRUNCATE", None, None),
        ("DELETE", 2, None),
        ("INSERT", 1, 7),
    ]


def test_a_batch_of_images_without_rows_alone_works(make: Make) -> None:
    step = make("SELECT id, amount FROM shop.orders WHERE status = 'paid'")
    assert run(step, batch(change(Op.TRUNCATE))) == [("TRUNCATE", None, None)]


def test_a_view_without_key_says_that_it_cannot_follow_a_key(make: Make) -> None:
    step = make("SELECT status FROM shop.orders")
    assert run(step, batch(change(Op.TRUNCATE), change(Op.DELETE, id=1, status="x"))) == [
        ("TRUNCATE", None),
        ("DELETE", "x"),
    ]
    with pytest.raises(SqlError, match=r"Step view has no key, and shop\.orders deleted a row telling nothing but its"):
        run(step, batch(change(Op.DELETE, KEY, id=1)))


def test_a_partial_image_is_refused(make: Make) -> None:
    step = make("SELECT id FROM shop.orders")
    with pytest.raises(SqlError, match="partial image"):
        run(step, batch(change(Op.UPDATE_AFTER, Image.PARTIAL, id=1)))


def test_unnest_gives_the_rows_of_a_row_in_order_with_one_place(make: Make) -> None:
    step = make("SELECT id, unnest(tags) AS tag FROM shop.orders")
    (made,) = step.apply(
        "shop.orders",
        batch(
            change(Op.UPDATE_BEFORE, id=1, tags=["b", "a"]),
            change(Op.UPDATE_AFTER, ordinal=0, id=1, tags=["c"]),
            change(Op.TRUNCATE),
            change(Op.INSERT, id=2, tags=[]),
            change(Op.INSERT, id=3, tags=["z", "y", None]),
        ),
    )
    assert told(made) == [
        *(("UPDATE_BEFORE", 1, "b"), ("UPDATE_BEFORE", 1, "a"), ("UPDATE_AFTER", 1, "c"), ("TRUNCATE", None, None)),
        *(("INSERT", 3, "z"), ("INSERT", 3, "y"), ("INSERT", 3, None)),
    ]
    assert made.rows.column(ORDINAL).to_pylist() == [0, 0, 0, 2, 4, 4, 4]


def test_each_branch_of_a_union_numbers_its_rows(make: Make) -> None:
    two = replace(ORDERS, branches=2, table=replace(ORDERS.table, instance="", schema="", table="both_shops"))
    step = make(
        "SELECT id, 'a' AS n FROM shop.orders UNION ALL SELECT id, n FROM (SELECT id, 'bb' AS n FROM both_shops)"
        " UNION ALL SELECT id, 'c' FROM shop.orders WHERE id > 1",
        {"shop.orders": ORDERS, "both_shops": two},
    )
    made = list(step.apply("shop.orders", batch(change(Op.TRUNCATE), change(Op.INSERT, id=1), change(Op.INSERT, id=2))))
    assert [told(part) for part in made] == [
        [("TRUNCATE", 0, None, None), ("INSERT", 0, 1, "a"), ("INSERT", 0, 2, "a")],
        [("TRUNCATE", 3, None, None), ("INSERT", 3, 2, "c")],
    ]
    assert run(step, batch(change(Op.INSERT, id=5), change(Op.TRUNCATE, branch=1), schema=two)) == [
        ("INSERT", 1, 5, "bb"),
        ("TRUNCATE", 2, None, None),
    ]


def test_nothing_comes_out_where_nothing_changed(make: Make) -> None:
    step = make("SELECT id FROM shop.orders WHERE amount > 3")
    assert list(step.apply("shop.orders", batch(change(Op.INSERT, id=1, amount=2)))) == []
    assert list(step.apply("shop.orders", batch())) == []
    assert list(step.apply("shop.others", batch(change(Op.INSERT, id=1, amount=9)))) == []


def test_a_large_batch_keeps_its_order(make: Make) -> None:
    step = make("SELECT id, upper(status) AS status FROM shop.orders WHERE status <> 'b' OR id % 3 = 0")
    ids = np.arange(300_000)
    system = [np.where(ids % 7 == 0, Op.DELETE, Op.INSERT).astype("int8"), np.where(ids % 7 == 0, 1, 0).astype("int8")]
    status = np.where(ids % 2 == 0, "a", "b")
    arrays = [
        *(pa.array(column) for column in system),
        *(pa.array(ids), pa.array(ids), pa.nulls(len(ids), pa.timestamp("us", "UTC"))),
        *(pa.array(ids), pa.array(status), pa.array(ids), pa.nulls(len(ids), pa.list_(pa.string()))),
    ]
    rows = pa.RecordBatch.from_arrays(arrays, schema=ChangeBatch.arrow_schema(ORDERS))
    (made,) = step.apply("shop.orders", ChangeBatch(ORDERS, rows))
    expected = ids[(ids % 7 == 0) | (ids % 2 == 0) | (ids % 3 == 0)]
    assert np.array_equal(made.rows.column(ORDINAL).to_numpy(), expected)
    assert np.array_equal(made.rows.column("id").to_numpy(), expected)
    assert np.array_equal(made.rows.column(OP).to_numpy() == Op.DELETE, expected % 7 == 0)


FAILING = {
    "SELECT id, amount, status::INT AS level FROM shop.orders": ("column level", "cannot be cast"),
    "SELECT id, amount * 9223372036854775807 AS much FROM shop.orders": ("column much", "too large"),
    "SELECT id, amount FROM shop.orders WHERE status::INT > 3": ("its WHERE", "cannot be cast"),
    "SELECT a AS b, id FROM (SELECT id, status::DATE AS a FROM shop.orders)": ("column b", "cannot be cast"),
    "SELECT id, strptime(status, '%Y') AS t FROM shop.orders": ("column t", "a function does not take a value"),
}


@pytest.mark.parametrize("sql", FAILING)
@pytest.mark.parametrize("op", [Op.INSERT, Op.UPDATE_BEFORE])
def test_sql_that_fails_on_a_row_names_step_and_column_and_no_value(make: Make, sql: str, op: Op) -> None:
    step = make(sql)
    with pytest.raises(SqlError) as caught:
        run(step, batch(change(op, id=1, status="s3cret", amount=987654321)))
    error = caught.value
    place, reason = FAILING[sql]
    assert f"Step view failed on a row of shop.orders, in {place}: " in str(error)
    assert reason in str(error)
    assert "s3cret" not in repr(vars(error))
    assert "987654321" not in repr(vars(error))
    assert error.__cause__ is None
    assert error.fields["step"] == "view"


def test_after_a_failure_the_step_goes_on(make: Make) -> None:
    step = make("SELECT id, status::INT AS level FROM shop.orders")
    with pytest.raises(SqlError):
        run(step, batch(change(Op.INSERT, id=1, status="x")))
    assert run(step, batch(change(Op.INSERT, id=1, status="7"))) == [("INSERT", 1, 7)]


def test_sql_that_takes_too_long_is_stopped_and_names_the_step(make: Make) -> None:
    sandbox = Sandbox(Bounds(statement_s=0.05))
    step = make("SELECT id, list_sum(range(amount)) AS much FROM shop.orders", sandbox=sandbox)
    # DuckDB looks for the interrupt between chunks of 2,048 rows.
    slow = batch(*[change(Op.INSERT, id=index, amount=10_000) for index in range(40_000)])
    try:
        with pytest.raises(LimitExceeded, match=r"Step view: A statement"):
            list(step.apply("shop.orders", slow))
    finally:
        sandbox.close()


def altered(**types: pa.DataType) -> TableSchema:
    return replace(ORDERS, version=2, columns=tuple(Column(name=name, type=type_) for name, type_ in types.items()))


def test_a_column_that_came_is_ignored_and_order_does_not_matter(make: Make) -> None:
    step = make("SELECT * EXCLUDE (tags) FROM shop.orders")
    wider = altered(extra=pa.date32(), amount=pa.int64(), status=pa.string(), id=pa.int64())
    assert run(step, batch(change(Op.INSERT, id=1, status="x", amount=3), schema=wider)) == [("INSERT", 1, "x", 3)]


def test_a_column_that_went_and_is_needed_is_named(make: Make) -> None:
    step = make("SELECT id FROM shop.orders WHERE status = 'x'")
    without = altered(id=pa.int64(), state=pa.string())
    with pytest.raises(SchemaMismatch, match=r"needs column status of shop\.orders, which is gone since .* version 2"):
        run(step, batch(change(Op.INSERT, id=1, state="x"), schema=without))


def test_a_column_of_another_type_is_fine_as_long_as_nothing_is_lost(make: Make) -> None:
    step = make("SELECT id, amount FROM shop.orders")
    narrower = altered(id=pa.int32(), amount=pa.float64())
    assert run(step, batch(change(Op.INSERT, id=1, amount=3.0), schema=narrower)) == [("INSERT", 1, 3)]
    with pytest.raises(SchemaMismatch, match=r"column amount as int64, and .* version 2 makes it double"):
        run(step, batch(change(Op.INSERT, id=1, amount=3.5), schema=narrower))


def test_text_is_never_read_as_a_number(make: Make) -> None:
    step = make("SELECT id, amount FROM shop.orders")
    text = altered(id=pa.int64(), amount=pa.string())
    with pytest.raises(SchemaMismatch, match="makes it string"):
        run(step, batch(change(Op.INSERT, id=1, amount="007"), schema=text))


def test_sql_that_does_not_fit_a_new_type_is_a_schema_mismatch(make: Make) -> None:
    step = make("SELECT id, amount + 1 AS more FROM shop.orders")
    dates = altered(id=pa.int64(), amount=pa.list_(pa.string()))
    with pytest.raises(SchemaMismatch, match=r"does not fit the types of shop\.orders since schema version 2"):
        run(step, batch(change(Op.INSERT, id=1, amount=["x"]), schema=dates))


def test_another_key_of_the_table_is_not_taken_for_the_old_one(make: Make) -> None:
    step = make("SELECT id, amount FROM shop.orders")
    other = replace(ORDERS, key=("amount",), version=2)
    with pytest.raises(SchemaMismatch, match=r"relies on the key \(id\) of shop\.orders, which is \(amount\) since"):
        run(step, batch(change(Op.INSERT, id=1, amount=3), schema=other))


def test_every_error_survives_pickling(make: Make) -> None:
    step = make("SELECT status FROM shop.orders")
    with pytest.raises(RaypipeError) as caught:
        run(step, batch(change(Op.DELETE, KEY, id=1)))
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_types_are_the_plans_even_where_arrow_has_others(make: Make) -> None:
    step = make("SELECT id, status::ENUM ('a', 'b') AS e, {'n': id, 't': tags} AS s, '{}'::JSON AS j FROM shop.orders")
    assert run(step, batch(change(Op.INSERT, id=1, status="b", tags=["x"]), change(Op.TRUNCATE))) == [
        ("INSERT", 1, "b", {"n": 1, "t": ["x"]}, "{}"),
        ("TRUNCATE", None, None, None, None),
    ]


def test_batches_have_the_branch_column_only_where_there_are_branches(make: Make) -> None:
    (made,) = make("SELECT id FROM shop.orders").apply("shop.orders", batch(change(Op.INSERT, id=1)))
    assert BRANCH not in made.rows.schema.names
