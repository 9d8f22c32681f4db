"""From the SQL of a stateful step to its plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify

from raypipe.model import Column, TableName, TableSchema
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.text import StepText
from raypipe.plan.views.clocks import CLOCK, check_whole, reads_clock, text_with_clock, with_clock
from raypipe.plan.views.graph import NOW, Graph
from raypipe.plan.views.identities import identities
from raypipe.plan.views.model import Keyed, Operator, Relation, Scan, ViewPlan
from raypipe.plan.views.pivots import without_pivots
from raypipe.plan.views.prove import differs
from raypipe.plan.views.rows import Table, column
from raypipe.plan.views.spelling import spell
from raypipe.plan.views.split import Splitter
from raypipe.plan.views.ties import settle
from raypipe.plan.views.trees import Refused, Unsplit, aggregates_in, aliases_of, own_columns, selects_of

# Stands for a database while names are resolved: steps have none.
_STEPS = "_raypipe_steps"
REFUSED = "{{step}} uses {what}{{where}}; raypipe can keep {instead} up to date."


def compile_view(
    text: StepText,
    inputs: Mapping[str, TableSchema],
    input_views: Mapping[str, str],
    columns: Sequence[Column],
    reads: Sequence[str],
    sandbox: Sandbox,
    recompute_rows: int | None = None,
) -> ViewPlan:
    """Plans a step that needs other rows than the one that changed.

    Args:
        text: The step; DuckDB accepts it.
        inputs: Schemas of everything it may read, as users write it.
        input_views: Fingerprints of inputs that have one.
        columns: Of the view, as DuckDB binds the user's own text.
        reads: The inputs that it does read.
        sandbox: Holds an empty relation under each input's name.
        recompute_rows: See ``compile_step``.

    Raises:
        SqlError: it has no one answer, or raypipe cannot keep it up to date.
    """
    used = {name: inputs[name] for name in dict.fromkeys(reads)}
    try:
        tree, notes = _qualified(text, used, sandbox)
        notes += settle(tree, _keys(used))
        oracle = tree.sql("duckdb") if notes else text_with_clock(text) if reads_clock(tree) else text.bare()
        graph = Graph(text.step, sandbox)
        if recompute_rows is None:
            operators, made, why = _planned(graph, tree, used, columns, oracle)
        else:
            operators, made = _recomputed(graph, tree, used, columns, oracle, recompute_rows)
            why = f"as the pipeline file says, while its inputs have at most {recompute_rows:,} rows"
    except Refused as refused:
        raise text.problem(REFUSED.format(what=refused.what, instead=refused.instead), None) from None
    key = _key(made)
    schema = TableSchema(
        table=TableName("", "", text.step),
        columns=tuple(columns),
        key=tuple(columns[made.columns.names.index(name)].name for name in key),
    )
    return ViewPlan(
        name=text.step,
        sql=text.sql,
        oracle=oracle,
        inputs=tuple(used),
        operators=operators,
        schema=schema,
        reason=_reason(operators, schema, why, notes),
        view=_fingerprint(text, schema, operators, input_views),
        identities=identities(operators, input_views),
        notes=tuple(notes),
    )


def _qualified(text: StepText, inputs: Mapping[str, TableSchema], sandbox: Sandbox) -> tuple[exp.Expr, list[str]]:
    """The tree of the SQL, every column with its table, and what was written in other words."""
    schema: dict[str, dict[str, dict[str, str]]] = {}
    for name, each in inputs.items():
        database, _, bare = name.rpartition(".")
        schema.setdefault(database or _STEPS, {})[bare] = {column.name: "VARCHAR" for column in each.columns}
    steps = {name.lower() for name in inputs if "." not in name}
    try:
        tree = without_pivots(parse_one(text.bare(), dialect="duckdb"), sandbox)
        notes = spell(tree)
        names = {column.lower() for each in inputs.values() for column in each.names}
        if with_clock(tree, names):
            schema.setdefault(_STEPS, {})[CLOCK] = {NOW: "TIMESTAMPTZ"}
            steps.add(CLOCK)
        ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
        # sqlglot wants all tables at one depth.
        for table in tree.find_all(exp.Table):
            if not table.db and table.name.lower() in steps - ctes:
                table.set("db", exp.to_identifier(_STEPS))
        tree = qualify(tree, dialect="duckdb", schema=dict(schema))
    except SqlglotError as error:
        raise Refused(
            "SQL that raypipe cannot take apart",
            "the same written with a name before every column, or in several steps",
        ) from error
    for table in tree.find_all(exp.Table):
        if table.db == _STEPS:
            table.set("db", None)
    for select in selects_of(tree):
        _prepare(select)
    return tree, notes


def _prepare(select: exp.Select) -> None:
    """Spells out what SQL lets one abbreviate: GROUP BY ALL, named windows, ORDER BY ALL."""
    group = select.args.get("group")
    if group is not None and group.args.get("all"):
        items = [item.this if isinstance(item, exp.Alias) else item for item in select.expressions]
        plain = [item.copy() for item in items if next(aggregates_in(item), None) is None]
        select.set("group", exp.Group(expressions=plain) if plain else None)
    named = {window.this.name.lower(): window for window in select.args.get("windows") or ()}
    for window in list(select.find_all(exp.Window)):
        base = window.args.get("alias")
        if base is not None and window.find_ancestor(exp.Select) is select:
            definition = named.get(base.name.lower())
            if definition is None or definition.args.get("alias"):
                raise Refused(f"the window {base.name}", "a window written out")
            for part in ("partition_by", "order", "spec"):
                value = definition.args.get(part)
                if value and not window.args.get(part):
                    window.set(part, [each.copy() for each in value] if isinstance(value, list) else value.copy())
            window.set("alias", None)
    select.set("windows", None)
    order = select.args.get("order")
    if order is not None and any(isinstance(each.this, exp.Var) for each in order.expressions):
        first = order.expressions[0]
        spelled = []
        for name in select.named_selects:
            each = first.copy()
            each.set("this", exp.column(name, quoted=True))
            spelled.append(each)
        select.set("order", exp.Order(expressions=spelled))


def _keys(inputs: Mapping[str, TableSchema]) -> dict[str, frozenset[str]]:
    return {
        name.lower(): frozenset(column.lower() for column in schema.key)
        for name, schema in inputs.items()
        if schema.key and schema.branches == 1
    }


def _planned(
    graph: Graph, tree: exp.Expr, inputs: Mapping[str, TableSchema], columns: Sequence[Column], oracle: str
) -> tuple[tuple[Operator, ...], Relation, str]:
    """Operators, the relation of the last, and why the view is kept as a whole if it is."""
    needed = _needed(tree, inputs)
    why = ""
    try:
        known = {name.lower(): (name, schema) for name, schema in inputs.items()}
        table = Splitter(graph, known, needed).query(tree.copy(), {})
        made = _ended(graph, table, columns)
        operators = _reached(graph.operators, made)
        if not differs(operators, inputs, oracle, tree):
            return operators, made, ""
        why = "its parts do not make up the whole"
    except Unsplit as unsplit:
        why = str(unsplit)
    check_whole(tree, why)
    operators, made = _as_whole(graph.again(), tree, inputs, needed, columns, oracle, None)
    return operators, made, why


def _recomputed(
    graph: Graph,
    tree: exp.Expr,
    inputs: Mapping[str, TableSchema],
    columns: Sequence[Column],
    oracle: str,
    most_rows: int,
) -> tuple[tuple[Operator, ...], Relation]:
    """The view as one operator, whatever its SQL is. It takes all columns: UNPIVOT uses some without naming them."""
    needed = {name.lower(): schema.names for name, schema in inputs.items()}
    return _as_whole(graph, tree, inputs, needed, columns, oracle, most_rows)


def _as_whole(
    graph: Graph,
    tree: exp.Expr,
    inputs: Mapping[str, TableSchema],
    needed: Mapping[str, Sequence[str]],
    columns: Sequence[Column],
    oracle: str,
    most_rows: int | None,
) -> tuple[tuple[Operator, ...], Relation]:
    try:
        made = _ended(graph, _whole(graph, tree, inputs, needed, most_rows), columns)
    except Unsplit:
        raise Refused("SQL that raypipe cannot take apart", "the same split into several steps") from None
    operators = _reached(graph.operators, made)
    if differs(operators, inputs, oracle, tree):
        raise Refused("SQL that raypipe cannot take apart", "the same split into several steps")
    return operators, made


def _ended(graph: Graph, table: Table, columns: Sequence[Column]) -> Relation:
    """The relation with the view's own names and types."""
    if len(table.names) != len(columns):
        raise Unsplit("a select list that cannot be followed")
    items = [(wanted.name, column(made)) for wanted, (_, made) in zip(columns, table.names, strict=True)]
    made = graph.linear(table.relation, items, [])
    if [field.type for field in made.columns] != [each.type for each in columns]:
        raise Unsplit("types that change when it is taken apart")
    return made


