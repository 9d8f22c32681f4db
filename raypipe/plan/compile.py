"""From a step's SQL to its plan: refuse what is not row-wise, bind the rest, derive key and types."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing

import duckdb
import pyarrow as pa

from raypipe.errors import InvariantBroken, SqlError
from raypipe.model import RESERVED_PREFIX, Column, TableName, TableSchema
from raypipe.plan import allowed, constructs
from raypipe.plan.model import BranchPlan, StepPlan
from raypipe.plan.references import resolve
from raypipe.plan.rewrite import CHANGES, ROW, Linear, Rewriter
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.scope import quote
from raypipe.plan.text import StepText
from raypipe.plan.tree import parse, text_of
from raypipe.plan.types import has_null, plain
from raypipe.plan.views.compile import compile_view
from raypipe.plan.views.model import ViewPlan

# The branch number is one signed byte in every batch.
MOST_BRANCHES = 128
_DESCRIBE = "DESCRIBE "


def compile_step(
    name: str,
    sql: str,
    inputs: Mapping[str, TableSchema],
    input_views: Mapping[str, str],
    location: str = "",
    *,
    recompute_rows: int | None = None,
) -> StepPlan | ViewPlan:
    """Plans a step: row by row if its SQL needs no other rows than the one that changed, else as a stateful view.

    Args:
        name: Of the step.
        sql: As the user wrote it.
        inputs: Schemas of everything it may read, as users write it: ``shop.orders``, or the name of a step.
        input_views: Fingerprints of inputs that have one (steps).
        location: Where the step stands, for messages; may be empty.
        recompute_rows: Compute it whole at every change, as long as its inputs have no more rows than this; None if its
            SQL must do without.

    Raises:
        SqlError: it is wrong, not deterministic, or looks beyond its inputs.
        SchemaMismatch: it reads a table that is not among the inputs.
    """
    text = StepText(name, sql, location)
    with closing(Sandbox()) as sandbox:
        tree = parse(sandbox, text)
        stateful = constructs.stateful(text)
        refused = [*constructs.impossible(text), *allowed.refusals(text, tree)]
        if recompute_rows is None:
            refused += constructs.only_recomputed(text)
        if refused:
            offset, sentence = min(refused, key=lambda found: found[0])
            raise text.problem(sentence, offset)
        _create_inputs(sandbox, inputs)
        reads = [reference.relation for reference in resolve(text, tree, inputs)]
        columns = _columns(sandbox, text)
        names = {column.lower() for relation in reads for column in inputs[relation].names}
        if (stateful or allowed.stateful(tree, names) or recompute_rows is not None) and reads:
            return compile_view(text, inputs, input_views, columns, reads, sandbox, recompute_rows)
        paths = Rewriter(text, inputs, sandbox).paths(tree)
        branch_sql = [text_of(sandbox, path.node) for path in paths]
    key, why_not = _key(paths, inputs)
    if not key:
        _check_whole_rows(text, paths, inputs, why_not)
    branches = _branches(paths, branch_sql, inputs, key)
    schema = TableSchema(
        table=TableName("", "", name),
        columns=columns,
        key=tuple(columns[position].name for position in key),
        branches=sum(inputs[path.relation].branches for path in paths),
        key_only=any(inputs[path.relation].key_only for path in paths),
    )
    if schema.branches > MOST_BRANCHES:
        raise SqlError(
            f"Step {name} has {schema.branches} UNION ALL branches; {MOST_BRANCHES} is the most that is possible.",
            remedy="Put some of them into tables of their own.",
            step=name,
        )
    _check_branches(branches, inputs, schema)
    return StepPlan(
        name=name,
        sql=sql,
        branches=branches,
        schema=schema,
        reason=_reason(paths, schema, why_not),
        view=_fingerprint(text, branches, schema, input_views),
    )


def _check_whole_rows(text: StepText, paths: Sequence[Linear], inputs: Mapping[str, TableSchema], why_not: str) -> None:
    """A view without a key takes out a row by all of its values, so somebody must tell them."""
    for path in paths:
        if inputs[path.relation].key_only:
            key = ", ".join(inputs[path.relation].key)
            raise text.problem(
                f"{{step}} has no key, because {why_not}, and of a row of {path.relation} that goes nothing is told but"
                f" its key ({key}); select that unchanged, or let the source tell whole rows (PostgreSQL: ALTER TABLE …"
                " REPLICA IDENTITY FULL).",
                None,
            )


def _create_inputs(sandbox: Sandbox, inputs: Mapping[str, TableSchema]) -> None:
    """Empty relations under the users' names; views, because tables would have a ``rowid`` to refer to."""
    for index, (relation, schema) in enumerate(inputs.items()):
        sandbox.register(f"_input_{index}", schema.arrow().empty_table())
        if schema.table.instance:
            sandbox.ask(f"CREATE SCHEMA IF NOT EXISTS {quote(schema.table.instance)}")
        parts = (schema.table.instance, schema.table.table) if schema.table.instance else (relation,)
        target = ".".join(quote(part) for part in parts)
        sandbox.ask(f"CREATE VIEW {target} AS SELECT * FROM _input_{index}")


