"""UNION, INTERSECT and EXCEPT: rows of the same values together, so the key is all of their columns."""

from __future__ import annotations

from sqlglot import exp

from raypipe.plan.views.graph import Graph
from raypipe.plan.views.parts import ordered_by
from raypipe.plan.views.rows import Table, column, leaf
from raypipe.plan.views.trees import Unsplit


def set_operation(graph: Graph, node: exp.SetOperation, left: Table, right: Table) -> Table:
    """The relation of two others, row by row of the same values."""
    if node.args.get("by_name"):
        raise Unsplit("BY NAME")
    if len(left.names) != len(right.names):
        raise Unsplit("different numbers of columns")
    sides = [
        graph.linear(
            each.relation,
            [
                (f"{place}.{name}", column(made))
                for place, ((_, made), (name, _)) in enumerate(zip(each.names, left.names, strict=True))
            ],
            [],
        )
        for each in (left, right)
    ]
    types = graph.types_of(sides, "SELECT * FROM _0 UNION ALL SELECT * FROM _1")
    sides = [
        graph.linear(
            side,
            [
                (
                    name,
                    column(name)
                    if have == want
                    else exp.cast(column(name), exp.DataType.build(want, dialect="duckdb")),
                )
                for name, have, want in zip(side.columns.names, side.types, types, strict=True)
            ],
            [],
        )
        for side in sides
    ]
    names = tuple((name, made) for (name, _), made in zip(left.names, sides[0].columns.names, strict=True))
    columns = sides[0].columns.names
    distinct = bool(node.args.get("distinct"))
    everything = (frozenset(columns),)
    if isinstance(node, exp.Union):
        both = graph.union(sides)
        if not distinct:
            return Table(both, names)
        make = exp.select("*").distinct().from_("_0")
        return Table(graph.keyed([(both, columns)], make, columns, "union", everything), names)
    verb = exp.Intersect if isinstance(node, exp.Intersect) else exp.Except
    operation = verb(this=exp.select("*").from_("_0"), expression=exp.select("*").from_("_1"), distinct=distinct)
    word = type(node).__name__.lower()
    unique = everything if distinct else ()
    return Table(graph.keyed([(sides[0], columns), (sides[1], columns)], operation, columns, word, unique), names)


def limited(graph: Graph, node: exp.SetOperation, table: Table) -> Table:
    """The first rows of a set operation, if it has a LIMIT."""
    if not (node.args.get("limit") or node.args.get("offset")):
        return table
    visible = dict(reversed(table.names))
    make = exp.select(*(exp.column(name, table="t", quoted=True) for name in table.relation.columns.names))
    make = make.from_(leaf(0, "t"))
    order = node.args.get("order")
    given = []
    for each in order.expressions if order is not None else ():
        if not isinstance(each.this, exp.Column) or each.this.name.lower() not in visible:
            raise Unsplit("ORDER BY over a set operation")
        given.append(ordered_by(each, exp.column(visible[each.this.name.lower()], table="t", quoted=True)))
    make.set("order", exp.Order(expressions=given))
    for name in ("limit", "offset"):
        if node.args.get(name) is not None:
            if not isinstance(node.args[name].expression, exp.Literal):
                raise Unsplit("LIMIT by an expression")
            make.set(name, node.args[name].copy())
    return Table(graph.keyed([(table.relation, None)], make, (), "limit", ()), table.names)