def _whole(
    graph: Graph,
    tree: exp.Expr,
    inputs: Mapping[str, TableSchema],
    needed: Mapping[str, Sequence[str]],
    most_rows: int | None,
) -> Table:
    """The view as one fragment over all rows."""
    query = tree.copy()
    leaves = list(inputs)
    places = {name.lower(): place for place, name in enumerate([*leaves, *[CLOCK] * reads_clock(tree)])}
    ctes = {cte.alias.lower() for cte in query.find_all(exp.CTE)}
    for table in list(query.find_all(exp.Table)):
        name = f"{table.db}.{table.name}".lstrip(".").lower()
        if name in places and not (not table.db and name in ctes):
            alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.name, quoted=True))
            table.set("alias", alias)
            table.set("db", None)
            table.set("this", exp.to_identifier(f"_{places[name]}"))
    scans = [graph.scan(name, inputs[name], needed[name.lower()]) for name in leaves]
    if CLOCK in places:
        scans.append(graph.clock())
    assert isinstance(query, exp.Query)
    relation = graph.keyed([(scan, None) for scan in scans], query, (), "whole", (), most_rows=most_rows)
    return Table(relation, tuple((name.lower(), name) for name in relation.columns.names))


def _needed(tree: exp.Expr, inputs: Mapping[str, TableSchema]) -> dict[str, list[str]]:
    """Columns of each input that any SELECT uses, at least one."""
    wanted: dict[str, set[str]] = {name.lower(): set() for name in inputs}
    for select in selects_of(tree):
        used = own_columns(select)
        for table in _tables(select):
            name = f"{table.db}.{table.name}".lstrip(".").lower()
            if name in wanted:
                wanted[name] |= {named for alias, named in used if alias == table.alias_or_name.lower()}
    found = {}
    for name, schema in inputs.items():
        columns = [each for each in schema.names if each.lower() in wanted[name.lower()]]
        found[name.lower()] = columns or list(schema.key[:1] or schema.names[:1])
    return found


