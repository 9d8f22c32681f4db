"""Settles what SQL leaves open: the order of rows that ORDER BY calls equal, and that in which an aggregate sees rows.

A view must have one right answer, or nothing could be compared with it. Where the user's SQL has several, one of them
is chosen by ordering equal rows by all of their columns: rows that are equal in those as well can be exchanged unseen.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlglot import exp

from raypipe.plan.views.spelling import SPELLED
from raypipe.plan.views.trees import (
    Address,
    Refused,
    aggregates_of,
    called,
    grouping_of,
    is_aggregated,
    own_columns,
    selects_of,
    windows_of,
)

# Aggregates whose answer depends on the order in which they see the rows.
_ORDERED = frozenset(
    [
        "any_value",
        "approx_quantile",
        "arbitrary",
        "arg_max",
        "arg_max_null",
        "arg_max_nulls_last",
        "arg_min",
        "arg_min_null",
        "arg_min_nulls_last",
        "argmax",
        "argmin",
        "array_agg",
        "first",
        "group_concat",
        "last",
        "list",
        "listagg",
        "lttb",
        "max_by",
        "min_by",
        "mode",
        "string_agg",
    ]
)
_PEERS = frozenset(["rank", "dense_rank", "rank_dense", "percent_rank", "cume_dist"])
_PLACES = frozenset(["row_number", "ntile", "lag", "lead"])
_VALUES = frozenset(["first_value", "last_value", "nth_value", "first", "last"])
# Aggregates that take rows in the order of their own arguments in a window, too. Over frames that move that would sort
# every frame.
_WHOLE = {"approx_quantile": "quantile_cont()", "lttb": "lttb() over whole partitions"}


def settle(tree: exp.Expr, keys: Mapping[str, frozenset[str]]) -> list[str]:
    """Changes a qualified tree in place so that it has one answer.

    Args:
        tree: Of the step.
        keys: Columns that identify a row, by relation in lower case; only of relations that have a key.

    Returns:
        What was settled, in words for people.

    Raises:
        Refused: something has no settled form.
    """
    notes: dict[str, None] = {}
    for select in selects_of(tree):
        ties = _ties(select, keys)
        for call in list(aggregates_of(select)):
            _settle_call(call, notes)
        for window in list(windows_of(select)):
            _settle_window(select, window, ties, keys, notes)
        _settle_distinct_on(select, ties, notes)
    for query in tree.find_all(exp.Query):
        _settle_limit(query, notes)
    return list(notes)


def _ties(select: exp.Select, keys: Mapping[str, frozenset[str]]) -> list[exp.Expr]:
    """By what equal rows are ordered."""
    if is_aggregated(select):
        found: dict[str, exp.Expr] = {}
        group = select.args.get("group")
        plain, sets = grouping_of(group) if group else ([], [])
        for each in (*plain, *(part for one in sets for part in one.find_all(exp.Column)), *aggregates_of(select)):
            found[each.sql("duckdb")] = each
        return [each.copy() for _, each in sorted(found.items())]
    # Of the right side of a SEMI or ANTI join nothing is there any more.
    gone = {join.this.alias_or_name.lower() for join in select.args.get("joins") or () if join.kind in ("SEMI", "ANTI")}
    used = {(table, name) for table, name in own_columns(select) if table not in gone}
    if _orders(select, keys) > 1:
        identity = _identity(select, keys, gone)
        if identity is None:
            raise Refused(
                "several windows that number equal rows, each in its own order, over rows without a key",
                "one window, or windows that all order by a key,",
            )
        used |= identity
    return [exp.column(name, table=table, quoted=True) for table, name in sorted(used)]


def _orders(select: exp.Select, keys: Mapping[str, frozenset[str]]) -> int:
    """In how many ways a SELECT orders rows that may be equal in all of the columns that it uses.

    One way is as good as another, since such rows can be exchanged. Two must agree on which of them comes first.
    """
    orders = {
        (frozenset(each.sql("duckdb") for each in window.args.get("partition_by") or ()), str(window.args.get("order")))
        for window in windows_of(select)
        if _is_sensitive(window) and not _is_total(select, window, keys)
    }
    distinct = select.args.get("distinct")
    return len(orders) + (bool(orders) and distinct is not None and distinct.args.get("on") is not None)


def _identity(select: exp.Select, keys: Mapping[str, frozenset[str]], gone: set[str]) -> set[Address] | None:
    """The keys of all tables that a SELECT reads; None if one has none."""
    start = select.args.get("from_")
    sources = [*([start.this] if start is not None else []), *(each.this for each in select.args.get("joins") or ())]
    found: set[Address] = set()
    for source in sources:
        alias = source.alias_or_name.lower()
        if alias in gone:
            continue
        key = keys.get(f"{source.db}.{source.name}".lstrip(".").lower()) if isinstance(source, exp.Table) else None
        if key is None:
            return None
        found |= {(alias, name) for name in key}
    return found


def _settle_call(call: exp.Expr, notes: dict[str, None]) -> None:
    function = call.find(exp.AggFunc, exp.Anonymous, exp.AnonymousAggFunc) or call
    name = called(function)
    if name not in _ORDERED:
        return
    arguments = _arguments(function)
    if not arguments:
        return
    values = [argument.this if isinstance(argument, exp.Order) else argument for _, argument in arguments]
    place, last = arguments[-1]
    if isinstance(function, exp.GroupConcat):
        place, last = "this", function.this
    existing = next((argument for _, argument in arguments if isinstance(argument, exp.Order)), None)
    distinct = next((argument for argument in values if isinstance(argument, exp.Distinct)), None)
    if distinct is not None:
        values = list(distinct.expressions)
        if existing is not None:
            return  # DuckDB lets DISTINCT be ordered by its own argument only, which leaves no ties
    # The value by which rows are chosen stands last, but for a line through points, which goes along the first.
    values = values if name == "lttb" else values[::-1]
    more = [_ordered(value) for value in values if value.find(exp.Column, exp.Query)]
    if not more:
        return
    if existing is not None:
        for each in more:
            existing.append("expressions", each)
    else:
        wrapped = exp.Order(this=last.copy(), expressions=more)
        if isinstance(place, int):
            function.expressions[place].replace(wrapped)
        else:
            function.set(place, wrapped)
    if not function.meta.get(SPELLED):
        notes[f"{name}() takes equal rows in the order of their values"] = None


def _arguments(function: exp.Expr) -> list[tuple[str | int, exp.Expr]]:
    if isinstance(function, exp.Anonymous | exp.AnonymousAggFunc):
        return list(enumerate(function.expressions))
    return [(name, function.args[name]) for name in function.arg_types if isinstance(function.args.get(name), exp.Expr)]


def _function_of(window: exp.Window) -> exp.Expr:
    function: exp.Expr = window.this
    while isinstance(function, exp.IgnoreNulls | exp.RespectNulls | exp.Filter):
        function = function.this
    return function


def _is_sensitive(window: exp.Window) -> bool:
    """Whether what a window tells of a row depends on its place among equal rows."""
    name = called(_function_of(window))
    spec = window.args.get("spec")
    by_rows = spec is not None and str(spec.args.get("kind") or "").upper() == "ROWS"
    return name not in _PEERS and (by_rows or name in _PLACES or name in _VALUES or name in _ORDERED)


def _settle_window(
    select: exp.Select,
    window: exp.Window,
    ties: list[exp.Expr],
    keys: Mapping[str, frozenset[str]],
    notes: dict[str, None],
) -> None:
    name = called(_function_of(window))
    if name in _WHOLE:
        if window.args.get("order") or window.args.get("spec"):
            raise Refused(f"{name}() over a frame that moves", _WHOLE[name])
        _settle_call(window.this, notes)
        return
    if name in _PEERS:
        return
    spec = window.args.get("spec")
    frame = str(spec.args.get("kind") or "") if spec is not None else ""
    order = window.args.get("order")
    sensitive = name in _VALUES or name in _ORDERED
    if name not in _PLACES and frame.upper() != "ROWS":
        if not sensitive:
            return
        if order is None and spec is None:
            bounds = {"start": "UNBOUNDED", "start_side": "PRECEDING", "end": "UNBOUNDED", "end_side": "FOLLOWING"}
            window.set("spec", exp.WindowSpec(kind="ROWS", **bounds))
        elif spec is not None or name not in ("first_value", "first"):
            raise Refused(
                f"{name}() over a frame of equal rows, which have no order among themselves",
                "a frame in ROWS (ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)",
            )
    if _is_total(select, window, keys):
        return
    if order is None:
        window.set("order", exp.Order(expressions=[_ordered(tie) for tie in ties]))
    else:
        for tie in ties:
            order.append("expressions", _ordered(tie))
    if not _function_of(window).meta.get(SPELLED):
        notes[f"{name}() orders equal rows by all of their columns"] = None


def _is_total(select: exp.Select, window: exp.Window, keys: Mapping[str, frozenset[str]]) -> bool:
    """Whether partition and order hold the key of the one table that the SELECT reads."""
    start = select.args.get("from_")
    if start is None or select.args.get("joins") or is_aggregated(select) or not isinstance(start.this, exp.Table):
        return False
    table = start.this
    key = keys.get(f"{table.db}.{table.name}".lstrip(".").lower())
    order = window.args.get("order")
    named = [*window.args.get("partition_by", []), *(each.this for each in (order.expressions if order else []))]
    return key is not None and key <= {each.name.lower() for each in named if isinstance(each, exp.Column)}


def _settle_distinct_on(select: exp.Select, ties: list[exp.Expr], notes: dict[str, None]) -> None:
    distinct = select.args.get("distinct")
    on = distinct.args.get("on") if distinct is not None else None
    if on is None:
        return
    keys = list(on.expressions) if isinstance(on, exp.Tuple) else [on.this if isinstance(on, exp.Paren) else on]
    order = select.args.get("order")
    given = list(order.expressions) if order is not None else [_ordered(key) for key in keys]
    select.set("order", exp.Order(expressions=[*given, *(_ordered(tie) for tie in ties)]))
    notes["DISTINCT ON takes the first of equal rows in the order of all columns"] = None


def _settle_limit(query: exp.Query, notes: dict[str, None]) -> None:
    if not (query.args.get("limit") or query.args.get("offset")):
        return
    order = query.args.get("order")
    names = [exp.column(name, quoted=True) for name in query.named_selects]
    if order is not None and any(isinstance(each.this, exp.Var) for each in order.expressions):
        given: list[exp.Expr] = []
    else:
        given = list(order.expressions) if order is not None else []
    query.set("order", exp.Order(expressions=[*given, *(_ordered(name) for name in names)]))
    notes["LIMIT takes equal rows in the order of all columns"] = None


def _ordered(value: exp.Expr) -> exp.Ordered:
    return exp.Ordered(this=value.copy(), nulls_first=False)
