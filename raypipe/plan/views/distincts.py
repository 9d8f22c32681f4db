"""GROUP BY with DISTINCT inside of aggregates: each different value of a group is a group of its own first.

``count(DISTINCT x) FILTER (WHERE f)`` by ``g`` is, of the groups by ``g, x`` that have a row with ``f``, the number of
those whose ``x`` is not NULL. So a change costs what it touches, and not all rows of its group::

    pairs     SELECT g, x, count(*) FILTER (f) AS n FROM rows GROUP BY g, x
    values    SELECT g, count(x) FILTER (n > 0) FROM pairs GROUP BY g
    others    SELECT g, all aggregates without DISTINCT FROM rows GROUP BY g
    group     others JOIN values, for each x, by g

Each ``g`` of one is in all of them, since a NULL makes a pair, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from raypipe.plan.views.graph import Graph
from raypipe.plan.views.model import Relation
from raypipe.plan.views.rows import leaf

# min and max do not care how often a value is there.
_COUNTING = (exp.Count, exp.Sum, exp.Avg)
_ANYWAY = (exp.Min, exp.Max)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """An aggregate with DISTINCT inside.

    Attributes:
        name: Of its column.
        call: The aggregate, without what is in it.
        where: Of its FILTER.
    """

    name: str
    call: exp.Expr
    where: exp.Expr | None


@dataclass(kw_only=True)
class _Values:
    """What is asked of the different values of one expression."""

    value: exp.Expr
    calls: list[_Call] = field(default_factory=list)


def grouped_distinct(
    graph: Graph, source: Relation, key: Sequence[str], names: Sequence[str], calls: Sequence[exp.Expr]
) -> Relation | None:
    """Groups, if some of their aggregates have a DISTINCT inside and all of them can be added to.

    Args:
        graph: Takes the operators.
        source: Rows to group.
        key: Columns of it.
        names: Of the result: the key's columns, then the aggregates.
        calls: The aggregates, over the source as ``t``.
    """
    asked: dict[str, _Values] = {}
    others: list[tuple[str, exp.Expr]] = []
    for name, call in zip(names[len(key) :], calls, strict=True):
        inner, where = (call.this, call.expression.this) if isinstance(call, exp.Filter) else (call, None)
        inside = inner.this
        if not isinstance(inside, exp.Distinct):
            others.append((name, call))
        elif len(inside.expressions) != 1 or inside.args.get("on") or inner.args.get("expressions"):
            return None
        elif isinstance(inner, _ANYWAY):
            plain = call.copy()
            (plain.this if isinstance(plain, exp.Filter) else plain).set("this", inside.expressions[0].copy())
            others.append((name, plain))
        elif isinstance(inner, _COUNTING):
            value = inside.expressions[0]
            values = asked.setdefault(value.sql("duckdb"), _Values(value=value))
            values.calls.append(_Call(name=name, call=inner, where=where))
        else:
            return None
    if not asked:
        return None
    keys = list(names[: len(key)])
    parts = [_groups(graph, source, key, keys, others)] if others else []
    parts += [_counted(graph, source, key, keys, values) for values in asked.values()]
    made = parts[0]
    for part in parts[1:]:
        if made is None or part is None:
            return None
        made = _beside(graph, made, part, keys)
    return None if made is None else graph.linear(made, [(name, _column(name)) for name in names], [])


def _counted(
    graph: Graph, source: Relation, key: Sequence[str], keys: Sequence[str], values: _Values
) -> Relation | None:
    """What is asked of the different values of an expression, by key."""
    filters = {call.where.sql("duckdb"): call.where for call in values.calls if call.where is not None}
    flags = {text: f"_met.{place}" for place, text in enumerate(filters)}
    items: list[tuple[str, exp.Expr]] = [(name, _column(column)) for name, column in zip(keys, key, strict=True)]
    items += [("_value", values.value), *((flags[text], where) for text, where in filters.items())]
    rows = graph.linear(source, items, [])
    present: list[tuple[str, exp.Expr]] = [
        (flag, exp.Filter(this=exp.Count(this=exp.Star()), expression=exp.Where(this=_column(flag))))
        for flag in flags.values()
    ]
    pairs = _groups(graph, rows, [*keys, "_value"], [*keys, "_value"], present)
    if pairs is None:
        return None
    calls: list[tuple[str, exp.Expr]] = []
    for each in values.calls:
        call = each.call.copy()
        call.set("this", _column("_value"))
        if each.where is not None:
            there = exp.GT(this=_column(flags[each.where.sql("duckdb")]), expression=exp.Literal.number(0))
            call = exp.Filter(this=call, expression=exp.Where(this=there))
        calls.append((each.name, call))
    return _groups(graph, pairs, keys, keys, calls)


def _groups(
    graph: Graph, source: Relation, key: Sequence[str], keys: Sequence[str], calls: Sequence[tuple[str, exp.Expr]]
) -> Relation | None:
    """Groups that changes are added to."""
    items = [exp.alias_(_column(column), name, quoted=True) for column, name in zip(key, keys, strict=True)]
    items += [exp.alias_(call.copy(), name, quoted=True) for name, call in calls]
    make = exp.select(*items).from_(leaf(0, "t"))
    if key:
        make.set("group", exp.Group(expressions=[_column(column) for column in key]))
    return graph.algebraic(source, make, key, [call for _, call in calls], (frozenset(keys),))


def _beside(graph: Graph, left: Relation, right: Relation, keys: Sequence[str]) -> Relation:
    """The columns of both, of the same groups."""
    items = [(name, _column(name, "l")) for name in left.columns.names]
    items += [(name, _column(name, "r")) for name in right.columns.names if name not in keys]
    same = [exp.NullSafeEQ(this=_column(name, "l"), expression=_column(name, "r")) for name in keys]
    return graph.bilinear(left, right, [(name, name) for name in keys], items, same, (frozenset(keys),))


def _column(name: str, table: str = "t") -> exp.Column:
    return exp.column(name, table=table, quoted=True)
