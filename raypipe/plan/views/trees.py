"""Questions about qualified sqlglot trees: whose column is this, what is an aggregate, where does a subquery begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sqlglot import exp

from raypipe.plan.functions import aggregates

Address = tuple[str, str]  # alias of a source, column


class Refused(Exception):
    """The view cannot be kept up; says what is in the way, and what would work."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what)
        self.what = what
        self.instead = instead


class Unsplit(Exception):
    """The view is right but cannot be taken apart; it must be kept up as a whole."""


def called(node: exp.Expr) -> str:
    """The name by which a function is called, in lower case; empty if it is none."""
    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        return str(node.this).lower()
    if isinstance(node, exp.Func):
        text = node.sql("duckdb")
        return text.partition("(")[0].strip().lower()
    return ""


def is_aggregate(node: exp.Expr) -> bool:
    """Whether a node is a call of an aggregate, wherever it stands."""
    if isinstance(node, exp.Anonymous):
        return str(node.this).lower() in aggregates() or str(node.this).lower() in _OF_SETS
    if called(node) in _OF_SETS:
        return True
    return isinstance(node, exp.AggFunc | exp.AnonymousAggFunc) and not isinstance(node, _ONLY_WINDOWS)


# They speak of the group as aggregates do.
_OF_SETS = frozenset(("grouping", "grouping_id"))
_ONLY_WINDOWS = tuple(
    kind
    for name in ("RowNumber", "Rank", "DenseRank", "PercentRank", "CumeDist", "Ntile", "Lag", "Lead", "NthValue")
    if (kind := getattr(exp, name, None)) is not None
)
_WRAPPERS = (exp.Filter, exp.WithinGroup, exp.IgnoreNulls, exp.RespectNulls)


def selects_of(tree: exp.Expr) -> list[exp.Select]:
    """Every SELECT of a tree, the innermost first."""
    return list(reversed(list(tree.find_all(exp.Select))))


def own_expressions(select: exp.Select) -> list[exp.Expr]:
    """What a SELECT computes itself: items, conditions, groups, orders; not the queries it reads."""
    parts = [select.args.get(name) for name in ("where", "group", "having", "qualify", "order", "distinct")]
    joins = [join.args.get("on") for join in select.args.get("joins") or ()]
    windows = list(select.args.get("windows") or ())
    return [*select.expressions, *(part for part in (*parts, *joins, *windows) if part is not None)]


def after_grouping(select: exp.Select) -> list[exp.Expr]:
    """What a SELECT computes from its groups."""
    parts = [select.args.get(name) for name in ("having", "qualify", "order", "distinct")]
    return [*select.expressions, *(part for part in parts if part is not None)]


def _within(node: exp.Expr, stop: Callable[[exp.Expr], bool]) -> Iterator[exp.Expr]:
    """A tree from the top without what lies below nodes that ``stop`` names; those themselves are there."""
    yield node
    if stop(node):
        return
    for child in node.iter_expressions():
        yield from _within(child, stop)


def _is_query(node: exp.Expr) -> bool:
    return isinstance(node, exp.Query) and not isinstance(node, exp.Subquery)


def aggregates_of(select: exp.Select) -> Iterator[exp.Expr]:
    """Outermost aggregate calls of a SELECT, with FILTER and the like, without those of windows and of subqueries."""
    for part in after_grouping(select):
        yield from aggregates_in(part)


def aggregates_in(part: exp.Expr) -> Iterator[exp.Expr]:
    """Outermost aggregate calls of an expression."""
    if _is_query(part):
        return
    if isinstance(part, exp.Window):
        # The windowed call itself is no aggregate; what it is applied to may be.
        function = part.this
        while isinstance(function, _WRAPPERS):
            function = function.this
        inside = list(function.iter_expressions()) if not isinstance(function, exp.Identifier) else []
        others = [child for child in part.iter_expressions() if child is not part.this]
        for child in (*inside, *others):
            yield from aggregates_in(child)
        return
    function = part
    while isinstance(function, _WRAPPERS):
        function = function.this
    if is_aggregate(function):
        yield part
        return
    for child in part.iter_expressions():
        yield from aggregates_in(child)


def windows_of(select: exp.Select) -> Iterator[exp.Window]:
    """Windows of a SELECT, without those of subqueries."""
    for part in after_grouping(select):
        for node in _within(part, _is_query):
            if isinstance(node, exp.Window):
                yield node


def is_aggregated(select: exp.Select) -> bool:
    """Whether a SELECT makes groups."""
    return bool(select.args.get("group") or select.args.get("having") or next(aggregates_of(select), None))


def grouping_of(group: exp.Expr) -> tuple[list[exp.Expr], list[exp.Expr]]:
    """Plain expressions of a GROUP BY, and its grouping sets, rollups and cubes."""
    sets = (exp.GroupingSets, exp.Rollup, exp.Cube)
    plain = [each for each in group.expressions if not isinstance(each, sets)]
    others: list[exp.Expr] = [each for each in group.expressions if isinstance(each, sets)]
    for name in ("grouping_sets", "rollup", "cube"):
        others += list(group.args.get(name) or ())
    return plain, others


