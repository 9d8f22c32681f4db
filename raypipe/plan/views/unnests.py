"""UNNEST and LATERAL in FROM: rows that are made of the row beside them."""

from __future__ import annotations

from sqlglot import exp

from raypipe.plan.views.graph import Graph
from raypipe.plan.views.rows import Rows, column, flushed
from raypipe.plan.views.trees import Address, Unsplit, conjuncts, subqueries_in


def is_made_of_rows(node: exp.Expr) -> bool:
    """Whether a source in FROM makes rows of those beside it: ``unnest(o.items)``, ``LATERAL (SELECT unnest(…))``."""
    if isinstance(node, exp.Lateral):
        query = _lateral(node)
        return query is not None and not any(query.args.get(name) for name in _OTHER_PARTS)
    return isinstance(node, exp.Unnest)


_OTHER_PARTS = (
    "from_",
    "joins",
    "where",
    "group",
    "having",
    "qualify",
    "order",
    "limit",
    "offset",
    "distinct",
    "with_",
)


def _lateral(node: exp.Lateral) -> exp.Select | None:
    query = node.this
    if isinstance(query, exp.Subquery):
        query = query.this
    return query if isinstance(query, exp.Select) else None


def unnested(graph: Graph, rows: Rows, join: exp.Join, needed: set[Address]) -> tuple[Rows, list[exp.Expr]]:
    """Makes the rows of one such source.

    Args:
        graph: Takes the operator.
        rows: Of the other sources.
        join: How it is joined.
        needed: Columns that the rest of the SELECT uses.

    Returns:
        The rows with its columns, and conditions that are still to be applied.
    """
    node = join.this
    if join.method or join.side or join.kind.upper() not in ("", "INNER", "CROSS") or node.args.get("offset"):
        raise Unsplit("a join with rows that are made of rows")
    alias = node.args.get("alias")
    given = [each.name for each in alias.args.get("columns") or ()] if alias is not None else []
    if isinstance(node, exp.Lateral):
        query = _lateral(node)
        items = [] if query is None else query.expressions
        named = [(item.alias_or_name, item.this if isinstance(item, exp.Alias) else item) for item in items]
    else:
        named = [("unnest", exp.Explode(this=each)) for each in node.expressions]
    if alias is None or len(given) > len(named) or any(any(subqueries_in(item)) for _, item in named):
        raise Unsplit("rows that are made of rows, without a name")
    names = [*given, *(name for name, _ in named[len(given) :])]
    flat = flushed(graph, rows, needed, [item for _, item in named])
    terms: dict[Address, exp.Expr] = {each: column(name) for each, name in flat.addresses.items()}
    for name, made in zip(names, flat.more, strict=True):
        terms[alias.name.lower(), name.lower()] = column(made)
    return Rows(relation=flat.relation, terms=terms), conjuncts(join.args.get("on"))
