"""Says why a step's SQL failed on a batch, without a word of what the rows held."""

from __future__ import annotations

import duckdb

from raypipe.errors import LimitExceeded, RaypipeError, SchemaMismatch, SqlError
from raypipe.model import TableSchema
from raypipe.plan.model import BranchPlan
from raypipe.plan.rewrite import ROW
from raypipe.plan.sandbox import Sandbox

# DuckDB's own words quote the value.
REASONS: dict[type[Exception], str] = {
    duckdb.ConversionException: "a value cannot be cast to the type asked for",
    duckdb.OutOfRangeException: "a result is too large for its type",
    duckdb.InvalidInputException: "a function does not take a value it was given",
}


def failure(
    sandbox: Sandbox, step: TableSchema, branch: BranchPlan, version: TableSchema, error: duckdb.Error
) -> RaypipeError:
    """The error to raise instead of DuckDB's.

    Args:
        sandbox: Still holds the batch that failed.
        step: Schema of the step's relation.
        branch: That failed.
        version: Schema of its input, as the batch has it.
        error: From DuckDB.
    """
    if isinstance(error, duckdb.BinderException | duckdb.CatalogException):
        return SchemaMismatch(
            f"Step {step.table} has SQL that does not fit the types of {version.table} since schema version "
            f"{version.version}.",
            remedy="Add casts to the step's SQL.",
            step=str(step.table),
            table=str(version.table),
            version=version.version,
        )
    column = _failing_column(sandbox, step, branch)
    reason = REASONS.get(type(error), "DuckDB refused a value")
    return SqlError(
        f"Step {step.table} failed on a row of {branch.relation}, in {f'column {column}' if column else 'its WHERE'}: "
        f"{reason}.",
        remedy="Let the expression cope with every value (TRY_CAST, CASE); over the whole table the SQL fails as well.",
        step=str(step.table),
        table=branch.relation,
        column=column,
    )


def _failing_column(sandbox: Sandbox, step: TableSchema, branch: BranchPlan) -> str | None:
    """The first column that fails when computed alone; None if the rows cannot even be counted."""
    inner = [f"c{index}" for index in range(len(step.columns))]
    view = f"({branch.sql}) AS branch({', '.join([ROW, *inner])})"
    if _fails(sandbox, f"SELECT max({ROW}) FROM {view}"):
        return None
    # DuckDB computes only what is asked for: a hash asks for the whole value, count() may ask for none.
    return next(
        (
            name
            for c, name in zip(inner, step.names, strict=True)
            if _fails(sandbox, f"SELECT max(hash({c})) FROM {view}")
        ),
        None,
    )


def _fails(sandbox: Sandbox, sql: str) -> bool:
    try:
        sandbox.query(sql)
    except (duckdb.Error, LimitExceeded):
        return True
    return False
