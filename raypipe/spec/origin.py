"""Where a document came from: its folder, and the place of every key and value in its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raypipe.spec.problems import DocumentPath, Location


@dataclass(frozen=True, kw_only=True)
class TextBlock:
    """Where the characters of a text value stand, so that line 2 of a step's SQL is found in the file.

    Attributes:
        line: File line of the text's first line.
        indent: Characters before each of its lines (before its first, if it has only one).
        aligned: Its lines are lines of the file (a ``|`` block, or one line); otherwise only its beginning is known.
    """

    line: int
    indent: int
    aligned: bool


@dataclass(frozen=True)
class Origin:
    """Where a document came from. All origins are equal: this is no part of what a document says.

    Attributes:
        folder: That relative paths start from.
        file: As the user named it; empty for a pipeline built in Python.
        keys: Place of each mapping key.
        values: Place of each value.
        blocks: Of each text value.
    """

    folder: Path = field(default_factory=Path.cwd, compare=False)
    file: str = field(default="", compare=False)
    keys: Mapping[DocumentPath, Location] = field(default_factory=dict, compare=False, repr=False)
    values: Mapping[DocumentPath, Location] = field(default_factory=dict, compare=False, repr=False)
    blocks: Mapping[DocumentPath, TextBlock] = field(default_factory=dict, compare=False, repr=False)

    def key(self, path: DocumentPath) -> Location | None:
        """Place of a key; of the nearest thing around it if the file does not have it."""
        while path and path not in self.keys:
            if path in self.values:
                return self.values[path]
            path = path[:-1]
        return self.keys.get(path) or self._top()

    def value(self, path: DocumentPath) -> Location | None:
        """Place of a value; of the nearest thing around it if the file does not have it."""
        return self.values.get(path) if path and path in self.values else self.key(path)

    def text(self, path: DocumentPath, line: int, column: int = 1) -> Location | None:
        """File place of a line and column (from 1) inside a text value."""
        block = self.blocks.get(path)
        if block is None or not block.aligned:
            return self.value(path)
        return Location(file=self.file, line=block.line + line - 1, column=block.indent + column)

    def _top(self) -> Location | None:
        return Location(file=self.file, line=1, column=1) if self.file else None
