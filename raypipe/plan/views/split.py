"""Takes a qualified SELECT apart, from the inside out, into operators: joins, groups, windows, subqueries, sets.

Each part is the user's own expression over the rows that the part before it made; nothing is written in another
way than the user wrote it, so what NULL means in it is DuckDB's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlglot import exp

from raypipe.model import TableSchema
from raypipe.plan.views.clocks import CLOCK, Clocks
from raypipe.plan.views.graph import NOW, Graph
from raypipe.plan.views.groups import grouped
from raypipe.plan.views.joins import Join, join
from raypipe.plan.views.parts import Parts, aliased, ordered_by, parts_of
from raypipe.plan.views.rows import Environment, Rows, Table, column, leaf
from raypipe.plan.views.sets import limited, set_operation
from raypipe.plan.views.subqueries import Subqueries
from raypipe.plan.views.trees import (
    Address,
    Unsplit,
    conjuncts,
    free_columns,
    is_aggregated,
    own_columns,
    replaced,
    subqueries_in,
)
from raypipe.plan.views.unnests import is_made_of_rows, unnested
from raypipe.plan.views.windows import windowed


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
        self._subqueries = Subqueries(graph, self.query, self._filtered)
        self._clocks = Clocks(graph, self.query)

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
            made = set_operation(self._graph, node, self.query(node.this, env), self.query(node.expression, env))
            return limited(self._graph, node, made)
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
        parts = parts_of(node)
        if is_aggregated(node):
            wanted = needed

            def lift(rows: Rows, part: exp.Expr) -> tuple[Rows, exp.Expr]:
                return self._subqueries.lift(rows, part, env, wanted, as_filter=False)

            rows, parts = grouped(self._graph, lift, node, rows, parts)
            needed = set(rows.terms)
            rows, parts.having = self._clocks.applied(rows, parts.having, env, needed)
            needed = set(rows.terms)
        rows, parts = self._subqueries.lifted(rows, parts, env, needed)
        rows = rows.filtered(parts.having)
        rows, parts = windowed(self._graph, rows, parts, needed)
        rows = rows.filtered(parts.qualify)
        return self._finished(node, rows, parts)

    # FROM and WHERE

    def _filtered(self, node: exp.Select, env: Environment, needed: set[Address], conditions: list[exp.Expr]) -> Rows:
        """What FROM and WHERE leave."""
        simple = [each for each in conditions if not any(subqueries_in(each))]
        rows, rest = self._joined(node, env, needed, simple)
        hard = [each for each in conditions if any(subqueries_in(each))]
        rows = rows.filtered([each for each in rest if not any(subqueries_in(each))])
        hard += [each for each in rest if any(subqueries_in(each))]
        rows, hard = self._clocks.applied(rows, hard, env, needed)
        for condition in hard:
            columns: dict[str, exp.Expr] = {}
            for part in list(subqueries_in(condition)):
                # In WHERE, NULL is as good as false, which only counts where nothing is made of it.
                rows, value = self._subqueries.lift(rows, part, env, needed, as_filter=part is condition)
                columns[part.sql("duckdb")] = value
            rows = rows.filtered([replaced(condition, columns)])
        return rows

    def _joined(
        self, node: exp.Select, env: Environment, needed: set[Address], conditions: list[exp.Expr]
    ) -> tuple[Rows, list[exp.Expr]]:
        start = node.args.get("from_")
        if start is None:
            raise Unsplit("a SELECT without FROM")
        joins = list(node.args.get("joins") or ())
        kept_right = any(_kind(each) in ("right", "full") for each in joins)
        if is_made_of_rows(start.this):
            raise Unsplit("rows that are made of rows that may be none")
        first = self._leaf(start.this, env)
        # What is made of the first table's rows alone is there before anything is joined to it; a comma binds weaker.
        while joins and is_made_of_rows(joins[0].this) and (joins[0].kind or not kept_right):
            if any(any(subqueries_in(each)) for each in conjuncts(joins[0].args.get("on"))):
                break
            first, on = unnested(self._graph, first, joins.pop(0), needed)
            first = first.filtered(on)
        made_of_rows = [each for each in joins if is_made_of_rows(each.this)]
        if made_of_rows and kept_right:
            raise Unsplit("rows that are made of rows that may be none")
        # Of inner joins alone a condition may as well stand in WHERE, where queries are looked after.
        alone = all(_kind(each) == "inner" for each in joins if not is_made_of_rows(each.this))
        hard = [each for join_ in joins for each in conjuncts(join_.args.get("on")) if any(subqueries_in(each))] * alone
        leaves = [Join(kind="", rows=first)]
        leaves += [
            Join(
                kind=_kind(each),
                rows=self._leaf(each.this, env),
                on=[part for part in conjuncts(each.args.get("on")) if part not in hard],
                comma=not (each.args.get("on") or each.kind or each.side or each.method),
            )
            for each in joins
            if not is_made_of_rows(each.this)
        ]
        rows, rest = join(self._graph, leaves, conditions, needed)
        for each in made_of_rows:
            rows, on = unnested(self._graph, rows, each, needed)
            rest += on
        return rows, [*rest, *hard]

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
        if name == CLOCK:
            return Table(self._graph.clock(), ((NOW, NOW),))
        if name not in self._scans:
            relation, schema = self._inputs[name]
            columns = self._needed[name]
            made = self._graph.scan(relation, schema, columns)
            self._scans[name] = Table(made, tuple((each.lower(), each) for each in columns))
        return self._scans[name]

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
                items.append((f"_order.{place}", rows.in_terms(aliased(mine, parts.items))))
                order.append((f"_order.{place}", each))
        on = []
        for place, key in enumerate(parts.on):
            items.append((f"_on.{place}", rows.in_terms(aliased(key, parts.items))))
            on.append(f"_on.{place}")
        relation = self._graph.linear(rows.relation, items, rows.where)
        everything = [exp.column(name, table="t", quoted=True) for name in relation.columns.names]
        start = leaf(0, "t")
        sorted_by = exp.Order(
            expressions=[ordered_by(each, exp.column(name, table="t", quoted=True)) for name, each in order]
        )
        if parts.on:
            make = exp.select(*everything).from_(start.copy())
            make.set(
                "distinct",
                exp.Distinct(on=exp.Tuple(expressions=[exp.column(name, table="t", quoted=True) for name in on])),
            )
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
