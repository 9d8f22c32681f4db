"""The locked-down DuckDB that binds and runs users' SQL: no file, network, extension or configuration access."""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from raypipe.errors import LimitExceeded

# Plans that a sandbox keeps: more than a pipeline has operators; each takes some ten kilobytes.
_MOST_PREPARED = 1024
_FEW_ROWS = 20_000
# How DuckDB's own relations run a statement, to Arrow without a copy. In public ways a statement is described before it
# is run, or its result is run once more to become Arrow: 0.55 and 0.25 ms, as much as a small statement takes in all.
_SUBMIT = getattr(getattr(duckdb, "_seam", None), "submit", None)
warnings.filterwarnings("ignore", "Arrow output on a DB-API result makes an extra copy", UserWarning)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What one statement may use.

    Attributes:
        memory_bytes: DuckDB's own limit; nothing is spilled to disk.
        statement_s: Seconds before a statement is interrupted. A batch is a few megabytes and takes milliseconds.
    """

    memory_bytes: int = 1 << 30
    statement_s: float = 60.0


class Sandbox:
    """One DuckDB database in memory that cannot reach anything outside itself. Used by one thread.

    One thread inside as well: a batch is small, cores are shared with other actors, and rows then come out in the
    order in which they went in.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._connection = duckdb.connect(":memory:")
        for name, value in self._settings():
            self._connection.execute(f"SET {name} = {value}")
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._deadline: float | None = None
        self._prepared: dict[str, _Prepared] = {}
        self._numbers = 0
        self._closed = threading.Event()
        self._watchdog: threading.Thread | None = None

    def _settings(self) -> Sequence[tuple[str, str]]:
        return (
            ("memory_limit", f"'{self._bounds.memory_bytes}B'"),
            ("threads", "1"),
            ("preserve_insertion_order", "true"),
            ("temp_directory", "''"),
            ("TimeZone", "'UTC'"),  # casts to and from TIMESTAMPTZ must not depend on the machine
            ("errors_as_json", "true"),  # carries the place of the error in the SQL
            ("enable_progress_bar", "false"),
            ("python_enable_replacements", "false"),  # else a table name may mean a variable of ours
            ("autoload_known_extensions", "false"),
            ("autoinstall_known_extensions", "false"),
            ("allow_community_extensions", "false"),
            ("allow_persistent_secrets", "false"),
            ("enable_external_access", "false"),
            ("lock_configuration", "true"),  # last: nothing can be set from here on
        )

    def register(self, name: str, data: pa.Table) -> None:
        """Makes Arrow data readable under a plain name, in place of what had it before; copies nothing."""
        if name in self._held:
            self._held[name].data = data
        else:
            self._held[name] = _Held(data)
            self._connection.register(name, self._held[name])

    def query(self, sql: str) -> pa.Table:
        """Runs a SELECT.

        Raises:
            LimitExceeded: it took too long or too much memory.
            duckdb.Error: anything else; its message may hold values of rows.
        """
        with self._bounded():
            return self._connection.sql(sql).to_arrow_table()

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        self._begin()
        try:
            yield
        except duckdb.InterruptException as error:
            raise LimitExceeded(
                f"A statement was stopped after {self._bounds.statement_s:g} s.", seconds=self._bounds.statement_s
            ) from error
        except duckdb.OutOfMemoryException as error:
            raise LimitExceeded(
                f"A statement needs more than {self._bounds.memory_bytes >> 20} MiB of memory.",
                bytes=self._bounds.memory_bytes,
            ) from error
        finally:
            self._end()

    def run(self, sql: str, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Runs a SELECT over given tables, as ``query`` does; one that comes again and again is planned once.

        For some hundred rows planning is most of what a statement costs. A plan holds for tables of these types only.

        Args:
            sql: Text.
            inputs: Every table that it reads, by name.
        """
        for name, rows in inputs.items():
            self.register(name, rows)
        shapes = [rows.schema for rows in inputs.values()]
        known = self._prepared.pop(sql, None)
        if known is not None and known.fits(shapes):
            self._prepared[sql] = known  # last again: the one that was not used for longest goes first
            return self._executed(known.name, inputs)
        if known is None and len(self._prepared) >= _MOST_PREPARED:
            known = self._prepared.pop(next(iter(self._prepared)))
        if known is not None:
            self._connection.execute(f"DEALLOCATE {known.name}")
        self._numbers += 1
        made = _Prepared(f"_raypipe_prepared_{self._numbers}", shapes)
        self._begin()
        try:
            self._connection.execute(f"PREPARE {made.name} AS {sql}")
        finally:
            self._end()
        self._prepared[sql] = made
        return self._executed(made.name, inputs)

    def _executed(self, name: str, inputs: Mapping[str, pa.Table]) -> pa.Table:
        sql = f"EXECUTE {name}"
        if _SUBMIT is not None:
            with self._bounded():
                return _SUBMIT(self._connection, sql, None, "arrow").arrow_table()
        if sum(rows.num_rows for rows in inputs.values()) > _FEW_ROWS:
            return self.query(sql)
        # Copies what comes out, which for few rows takes less than describing a statement before it is run.
        with self._bounded():
            return self._connection.execute(sql).to_arrow_table()

    def ask(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Runs a statement about SQL or the catalogue, never about data.

        Raises:
            duckdb.Error: it failed; the message is JSON with ``position`` in bytes.
        """
        return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Ends the database and its watchdog; idempotent."""
        self._closed.set()
        self._connection.close()

    def _begin(self) -> None:
        if self._watchdog is None:
            pause_s = self._bounds.statement_s / 4
            self._watchdog = threading.Thread(
                target=_watch, args=(weakref.ref(self), self._closed, pause_s), name="sql-watchdog", daemon=True
            )
            self._watchdog.start()
        with self._lock:
            self._deadline = time.monotonic() + self._bounds.statement_s

    def _end(self) -> None:
        with self._lock:
            self._deadline = None

    def _interrupt_if_late(self) -> None:
        # Under the lock: an interrupt must never hit the statement after the late one.
        with self._lock:
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._connection.interrupt()


@dataclass(frozen=True)
class _Prepared:
    """A statement that is planned."""

    name: str
    shapes: list[pa.Schema]

    def fits(self, shapes: Sequence[pa.Schema]) -> bool:
        """Whether tables of these types are those that it was planned for."""
        return all(mine.equals(other) for mine, other in zip(self.shapes, shapes, strict=True))


class _Held:
    """What a name stands for at the moment: DuckDB asks for the stream anew at each statement.

    Registering every batch would take a third of the time that a small one takes in all.
    """

    def __init__(self, data: pa.Table) -> None:
        self.data = data

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.data.__arrow_c_stream__(requested_schema)


def _watch(sandbox: weakref.ref[Sandbox], closed: threading.Event, pause_s: float) -> None:
    # Looks now and then instead of arming a timer for each statement, which would cost more than a small statement.
    while not closed.wait(pause_s):
        watched = sandbox()
        if watched is None:
            return
        watched._interrupt_if_late()
        del watched
