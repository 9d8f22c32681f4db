"""DuckDB's own parse tree of a SELECT: read from text, walked, and printed as text again.

What runs is always printed from this tree and never from another parser's, so that no difference between two readings
of SQL can change data. Nodes are the plain dictionaries of ``json_serialize_sql``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from raypipe.plan.sandbox import Sandbox
from raypipe.plan.text import StepText

Node = dict[str, Any]

# DuckDB marks "no place" with the highest 64-bit number.
_NOWHERE = (1 << 64) - 1


def parse(sandbox: Sandbox, text: StepText) -> Node:
    """The query node of the one SELECT that a text holds.

    Raises:
        SqlError: a syntax error, more than one statement, or a statement that is no SELECT.
    """
    answer = json.loads(sandbox.ask("SELECT json_serialize_sql(?)", [text.sql])[0][0])
    if answer["error"] and answer["error_type"] == "parser":
        place = answer.get("position")
        reason = answer["error_message"].split("\n")[0].rstrip(".!")
        raise text.problem(
            f"{{step}} has a syntax error{{where}}: {reason}.", text.offset(int(place)) if place is not None else None
        )
    tokens = text.tokens()
    if answer["error"]:
        verb = tokens[0].text.upper()
        if verb == "PIVOT":
            raise text.problem(
                "{step} uses PIVOT{where} without a list of values, so its columns would change with the rows; write "
                "PIVOT … ON column IN (…), with the values listed.",
                tokens[0].start,
            )
        raise text.problem(
            f"{{step}} is the statement {verb}{{where}}; a step is one SELECT and nothing else.", tokens[0].start
        )
    statements = answer["statements"]
    if not statements:
        raise text.problem("{step} has no SQL; a step is one SELECT.", None)
    if len(statements) > 1:
        first_end = next(token.end for token in tokens if token.text == ";")
        second = next(token.start for token in tokens if token.start > first_end and token.text != ";")
        raise text.problem(
            "{step} holds more than one statement{where}; a step is one SELECT and nothing else.", second
        )
    node: Node = statements[0]["node"]
    return node


def text_of(sandbox: Sandbox, node: Node) -> str:
    """A query node as SQL."""
    document = {"error": False, "statements": [{"node": node, "named_param_map": []}]}
    return str(sandbox.ask("SELECT json_deserialize_sql(?)", [json.dumps(document)])[0][0])


def walk(node: object) -> Iterator[Node]:
    """Every dictionary in a tree, from the top, in the order of the text as far as the tree keeps it."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def byte_offset(node: Node) -> int | None:
    """Where a node stands in the SQL, in bytes; None if DuckDB does not say."""
    place = node.get("query_location", _NOWHERE)
    return None if place == _NOWHERE else int(place)


def column_reference(*parts: str, alias: str = "") -> Node:
    """The node of a column."""
    return {
        "class": "COLUMN_REF",
        "type": "COLUMN_REF",
        "alias": alias,
        "query_location": _NOWHERE,
        "query_location_length": 0,
        "column_names": list(parts),
    }
