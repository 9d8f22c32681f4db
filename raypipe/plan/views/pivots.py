"""PIVOT with listed values, written as what it means: a GROUP BY with an aggregate for each value, under its FILTER."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import duckdb
from sqlglot import exp

from raypipe.plan.sandbox import Sandbox
from raypipe.plan.views.trees import Refused, aggregates_in

_NEAREST = "PIVOT of a table by columns with listed values, or GROUP BY with aggregates that have a FILTER,"


def without_pivots(tree: exp.Expr, sandbox: Sandbox) -> exp.Expr:
    """A tree in which every PIVOT is a GROUP BY; changed in place as far as that can be.

    Args:
        tree: As it was parsed.
        sandbox: Holds an empty relation under each input's name: which columns there are is asked of DuckDB.

    Raises:
        Refused: a PIVOT is of another kind.
    """
    for unpivot in [each for each in tree.find_all(exp.Pivot) if each.args.get("unpivot")]:
        if unpivot.arg_key != "pivots":
            select = _standard(unpivot)
            tree = select if unpivot is tree else tree
            unpivot.replace(select)
    # The innermost first: another one may stand in what it reads.
    for pivot in reversed([each for each in tree.find_all(exp.Pivot) if not each.args.get("unpivot")]):
        ctes = _visible(pivot)
        if pivot.arg_key == "pivots":
            source = pivot.parent
            assert source is not None
            # DuckDB reads PIVOT after a join as one of all that was joined, sqlglot as one of the last table.
            if len(source.args["pivots"]) != 1 or source.args.get("joins") or not isinstance(source.parent, exp.From):
                raise Refused("PIVOT after something else in a FROM", "PIVOT in a query of its own, (FROM … PIVOT …),")
            alias = pivot.args.get("alias") or source.args.get("alias")
            pivot.set("alias", None)
            select = _grouped(pivot, source, pivot.args["fields"], pivot.expressions, ctes, sandbox, source)
            source.replace(exp.Subquery(this=select, alias=alias.copy() if alias is not None else None))
        else:
            whole = pivot.copy()
            whole.set("with_", None)
            using = pivot.args.get("using") or []
            select = _grouped(pivot, pivot.this, pivot.expressions, using, ctes, sandbox, whole)
            if pivot.args.get("with_") is not None:
                select.set("with_", pivot.args["with_"].copy())
            if pivot is tree:
                return select
            pivot.replace(select)
    return tree


def _standard(unpivot: exp.Pivot) -> exp.Select:
    """UNPIVOT as the standard writes it, which names can be resolved in: ``FROM t UNPIVOT (value FOR name IN (…))``."""
    into = unpivot.args.get("into")
    values = into.expressions if into is not None else [exp.column("value")]
    if len(values) != 1 or unpivot.args.get("include_nulls") is not None or unpivot.args.get("with_") is not None:
        raise Refused("UNPIVOT of another form", "UNPIVOT of single columns")
    name = into.this.this if into is not None else exp.to_identifier("name")
    value = values[0].this if isinstance(values[0], exp.Column) else values[0]
    field = exp.In(this=name.copy(), expressions=[each.copy() for each in unpivot.expressions])
    source = unpivot.this.copy()
    source.set("pivots", [exp.Pivot(expressions=[value.copy()], fields=[field], unpivot=True)])
    return exp.select("*").from_(source)


def _grouped(
    pivot: exp.Pivot,
    source: exp.Expr,
    fields: Sequence[exp.Expr],
    using: Sequence[exp.Expr],
    ctes: Sequence[exp.Expr],
    sandbox: Sandbox,
    whole: exp.Expr,
) -> exp.Select:
    """The GROUP BY.

    Args:
        pivot: To write.
        source: What it reads, a table or a query.
        fields: ``column IN (value, …)`` each.
        using: Aggregates.
        ctes: That it can see.
        sandbox: Binds it.
        whole: What its columns are called is asked of this.
    """
    listed = [_values(field) for field in fields]
    made = [each.this if isinstance(each, exp.Alias) else each for each in using]
    if not made or not all(next(aggregates_in(each), None) is not None for each in made):
        raise Refused("PIVOT without an aggregate", _NEAREST)
    bare = source.copy()
    for name in ("pivots", "alias"):
        bare.set(name, None)
    if isinstance(source, exp.Subquery) or not source.args.get("alias"):
        read = bare
    else:
        read = exp.alias_(bare, source.alias, table=True)
    group = pivot.args.get("group")
    if group is not None:
        keys = list(group.expressions)
        if not all(isinstance(each, exp.Column) for each in keys):
            raise Refused("PIVOT grouped by an expression", _NEAREST)
    else:
        used = {each.name.lower() for part in (*fields, *made) for each in part.find_all(exp.Column)}
        keys = [exp.column(name, quoted=True) for name in _columns(bare, ctes, sandbox) if name.lower() not in used]
    names = _columns(whole, ctes, sandbox)
    cells = [(values, aggregate) for values in product(*listed) for aggregate in made]
    if len(names) != len(keys) + len(cells):
        raise Refused("PIVOT of another form", _NEAREST)
    items = [exp.alias_(key.copy(), name, quoted=True) for key, name in zip(keys, names[: len(keys)], strict=True)]
    for name, (conditions, aggregate) in zip(names[len(keys) :], cells, strict=True):
        items.append(exp.alias_(_filtered(aggregate, exp.and_(*conditions)), name, quoted=True))
    select = exp.select(*items).from_(read)
    return select.group_by(*(key.copy() for key in keys)) if keys else select


def _values(field: exp.Expr) -> list[exp.Expr]:
    """A condition for each of the listed values."""
    if not isinstance(field, exp.In) or field.args.get("query") is not None or not field.expressions:
        raise Refused("PIVOT whose values are not listed", _NEAREST)
    values = [each.this if isinstance(each, exp.PivotAlias | exp.Alias) else each for each in field.expressions]
    if any(each.find(exp.Column, exp.Query) for each in values):
        raise Refused("PIVOT whose values are not listed", _NEAREST)
    return [exp.NullSafeEQ(this=field.this.copy(), expression=each.copy()) for each in values]


def _filtered(aggregate: exp.Expr, condition: exp.Expr) -> exp.Expr:
    holder = exp.Paren(this=aggregate.copy())
    for call in list(aggregates_in(holder)):
        if isinstance(call, exp.Filter):
            raise Refused("PIVOT of an aggregate with a FILTER", _NEAREST)
        call.replace(exp.Filter(this=call.copy(), expression=exp.Where(this=condition.copy())))
    return holder


def _columns(source: exp.Expr, ctes: Sequence[exp.Expr], sandbox: Sandbox) -> list[str]:
    """Names of the columns that DuckDB finds in something that can stand in FROM."""
    query = exp.select("*").from_(exp.Subquery(this=source.copy()) if isinstance(source, exp.Pivot) else source.copy())
    for cte in ctes:
        query = query.with_(cte.args["alias"], as_=cte.this.copy())
    try:
        return [row[0] for row in sandbox.ask(f"DESCRIBE {query.sql('duckdb')}")]
    except duckdb.Error as error:
        raise Refused("PIVOT that raypipe cannot take apart", _NEAREST) from error


def _visible(node: exp.Expr) -> list[exp.Expr]:
    """CTEs that a node can see, outer ones first."""
    found: list[exp.Expr] = []
    inside: exp.Expr = node
    above = node.parent
    own = node.args.get("with_")
    if own is not None:
        found = list(own.expressions)
    while above is not None:
        if isinstance(above, exp.With):
            found = [*above.expressions[: above.expressions.index(inside)], *found]
        elif above.args.get("with_") is not None and inside is not above.args["with_"]:
            found = [*above.args["with_"].expressions, *found]
        inside, above = above, above.parent
    return found
