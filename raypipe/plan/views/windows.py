"""Windows: rows of a partition together, by its key."""

from __future__ import annotations

from sqlglot import exp

from raypipe.plan.views.graph import Graph
from raypipe.plan.views.parts import Parts
from raypipe.plan.views.rows import Rows, column, flushed, leaf
from raypipe.plan.views.trees import Address, substituted


def windowed(graph: Graph, rows: Rows, parts: Parts, needed: set[Address]) -> tuple[Rows, Parts]:
    """Computes every window as one more column, those of one PARTITION BY together.

    Args:
        graph: Takes the operators.
        rows: Under the windows.
        parts: Of the SELECT.
        needed: Columns that the parts use.

    Returns:
        The rows with the columns, and the parts in terms of them.
    """
    while True:
        windows = {each.sql("duckdb"): each for part in parts.expressions() for each in _windows_in(part)}
        if not windows:
            return rows, parts
        first = next(iter(windows.values()))
        by = {each.sql("duckdb"): each for each in first.args.get("partition_by") or ()}
        same = {
            text: each
            for text, each in windows.items()
            if {part.sql("duckdb") for part in each.args.get("partition_by") or ()} == set(by)
        }
        keys = [each for each in by.values() if not isinstance(each, exp.Literal)]
        flat = flushed(graph, rows, needed, keys)
        sides = {each: exp.column(name, table="t", quoted=True) for each, name in flat.addresses.items()}
        terms: dict[Address, exp.Expr] = {each: column(name) for each, name in flat.addresses.items()}
        items: list[exp.Expr] = [exp.column(name, table="t", quoted=True) for name in flat.relation.columns.names]
        known: dict[str, exp.Expr] = {}
        for text, each in same.items():
            number = graph.number()
            items.append(exp.alias_(substituted(each, sides), f"_win.{number}", quoted=True))
            terms["_win", number] = column(f"_win.{number}")
            known[text] = exp.column(number, table="_win", quoted=True)
        make = exp.select(*items).from_(leaf(0, "t"))
        made = graph.keyed([(flat.relation, flat.more or None)], make, flat.more, "window", flat.relation.unique)
        rows, parts = Rows(relation=made, terms=terms), parts.replaced(known)


def _windows_in(part: exp.Expr) -> list[exp.Window]:
    """Windows of an expression, those inside others left out: they come in a later round."""
    if isinstance(part, exp.Query) and not isinstance(part, exp.Subquery):
        return []
    if isinstance(part, exp.Window):
        inside = [found for child in part.iter_expressions() for found in _windows_in(child)]
        return inside or [part]
    return [found for child in part.iter_expressions() for found in _windows_in(child)]
