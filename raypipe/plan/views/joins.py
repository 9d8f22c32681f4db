"""Joins, two at a time: inner ones by the rule of products, all others by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from raypipe.plan.views.graph import Graph, Unique
from raypipe.plan.views.model import Relation
from raypipe.plan.views.rows import Flat, Rows, column, each_once, flushed
from raypipe.plan.views.trees import Address, Refused, Unsplit, substituted

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
# Kinds whose result has nothing but rows of the left side, each by itself.
_OF_LEFT_ROWS = ("left", "semi", "anti", "asof", "asof left")


@dataclass(frozen=True, kw_only=True)
class Join:
    """One source of a FROM, and how it is joined to those before it.

    Attributes:
        kind: Empty for the first; ``inner`` (also without condition), ``left`` …
        rows: Of the source.
        on: Conditions, in the user's columns.
        comma: It was written with a comma, which binds weaker than JOIN.
    """

    kind: str
    rows: Rows
    on: list[exp.Expr] = field(default_factory=list)
    comma: bool = False


def join(
    graph: Graph, leaves: Sequence[Join], where: list[exp.Expr], needed: set[Address]
) -> tuple[Rows, list[exp.Expr]]:
    """Joins all sources of a FROM.

    Args:
        graph: Takes the operators.
        leaves: Sources, in the order of the text.
        where: Conditions of WHERE that hold no query.
        needed: Columns that the rest of the SELECT uses.

    Returns:
        The rows, and the conditions that are still to be applied.
    """
    kinds = {leaf.kind for leaf in leaves[1:]}
    known = {address for leaf in leaves for address in leaf.rows.terms}
    if any(not _used(condition) <= known for leaf in leaves for condition in leaf.on):
        raise Unsplit("a join that looks out")
    if kinds <= {"inner"}:
        conditions = [*where, *(each for leaf in leaves for each in leaf.on)]
        return _inner(graph, [leaf.rows for leaf in leaves], conditions, needed)
    if any(leaf.comma for leaf in leaves) and kinds & {"right", "full"}:
        raise Unsplit("a comma beside an outer join")
    return _in_turn(graph, leaves, where, needed)


def _inner(
    graph: Graph, leaves: list[Rows], conditions: list[exp.Expr], needed: set[Address]
) -> tuple[Rows, list[exp.Expr]]:
    """Inner joins alone commute, so each next source is one that an equality leads to."""
    pending = list(conditions)
    leaves = [_pushed(leaf, pending) for leaf in leaves]
    rows, rest = leaves[0], leaves[1:]
    while rest:
        nearest = next((leaf for leaf in rest if _equalities(pending, rows, leaf)), rest[0])
        rest = [leaf for leaf in rest if leaf is not nearest]
        reach = set(rows.terms) | set(nearest.terms)
        now = [each for each in pending if _used(each) <= reach and not _has_query(each)]
        pending = [each for each in pending if all(each is not other for other in now)]
        rows = _joined(graph, "inner", rows, nearest, now, needed | _all_used(pending))
    return rows, pending


def _in_turn(
    graph: Graph, leaves: Sequence[Join], where: list[exp.Expr], needed: set[Address]
) -> tuple[Rows, list[exp.Expr]]:
    """In the order of the text; WHERE stays above outer joins, except for what only the preserved first rows decide."""
    pending = list(where)
    rows = leaves[0].rows
    preserved = not {leaf.kind for leaf in leaves[1:]} & {"right", "full"}
    if preserved:
        rows = _pushed(rows, pending)
    for place, leaf in enumerate(leaves[1:], 1):
        on = list(leaf.on)
        right = leaf.rows
        if leaf.kind == "inner" and preserved:
            reach = set(rows.terms) | set(right.terms)
            if all(each.kind == "inner" for each in leaves[1 : place + 1]):
                mine = [each for each in pending if _used(each) <= reach and not _has_query(each)]
                on += mine
                pending = [each for each in pending if all(each is not other for other in mine)]
        later = _all_used([*pending, *(each for other in leaves[place + 1 :] for each in other.on)])
        rows = _joined(graph, leaf.kind, rows, right, on, needed | later)
    return rows, pending


def _joined(graph: Graph, kind: str, left: Rows, right: Rows, on: list[exp.Expr], needed: set[Address]) -> Rows:
    if any(_has_query(each) for each in on):
        raise Unsplit("a query in a join's condition")
    if kind == "inner":
        left, right = _pushed(left, on), _pushed(right, on)
    used = needed | _all_used(on)
    pairs = _equalities(on, left, right)
    lefts, rights = _aligned(graph, left, right, pairs, used)
    keys = each_once(
        (mine, other)
        for mine, other in zip(lefts.more, rights.more, strict=True)
        if lefts.relation.type_of(mine) == rights.relation.type_of(other)
    )
    sides: dict[Address, exp.Expr] = {
        **{address: exp.column(name, table="l", quoted=True) for address, name in lefts.addresses.items()},
        **{address: exp.column(name, table="r", quoted=True) for address, name in rights.addresses.items()},
    }
    shown = lefts.addresses.keys() if kind in ("semi", "anti") else sides.keys()
    items = {".".join(address): sides[address] for address in shown if address in needed or address[0].startswith("_")}
    conditions = [substituted(each, sides) for each in on]
    terms: dict[Address, exp.Expr] = {
        address: column(".".join(address)) for address in shown if ".".join(address) in items
    }
    names = {item.sql("duckdb"): name for name, item in items.items()}

    def given(table: str, name: str) -> str:
        """The name of a side's column in the output, which gains it if it was not there."""
        item = exp.column(name, table=table, quoted=True)
        text = item.sql("duckdb")
        if text not in names:
            names[text] = f"_key.{table}.{name}"
            items[names[text]] = item
        return names[text]

    if kind == "inner":
        unique = _unique(kind, lefts.relation, rights.relation, keys, names)
        if not items:
            given("l", lefts.relation.columns.names[0])
        made = graph.bilinear(lefts.relation, rights.relation, keys, list(items.items()), conditions, unique)
        return Rows(relation=made, terms=terms)
    if kind.startswith("asof"):
        _check_asof(on, right, rights, [other for _, other in keys])
    left_key: list[str] | None = [mine for mine, _ in keys]
    right_key: list[str] | None = [other for _, other in keys] or None
    if not keys:
        left_key = _row_identity(lefts.relation) if kind in _OF_LEFT_ROWS else None
    if left_key is None:
        out_key: list[str] = []
    elif kind in _OF_LEFT_ROWS:
        out_key = [given("l", name) for name in left_key]
    elif kind == "right":
        out_key = [given("r", name) for name in right_key or ()]
    else:
        out_key = []
        for mine, other in keys:
            both = exp.Coalesce(
                this=exp.column(mine, table="l", quoted=True), expressions=[exp.column(other, table="r", quoted=True)]
            )
            items[f"_key.{mine}"] = both
            out_key.append(f"_key.{mine}")
    unique = _unique(kind, lefts.relation, rights.relation, keys, names)
    make = exp.select(*(exp.alias_(item.copy(), name, quoted=True) for name, item in items.items()))
    make = make.from_(exp.alias_(exp.to_table("_0"), "l", table=True))
    condition = exp.and_(*conditions) if conditions else exp.true()
    make.set("joins", [_join_node(kind, condition)])
    made = graph.keyed(
        [(lefts.relation, left_key), (rights.relation, right_key)], make, out_key, f"{kind} join", unique
    )
    return Rows(relation=made, terms=terms)