def _tables(select: exp.Select) -> list[exp.Table]:
    start = select.args.get("from_")
    sources = [*([start.this] if start is not None else []), *(each.this for each in select.args.get("joins") or ())]
    return [table for source in sources for table in source.find_all(exp.Table)] if aliases_of(select) else []


def _reached(operators: Sequence[Operator], last: Relation) -> tuple[Operator, ...]:
    """Operators that the last needs, in their order."""
    wanted = {last.name}
    kept: list[Operator] = []
    for operator in reversed(operators):
        if operator.out.name in wanted:
            wanted.update(operator.inputs)
            kept.insert(0, operator)
    return tuple(kept)


def _key(made: Relation) -> list[str]:
    """The shortest key whose values any store can hold in a key."""
    usable = [each for each in made.unique if each and all(_can_identify(made.type_of(name)) for name in each)]
    if not usable:
        return []
    best = min(usable, key=lambda each: (len(each), [name for name in made.columns.names if name in each]))
    return [name for name in made.columns.names if name in best]


def _can_identify(type_: str) -> bool:
    plain = ("INT", "VARCHAR", "DATE", "BOOLEAN", "TIMESTAMP", "DECIMAL", "UUID")
    return (
        type_ != "HUGEINT"
        and "[" not in type_
        and "(" not in type_.replace("DECIMAL(", "")
        and any(name in type_ for name in plain)
        and not type_.startswith("INTERVAL")
    )


def _reason(operators: Sequence[Operator], schema: TableSchema, why: str, notes: Sequence[str]) -> str:
    kept = [operator for operator in operators if not isinstance(operator, Scan)]
    constant = [operator.what for operator in kept if isinstance(operator, Keyed) and operator.constant]
    identity = f"identified by {' and '.join(schema.key)}" if schema.key else "a multiset"
    sentence = f"Stateful: kept up by {len(kept)} operator{'s' if len(kept) != 1 else ''}; rows are {identity}."
    if why:
        sentence += f" It is computed as a whole whenever something changes ({why})."
    elif constant:
        sentence += f" Everything below {', '.join(constant)} is computed again whenever something there changes."
    return sentence + "".join(f" Note: {note}." for note in notes)


def _told(operator: Operator) -> list[str]:
    """An operator as text, the same in every process: sets have no order of their own."""
    parts = [type(operator).__name__, operator.out.name, str(operator.out.columns), *operator.inputs]
    names = ("relation", "sql", "renames", "left_key", "right_key", "key", "reads", "sums")
    return [*parts, *(str(getattr(operator, name, "")) for name in names)]


def _fingerprint(
    text: StepText, schema: TableSchema, operators: Sequence[Operator], input_views: Mapping[str, str]
) -> str:
    meaning = {
        "tokens": [text.sql[token.start : token.end + 1] for token in text.tokens()],
        "inputs": {
            operator.relation: input_views.get(operator.relation, "")
            for operator in operators
            if isinstance(operator, Scan)
        },
        "columns": [[each.name, each.declared] for each in schema.columns],
        "key": list(schema.key),
        # The state is laid out by them.
        "operators": [_told(operator) for operator in operators],
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:32]