def aliases_of(select: exp.Select) -> set[str]:
    """By which names a SELECT knows what it reads."""
    found = set()
    start = select.args.get("from_")
    sources = [start.this] if start is not None else []
    sources += [join.this for join in select.args.get("joins") or ()]
    for source in sources:
        found.add(source.alias_or_name.lower())
    return found


def own_columns(select: exp.Select) -> set[Address]:
    """Columns of its sources that a SELECT uses, those of its subqueries that look out to it included."""
    aliases = aliases_of(select)
    used = _free([*own_expressions(select), *_sources(select)])
    return {(table, name) for table, name in used if table in aliases}


def free_columns(query: exp.Expr) -> set[Address]:
    """Columns that a query uses and does not read itself."""
    if isinstance(query, exp.Select):
        inside = _free([*own_expressions(query), *_sources(query)])
        hidden = aliases_of(query)
        return {(table, name) for table, name in inside if table not in hidden}
    return _free(list(query.iter_expressions()))


def _sources(select: exp.Select) -> list[exp.Expr]:
    start = select.args.get("from_")
    return [*([start.this] if start is not None else []), *(join.this for join in select.args.get("joins") or ())]


def _free(parts: list[exp.Expr]) -> set[Address]:
    found: set[Address] = set()
    for part in parts:
        if isinstance(part, exp.Column):
            if part.table:
                found.add((part.table.lower(), part.name.lower()))
        elif isinstance(part, exp.Select):
            found |= free_columns(part)
        else:
            found |= _free(list(part.iter_expressions()))
    return found


def subqueries_in(part: exp.Expr) -> Iterator[exp.Expr]:
    """Outermost expressions that hold a query: EXISTS, IN, scalar subqueries and comparisons with ANY or ALL."""
    if isinstance(part, exp.Exists) or (isinstance(part, exp.In) and part.args.get("query") is not None):
        yield part
        return
    compared = isinstance(part, exp.Binary) and any(
        isinstance(side, exp.Any | exp.All) for side in (part.this, part.expression)
    )
    if compared and any(_is_query(node) for node in part.walk()):
        yield part
        return
    if isinstance(part, exp.Subquery) or _is_query(part):
        yield part
        return
    for child in part.iter_expressions():
        yield from subqueries_in(child)


def query_of(expression: exp.Expr) -> exp.Query:
    """The query that such an expression holds."""
    inner = next(node for node in expression.walk() if _is_query(node))
    assert isinstance(inner, exp.Query)
    return inner


def conjuncts(part: exp.Expr | None) -> list[exp.Expr]:
    """What is joined by AND."""
    if part is None:
        return []
    if isinstance(part, exp.Where | exp.Having | exp.Qualify | exp.Paren):
        return conjuncts(part.this)
    if isinstance(part, exp.And):
        return [*conjuncts(part.this), *conjuncts(part.expression)]
    return [part]


def substituted(part: exp.Expr, terms: Mapping[Address, exp.Expr]) -> exp.Expr:
    """A copy in which columns stand for what they are made of; queries inside keep what they read themselves."""
    return _substitute(part.copy(), dict(terms))


def _substitute(part: exp.Expr, terms: dict[Address, exp.Expr]) -> exp.Expr:
    if isinstance(part, exp.Column):
        term = terms.get((part.table.lower(), part.name.lower()))
        if term is None:
            return part
        copied = term.copy()
        return copied if isinstance(copied, exp.Column | exp.Literal | exp.Null) else exp.Paren(this=copied)
    if isinstance(part, exp.Select):
        hidden = aliases_of(part)
        terms = {address: term for address, term in terms.items() if address[0] not in hidden}
    for child in list(part.iter_expressions()):
        made = _substitute(child, terms)
        if made is not child:
            child.replace(made)
    return part


def replaced(part: exp.Expr, columns: Mapping[str, exp.Expr]) -> exp.Expr:
    """A copy in which whole expressions, named by their SQL, stand as columns; the largest first.

    Within a query that the expression holds, the same words may mean that query's own rows: there only what is made
    of columns from outside is replaced.
    """
    return _replace(part.copy(), columns, None)


def _replace(part: exp.Expr, columns: Mapping[str, exp.Expr], hidden: frozenset[str] | None) -> exp.Expr:
    found = columns.get(part.sql("duckdb"))
    if found is not None and not isinstance(part, exp.Alias | exp.Ordered) and _is_outside(part, hidden):
        return found.copy()
    if isinstance(part, exp.Select):
        hidden = (hidden or frozenset()) | aliases_of(part)
    for child in list(part.iter_expressions()):
        made = _replace(child, columns, hidden)
        if made is not child:
            child.replace(made)
    return part


def _is_outside(part: exp.Expr, hidden: frozenset[str] | None) -> bool:
    """Whether an expression is about rows around the queries that it stands in, whose aliases are hidden."""
    if hidden is None:
        return True
    tables = {table for table, _ in addresses(part)}
    return bool(tables) and not tables & hidden


def address(node: exp.Column) -> Address:
    """Whose column it is, and which."""
    return (node.table.lower(), node.name.lower())


def addresses(part: exp.Expr) -> set[Address]:
    """Columns that an expression uses; of the queries in it, what they use of those around them."""
    if isinstance(part, exp.Column):
        return {address(part)}
    if isinstance(part, exp.Select):
        return free_columns(part)
    found: set[Address] = set()
    for child in part.iter_expressions():
        found |= addresses(child)
    return found
