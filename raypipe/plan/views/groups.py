"""GROUP BY: one row for each group, by its key."""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp

from raypipe.plan.views.distincts import grouped_distinct
from raypipe.plan.views.graph import Graph, Unique
from raypipe.plan.views.parts import Parts
from raypipe.plan.views.rows import Rows, column, flushed, leaf
from raypipe.plan.views.trees import (
    Address,
    Unsplit,
    addresses,
    aggregates_in,
    grouping_of,
    replaced,
    subqueries_in,
    substituted,
)

Lift = Callable[[Rows, exp.Expr], tuple[Rows, exp.Expr]]


def grouped(graph: Graph, lift: Lift, node: exp.Select, rows: Rows, parts: Parts) -> tuple[Rows, Parts]:
    """Groups rows.

    Args:
        graph: Takes the operator.
        lift: Computes a subquery as a column.
        node: The SELECT.
        rows: Under its GROUP BY.
        parts: Of it.

    Returns:
        One row for each group, and the parts in terms of its columns.
    """
    group = node.args.get("group")
    plain, sets = grouping_of(group) if group is not None else ([], [])
    if group is not None and group.args.get("all"):
        plain = [item for _, item in parts.items if next(aggregates_in(item), None) is None]
    if group is not None and group.args.get("totals"):
        raise Unsplit("WITH TOTALS")
    members = [member for each in sets for member in _members(each)]
    calls = {call.sql("duckdb"): call for each in parts.expressions() for call in aggregates_in(each)}
    columns: dict[str, exp.Expr] = {}
    before: list[exp.Expr] = [*plain, *members, *calls.values()]
    for expression in before:
        for part in subqueries_in(expression):
            rows, columns[part.sql("duckdb")] = lift(rows, part)
    used = {found for each in (*members, *calls.values()) for found in addresses(each)}
    used |= {each for each in rows.terms if each[0] == "_sub"}
    keys = {each.sql("duckdb"): replaced(each, columns) for each in plain if not isinstance(each, exp.Literal)}
    flat = flushed(graph, rows, used, list(keys.values()), only=True)
    sides = {each: exp.column(name, table="t", quoted=True) for each, name in flat.addresses.items()}
    items: list[exp.Expr] = []
    terms: dict[Address, exp.Expr] = {}
    known: dict[str, exp.Expr] = {}

    def give(text: str, value: exp.Expr) -> None:
        name = f"_agg.{len(known)}"
        items.append(exp.alias_(value, name, quoted=True))
        terms["_agg", str(len(known))] = column(name)
        known[text] = exp.column(str(len(known)), table="_agg", quoted=True)

    key_names: list[str] = []
    for (text, _), name in zip(keys.items(), flat.more, strict=True):
        key_names.append(f"_agg.{len(known)}")
        give(text, exp.column(name, table="t", quoted=True))
    for member in members:
        if member.sql("duckdb") not in known:
            give(member.sql("duckdb"), substituted(replaced(member, columns), sides))
    for text, call in calls.items():
        give(text, substituted(replaced(call, columns), sides))
    make = exp.select(*items).from_(leaf(0, "t"))
    grouped = [exp.column(name, table="t", quoted=True) for name in flat.more]
    grouped_sets = [substituted(replaced(each, columns), sides) for each in sets]
    if grouped or grouped_sets:
        make.set("group", exp.Group(expressions=[*grouped, *grouped_sets]))
    elif group is not None:
        raise Unsplit("GROUP BY nothing")
    unique: Unique = () if sets else (frozenset(key_names),)
    added = None
    if not members and len(key_names) == len(flat.more):
        values = [substituted(replaced(call, columns), sides) for call in calls.values()]
        added = graph.algebraic(flat.relation, make, flat.more, values, unique)
        if added is None:
            names = [f"_agg.{place}" for place in range(len(items))]
            added = grouped_distinct(graph, flat.relation, flat.more, names, values)
    made = added or graph.keyed([(flat.relation, flat.more or None)], make, key_names, "group", unique)
    for item in plain:
        if isinstance(item, exp.Literal):
            known[item.sql("duckdb")] = item
    return Rows(relation=made, terms=terms), parts.replaced(known)


def _members(sets: exp.Expr) -> list[exp.Expr]:
    found: list[exp.Expr] = []
    for each in sets.expressions:
        if isinstance(each, exp.Tuple | exp.GroupingSets | exp.Rollup | exp.Cube):
            found += _members(each)
        elif isinstance(each, exp.Paren):
            found.append(each.this)
        else:
            found.append(each)
    return found
