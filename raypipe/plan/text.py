"""A step's SQL as the user wrote it, and sentences about places in it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import duckdb
from sqlglot import Token, TokenType
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import TokenError

from raypipe.errors import RaypipeError, SqlError

# The sentence for everything that needs more than a row.
STATEFUL = (
    "{{step}} uses {what}{{where}}, which needs other rows than the one that changed, where raypipe goes row by row; "
    "write it in a step of its own."
)


@dataclass(frozen=True)
class StepText:
    """The SQL of a step.

    Attributes:
        step: Its name.
        sql: As written.
        location: Where the step stands, in words for a message (``pipeline.yaml:12``); may be empty.
    """

    step: str
    sql: str
    location: str = ""

    def problem(self, sentence: str, offset: int | None, error: type[RaypipeError] = SqlError) -> RaypipeError:
        """The error that says what is wrong at a place.

        Args:
            sentence: What is wrong; ``{step}`` and ``{where}`` in it are filled in.
            offset: In characters from the start of the SQL; None when the SQL as a whole is meant.
            error: Class to make.

        Returns:
            An error with the fields ``step``, ``line`` and ``column`` (both from 1) and ``excerpt`` (the line of SQL
            with a caret below); without a place, line and column are None and the excerpt is empty.
        """
        before = "" if offset is None else self.sql[:offset]
        line = None if offset is None else before.count("\n") + 1
        column = None if offset is None else offset - (before.rfind("\n") + 1) + 1
        where = "" if offset is None else f" (line {line}, column {column})"
        said = sentence.replace("{step}", f"Step {self.step}").replace("{where}", where)
        excerpt = self._excerpt(line, column) if line and column else ""
        return error(
            (f"{self.location}: " if self.location else "") + said + (f"\n{excerpt}" if excerpt else ""),
            step=self.step,
            line=line,
            column=column,
            excerpt=excerpt,
        )

    def from_duckdb(self, error: duckdb.Error, skipped_bytes: int) -> RaypipeError:
        """What DuckDB says of the SQL when it binds it over empty tables, so that no value can be in it.

        Args:
            error: Its message is JSON.
            skipped_bytes: How much stood before the SQL in the statement.
        """
        details = _details(error)
        reason = details.get("exception_message") or details.get("error_message") or type(error).__name__
        reason = reason.split("\n")[0].rstrip(".!")
        hint = _candidates(details.get("candidates", ""))
        position = details.get("position")
        offset = self.offset(max(int(position) - skipped_bytes, 0)) if position is not None else None
        return self.problem(f"{{step}} has SQL that DuckDB does not accept{{where}}: {reason}.{hint}", offset)

    def offset(self, byte_offset: int) -> int:
        """DuckDB counts bytes of UTF-8, people count characters."""
        return len(self.sql.encode()[:byte_offset].decode(errors="ignore"))

    def tokens(self) -> list[Token]:
        """What the SQL is made of, without blanks and comments.

        Raises:
            SqlError: a text or a name in it has no end.
        """
        try:
            return DuckDB().tokenize(self.sql)
        except TokenError as error:
            raise self.problem("{step} has SQL in which a text, a name or a comment does not end.", None) from error

    def bare(self) -> str:
        """The SQL without the semicolon after it, so that it can stand in parentheses."""
        tokens = self.tokens()
        while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
            tokens.pop()
        return self.sql[: tokens[-1].end + 1] if tokens else self.sql

    def _excerpt(self, line: int, column: int) -> str:
        text = self.sql.split("\n")[line - 1]
        # Tabs stay tabs below as well, so that the caret stands under its character.
        return f"{text}\n{''.join(c if c == chr(9) else ' ' for c in text[: column - 1])}^"


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`` Did you mean …?`` with the nearest valid choice, empty if none is near."""
    by_lower: dict[str, str] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), choice)
        by_lower.setdefault(choice.rpartition(".")[2].lower(), choice)
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.7)
    return f" Did you mean {by_lower[near[0]]}?" if near else ""


def _details(error: duckdb.Error) -> dict[str, str]:
    # errors_as_json: "Binder Error: {…}"
    _, _, text = str(error).partition("{")
    try:
        found = json.loads("{" + text)
    except ValueError:
        return {"exception_message": str(error)}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _candidates(text: str) -> str:
    # For a missing column they are names; for a function they are signatures by the dozen, which help nobody.
    if not text or "(" in text:
        return ""
    return f" Near it are: {', '.join(name.strip() for name in text.split(',')[:12])}."
