"""Conditions against something that moves: the time of the cut, for which now() stands, or a watermark.

``placed_at > now() - INTERVAL 7 DAY`` changes its mind about a row once, when the time reaches it. So the rows are kept by
slices of time, and when the bound moves only the slices that it passed are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlglot import exp

from raypipe.plan.views.graph import NOW, Graph
from raypipe.plan.views.model import Relation
from raypipe.plan.views.rows import Environment, Rows, Table, column, flushed
from raypipe.plan.views.trees import (
    Address,
    Refused,
    addresses,
    free_columns,
    query_of,
    replaced,
    subqueries_in,
)

# A relation of one row with the time of the cut; in the oracle's SQL it is a table of this name.
CLOCK = "_raypipe_now"
SLICE_S = 10

_COMPARISONS = (exp.GT, exp.GTE, exp.LT, exp.LTE)
_TIMES = ("TIMESTAMP", "DATE")
_CALLS = frozenset(("now", "get_current_timestamp", "transaction_timestamp"))
# Of one process and not of a cut.
_OTHERS = (exp.CurrentTime, exp.Localtime, exp.Localtimestamp, exp.CurrentUser, exp.SessionUser, exp.CurrentSchema)
_NEAREST = (
    "a comparison in WHERE, such as placed_at > now() - INTERVAL 7 DAY (one side the row's, the other that of now())"
)

Query = Callable[[exp.Expr, Environment], Table]


def with_clock(tree: exp.Expr) -> bool:
    """Puts a query of the clock wherever a tree asks for the time, in place; returns whether it does.

    Raises:
        Refused: it asks for what depends on the process that runs it.
    """
    found = False
    for node in list(tree.walk()):
        if isinstance(node, _OTHERS):
            raise Refused(
                f"{node.sql('duckdb').lower()}, which may answer differently every time", "a column of the row"
            )
        day = isinstance(node, exp.CurrentDate)
        if day or isinstance(node, exp.CurrentTimestamp) or _is_call(node):
            found = True
            moment: exp.Expr = exp.Subquery(this=exp.select(exp.column(NOW, quoted=True)).from_(exp.to_table(CLOCK)))
            node.replace(exp.cast(moment, "DATE") if day else moment)
    return found


def _is_call(node: exp.Expr) -> bool:
    return isinstance(node, exp.Anonymous) and not node.expressions and str(node.this).lower() in _CALLS


def reads_clock(tree: exp.Expr) -> bool:
    """Whether a tree holds what ``with_clock`` put there."""
    return any(table.name == CLOCK for table in tree.find_all(exp.Table))


def check_clock(part: exp.Expr) -> None:
    """Refuses the time where no condition changes its mind just once.

    Raises:
        Refused: it stands there.
    """
    if reads_clock(part):
        raise Refused("now() elsewhere than in a condition that compares a row's time with it", _NEAREST)


class Clocks:
    """Applies such conditions.

    Args:
        graph: Takes the operators.
        query: Makes the relation of a query.
    """

    def __init__(self, graph: Graph, query: Query) -> None:
        self._graph = graph
        self._query = query

    def applied(
        self, rows: Rows, conditions: Sequence[exp.Expr], env: Environment, needed: set[Address]
    ) -> tuple[Rows, list[exp.Expr]]:
        """Filters rows by the conditions that are of this kind; returns the others."""
        rest: list[exp.Expr] = []
        for condition in [single for each in conditions for single in _singles(each)]:
            made = self._filtered(rows, condition, env, needed)
            if made is None:
                rest.append(condition)
            else:
                rows = made
        return rows, rest

    def _filtered(self, rows: Rows, condition: exp.Expr, env: Environment, needed: set[Address]) -> Rows | None:
        if not isinstance(condition, _COMPARISONS):
            return None
        left, right = condition.this, condition.expression
        mine, other = (left, right) if any(subqueries_in(right)) else (right, left)
        if any(subqueries_in(mine)) or not addresses(mine) or not addresses(mine) <= set(rows.terms):
            return None
        bound = self._bound(other, env)
        if bound is None:
            return None
        flat = flushed(self._graph, rows, needed, [mine, _slice(mine)])
        value, key = flat.more
        if not flat.relation.type_of(value).startswith(_TIMES):
            return None
        items = [(name, exp.column(name, table="l", quoted=True)) for name in dict.fromkeys(flat.addresses.values())]
        operands = (exp.column(value, table="l", quoted=True), exp.column("bound", table="r", quoted=True))
        on = (
            type(condition)(this=operands[0], expression=operands[1])
            if mine is left
            else type(condition)(this=operands[1], expression=operands[0])
        )
        if not items:
            items = [(value, operands[0])]
        kept = frozenset(name for name, _ in items)
        unique = tuple(each for each in flat.relation.unique if each <= kept)
        made = self._graph.bilinear(flat.relation, bound, [(key, "slice")], items, [on], unique, between=True)
        return Rows(relation=made, terms={each: column(name) for each, name in flat.addresses.items()})

    def _bound(self, part: exp.Expr, env: Environment) -> Relation | None:
        """The relation of one row that a condition compares with; None if it is of another kind."""
        if addresses(part):
            return None
        queries = {each.sql("duckdb"): each for each in subqueries_in(part)}
        if len(queries) != 1:
            return None
        text, holder = next(iter(queries.items()))
        if not isinstance(holder, exp.Subquery) or free_columns(query_of(holder)):
            return None
        table = self._query(query_of(holder).copy(), env)
        if len(table.names) != 1 or frozenset() not in table.relation.unique:
            return None
        value = replaced(part, {text: column(table.names[0][1])})
        made = self._graph.linear(table.relation, [("bound", value)], [])
        if not made.type_of("bound").startswith(_TIMES):
            return None
        return self._graph.linear(made, [("bound", column("bound")), ("slice", _slice(column("bound")))], [])


def _singles(condition: exp.Expr) -> list[exp.Expr]:
    """BETWEEN as the two comparisons that it is, where one of them is with a query."""
    if isinstance(condition, exp.Between) and any(subqueries_in(condition)) and not condition.args.get("symmetric"):
        low, high = condition.args["low"], condition.args["high"]
        return [
            exp.GTE(this=condition.this.copy(), expression=low.copy()),
            exp.LTE(this=condition.this.copy(), expression=high.copy()),
        ]
    return [condition]


def _slice(moment: exp.Expr) -> exp.Expr:
    """Number of the slice of time that a moment lies in; NULL for NULL and for infinity."""
    plain = exp.cast(moment.copy(), "TIMESTAMP")
    number = exp.IntDiv(this=exp.func("epoch_us", plain), expression=exp.Literal.number(SLICE_S * 1_000_000))
    return exp.Case(ifs=[exp.If(this=exp.func("isfinite", plain.copy()), true=number)])
