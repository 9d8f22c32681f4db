"""Conditions against something that moves: the time of the cut, for which now() stands, or a watermark.

``placed_at > now() - INTERVAL 7 DAY`` changes its mind about a row once, when the time reaches it. So the rows are kept
by slices of time, and when the bound moves only the slices that it passed are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

import pyarrow as pa
from sqlglot import Token, exp

from raypipe.plan.functions import CLOCK_CALLS, CLOCK_WORDS
from raypipe.plan.text import StepText
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
# Rows whose times are this close together are looked at together. Shorter slices are more keys to look up whenever the
# bound moves, longer ones are more rows that did not change.
SLICE_S = 10

_COMPARISONS = (exp.GT, exp.GTE, exp.LT, exp.LTE)
_TIMES = ("TIMESTAMP", "DATE")
# The day and not the moment.
_DAYS = frozenset(("today", "current_date"))
# Of one process and not of a cut.
_OTHERS = (exp.CurrentTime, exp.Localtime, exp.Localtimestamp, exp.CurrentUser, exp.SessionUser, exp.CurrentSchema)
_NEAREST = "a comparison in WHERE or HAVING with the row's time alone on one side, placed_at > now() - INTERVAL 7 DAY,"

Query = Callable[[exp.Expr, Environment], Table]


def clock_row(at: float) -> pa.Table:
    """The relation of the time, one row.

    Args:
        at: Seconds since 1970.
    """
    moment = pa.array([datetime.fromtimestamp(at, UTC)], pa.timestamp("us", "UTC"))
    return pa.table({NOW: moment})


def with_clock(tree: exp.Expr, names: Collection[str]) -> bool:
    """Puts a query of the clock wherever a tree asks for the time, in place; returns whether it does.

    Args:
        tree: As it was parsed.
        names: Of the inputs' columns, in lower case.

    Raises:
        Refused: it asks for what depends on the process that runs it, or it is not clear what it asks for.
    """
    found = False
    known = {*names, *(each.alias.lower() for each in tree.find_all(exp.Alias, exp.TableAlias))}
    known.update(
        each.name.lower() for alias in tree.find_all(exp.TableAlias) for each in alias.args.get("columns") or ()
    )
    for node in list(tree.walk()):
        if isinstance(node, _OTHERS):
            raise Refused(
                f"{node.sql('duckdb').lower()}, which may answer differently every time", "a column of the row"
            )
        word = _word(node)
        if not word:
            continue
        if word in CLOCK_WORDS & known:
            raise Refused(f"{word}, which a column is called as well", "a column of another name")
        found = True
        moment: exp.Expr = exp.Subquery(this=exp.select(exp.column(NOW, quoted=True)).from_(exp.to_table(CLOCK)))
        node.replace(exp.cast(moment, "DATE") if word in _DAYS else moment)
    return found


def _word(node: exp.Expr) -> str:
    """The word by which a node asks for the time; empty if it does not."""
    if isinstance(node, exp.CurrentDate):
        return "current_date"
    if isinstance(node, exp.CurrentTimestamp):
        return "current_timestamp"
    call = isinstance(node, exp.Anonymous) and not node.expressions and str(node.this).lower()
    return call if call and call in CLOCK_CALLS else ""


def text_with_clock(text: StepText) -> str:
    """The user's own words with the clock's table where they ask for the time: what the oracle runs."""
    tokens = text.tokens()
    bare = text.bare()
    made, place = "", 0
    for index, token in enumerate(tokens):
        end = _asked(tokens, index)
        if end is not None:
            day = "::DATE" if token.text.lower() in _DAYS else ""
            made += bare[place : token.start] + f"(SELECT {NOW}{day} FROM {CLOCK})"
            place = end + 1
    return made + bare[place:]


def _asked(tokens: Sequence[Token], index: int) -> int | None:
    """Where what asks for the time ends; None if the token does not begin such a thing."""
    word = tokens[index].text.lower()
    if (index and tokens[index - 1].text == ".") or word not in CLOCK_CALLS | CLOCK_WORDS:
        return None
    if tokens[index].end - tokens[index].start + 1 != len(word):
        return None  # quoted: a name
    called = [each.text for each in tokens[index + 1 : index + 3]] == ["(", ")"]
    if called:
        return int(tokens[index + 2].end)
    return int(tokens[index].end) if word in CLOCK_WORDS else None


def reads_clock(tree: exp.Expr) -> bool:
    """Whether a tree holds what ``with_clock`` put there."""
    return any(table.name == CLOCK for table in tree.find_all(exp.Table))


def check_clock(query: exp.Expr) -> None:
    """Refuses the time as a value: everything that is made of it would be another one at every cut.

    Raises:
        Refused: the query asks for nothing else.
    """
    start = query.args.get("from_")
    if start is not None and isinstance(start.this, exp.Table) and start.this.name == CLOCK:
        raise Refused("now() elsewhere than in a comparison by which rows are chosen", _NEAREST)


def check_whole(tree: exp.Expr, why: str) -> None:
    """Refuses the time where a view would have to be computed from all rows whenever the time is another one.

    Raises:
        Refused: it is asked for.
    """
    if reads_clock(tree):
        raise Refused(f"now() in SQL that is computed as a whole ({why})", _NEAREST)


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
        for condition in conditions:
            made, others = rows, []
            for single in _singles(condition):
                filtered = self._filtered(made, single, env, needed)
                if filtered is None:
                    others.append(single)
                else:
                    made = filtered
            # What could not be taken apart stays in one piece.
            rest += [condition] if made is rows else others
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
        operand, limit = exp.column(value, table="l", quoted=True), exp.column("bound", table="r", quoted=True)
        sides = (operand, limit) if mine is left else (limit, operand)
        on = type(condition)(this=sides[0], expression=sides[1])
        items = [(name, exp.column(name, table="l", quoted=True)) for name in dict.fromkeys(flat.addresses.values())]
        if not items:
            items = [(value, operand)]
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
    """The comparisons that a condition with a query consists of: BETWEEN is two, and so is equality."""
    if not any(subqueries_in(condition)):
        return [condition]
    if isinstance(condition, exp.Between) and not condition.args.get("symmetric"):
        value, low, high = condition.this, condition.args["low"], condition.args["high"]
    elif isinstance(condition, exp.EQ):
        value, low, high = condition.this, condition.expression, condition.expression
    else:
        return [condition]
    return [
        exp.GTE(this=value.copy(), expression=low.copy()),
        exp.LTE(this=value.copy(), expression=high.copy()),
    ]


def _slice(moment: exp.Expr) -> exp.Expr:
    """Number of the slice of time that a moment lies in; NULL for NULL, for infinity and for what is nearly so."""
    # A day too far away to be a TIMESTAMP is passed by no bound that is one.
    plain = exp.TryCast(this=moment.copy(), to=exp.DataType.build("TIMESTAMP", dialect="duckdb"))
    number = exp.IntDiv(this=exp.func("epoch_us", plain), expression=exp.Literal.number(SLICE_S * 1_000_000))
    return exp.Case(ifs=[exp.If(this=exp.func("isfinite", plain.copy()), true=number)])
