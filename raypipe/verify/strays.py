"""Looks for rows that lie in another unit of a sink than the one their key belongs into, while all are being read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from raypipe.contracts import HoldsAShare, SinkContents
from raypipe.model import RESERVED_PREFIX

# Names, in an example, the unit that a row was found in; no column can be called that.
FOUND_IN = f"{RESERVED_PREFIX}found_in"


class Strays:
    """Counts the misplaced rows of one table over all units of its sink, and keeps examples.

    Args:
        table: In the sink.
        names: Columns of an example.
        most: Examples to keep.
    """

    def __init__(self, table: str, names: Sequence[str], most: int) -> None:
        self._table = table
        self._names = list(names)
        self._most = most
        self.count = 0
        self.examples: list[dict[str, Any]] = []

    def watch(self, unit: str, contents: SinkContents) -> Iterator[pa.RecordBatch]:
        """Rows of one unit, passed on as they are."""
        for rows in contents.rows(self._table):
            if isinstance(contents, HoldsAShare):
                strays = contents.strays(self._table, rows)
                self.count += strays.num_rows
                shown = strays.slice(0, self._most - len(self.examples)).select(self._names)
                self.examples += [row | {FOUND_IN: unit} for row in shown.to_pylist()]
            yield rows
