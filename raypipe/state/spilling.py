"""Writes large appends in threads of its own: whoever appends goes on computing meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from raypipe.contracts import TraceSchema
from raypipe.state.order import pieces, sort
from raypipe.state.run import Run

# One sorts while another one waits for the disk; each holds about four times what it writes at a time.
_THREADS = 2


class Spilling:
    """The threads live from the first large append until ``close``.

    Args:
        write: Writes sorted rows as a run, durable but in no version; under a name, or a fresh one if that is empty.
        release: Says of a run's name that nobody is going to use it.
    """

    def __init__(
        self, write: Callable[[TraceSchema, pa.RecordBatch, str], Run], release: Callable[[str], None]
    ) -> None:
        self._write = write
        self._release = release
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def later(self, schema: TraceSchema, rows: pa.Table, name: str) -> Future[list[Run]]:
        """Sorts and writes rows; the result is what they became, or what went wrong.

        Args:
            schema: Of their trace.
            rows: As they are stored, but for their order and place; as many as fit into memory several times.
            name: Reserved for the run.
        """
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="raypipe-state-spill")
            future = self._pool.submit(self._written, schema, rows, name)
        future.add_done_callback(lambda done: self._release(name) if done.cancelled() else None)
        return future

    def close(self) -> None:
        """Drops what is not begun and waits for the rest; idempotent."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def _written(self, schema: TraceSchema, rows: pa.Table, name: str) -> list[Run]:
        runs: list[Run] = []
        try:
            for piece in pieces(rows, max(1, rows.nbytes)):
                ordered = sort(piece, schema)
                if ordered.num_rows:
                    runs.append(self._write(schema, ordered, "" if runs else name))
        except BaseException:
            for each in (name, *(run.name for run in runs)):
                self._release(each)
            raise
        if not runs:
            self._release(name)
        return runs
