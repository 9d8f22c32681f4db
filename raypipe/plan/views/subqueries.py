"""Subqueries in expressions: each becomes a column of the rows around it, computed by the user's own expression.

A correlated one is kept by the columns that it says are equal: the rows around it that have a value, and the rows
inside that have it. NULL needs no thought: such a row finds nothing inside, whatever is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlglot import exp

from raypipe.plan.views.clocks import check_clock
from raypipe.plan.views.graph import Graph
from raypipe.plan.views.model import Relation
from raypipe.plan.views.parts import Parts
from raypipe.plan.views.rows import Environment, Flat, Rows, Table, column, each_once, flushed, leaf
from raypipe.plan.views.trees import (
    Address,
    Unsplit,
    address,
    addresses,
    conjuncts,
    free_columns,
    own_columns,
    query_of,
    subqueries_in,
    substituted,
)

Query = Callable[[exp.Expr, Environment], Table]
Filter = Callable[[exp.Select, Environment, set[Address], list[exp.Expr]], Rows]


class Subqueries:
    """Computes them.

    Args:
        graph: Takes the operators.
        query: Makes the relation of a query.
        filter_: Makes the rows of a SELECT's FROM under some conditions.
    """

    def __init__(self, graph: Graph, query: Query, filter_: Filter) -> None:
        self._graph = graph
        self._query = query
        self._filter = filter_

    def lifted(self, rows: Rows, parts: Parts, env: Environment, needed: set[Address]) -> tuple[Rows, Parts]:
        """Everything that the parts hold of the kind, as columns."""
        columns: dict[str, exp.Expr] = {}
        for expression in parts.expressions():
            for part in subqueries_in(expression):
                if part.sql("duckdb") not in columns:
                    rows, columns[part.sql("duckdb")] = self.lift(rows, part, env, needed, as_filter=False)
        return rows, parts.replaced(columns) if columns else parts

    def lift(
        self, rows: Rows, part: exp.Expr, env: Environment, needed: set[Address], *, as_filter: bool
    ) -> tuple[Rows, exp.Expr]:
        """Computes an expression that holds a query as one more column; returns the column."""
        query = query_of(part)
        check_clock(query)
        looks_out = free_columns(query)
        if looks_out - set(rows.terms):
            raise Unsplit("a query that looks out over two levels")
        own: list[tuple[exp.Expr, exp.Expr]] = []
        if looks_out:
            inner, body, own = self._correlated(query, env, looks_out)
        else:
            table = self._query(query.copy(), env)
            inner = table.relation
            body = exp.select(
                *(
                    exp.alias_(exp.column(made, table="i", quoted=True), f"c{place}")
                    for place, (_, made) in enumerate(table.names)
                )
            ).from_(leaf(1, "i"))
            if (
                as_filter
                and isinstance(part, exp.In)
                and len(table.names) == 1
                and not isinstance(part.this, exp.Tuple)
            ):
                own = [(part.this, exp.column(table.names[0][1], table="i", quoted=True))]
        outer, inner, keys = self._aligned(rows, inner, own, needed)
        sides = {each: exp.column(name, table="o", quoted=True) for each, name in outer.addresses.items()}
        value = _with_query(part, body, sides)
        if as_filter:
            value = exp.Coalesce(this=exp.Paren(this=value), expressions=[exp.false()])
        number = self._graph.number()
        name = f"_sub.{number}"
        columns = [exp.column(each, table="o", quoted=True) for each in outer.relation.columns.names]
        make = exp.select(*columns, exp.alias_(value, name, quoted=True)).from_(leaf(0, "o"))
        outer_key = [left for left, _ in keys] or _identity(outer.relation)
        made = self._graph.keyed(
            [(outer.relation, outer_key), (inner, [right for _, right in keys] or None)],
            make,
            outer_key,
            _word(part),
            outer.relation.unique,
        )
        terms: dict[Address, exp.Expr] = {each: column(name) for each, name in outer.addresses.items()}
        terms["_sub", number] = column(name)
        return Rows(relation=made, terms=terms), exp.column(number, table="_sub", quoted=True)

    def _correlated(
        self, query: exp.Expr, env: Environment, looks_out: set[Address]
    ) -> tuple[Relation, exp.Expr, list[tuple[exp.Expr, exp.Expr]]]:
        """The relation a correlated query reads, the query over it, and which outer expressions equal which columns."""
        if not isinstance(query, exp.Select) or query.args.get("with_"):
            raise Unsplit("a correlated query with parts")
        needed = own_columns(query)
        conditions = conjuncts(query.args.get("where"))
        correlated = [each for each in conditions if addresses(each) & looks_out]
        if any(any(subqueries_in(each)) for each in correlated):
            raise Unsplit("a query that looks out over two levels")
        rows = self._filter(query, env, needed, [each for each in conditions if each not in correlated])
        flat = flushed(self._graph, rows, needed)
        sides = {each: exp.column(name, table="i", quoted=True) for each, name in flat.addresses.items()}
        body = query.copy()
        body.set("joins", None)
        body.set("from_", exp.From(this=leaf(1, "i")))
        body.set("where", exp.Where(this=exp.and_(*(each.copy() for each in correlated))) if correlated else None)
        if any(free_columns(inner) for inner in body.find_all(exp.Query) if inner is not body):
            raise Unsplit("a query that looks out over two levels")
        for name, value in list(body.args.items()):
            if name == "from_" or not value:
                continue
            if isinstance(value, list):
                body.set(name, [substituted(each, sides) if isinstance(each, exp.Expr) else each for each in value])
            elif isinstance(value, exp.Expr):
                body.set(name, substituted(value, sides))
        pairs: list[tuple[exp.Expr, exp.Expr]] = []
        for each in correlated:
            if isinstance(each, exp.EQ | exp.NullSafeEQ):
                for mine, other in ((each.this, each.expression), (each.expression, each.this)):
                    if isinstance(mine, exp.Column) and address(mine) in sides and addresses(other) <= looks_out:
                        pairs.append((other, sides[address(mine)]))
                        break
        return flat.relation, body, pairs

    def _aligned(
        self, rows: Rows, inner: Relation, own: list[tuple[exp.Expr, exp.Expr]], needed: set[Address]
    ) -> tuple[Flat, Relation, list[tuple[str, str]]]:
        """Both relations with columns of one type for what is equal."""
        outer = flushed(self._graph, rows, needed, [outer for outer, _ in own])
        keys: list[tuple[str, str]] = []
        for mine, (_, other) in zip(outer.more, own, strict=True):
            if outer.relation.type_of(mine) == inner.type_of(other.name):
                keys.append((mine, other.name))
        return outer, inner, each_once(keys)


def _identity(relation: Relation) -> list[str]:
    """Columns by which a row is found again: the shortest that identify it, else all."""
    known = [each for each in relation.unique if each]
    if known:
        best = min(known, key=lambda each: (len(each), sorted(each)))
        return [name for name in relation.columns.names if name in best]
    return list(relation.columns.names)


def _with_query(part: exp.Expr, body: exp.Expr, sides: Mapping[Address, exp.Expr]) -> exp.Expr:
    """The expression with its query replaced and its own columns in terms of ``o``."""
    holder = exp.Paren(this=part.copy())
    mine = query_of(holder)
    marker = exp.Placeholder()
    mine.replace(marker)
    outside = substituted(holder.this, sides)
    inside = substituted(body, sides) if isinstance(body, exp.Select) else body
    if isinstance(outside, exp.Placeholder):
        return exp.Subquery(this=inside)
    place = next(node for node in outside.walk() if isinstance(node, exp.Placeholder))
    place.replace(inside)
    return outside


def _word(part: exp.Expr) -> str:
    return {"Exists": "exists", "In": "in"}.get(type(part).__name__, "subquery")
