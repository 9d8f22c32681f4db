"""The graph of operators while it is made: DuckDB binds each fragment as it is added, so types are never guessed."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa
from sqlglot import exp, parse_one

from raypipe.model import TableSchema
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.scope import quote
from raypipe.plan.types import has_null, plain
from raypipe.plan.views.model import (
    WEIGHT,
    Algebraic,
    Bilinear,
    Clock,
    Keyed,
    KeyedInput,
    Linear,
    Operator,
    Relation,
    Scan,
    Union,
    leaf_names,
)
from raypipe.plan.views.sums import Slots, adding, beginning, results_of
from raypipe.plan.views.trees import Unsplit

Unique = tuple[frozenset[str], ...]
NOW = "now"


class Graph:
    """Collects operators.

    Args:
        prefix: Of the relations' names, so that views share a database.
        sandbox: Where fragments are bound.
    """

    def __init__(self, prefix: str, sandbox: Sandbox) -> None:
        self._prefix = prefix
        self._sandbox = sandbox
        self.operators: list[Operator] = []
        self._numbers = 0

    def again(self) -> Graph:
        """Another graph of the same view, without operators."""
        return Graph(self._prefix, self._sandbox)

    def number(self) -> str:
        """A number that was not given before, for the name of a column."""
        self._numbers += 1
        return str(self._numbers)

    def scan(self, relation: str, schema: TableSchema, columns: Sequence[str]) -> Relation:
        """Changes of an input, as far as its columns are needed."""
        arrow = schema.arrow()
        fields = pa.schema([pa.field(name, plain(arrow.field(name).type)) for name in columns])
        name = self._next()
        keyed = schema.key and schema.branches == 1 and set(schema.key) <= set(columns)
        unique: Unique = (frozenset(schema.key),) if keyed else ()
        self._sandbox.register(name, fields.empty_table())
        described = self._sandbox.ask(f'DESCRIBE SELECT * FROM "{name}"')
        made = Relation(name=name, columns=fields, types=tuple(row[1] for row in described), unique=unique)
        self.operators.append(Scan(out=made, relation=relation))
        return made

    def clock(self) -> Relation:
        """The time of the cut, one row."""
        known = next((each.out for each in self.operators if isinstance(each, Clock)), None)
        if known is not None:
            return known
        fields = pa.schema([pa.field(NOW, pa.timestamp("us", "UTC"))])
        made = Relation(name=self._next(), columns=fields, types=("TIMESTAMP WITH TIME ZONE",), unique=(frozenset(),))
        self._sandbox.register(made.name, fields.empty_table())
        self.operators.append(Clock(out=made))
        return made

    def linear(self, source: Relation, items: Sequence[tuple[str, exp.Expr]], where: Sequence[exp.Expr]) -> Relation:
        """Items over columns of the source, which the expressions call ``t``."""
        plain_names = [item.name if isinstance(item, exp.Column) else None for _, item in items]
        if any(name is not None and name not in source.columns.names for name in plain_names):
            raise Unsplit("a column that cannot be followed")
        names = [name for name, _ in items]
        if not where and plain_names == names == source.columns.names:
            return source
        one_to_one = not any(item.find(exp.Explode, exp.Unnest) for _, item in items)
        unique = _kept_unique(source.unique, items) if one_to_one else ()
        renames = tuple(name for name in plain_names if name is not None)
        if not where and len(renames) == len(items):
            fields = pa.schema(
                [
                    pa.field(name, source.columns.field(column).type)
                    for (name, _), column in zip(items, renames, strict=True)
                ]
            )
            types = tuple(source.type_of(column) for column in renames)
            made = Relation(name=self._next(), columns=fields, types=types, unique=unique)
            self.operators.append(Linear(out=made, input=source.name, sql="", renames=renames))
            return made
        out = self._next()
        select = exp.select(*(exp.alias_(item.copy(), name, quoted=True) for name, item in items))
        select = select.from_(_leaf(out, 0, "t"))
        for condition in where:
            select = select.where(condition.copy())
        made = self._bound(out, (source,), select.sql("duckdb"), unique)
        weighted = select.select(exp.column(WEIGHT, table="t", quoted=True))
        self.operators.append(Linear(out=made, input=source.name, sql=weighted.sql("duckdb")))
        return made

    def union(self, inputs: Sequence[Relation]) -> Relation:
        """All rows of relations that have the same types."""
        first = inputs[0]
        made = Relation(name=self._next(), columns=first.columns, types=first.types)
        self.operators.append(Union(out=made, inputs=tuple(each.name for each in inputs)))
        return made

    def bilinear(
        self,
        left: Relation,
        right: Relation,
        keys: Sequence[tuple[str, str]],
        items: Sequence[tuple[str, exp.Expr]],
        on: Sequence[exp.Expr],
        unique: Unique,
        *,
        between: bool = False,
    ) -> Relation:
        """An inner join; the expressions call its sides ``l`` and ``r``."""
        out = self._next()
        select = exp.select(*(exp.alias_(item.copy(), name, quoted=True) for name, item in items))
        select = select.from_(_leaf(out, 0, "l"))
        condition = exp.and_(*(each.copy() for each in on)) if on else exp.true()
        select = select.join(_leaf(out, 1, "r"), on=condition, join_type="inner")
        made = self._bound(out, (left, right), select.sql("duckdb"), unique)
        both = exp.column(WEIGHT, table="l", quoted=True) * exp.column(WEIGHT, table="r", quoted=True)
        weighted = select.select(exp.alias_(both, WEIGHT, quoted=True)).sql("duckdb")
        self.operators.append(
            Bilinear(
                out=made,
                left=left.name,
                right=right.name,
                left_key=tuple(left_column for left_column, _ in keys),
                right_key=tuple(right_column for _, right_column in keys),
                sql=weighted,
                between=between,
            )
        )
        return made

    def keyed(
        self,
        reads: Sequence[tuple[Relation, Sequence[str] | None]],
        make: exp.Query,
        key: Sequence[str],
        what: str,
        unique: Unique,
        *,
        most_rows: int | None = None,
    ) -> Relation:
        """A fragment by key. In ``make`` the tables ``_0``, ``_1`` … stand for the inputs."""
        out = self._next()
        query = make.copy()
        for table in list(query.find_all(exp.Table)):
            if table.name.startswith("_") and table.name[1:].isdigit() and not table.db:
                table.set("this", exp.to_identifier(f"{out}_{table.name[1:]}", quoted=True))
        sql = query.sql("duckdb")
        made = self._bound(out, [relation for relation, _ in reads], sql, unique, weights=False)
        self.operators.append(
            Keyed(
                out=made,
                reads=tuple(
                    KeyedInput(relation=relation.name, key=None if columns is None else tuple(columns))
                    for relation, columns in reads
                ),
                key=tuple(key),
                sql=sql,
                what=what,
                most_rows=most_rows,
            )
        )
        return made

    def algebraic(
        self, source: Relation, make: exp.Query, key: Sequence[str], calls: Sequence[exp.Expr], unique: Unique
    ) -> Relation | None:
        """Groups that changes are added to; None if an aggregate cannot be kept that way.

        Args:
            source: Rows to group.
            make: The groups as the user has them over ``_0``: keys, then aggregates.
            key: Columns of the source.
            calls: The aggregates over ``t``.
            unique: See ``Relation``.
        """
        slots = Slots(lambda value: self.types_of([source], f"SELECT {value} FROM _0 AS t")[0])
        results = [slots.result(call) for call in calls]
        if None in results:
            return None
        out = self._next()
        changes, before, rest = leaf_names(out, 3)
        query = make.copy()
        for table in list(query.find_all(exp.Table)):
            table.set("this", exp.to_identifier(changes, quoted=True))
        made = self._bound(out, [source], query.sql("duckdb"), unique, weights=False)
        typed = [(str(result), type_) for result, type_ in zip(results, made.types[len(key) :], strict=True)]
        reads, from_, keys = (
            self._through(source, key, changes) if not slots.extremes else (source, quote(changes), key)
        )
        self._sandbox.register(changes, weighted(reads.columns))
        self._sandbox.register(rest, weighted(reads.columns))
        columns = [f"k{place} {made.types[place]}" for place in range(len(key))]
        columns += ["n BIGINT", *(f"{slot.name} {slot.type}" for slot in slots.all)]
        nothing = ", ".join(f"NULL::{type_} AS {name}" for name, _, type_ in (each.partition(" ") for each in columns))
        sums = self._sandbox.query(f"SELECT {nothing} LIMIT 0").schema
        fields = pa.schema([pa.field(field.name, plain(field.type)) for field in sums])
        self._sandbox.register(before, fields.empty_table())
        expressions = [f"t.{quote(name)}" for name in key]
        theirs = f"{quote(rest)} AS t"
        sql = adding(f"{from_} AS t", quote(before), None, expressions, slots.all, typed)
        again = adding(f"{from_} AS t", quote(before), theirs, expressions, slots.all, typed) if slots.extremes else ""
        first = beginning(f"{from_} AS t", expressions, slots.all, typed)
        try:
            for statement in filter(None, (sql, again, first)):
                self._sandbox.ask(f"DESCRIBE {statement}")
        except duckdb.Error:
            return None
        self.operators.append(
            Algebraic(
                out=made,
                input=reads.name,
                key=tuple(keys),
                sums=Relation(
                    name=f"{out}.sums", columns=fields, types=tuple(each.partition(" ")[2] for each in columns)
                ),
                sql=sql,
                again=again,
                first=first,
                whole=results_of(quote(before), made.columns.names, len(key), typed),
                extremes=bool(slots.extremes),
            )
        )
        return made

    def _through(self, source: Relation, key: Sequence[str], leaf: str) -> tuple[Relation, str, Sequence[str]]:
        """What to read instead of what an operator just made row by row of it: relation, FROM item, key columns."""
        last = self.operators[-1]
        if not isinstance(last, Linear) or last.out.name != source.name or not last.sql:
            return source, quote(leaf), key
        select = parse_one(last.sql, dialect="duckdb")
        copied = {item.alias: item.this.name for item in select.expressions if isinstance(item.this, exp.Column)}
        if not all(name in copied for name in key):
            return source, quote(leaf), key
        for table in list(select.find_all(exp.Table)):
            if table.name == leaf_names(source.name, 1)[0]:
                table.set("this", exp.to_identifier(leaf, quoted=True))
        below = next(operator.out for operator in self.operators if operator.out.name == last.input)
        return below, f"({select.sql('duckdb')})", [copied[name] for name in key]

    def types_of(self, inputs: Sequence[Relation], query: str) -> tuple[str, ...]:
        """DuckDB's types of a query over ``_0``, ``_1`` …"""
        for place, relation in enumerate(inputs):
            self._sandbox.register(f"_{place}", relation.columns.empty_table())
        try:
            return tuple(row[1] for row in self._sandbox.ask(f"DESCRIBE {query}"))
        except duckdb.Error as error:
            raise Unsplit("a fragment does not bind") from error

    def _bound(
        self, out: str, inputs: Sequence[Relation], sql: str, unique: Unique, *, weights: bool = True
    ) -> Relation:
        for name, relation in zip(leaf_names(out, len(inputs)), inputs, strict=True):
            self._sandbox.register(name, weighted(relation.columns) if weights else relation.columns.empty_table())
        try:
            described = self._sandbox.ask(f"DESCRIBE {sql}")
            arrow = self._sandbox.query(sql).schema
        except duckdb.Error as error:
            raise Unsplit("a fragment does not bind") from error
        fields = pa.schema([pa.field(field.name, plain(field.type)) for field in arrow])
        if len(set(fields.names)) != len(fields) or any(has_null(field.type) for field in fields):
            raise Unsplit("a fragment has columns that cannot be stored")
        return Relation(name=out, columns=fields, types=tuple(row[1] for row in described), unique=unique)

    def _next(self) -> str:
        return f"{self._prefix}.{len(self.operators)}"


def weighted(columns: pa.Schema) -> pa.Table:
    """No rows of these columns and a weight."""
    return pa.schema([*columns, pa.field(WEIGHT, pa.int64())]).empty_table()


def _leaf(out: str, place: int, alias: str) -> exp.Expr:
    return exp.alias_(exp.Table(this=exp.to_identifier(f"{out}_{place}", quoted=True)), alias, table=True)


def _kept_unique(unique: Unique, items: Sequence[tuple[str, exp.Expr]]) -> Unique:
    """What still identifies a row when it has these items; a column may be there under several names."""
    names: dict[str, list[str]] = {}
    for name, item in items:
        # A wider integer says of a row what the narrower one says.
        wider = isinstance(item, exp.Cast) and item.to.sql("duckdb") == "BIGINT"
        copied = item.this if wider else item
        if isinstance(copied, exp.Column):
            names.setdefault(copied.name, []).append(name)
    found: dict[frozenset[str], None] = {}
    for each in unique:
        combined: list[frozenset[str]] = [frozenset()]
        for column in each:
            combined = [known | {name} for known in combined for name in names.get(column, ())][:8]
        found.update(dict.fromkeys(combined))
    return tuple(found)
