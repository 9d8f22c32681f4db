"""The promise, by random: folding a step's changes gives what its SQL gives over the folded table, at every prefix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raypipe.model import (
    BRANCH,
    COMMIT,
    IMAGE,
    OP,
    ORDINAL,
    ChangeBatch,
    Column,
    Image,
    Op,
    TableName,
    TableSchema,
)
from raypipe.plan import InstancePlan, Plan, compile_step, oracle_sql, order_steps
from raypipe.steps import Flow

TYPES: dict[str, pa.DataType] = {
    "region": pa.string(),
    "id": pa.int32(),
    "status": pa.string(),
    "amount": pa.decimal128(10, 2),
    "placed_at": pa.timestamp("us"),
    "tags": pa.list_(pa.string()),
}
ORDERS = TableSchema(
    table=TableName("shop", "main", "orders"),
    columns=tuple(Column(name=name, type=type_) for name, type_ in TYPES.items()),
    key=("region", "id"),
)
LEGACY = TableSchema(
    table=TableName("shop", "main", "Old Orders"),
    columns=(
        Column(name="no", type=pa.int64()),
        Column(name="status", type=pa.string()),
        Column(name="area", type=pa.string()),
    ),
    key=("area", "no"),
)
NOTES = TableSchema(
    table=TableName("shop", "main", "notes"),
    columns=(Column(name="text", type=pa.string()), Column(name="stars", type=pa.int8())),
    key=(),
)
TABLES = (ORDERS, LEGACY, NOTES)

# Views over one relation, or over each other; the second part says whether the key survives.
STEPS = {
    "paid": "SELECT id, region, amount, placed_at::DATE AS day FROM shop.orders WHERE status = 'paid'",
    "open_or_unknown": "SELECT * EXCLUDE (tags) FROM shop.orders o WHERE o.status = 'open' OR o.status IS NULL",
    "renamed": """
        WITH recent AS (SELECT id AS no, region AS area, amount * 2 AS twice FROM shop.orders WHERE amount > 1.00)
        SELECT area, no, CASE WHEN twice > 10 THEN 'big' WHEN twice IS NULL THEN 'none' END AS size FROM recent
        WHERE no <> 2""",
    "without_key": "SELECT status, amount FROM shop.orders",
    "tagged": "SELECT region, id, unnest(tags) AS tag FROM shop.orders WHERE status IS DISTINCT FROM 'gone'",
    "tagged_too": "SELECT o.id, upper(tag) AS tag FROM shop.orders o, unnest(o.tags) AS u(tag) WHERE tag > 'a'",
    "everything": """
        SELECT region AS area, id AS no, status FROM shop.orders WHERE status <> 'gone'
        UNION ALL
        SELECT area, no, status FROM shop."Old Orders" WHERE no > 1
        UNION ALL
        SELECT region, id, 'again' FROM shop.orders""",
    "mixed_keys": """
        SELECT region AS area, id AS no FROM shop.orders UNION ALL SELECT status, no FROM shop."Old Orders" """,
    "nested": """
        SELECT no, area, coalesce(status, '-') || '!' AS loud FROM
        (SELECT no, area, status FROM everything WHERE no < 4
         UNION ALL SELECT no, area, NULL FROM shop."Old Orders") AS all_of_them""",
    "praise": "SELECT text, stars * 2 AS points FROM shop.notes WHERE stars >= 2",
}
WHOLE = st.fixed_dictionaries(
    {
        "region": st.sampled_from(["eu", "us"]),
        "id": st.integers(1, 3),
        "status": st.sampled_from(["paid", "open", "gone", None]),
        "amount": st.sampled_from([Decimal("0.50"), Decimal("3.00"), Decimal("9.99"), None]),
        "placed_at": st.sampled_from([datetime(2026, 1, 1, 23, 59), datetime(2026, 2, 2), None]),
        "tags": st.sampled_from([["a", "b", "b"], [], ["c", None], None]),
    }
)
OLD = st.fixed_dictionaries(
    {"no": st.integers(1, 3), "status": st.sampled_from(["paid", None]), "area": st.sampled_from(["eu", "us"])}
)
NOTE = st.fixed_dictionaries({"text": st.sampled_from(["x", "y", None]), "stars": st.sampled_from([1, 2, 3, None])})
ROWS = {"shop.orders": WHOLE, "shop.Old Orders": OLD, "shop.notes": NOTE}
WRITES = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "move", "delete", "truncate", "load"]),
        st.sampled_from(list(ROWS)).flatmap(lambda table: st.tuples(st.just(table), ROWS[table], ROWS[table])),
        st.booleans(),
    ),
    max_size=20,
)
Row = dict[str, Any]


class Table:
    """A table with rows, that turns writes into changes as a source does."""

    def __init__(self, schema: TableSchema) -> None:
        self.schema = schema
        self.rows: list[Row] = []

    def identity(self, row: Row) -> Any:
        return tuple(repr(row[name]) for name in (self.schema.key or self.schema.names))

    def find(self, row: Row) -> Row | None:
        return next((held for held in self.rows if self.identity(held) == self.identity(row)), None)

    def write(self, verb: str, row: Row, other: Row, key_only: bool) -> Iterator[tuple[Op, Image, Row]]:
        image = Image.KEY if key_only and self.schema.key else Image.FULL
        held = self.find(row)
        if verb == "truncate":
            yield Op.TRUNCATE, Image.FULL, {}
            self.rows = []
        elif verb == "load":
            yield Op.TRUNCATE, Image.FULL, {}
            for kept in self.rows:
                yield Op.READ, Image.FULL, kept
        elif verb == "delete" and held is not None:
            yield Op.DELETE, image, self.imaged(held, image)
            self.rows.remove(held)
        elif verb == "move" and held is not None:
            taken = self.find(other)
            if taken is not None and taken is not held and self.schema.key:
                return
            yield Op.UPDATE_BEFORE, image, self.imaged(held, image)
            yield Op.UPDATE_AFTER, Image.FULL, other
            self.rows[self.rows.index(held)] = other
        elif verb == "put" and (held is None or not self.schema.key):
            yield Op.INSERT, Image.FULL, row
            self.rows.append(row)
        elif verb == "put" and held is not None:
            yield Op.UPDATE_BEFORE, image, self.imaged(held, image)
            yield Op.UPDATE_AFTER, Image.FULL, row
            self.rows[self.rows.index(held)] = row

    def imaged(self, row: Row, image: Image) -> Row:
        return row if image is Image.FULL else {name: row[name] for name in self.schema.key}

    def batch(self, changes: list[tuple[Op, Image, Row]], commit: int) -> ChangeBatch:
        ordinals = [index - (op is Op.UPDATE_AFTER) for index, (op, _, _) in enumerate(changes)]
        system = [
            [op for op, _, _ in changes],
            [image for _, image, _ in changes],
            [commit] * len(changes),
            ordinals,
            [None] * len(changes),
        ]
        data = [[row.get(name) for _, _, row in changes] for name in self.schema.names]
        arrow = ChangeBatch.arrow_schema(self.schema)
        arrays = [pa.array(values, field.type) for values, field in zip([*system, *data], arrow, strict=True)]
        return ChangeBatch(self.schema, pa.RecordBatch.from_arrays(arrays, schema=arrow))


class Folded:
    """What a sink makes of changes: rows by (branch, key), or counted if there is no key."""

    def __init__(self, schema: TableSchema) -> None:
        self.schema = schema
        self.rows: dict[Any, Any] = {}
        self.counts: Counter[Any] = Counter()

    def take(self, batch: ChangeBatch) -> None:
        assert batch.rows.schema.equals(ChangeBatch.arrow_schema(self.schema))
        places = list(zip(*(batch.rows.column(name).to_pylist() for name in (COMMIT, ORDINAL)), strict=True))
        assert places == sorted(places)
        for change in batch.rows.to_pylist():
            op, branch = Op(change[OP]), change.get(BRANCH, 0)
            row = (branch, *(repr(change[name]) for name in self.schema.names))
            key = (branch, *(repr(change[name]) for name in self.schema.key))
            if op is Op.TRUNCATE:
                self.rows = {key: row for key, row in self.rows.items() if key[0] != branch}
                self.counts = Counter({row: n for row, n in self.counts.items() if row[0] != branch})
            elif not self.schema.key:
                assert change[IMAGE] == Image.FULL
                self.counts[row] += op.weight
            elif op.weight < 0:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row

    def contents(self) -> list[Any]:
        assert all(count >= 0 for count in self.counts.values())
        return sorted(self.rows.values()) + sorted(self.counts.elements())


def shop_plan() -> Plan:
    schemas = {str(schema.table): schema for schema in TABLES}
    views: dict[str, str] = {}
    steps = []
    for name in order_steps(STEPS, list(schemas)):
        step = compile_step(name, STEPS[name], schemas, views)
        schemas[name] = step.schema
        views[name] = step.view
        steps.append(step)
    instance = InstancePlan(name="shop", url="", chosen=(), tables=TABLES)
    return Plan(pipeline="test", log="", instances=(instance,), steps=tuple(steps), sinks=())


PLAN = shop_plan()
SCHEMAS = {step.name: step.schema for step in PLAN.steps} | {str(schema.table): schema for schema in TABLES}


def test_the_plan_keeps_keys_where_it_can() -> None:
    keys = {step.name: (step.schema.key, step.schema.branches) for step in PLAN.steps}
    assert keys == {
        "paid": (("region", "id"), 1),
        "open_or_unknown": (("region", "id"), 1),
        "renamed": (("area", "no"), 1),
        "without_key": ((), 1),
        "tagged": ((), 1),
        "tagged_too": ((), 1),
        "everything": (("area", "no"), 3),
        "mixed_keys": ((), 2),
        "nested": (("area", "no"), 4),
        "praise": ((), 1),
    }


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(writes=WRITES, key_only=st.booleans(), every=st.integers(1, 6))
def test_folded_changes_equal_the_sql_over_the_folded_table(writes: list[Any], key_only: bool, every: int) -> None:
    tables = {str(schema.table): Table(schema) for schema in TABLES}
    # A view without key cannot follow a delete that holds the key only.
    followed = [name for name, schema in SCHEMAS.items() if schema.key or not key_only]
    folded = {name: Folded(SCHEMAS[name]) for name in followed}
    with closing(Flow(PLAN, followed)) as flow, closing(Oracle()) as oracle:
        for commit, (verb, (name, row, other), again) in enumerate(writes):
            table = tables[name]
            changes = [*table.write(verb, row, other, key_only)]
            if again:
                changes += table.write("put", other, row, key_only)
            if changes:
                for relation, output in flow.apply(name, table.batch(changes, commit)):
                    folded[relation].take(output)
            if commit % every == 0:
                oracle.compare(tables, folded)
        oracle.compare(tables, folded)


class Oracle:
    """Runs the plan's SQL over the tables as they are."""

    def __init__(self) -> None:
        self.database = duckdb.connect()
        self.database.execute("SET TimeZone = 'UTC'")
        self.database.execute("CREATE SCHEMA shop")

    def compare(self, tables: dict[str, Table], folded: dict[str, Folded]) -> None:
        for name, table in tables.items():
            self.database.register("held", pa.Table.from_pylist(table.rows, schema=table.schema.arrow()))
            self.database.execute(f'CREATE OR REPLACE TABLE shop."{name.partition(".")[2]}" AS SELECT * FROM held')
        for relation, held in folded.items():
            names = SCHEMAS[relation].names
            rows = self.database.sql(oracle_sql(PLAN, relation)).to_arrow_table().to_pylist()
            expected = sorted((row.get(BRANCH, 0), *(repr(row[name]) for name in names)) for row in rows)
            assert held.contents() == expected, relation

    def close(self) -> None:
        self.database.close()