def _join_node(kind: str, condition: exp.Expr) -> exp.Join:
    table = exp.alias_(exp.to_table("_1"), "r", table=True)
    if kind.startswith("asof"):
        side = "LEFT" if kind == "asof left" else None
        return exp.Join(this=table, method="ASOF", side=side, on=condition)
    if kind in ("semi", "anti"):
        return exp.Join(this=table, kind=kind.upper(), on=condition)
    return exp.Join(this=table, side=kind.upper(), on=condition)


def _check_asof(on: list[exp.Expr], right: Rows, rights: Flat, keys: list[str]) -> None:
    """The nearest row must be one row."""
    ordered = [each for each in on if isinstance(each, exp.GTE | exp.GT | exp.LTE | exp.LT)]
    decided = set(keys)
    for each in ordered:
        for side in (each.this, each.expression):
            if isinstance(side, exp.Column) and _address(side) in right.terms:
                decided.add(rights.addresses[_address(side)])
    if not any(each <= decided for each in rights.relation.unique):
        raise Refused(
            "an ASOF join whose nearest row may be several",
            "a table on its right side whose key is among the columns that it is joined by",
        )


def _aligned(
    graph: Graph, left: Rows, right: Rows, pairs: Sequence[tuple[exp.Expr, exp.Expr]], used: set[Address]
) -> tuple[Flat, Flat]:
    """Both sides flat, with equal columns of one type where that loses nothing."""
    lefts = flushed(graph, left, used, [mine for mine, _ in pairs])
    rights = flushed(graph, right, used, [other for _, other in pairs])
    casts = [
        have != want and have in _INTEGERS and want in _INTEGERS
        for have, want in (
            (lefts.relation.type_of(mine), rights.relation.type_of(other))
            for mine, other in zip(lefts.more, rights.more, strict=True)
        )
    ]
    if not any(casts):
        return lefts, rights
    wide = [
        (exp.cast(mine.copy(), "BIGINT"), exp.cast(other.copy(), "BIGINT")) if cast else (mine, other)
        for (mine, other), cast in zip(pairs, casts, strict=True)
    ]
    return (
        flushed(graph, left, used, [mine for mine, _ in wide]),
        flushed(graph, right, used, [other for _, other in wide]),
    )


