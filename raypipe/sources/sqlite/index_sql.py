"""Reads the expressions of a unique index out of its CREATE INDEX text: no PRAGMA tells them."""

from __future__ import annotations

import re
from dataclasses import dataclass

# One token: a string, a quoted name, a comment, a number, a word, or any other single character.
_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] | --[^\n]* | /\*.*?\*/ | [\w$]+ | \S""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class IndexText:
    """What a CREATE INDEX statement says.

    Attributes:
        terms: SQL of each indexed term, without ASC or DESC.
        where: SQL of the condition of a partial index, empty if it is not partial.
    """

    terms: tuple[str, ...]
    where: str


def parse_index(sql: str) -> IndexText:
    """Splits the text of a CREATE INDEX statement that SQLite has accepted."""
    tokens = [match for match in _TOKEN.finditer(sql) if not match[0].startswith(("--", "/*"))]
    terms: list[str] = []
    depth = begin = 0
    for place, token in enumerate(tokens):
        text = token[0]
        if text == "(":
            depth += 1
            if depth == 1:
                begin = token.end()
        elif (text == "," and depth == 1) or text == ")":
            depth -= text == ")"
            if depth == 0 or text == ",":
                terms.append(_without_order(sql[begin : token.start()]))
                begin = token.end()
            if depth == 0:
                rest = tokens[place + 1 :]
                where = sql[rest[0].end() :] if rest and rest[0][0].upper() == "WHERE" else ""
                return IndexText(terms=tuple(terms), where=where.strip().rstrip(";"))
    raise ValueError("not a CREATE INDEX statement")


def _without_order(term: str) -> str:
    return re.sub(r"\s+(?:ASC|DESC)\s*$", "", term.strip(), flags=re.IGNORECASE)