def _columns(sandbox: Sandbox, text: StepText) -> tuple[Column, ...]:
    """The view's columns, as DuckDB binds the user's own text."""
    try:
        described = sandbox.ask(_DESCRIBE + text.sql)
        arrow = sandbox.query(text.sql).schema
    except duckdb.Error as error:
        raise text.from_duckdb(error, skipped_bytes=len(_DESCRIBE)) from error
    columns = tuple(
        Column(name=name, type=plain(field.type), declared=declared)
        for (name, declared, *_), field in zip(described, arrow, strict=True)
    )
    seen: set[str] = set()
    for column in columns:
        if column.name.lower() in seen:
            raise text.problem(f"{{step}} makes a column {column.name} twice; rename one with AS.", None)
        if column.name.lower().startswith(RESERVED_PREFIX):
            raise text.problem(
                f"{{step}} makes a column {column.name}; names that begin with {RESERVED_PREFIX} are raypipe's own.",
                None,
            )
        if has_null(column.type):
            raise text.problem(f"{{step}} makes column {column.name} of NULL alone; give it a type with a cast.", None)
        seen.add(column.name.lower())
    return columns


def _key(paths: Sequence[Linear], inputs: Mapping[str, TableSchema]) -> tuple[tuple[int, ...], str]:
    """Positions of the key columns, and why there are none if there are none."""
    positions: list[tuple[int, ...]] = []
    for path in paths:
        key = inputs[path.relation].key
        if not key:
            return (), f"{path.relation} has no key"
        if not path.one_to_one:
            return (), "UNNEST makes several rows of one"
        missing = [column for column in key if column not in path.origins]
        if missing:
            return (), f"key column {missing[0]} of {path.relation} is not among its columns unchanged"
        positions.append(tuple(path.origins.index(column) for column in key))
    if any(set(found) != set(positions[0]) for found in positions):
        return (), "its branches have their keys in different columns"
    return positions[0], ""


def _branches(
    paths: Sequence[Linear], sql: Sequence[str], inputs: Mapping[str, TableSchema], key: tuple[int, ...]
) -> tuple[BranchPlan, ...]:
    branches: list[BranchPlan] = []
    index = 0
    for path, text in zip(paths, sql, strict=True):
        branches.append(
            BranchPlan(
                index=index,
                relation=path.relation,
                sql=text,
                columns=path.needs,
                key=tuple(origin for position in key if (origin := path.origins[position]) is not None),
            )
        )
        index += inputs[path.relation].branches
    return tuple(branches)


def _check_branches(branches: Sequence[BranchPlan], inputs: Mapping[str, TableSchema], schema: TableSchema) -> None:
    """What will run must make the columns that the user's own text makes."""
    with closing(Sandbox()) as sandbox:
        for branch in branches:
            arrow = inputs[branch.relation].arrow()
            fields = [pa.field(ROW, pa.int64()), *(arrow.field(name) for name in branch.columns)]
            sandbox.register(CHANGES, pa.schema(fields).empty_table())
            try:
                made = sandbox.query(branch.sql).schema
            except duckdb.Error as error:
                raise InvariantBroken(
                    f"Step {schema.table} was taken apart wrongly ({type(error).__name__}).",
                    remedy="Report this; splitting the SQL into several steps may help meanwhile.",
                    step=str(schema.table),
                    branch=branch.index,
                ) from error
            if [plain(field.type) for field in made] != [pa.int64(), *(column.type for column in schema.columns)]:
                raise InvariantBroken(
                    f"Step {schema.table} was taken apart wrongly: its types differ from those of its SQL.",
                    remedy="Report this; splitting the SQL into several steps may help meanwhile.",
                    step=str(schema.table),
                    branch=branch.index,
                )


def _reason(paths: Sequence[Linear], schema: TableSchema, why_not: str) -> str:
    relations = list(dict.fromkeys(path.relation for path in paths))
    over = relations[0] if len(paths) == 1 else f"{len(paths)} UNION ALL branches ({', '.join(relations)})"
    parts = [*(["branch"] if schema.branches > 1 else []), *schema.key]
    identity = f"identified by {' and '.join(parts)}" if schema.key else f"a multiset, because {why_not}"
    return f"Row-wise over {over}: a changed row is computed from itself alone; rows are {identity}."


def _fingerprint(
    text: StepText, branches: Sequence[BranchPlan], schema: TableSchema, input_views: Mapping[str, str]
) -> str:
    """Changes when rows made before may differ from rows made now; blanks and comments do not count."""
    meaning = {
        "tokens": [text.sql[token.start : token.end + 1] for token in text.tokens()],
        "inputs": {branch.relation: input_views.get(branch.relation, "") for branch in branches},
        # SELECT * means other columns when the table has others.
        "columns": [[column.name, column.declared] for column in schema.columns],
        "key": list(schema.key),
        "branches": schema.branches,
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:32]
