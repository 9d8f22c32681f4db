"""Takes a qualified SELECT apart, from the inside out, into operators: joins, groups, windows, subqueries, sets.

Each part is the user's own expression over the rows that the part before it made; nothing is written in another way than
the user wrote it, so what NULL means in it is DuckDB's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from raypipe.model import TableSchema
from raypipe.plan.views.graph import Graph, Unique
from raypipe.plan.views.joins import Join, join
from raypipe.plan.views.model import Relation
from raypipe.plan.views.rows import Flat, Rows, column, flushed
from raypipe.plan.views.trees import (
    Address,
    Unsplit,
    aggregates_in,
    aggregates_of,
    aliases_of,
    conjuncts,
    free_columns,
    grouping_of,
    is_aggregated,
    own_columns,
    query_of,
    replaced,
    subqueries_in,
    substituted,
)


@dataclass(frozen=True)
class Table:
    """What a query makes: its relation, and its columns in order as (name in lower case, column of the relation)."""

    relation: Relation
    names: tuple[tuple[str, str], ...]


Environment = Mapping[str, Table]


@dataclass
class Parts:
    """What a SELECT still has to compute, in terms of the rows at hand."""

    items: list[tuple[str, exp.Expr]]
    having: list[exp.Expr] = field(default_factory=list)
    qualify: list[exp.Expr] = field(default_factory=list)
    order: list[exp.Ordered] = field(default_factory=list)
    on: list[exp.Expr] = field(default_factory=list)

    def expressions(self) -> list[exp.Expr]:
        """All of them."""
        return [*(item for _, item in self.items), *self.having, *self.qualify, *self.order, *self.on]

    def replaced(self, columns: Mapping[str, exp.Expr]) -> Parts:
        """The same with whole expressions replaced."""
        return Parts(
            items=[(name, replaced(item, columns)) for name, item in self.items],
            having=[replaced(each, columns) for each in self.having],
            qualify=[replaced(each, columns) for each in self.qualify],
            order=[_ordered_by(each, replaced(each.this, columns)) for each in self.order],
            on=[replaced(each, columns) for each in self.on],
        )


class Splitter:
    """Splits the queries of one step.

    Args:
        graph: Takes the operators.
        inputs: Schemas of what the step may read, by name in lower case, with the name as users write it.
        needed: Columns needed of each, by name in lower case.
    """

    def __init__(
        self, graph: Graph, inputs: Mapping[str, tuple[str, TableSchema]], needed: Mapping[str, Sequence[str]]
    ) -> None:
        self._graph = graph
        self._inputs = inputs
        self._needed = needed
        self._scans: dict[str, Table] = {}
        self._named = 0

    def query(self, node: exp.Expr, env: Environment) -> Table:
        """The relation that a query makes."""
        if isinstance(node, exp.Subquery | exp.Paren):
            if node.args.get("joins") or node.args.get("pivots"):
                raise Unsplit("joins in parentheses")
            return self.query(node.this, env)
        env = self._with(node, env)
        if isinstance(node, exp.Select):
            return self._select(node, env)
        if isinstance(node, exp.SetOperation):
            return self._limited(node, self._set_operation(node, env))
        raise Unsplit(f"a query of the kind {type(node).__name__}")

    def _with(self, node: exp.Expr, env: Environment) -> Environment:
        clause = node.args.get("with_")
        if clause is None:
            return env
        if clause.args.get("recursive"):
            raise Unsplit("a recursive query")
        known = dict(env)
        for cte in clause.expressions:
            known[cte.alias.lower()] = self.query(cte.this, known)
        return known

    def _select(self, node: exp.Select, env: Environment) -> Table:
        for name in ("sample", "pivots", "laterals", "match", "connect", "prewhere", "cluster", "sort", "distribute"):
            if node.args.get(name):
                raise Unsplit(name)
        needed = own_columns(node)
        rows = self._filtered(node, env, needed, conjuncts(node.args.get("where")))
        parts = _parts(node)
        if is_aggregated(node):
            rows, parts = self._grouped(node, rows, parts, env, needed)
            needed = set(rows.terms)
        rows, parts = self._lifted(rows, parts, env, needed)
        rows = rows.filtered(parts.having)
        rows, parts = self._windowed(rows, parts, needed)
        rows = rows.filtered(parts.qualify)
        return self._finished(node, rows, parts)

    # FROM and WHERE

    def _filtered(
        self, node: exp.Select, env: Environment, needed: set[Address], conditions: list[exp.Expr]
    ) -> Rows:
        """What FROM and WHERE leave."""
        simple = [each for each in conditions if not any(subqueries_in(each))]
        rows, rest = self._joined(node, env, needed, simple)
        hard = [each for each in conditions if any(subqueries_in(each))]
        rows = rows.filtered([each for each in rest if not any(subqueries_in(each))])
        for condition in [*hard, *(each for each in rest if any(subqueries_in(each)))]:
            columns: dict[str, exp.Expr] = {}
            for part in list(subqueries_in(condition)):
                # In WHERE, NULL is as good as false, which only counts where nothing is made of it.
                rows, value = self._lift(rows, part, env, needed, as_filter=part is condition)
                columns[part.sql("duckdb")] = value
            rows = rows.filtered([replaced(condition, columns)])
        return rows

    def _joined(
        self, node: exp.Select, env: Environment, needed: set[Address], conditions: list[exp.Expr]
    ) -> tuple[Rows, list[exp.Expr]]:
        start = node.args.get("from_")
        if start is None:
            raise Unsplit("a SELECT without FROM")
        leaves = [Join(kind="", rows=self._leaf(start.this, env))]
        for each in node.args.get("joins") or ():
            leaves.append(
                Join(
                    kind=_kind(each),
                    rows=self._leaf(each.this, env),
                    on=conjuncts(each.args.get("on")),
                    comma=not (each.args.get("on") or each.kind or each.side or each.method),
                )
            )
        return join(self._graph, leaves, conditions, needed)

    def _leaf(self, node: exp.Expr, env: Environment) -> Rows:
        if node.args.get("joins") or node.args.get("pivots") or node.args.get("sample"):
            raise Unsplit("a table with something at it")
        alias = node.args.get("alias")
        if alias is not None and alias.args.get("columns") and isinstance(node, exp.Table):
            raise Unsplit("column aliases of a table")
        if isinstance(node, exp.Table):
            name = f"{node.db}.{node.name}".lstrip(".").lower()
            table = env[name] if not node.db and name in env else self._scan(name)
        elif isinstance(node, exp.Subquery):
            if free_columns(node.this):
                raise Unsplit("a query that looks out")
            table = self.query(node.this, env)
        else:
            raise Unsplit(f"{type(node).__name__} in FROM")
        where = node.alias_or_name.lower()
        return Rows(relation=table.relation, terms={(where, name): column(made) for name, made in table.names})

    def _scan(self, name: str) -> Table:
        if name not in self._scans:
            relation, schema = self._inputs[name]
            columns = self._needed[name]
            made = self._graph.scan(relation, schema, columns)
            self._scans[name] = Table(made, tuple((each.lower(), each) for each in columns))
        return self._scans[name]

    # Subqueries in expressions

    def _lifted(self, rows: Rows, parts: Parts, env: Environment, needed: set[Address]) -> tuple[Rows, Parts]:
        columns: dict[str, exp.Expr] = {}
        for expression in parts.expressions():
            for part in subqueries_in(expression):
                if part.sql("duckdb") not in columns:
                    rows, columns[part.sql("duckdb")] = self._lift(rows, part, env, needed, as_filter=False)
        return rows, parts.replaced(columns) if columns else parts

    def _lift(
        self, rows: Rows, part: exp.Expr, env: Environment, needed: set[Address], *, as_filter: bool
    ) -> tuple[Rows, exp.Expr]:
        """Computes an expression that holds a query as one more column; returns the column."""
        query = query_of(part)
        looks_out = free_columns(query)
        if looks_out - set(rows.terms):
            raise Unsplit("a query that looks out over two levels")
        own: list[tuple[exp.Expr, exp.Expr]] = []
        if looks_out:
            inner, body, own = self._correlated(query, env, looks_out)
        else:
            table = self.query(query.copy(), env)
            inner = table.relation
            body = exp.select(
                *(exp.alias_(exp.column(made, table="i", quoted=True), f"c{place}") for place, (_, made) in enumerate(table.names))
            ).from_(exp.alias_(exp.to_table("_1"), "i", table=True))
            if as_filter and isinstance(part, exp.In) and len(table.names) == 1 and not isinstance(part.this, exp.Tuple):
                own = [(part.this, exp.column(table.names[0][1], table="i", quoted=True))]
        outer, inner, keys = self._aligned(rows, inner, own, needed)
        sides = {address: exp.column(name, table="o", quoted=True) for address, name in outer.addresses.items()}
        value = _with_query(part, query, body, sides)
        if as_filter:
            value = exp.Coalesce(this=exp.Paren(this=value), expressions=[exp.false()])
        self._named += 1
        name = f"_sub.{self._named}"
        columns = [exp.column(each, table="o", quoted=True) for each in outer.relation.columns.names]
        make = exp.select(*columns, exp.alias_(value, name, quoted=True)).from_(exp.alias_(exp.to_table("_0"), "o", table=True))
        outer_key = [left for left, _ in keys] or _identity(outer.relation)
        made = self._graph.keyed(
            [(outer.relation, outer_key), (inner, [right for _, right in keys] or None)],
            make,
            outer_key,
            _word(part),
            outer.relation.unique,
        )
        terms = {address: column(each) for address, each in outer.addresses.items()}
        address = ("_sub", str(self._named))
        terms[address] = column(name)
        return Rows(relation=made, terms=terms), exp.column(address[1], table=address[0], quoted=True)

    def _correlated(
        self, query: exp.Expr, env: Environment, looks_out: set[Address]
    ) -> tuple[Relation, exp.Expr, list[tuple[exp.Expr, exp.Expr]]]:
        """The relation a correlated query reads, the query over it, and which outer expressions equal which columns."""
        if not isinstance(query, exp.Select) or query.args.get("with_"):
            raise Unsplit("a correlated query with parts")
        needed = own_columns(query)
        conditions = conjuncts(query.args.get("where"))
        correlated = [each for each in conditions if _addresses(each) & looks_out]
        if any(any(subqueries_in(each)) for each in correlated):
            raise Unsplit("a query that looks out over two levels")
        rows = self._filtered(query, env, needed, [each for each in conditions if each not in correlated])
        flat = flushed(self._graph, rows, needed)
        sides = {address: exp.column(name, table="i", quoted=True) for address, name in flat.addresses.items()}
        body = query.copy()
        body.set("joins", None)
        body.set("from_", exp.From(this=exp.alias_(exp.to_table("_1"), "i", table=True)))
        body.set("where", exp.Where(this=exp.and_(*(each.copy() for each in correlated))) if correlated else None)
        if any(free_columns(inner) for inner in body.find_all(exp.Query) if inner is not body):
            raise Unsplit("a query that looks out over two levels")
        for name, value in list(body.args.items()):
            if name == "from_" or not value:
                continue
            if isinstance(value, list):
                body.set(name, [substituted(each, sides) if isinstance(each, exp.Expr) else each for each in value])
            elif isinstance(value, exp.Expr):
                body.set(name, substituted(value, sides))
        pairs = []
        for each in correlated:
            if isinstance(each, exp.EQ | exp.NullSafeEQ):
                for mine, other in ((each.this, each.expression), (each.expression, each.this)):
                    if isinstance(mine, exp.Column) and _address(mine) in sides and _addresses(other) <= looks_out:
                        pairs.append((other, sides[_address(mine)]))
                        break
        return flat.relation, body, pairs

    def _aligned(
        self, rows: Rows, inner: Relation, own: list[tuple[exp.Expr, exp.Expr]], needed: set[Address]
    ) -> tuple[Flat, Relation, list[tuple[str, str]]]:
        """Both relations with columns of one type for what is equal."""
        outer = flushed(self._graph, rows, needed, [outer for outer, _ in own])
        keys: list[tuple[str, str]] = []
        for mine, (_, other) in zip(outer.more, own, strict=True):
            if outer.relation.type_of(mine) == inner.type_of(other.name):
                keys.append((mine, other.name))
        return outer, inner, keys

    # GROUP BY

    def _grouped(
        self, node: exp.Select, rows: Rows, parts: Parts, env: Environment, needed: set[Address]
    ) -> tuple[Rows, Parts]:
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
                rows, columns[part.sql("duckdb")] = self._lift(rows, part, env, needed, as_filter=False)
        used = {address for each in (*members, *calls.values()) for address in _addresses(each)}
        used |= {address for address in rows.terms if address[0] == "_sub"}
        keys = {each.sql("duckdb"): replaced(each, columns) for each in plain if not isinstance(each, exp.Literal)}
        flat = flushed(self._graph, rows, used, list(keys.values()), only=True)
        sides = {address: exp.column(name, table="t", quoted=True) for address, name in flat.addresses.items()}
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
        make = exp.select(*items).from_(exp.alias_(exp.to_table("_0"), "t", table=True))
        grouped = [exp.column(name, table="t", quoted=True) for name in flat.more]
        grouped_sets = [substituted(replaced(each, columns), sides) for each in sets]
        if grouped or grouped_sets:
            make.set("group", exp.Group(expressions=[*grouped, *grouped_sets]))
        elif group is not None:
            raise Unsplit("GROUP BY nothing")
        unique: Unique = () if sets else (frozenset(key_names),)
        made = self._graph.keyed([(flat.relation, flat.more or None)], make, key_names, "group", unique)
        for item in plain:
            if isinstance(item, exp.Literal):
                known[item.sql("duckdb")] = item
        return Rows(relation=made, terms=terms), parts.replaced(known)

    # Windows

    def _windowed(self, rows: Rows, parts: Parts, needed: set[Address]) -> tuple[Rows, Parts]:
        while True:
            windows = {
                each.sql("duckdb"): each for part in parts.expressions() for each in _windows_in(part)
            }
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
            flat = flushed(self._graph, rows, needed, keys)
            sides = {address: exp.column(name, table="t", quoted=True) for address, name in flat.addresses.items()}
            terms: dict[Address, exp.Expr] = {address: column(name) for address, name in flat.addresses.items()}
            items: list[exp.Expr] = [exp.column(name, table="t", quoted=True) for name in flat.relation.columns.names]
            known: dict[str, exp.Expr] = {}
            for text, each in same.items():
                self._named += 1
                items.append(exp.alias_(substituted(each, sides), f"_win.{self._named}", quoted=True))
                terms["_win", str(self._named)] = column(f"_win.{self._named}")
                known[text] = exp.column(str(self._named), table="_win", quoted=True)
            make = exp.select(*items).from_(exp.alias_(exp.to_table("_0"), "t", table=True))
            made = self._graph.keyed(
                [(flat.relation, flat.more or None)], make, flat.more, "window", flat.relation.unique
            )
            rows, parts = Rows(relation=made, terms=terms), parts.replaced(known)

    # The end of a SELECT

    def _finished(self, node: exp.Select, rows: Rows, parts: Parts) -> Table:
        names = [f"{place}.{name}" for place, (name, _) in enumerate(parts.items)]
        items = [(name, rows.in_terms(item)) for name, (_, item) in zip(names, parts.items, strict=True)]
        visible = tuple((name.lower(), made) for (name, _), made in zip(parts.items, names, strict=True))
        distinct = node.args.get("distinct")
        limited = node.args.get("limit") or node.args.get("offset")
        outputs = dict(reversed(visible))
        order = []
        if limited or parts.on:
            for place, each in enumerate(parts.order):
                mine = each.this
                if isinstance(mine, exp.Column) and not mine.table and mine.name.lower() in outputs:
                    order.append((outputs[mine.name.lower()], each))
                    continue
                if distinct is not None and not parts.on:
                    raise Unsplit("ORDER BY beside DISTINCT")
                items.append((f"_order.{place}", rows.in_terms(_aliased(mine, parts.items))))
                order.append((f"_order.{place}", each))
        on = []
        for place, each in enumerate(parts.on):
            items.append((f"_on.{place}", rows.in_terms(_aliased(each, parts.items))))
            on.append(f"_on.{place}")
        relation = self._graph.linear(rows.relation, items, rows.where)
        everything = [exp.column(name, table="t", quoted=True) for name in relation.columns.names]
        start = exp.alias_(exp.to_table("_0"), "t", table=True)
        sorted_by = exp.Order(expressions=[_ordered_by(each, exp.column(name, table="t", quoted=True)) for name, each in order])
        if parts.on:
            make = exp.select(*everything).from_(start.copy())
            make.set("distinct", exp.Distinct(on=exp.Tuple(expressions=[exp.column(name, table="t", quoted=True) for name in on])))
            make.set("order", sorted_by)
            relation = self._graph.keyed([(relation, on)], make, on, "distinct on", (frozenset(on), *relation.unique))
        elif distinct is not None:
            make = exp.select(*everything).distinct().from_(start.copy())
            relation = self._graph.keyed([(relation, names)], make, names, "distinct", (frozenset(names),))
        if limited:
            make = exp.select(*everything).from_(start.copy())
            for name in ("limit", "offset"):
                clause = node.args.get(name)
                if clause is not None:
                    if not isinstance(clause.expression, exp.Literal) or clause.args.get("limit_options"):
                        raise Unsplit("LIMIT by an expression")
                    make.set(name, clause.copy())
            make.set("order", sorted_by)
            relation = self._graph.keyed([(relation, None)], make, (), "limit", relation.unique)
        return Table(relation, visible)

    # UNION, INTERSECT, EXCEPT

    def _set_operation(self, node: exp.SetOperation, env: Environment) -> Table:
        if node.args.get("by_name"):
            raise Unsplit("BY NAME")
        left, right = self.query(node.this, env), self.query(node.expression, env)
        if len(left.names) != len(right.names):
            raise Unsplit("different numbers of columns")
        sides = [
            self._graph.linear(each.relation, [(f"{place}.{name}", column(made)) for place, ((_, made), (name, _)) in enumerate(zip(each.names, left.names, strict=True))], [])
            for each in (left, right)
        ]
        types = self._graph.types_of(sides, "SELECT * FROM _0 UNION ALL SELECT * FROM _1")
        sides = [
            self._graph.linear(
                side,
                [
                    (name, column(name) if have == want else exp.cast(column(name), exp.DataType.build(want, dialect="duckdb")))
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
            both = self._graph.union(sides)
            if not distinct:
                return Table(both, names)
            make = exp.select("*").distinct().from_("_0")
            return Table(self._graph.keyed([(both, columns)], make, columns, "union", everything), names)
        verb = exp.Intersect if isinstance(node, exp.Intersect) else exp.Except
        operation = verb(this=exp.select("*").from_("_0"), expression=exp.select("*").from_("_1"), distinct=distinct)
        word = type(node).__name__.lower()
        unique = everything if distinct else ()
        return Table(self._graph.keyed([(sides[0], columns), (sides[1], columns)], operation, columns, word, unique), names)

    def _limited(self, node: exp.SetOperation, table: Table) -> Table:
        if not (node.args.get("limit") or node.args.get("offset")):
            return table
        visible = dict(reversed(table.names))
        make = exp.select(*(exp.column(name, table="t", quoted=True) for name in table.relation.columns.names))
        make = make.from_(exp.alias_(exp.to_table("_0"), "t", table=True))
        order = node.args.get("order")
        given = []
        for each in order.expressions if order is not None else ():
            if not isinstance(each.this, exp.Column) or each.this.name.lower() not in visible:
                raise Unsplit("ORDER BY over a set operation")
            given.append(_ordered_by(each, exp.column(visible[each.this.name.lower()], table="t", quoted=True)))
        make.set("order", exp.Order(expressions=given))
        for name in ("limit", "offset"):
            if node.args.get(name) is not None:
                if not isinstance(node.args[name].expression, exp.Literal):
                    raise Unsplit("LIMIT by an expression")
                make.set(name, node.args[name].copy())
        return Table(self._graph.keyed([(table.relation, None)], make, (), "limit", ()), table.names)


def _parts(node: exp.Select) -> Parts:
    order = node.args.get("order")
    distinct = node.args.get("distinct")
    on = distinct.args.get("on") if distinct is not None else None
    keys = [] if on is None else on.expressions if isinstance(on, exp.Tuple) else [on.this if isinstance(on, exp.Paren) else on]
    return Parts(
        items=[(item.alias_or_name, item.this if isinstance(item, exp.Alias) else item) for item in node.expressions],
        having=conjuncts(node.args.get("having")),
        qualify=conjuncts(node.args.get("qualify")),
        order=list(order.expressions) if order is not None else [],
        on=list(keys),
    )


def _kind(node: exp.Join) -> str:
    """``inner``, ``left``, ``right``, ``full``, ``semi``, ``anti``, ``asof``, ``asof left``."""
    method, side, kind = node.method.lower(), node.side.lower(), node.kind.lower()
    if node.args.get("using"):
        raise Unsplit("USING")
    if method not in ("", "asof") or kind not in ("", "inner", "cross", "outer", "semi", "anti"):
        raise Unsplit(f"a {method or kind} join")
    if method == "asof":
        if side not in ("", "left"):
            raise Unsplit("an ASOF join of this side")
        return "asof left" if side else "asof"
    return kind if kind in ("semi", "anti") else side or "inner"


def _ordered_by(given: exp.Ordered, value: exp.Expr) -> exp.Ordered:
    made = given.copy()
    made.set("this", value.copy())
    assert isinstance(made, exp.Ordered)
    return made


def _aliased(value: exp.Expr, items: Sequence[tuple[str, exp.Expr]]) -> exp.Expr:
    """An expression of ORDER BY, where an alias of the select list may stand for its expression."""
    if isinstance(value, exp.Column) and not value.table:
        return next((item for name, item in items if name.lower() == value.name.lower()), value)
    return value


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


def _windows_in(part: exp.Expr) -> list[exp.Window]:
    """Windows of an expression, those inside others left out: they come in a later round."""
    if isinstance(part, exp.Query) and not isinstance(part, exp.Subquery):
        return []
    if isinstance(part, exp.Window):
        inside = [found for child in part.iter_expressions() for found in _windows_in(child)]
        return inside or [part]
    return [found for child in part.iter_expressions() for found in _windows_in(child)]


def _address(node: exp.Column) -> Address:
    return (node.table.lower(), node.name.lower())


def _addresses(part: exp.Expr) -> set[Address]:
    found = {_address(each) for each in ([part] if isinstance(part, exp.Column) else [])}
    if isinstance(part, exp.Select):
        return found | free_columns(part)
    for child in part.iter_expressions():
        found |= _addresses(child)
    return found


def _identity(relation: Relation) -> list[str]:
    """Columns by which a row is found again: the shortest that identify it, else all."""
    known = [each for each in relation.unique if each]
    if known:
        best = min(known, key=lambda each: (len(each), sorted(each)))
        return [name for name in relation.columns.names if name in best]
    return list(relation.columns.names)


def _with_query(part: exp.Expr, query: exp.Expr, body: exp.Expr, sides: Mapping[Address, exp.Expr]) -> exp.Expr:
    """The expression with its query replaced and its own columns in terms of ``o``."""
    holder = exp.Paren(this=part.copy())
    mine = query_of(holder)
    marker = exp.Placeholder()
    mine.replace(marker)
    outside = substituted(holder.this, sides)
    inside = substituted(body, sides) if isinstance(body, exp.Select) else body
    if isinstance(outside, exp.Placeholder):
        return exp.Subquery(this=inside)
    place = next(node for node in outside.walk() if isinstance(node, exp.Placeholder))
    place.replace(inside)
    return outside


def _word(part: exp.Expr) -> str:
    return {"Exists": "exists", "In": "in"}.get(type(part).__name__, "subquery")
