"""Writes aggregates whose answer SQL cannot fix by an order as others that have one answer.

What only approximates to save memory is computed from rows that are at hand anyhow, so it is computed exactly. Macros
over an aggregate take no ORDER BY, so they are written out.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp, parse_one

from raypipe.plan.views.trees import Refused

# Marks a call that stands here in the place of the user's own, of which a note tells already.
SPELLED = "raypipe_spelled"
_AGGREGATE = "_raypipe_aggregate"
_JSON = "CASE WHEN ({0}) IS NULL THEN 'null'::JSON ELSE to_json({0}) END"
_ARRAY = f"CAST('[' || {_AGGREGATE} || ']' AS JSON)"
_MEMBERS = f"string_agg({_JSON}, ',' ORDER BY {{0}})"
_NAMED = (
    "CASE WHEN ({0}) IS NULL THEN error('json_group_object key cannot be NULL') ELSE to_json(CAST({0} AS VARCHAR)) END"
    " || ':' || " + _JSON.replace("{0}", "{1}")
)


@dataclass(frozen=True, kw_only=True)
class _Spelled:
    """An aggregate in other words.

    Attributes:
        aggregate: What takes the rows in its place; ``{0}`` and so on are its arguments. FILTER and OVER stay with it.
        around: The answer, made of what ``_AGGREGATE`` tells.
        note: For people.
    """

    aggregate: str
    around: str
    note: str


_IN_ORDER = "{name}() takes rows in the order of their values"
_SPELLED = {
    "json_group_array": _Spelled(aggregate=_MEMBERS, around=_ARRAY, note=_IN_ORDER),
    "json_group_object": _Spelled(
        aggregate=f"string_agg({_NAMED}, ',' ORDER BY {{0}}, {{1}})",
        around=f"CAST('{{{{' || {_AGGREGATE} || '}}}}' AS JSON)",
        note=_IN_ORDER,
    ),
    "json_group_structure": _Spelled(
        aggregate=_MEMBERS, around=f"json_extract(json_structure({_ARRAY}), '$[0]')", note=_IN_ORDER
    ),
    "variant_group_array": _Spelled(
        aggregate="list({0} ORDER BY {0})", around=f"CAST({_AGGREGATE} AS VARIANT)", note=_IN_ORDER
    ),
    "approx_top_k": _Spelled(
        aggregate="histogram({0})",
        around=(
            f"list_select(map_keys({_AGGREGATE}), list_grade_up(list_zip(map_values({_AGGREGATE}),"
            f" map_keys({_AGGREGATE})), 'DESC'))[:{{1}}]"
        ),
        note="{name}() is computed exactly; of equally frequent values the greater come first",
    ),
}


def spell(tree: exp.Expr) -> list[str]:
    """Changes the tree of a step in place, as its text says it and before names are resolved.

    Returns:
        What was written in other words, in words for people.

    Raises:
        Refused: an aggregate answers by chance, or by what DuckDB happens to know about a table.
    """
    notes: dict[str, None] = {}
    # From the inside out: what lies further out is made of copies of what lies inside.
    for call in reversed(list(tree.find_all(exp.Anonymous, exp.AnonymousAggFunc, exp.ApproxTopK))):
        name = _name(call)
        _check(name, call)
        if name in _SPELLED:
            _replace(call, _SPELLED[name])
            notes[_SPELLED[name].note.format(name=name)] = None
    return list(notes)


def _name(call: exp.Expr) -> str:
    return "approx_top_k" if isinstance(call, exp.ApproxTopK) else str(call.this).lower()


def _check(name: str, call: exp.Expr) -> None:
    if name == "reservoir_quantile":
        raise Refused("the aggregate reservoir_quantile(), which looks at rows chosen by chance", "quantile_cont()")
    if name == "bitstring_agg" and len(call.expressions) == 1:
        raise Refused(
            "bitstring_agg() without bounds, which DuckDB takes from what it knows about a stored table",
            "bitstring_agg() with the least and the greatest value",
        )
    if name == "approx_top_k" and not (isinstance(call.expression, exp.Literal) and call.expression.is_int):
        raise Refused("approx_top_k() without a plain number of values", "approx_top_k(column, 3)")


def _replace(call: exp.Expr, how: _Spelled) -> None:
    """Puts the other words in the place of a call, the FILTER and OVER around it included."""
    top = isinstance(call, exp.ApproxTopK)
    arguments = [call.this, call.expression] if top else list(call.expressions)
    whole: exp.Expr = call
    while isinstance(whole.parent, exp.Filter | exp.Window) and whole.parent.this is whole:
        whole = whole.parent
    texts = [argument.sql("duckdb") for argument in arguments]
    aggregate: exp.Expr = parse_one(how.aggregate.format(*texts), dialect="duckdb")
    around = parse_one(how.around.format(*texts), dialect="duckdb")
    for each in aggregate.find_all(exp.AggFunc):
        each.meta[SPELLED] = True
    made = aggregate if call is whole else whole.copy()
    if call is not whole:
        _innermost(made).replace(aggregate)
    for hole in [column for column in around.find_all(exp.Column) if column.name == _AGGREGATE]:
        hole.replace(made.copy())
    whole.replace(around)


def _innermost(call: exp.Expr) -> exp.Expr:
    """The function under FILTER and OVER."""
    while isinstance(call, exp.Filter | exp.Window):
        call = call.this
    return call