def _unique(
    kind: str, left: Relation, right: Relation, keys: Sequence[tuple[str, str]], names: dict[str, str]
) -> Unique:
    """What identifies the rows of a join."""

    def shown(side: str, unique: frozenset[str]) -> frozenset[str] | None:
        texts = [exp.column(name, table=side, quoted=True).sql("duckdb") for name in unique]
        return frozenset(names[text] for text in texts) if all(text in names for text in texts) else None

    of_left = [each for unique in left.unique if (each := shown("l", unique)) is not None]
    if kind in ("semi", "anti", "asof", "asof left"):
        return tuple(of_left)
    of_right = [each for unique in right.unique if (each := shown("r", unique)) is not None]
    found = [mine | other for mine in of_left for other in of_right]
    right_alone = any(unique <= {other for _, other in keys} for unique in right.unique)
    left_alone = any(unique <= {mine for mine, _ in keys} for unique in left.unique)
    if right_alone and kind in ("inner", "left"):
        found = [*of_left, *found]
    if left_alone and kind in ("inner", "right"):
        found = [*of_right, *found]
    return tuple(found)


def _row_identity(relation: Relation) -> list[str]:
    known = [each for each in relation.unique if each]
    best = min(known, key=lambda each: (len(each), sorted(each))) if known else frozenset(relation.columns.names)
    return [name for name in relation.columns.names if name in best]


def _pushed(rows: Rows, pending: list[exp.Expr]) -> Rows:
    """Applies conditions that concern one source alone, and takes them off the list."""
    mine = [each for each in pending if _used(each) and _used(each) <= set(rows.terms) and not _has_query(each)]
    pending[:] = [each for each in pending if all(each is not other for other in mine)]
    return rows.filtered(mine)


def _equalities(on: Sequence[exp.Expr], left: Rows, right: Rows) -> list[tuple[exp.Expr, exp.Expr]]:
    """(left, right) for every condition that says that they are equal."""
    found = []
    for each in on:
        if not isinstance(each, exp.EQ | exp.NullSafeEQ):
            continue
        for mine, other in ((each.this, each.expression), (each.expression, each.this)):
            if _is_of(mine, left) and _is_of(other, right):
                found.append((mine, other))
                break
    return found


def _is_of(part: exp.Expr, rows: Rows) -> bool:
    used = _used(part)
    return bool(used) and used <= set(rows.terms) and not _has_query(part)


def _has_query(part: exp.Expr) -> bool:
    return part.find(exp.Query) is not None


def _used(part: exp.Expr) -> set[Address]:
    return {_address(each) for each in part.find_all(exp.Column)}


def _all_used(parts: Sequence[exp.Expr]) -> set[Address]:
    return {address for part in parts for address in _used(part)}


def _address(node: exp.Column) -> Address:
    return (node.table.lower(), node.name.lower())
