"""Checks a condition that a person wrote for a table, on the server and without reading a row."""

from __future__ import annotations

from contextlib import suppress

from raypipe.errors import Kind, RaypipeError, SchemaMismatch, Unavailable
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.schema import Table

# Planning takes milliseconds; a condition that calls functions on constants may take as long as these do.
CHECK_TIMEOUT = "5s"


def as_sql(condition: str) -> str:
    """A checked condition as a part of a larger one; a comment at its end ends with its line."""
    return f"(\n{condition}\n)"


def require_condition(session: Session, instance: str, table: Table, condition: str) -> None:
    """Has the server plan a query with the condition, in a transaction that may not write.

    The protocol with parameters takes a single statement. The condition must mean something inside parentheses and
    inside brackets alike, so it cannot close what it stands in and go on with something else.

    Raises:
        RaypipeError: of kind PIPELINE_FILE: the server does not take it for a condition of the table.
        Unavailable: the server is away.
    """
    relation = f"{instance}.{table.name}"
    session.run("BEGIN TRANSACTION READ ONLY")
    try:
        session.run(f"SET LOCAL statement_timeout = '{CHECK_TIMEOUT}'")
        for query in (
            f"SELECT 1 FROM {table.sql} WHERE {as_sql(condition)}",
            f"SELECT (ARRAY[\n{condition}\n])[1] FROM {table.sql}",
        ):
            session.with_texts(f"EXPLAIN {query}", [])
    except SchemaMismatch as error:
        raise _refused(relation, _words_of(error)) from error
    except Unavailable as error:
        reasons = {"57014": f"planning it takes longer than {CHECK_TIMEOUT}", "08P01": "it has a parameter"}
        why = reasons.get(str(error.fields.get("sqlstate")))
        if why is None:
            raise
        raise _refused(relation, why) from error
    finally:
        with suppress(RaypipeError):
            session.run("ROLLBACK")


def _words_of(error: RaypipeError) -> str:
    """What the server said; it has seen no row, so whatever it quotes is from the condition."""
    said = getattr(error.__cause__, "args", ())
    return str(said[0].get("M", "")) if said and isinstance(said[0], dict) else error.message


def _refused(relation: str, why: str) -> RaypipeError:
    return RaypipeError(
        f"This is no condition on rows of {relation}: {why}.",
        kind=Kind.PIPELINE_FILE,
        remedy="Write what could stand behind WHERE in the database's own SQL, such as \"state = 'paid'\".",
        table=relation,
    )
