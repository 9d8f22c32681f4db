"""What raypipe reads in the comparison: the files themselves, or its own log, filled from them as a reader fills it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from benchmarks.flink.decode import Changes, nothing
from benchmarks.flink.inputs import TABLES, Inputs
from raypipe.contracts import Log
from raypipe.local.inline import Executor, InlineExecutor
from raypipe.log import open_log
from raypipe.model import ChangeBatch, Cut
from raypipe.steps import Flow

PIPELINE = "bench"
# Changes of a transaction of the log: a cut is on the end of one.
TRANSACTION_CHANGES = 5_000
_MOST_CUTS = 1_000_000


class Feed(Protocol):
    """Where changes come from.

    Attributes:
        identity: Of the log.
        lines: Changes there are.
    """

    identity: str
    lines: int

    def next(self, after: Cut | None, lines: int) -> Cut | None:
        """The cut about so many changes later; None after the last. The first one empties the tables."""
        ...

    def executor(self, flow: Flow) -> Executor:
        """What makes the changes between two cuts."""
        ...

    def taken(self, cut: Cut) -> int:
        """Changes up to a cut."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


class FileFeed:
    """The files, decoded in the same process; see ``Feed``.

    Args:
        inputs: The files.
        tables: To read.
    """

    identity = "files"

    def __init__(self, inputs: Inputs, tables: tuple[str, ...]) -> None:
        self._tables = tables
        self._changes = Changes(inputs, tables)
        self.lines = self._changes.lines

    def next(self, after: Cut | None, lines: int) -> Cut | None:
        """See ``Feed``."""
        if after is None:
            return Cut(number=1, log=self.identity, offsets={}, positions={}, at=time.time())
        if after.rows >= self.lines:
            return None
        return replace(after, number=after.number + 1, rows=min(self.lines, after.rows + lines), at=time.time())

    def executor(self, flow: Flow) -> Executor:
        """See ``Feed``."""
        return _FileExecutor(self._changes, self._tables, flow)

    def taken(self, cut: Cut) -> int:
        """See ``Feed``."""
        return cut.rows

    def close(self) -> None:
        """See ``Feed``."""
        self._changes.close()


class _FileExecutor:
    """See ``Executor``."""

    name = "files"

    def __init__(self, changes: Changes, tables: tuple[str, ...], flow: Flow) -> None:
        self._changes = changes
        self._tables = tables
        self._flow = flow
        self.rows = 0
        self.seconds: Mapping[str, float] = {}

    def outputs(self, after: Cut | None, upto: Cut) -> Iterator[tuple[str, ChangeBatch] | None]:
        """See ``Executor``."""
        if after is None:
            for table in self._tables:
                for batch in nothing(TABLES[table]):
                    yield from self._flow.apply(str(batch.schema.table), batch)
            return
        for schema, batch in self._changes.take(upto.rows - after.rows, upto.number):
            self.rows += batch.num_rows
            yield from self._flow.apply(str(schema.table), batch)


class LogFeed:
    """A log that `fill` filled; see ``Feed``.

    Args:
        url: Of the log.
        inputs: Whose changes it has.
        tables: Of them.
    """

    def __init__(self, url: str, inputs: Inputs, tables: tuple[str, ...]) -> None:
        self._log: Log = open_log(url, pipeline=PIPELINE)
        self.identity = self._log.identity
        self.lines = sum(inputs.lines[table] for table in tables)
        self._relations = {TABLES[table].table.topic(PIPELINE): str(TABLES[table].table) for table in tables}
        self._cuts = self._log.cuts(limit=_MOST_CUTS)
        self._places = {cut.number: place for place, cut in enumerate(self._cuts)}

    def next(self, after: Cut | None, lines: int) -> Cut | None:
        """See ``Feed``."""
        place = 0 if after is None else self._places[after.number] + max(1, round(lines / TRANSACTION_CHANGES))
        if after is not None and after.number == self._cuts[-1].number:
            return None
        return self._cuts[min(place, len(self._cuts) - 1)]

    def executor(self, flow: Flow) -> Executor:
        """See ``Feed``."""
        return InlineExecutor(self._log, flow, self._relations)

    def taken(self, cut: Cut) -> int:
        """See ``Feed``."""
        return min(self.lines, self._places[cut.number] * TRANSACTION_CHANGES)

    def close(self) -> None:
        """See ``Feed``."""
        self._log.close()


def fill(path: Path, inputs: Inputs, tables: tuple[str, ...]) -> str:
    """Writes the files' changes to a SQLite log, in transactions as a reader's; returns its URL."""
    url = f"sqlite:///{path}"
    log = open_log(url, pipeline=PIPELINE)
    instance = TABLES[tables[0]].table.instance
    claim = log.claim(PIPELINE)
    with closing(log), closing(Changes(inputs, tables)) as changes:
        writing = log.begin(instance, claim)
        for table in tables:
            for batch in nothing(TABLES[table]):
                writing.append(TABLES[table].table.topic(PIPELINE), batch)
        writing.commit("0", boundary=True)
        while changes.taken < changes.lines:
            writing = log.begin(instance, claim)
            for schema, batch in changes.take(TRANSACTION_CHANGES, changes.taken):
                writing.append(schema.table.topic(PIPELINE), batch)
            writing.commit(str(changes.taken), boundary=True)
    return url
