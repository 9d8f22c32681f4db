"""What commands print: aligned lines and JSON on stdout, problems and errors on stderr, never a password."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def say(line: str = "") -> None:
    """A line for people, on stdout, at once."""
    print(line, flush=True)


def say_json(value: Any) -> None:
    """A value for machines: one line of JSON on stdout."""
    print(json.dumps(value, default=str, ensure_ascii=False), flush=True)


def complain(line: str) -> None:
    """A line on stderr; passwords of URLs in it are replaced."""
    from raypipe.spec.url import redact

    print(redact(line), file=sys.stderr, flush=True)


def aligned(rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Rows as lines whose cells stand below each other."""
    cells = [tuple(row) for row in rows]
    if not cells:
        return []
    columns = max(len(row) for row in cells)
    widths = [max((len(row[i]) for row in cells if i < len(row)), default=0) for i in range(columns)]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))).rstrip()
        for row in cells
    ]


def counted(number: int, noun: str) -> str:
    """``1 sink``, ``2 sinks``, ``1,234 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
