"""Work on the state: traces as a version has them, with what this work adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.codec import hashes, last_rows, one_batch, taken
from raypipe.contracts import WEIGHT_FIELD, TraceSchema
from raypipe.errors import InvariantBroken
from raypipe.state.equality import last
from raypipe.state.limits import Limits
from raypipe.state.order import fit, merge, negated, pieces, plain_schema, replaced, sort
from raypipe.state.places import LOWER_HALF, place_of
from raypipe.state.reading import merged, probe, rows_of
from raypipe.state.run import Held, Run

# Probing takes about as long for a key, run by run, as reading so many bytes in a row does.
_PROBE_BYTES = 2048


class Ground(Protocol):
    """What work stands on: the store."""

    limits: Limits

    def spill(self, schema: TraceSchema, runs: Sequence[Run]) -> Run:
        """Writes rows that do not fit into memory."""
        ...

    def spill_later(self, schema: TraceSchema, rows: pa.Table) -> Future[list[Run]]:
        """Sorts rows and writes them, while the caller does something else; room for them is made at once."""
        ...

    def release(self, name: str) -> None:
        """Says that a run is not needed any more unless some version names it."""
        ...

    def finish(self, work: OpenWork, version: int, note: str) -> None:
        """Commits."""
        ...

    def drop(self, work: OpenWork) -> None:
        """Throws away."""
        ...


class OpenTrace:
    """A trace as one work sees it; not for several threads at a time."""

    def __init__(self, schema: TraceSchema, stored: Sequence[Run], ground: Ground) -> None:
        self.schema = schema
        self.stored = tuple(stored)
        self.cleared = False
        self.spilled: list[Run] = []
        self.added: list[Run] = []
        self._spilling: list[Future[list[Run]]] = []
        self._ground = ground
        self._input = pa.schema([*plain_schema(schema.columns), WEIGHT_FIELD])

    @property
    def runs(self) -> list[Run]:
        """All that it is made of."""
        self.settle()
        return [*self.stored, *self.spilled, *self.added]

    @property
    def count(self) -> int:
        """See ``Trace``."""
        return sum(run.rows for run in self.runs)

    def probe(self, keys: pa.Table) -> pa.Table:
        """See ``Trace``."""
        return self._told(probe(self.runs, keys, self.schema))

    def should_scan(self, keys: int) -> bool:
        """See ``Trace``."""
        runs = self.runs
        return keys * len(runs) * _PROBE_BYTES > sum(run.bytes for run in runs)

    def rows(self) -> Iterator[pa.RecordBatch]:
        """See ``Trace``."""
        for rows in merged(self.runs, self.schema, self._ground.limits):
            yield rows.select(self._input.names)

    def clear(self) -> None:
        """See ``Trace``."""
        self.settle()
        self.cleared, self.stored = True, ()
        for run in self.spilled:
            self._ground.release(run.name)
        self.spilled, self.added = [], []

    def append(self, rows: pa.Table) -> None:
        """See ``Trace``."""
        fitted = fit(rows, self._input, self.schema.name)
        if fitted.column(len(self._input) - 1).null_count:
            raise InvariantBroken(f"Rows for the state of {self.schema.name} have no weight.", trace=self.schema.name)
        limits = self._ground.limits
        if fitted.nbytes > limits.spill_bytes:
            count = -(-fitted.nbytes // limits.spill_bytes)
            length = -(-fitted.num_rows // count)
            for begin in range(0, fitted.num_rows, length):
                self._spilling.append(self._ground.spill_later(self.schema, fitted.slice(begin, length)))
            return
        for piece in pieces(fitted, limits.spill_bytes):
            self._hold(sort(piece, self.schema))

    def replace(self, rows: pa.Table, stays: npt.NDArray[np.bool_]) -> pa.Table:
        """See ``Trace``."""
        names = list(self.schema.key)
        come = one_batch(fit(rows, pa.schema(list(self._input)[:-1]), self.schema.name))
        by_key, by_row = hashes(come, names, come.schema.names)
        lasts = last_rows(come.select(names), by_key)
        if lasts is None:
            lasts = last(come, names)
        at = place_of(by_key, by_row)
        order = lasts[np.argsort(at[lasts], kind="stable")]  # what is sorted already, as it mostly is, is found to be
        keys = taken(come.select(names), order)
        before = [negated(part) for part in rows_of(self.runs, keys, at[order] & ~LOWER_HALF, names)]
        changes = replaced(come, at, order[stays[order]], before, self.schema)
        told = self._told(changes)
        if changes.nbytes > self._ground.limits.spill_bytes:
            self.append(told)
        else:
            self._hold(changes)
        return told

    def _hold(self, ordered: pa.RecordBatch) -> None:
        """Adds stored rows in order."""
        if not ordered.num_rows:
            return
        limits = self._ground.limits
        # As in a binary counter: few runs to probe, and a row is merged about log2(appends) times.
        while self.added and self.added[-1].rows <= ordered.num_rows:
            ordered = merge([*(block.read() for block in self.added.pop().blocks), ordered], self.schema)
        if ordered.num_rows:
            self.added.append(Run(name="", blocks=[Held(ordered)]))
        if sum(run.bytes for run in self.added) >= limits.spill_bytes:
            self.spilled.append(self._ground.spill(self.schema, self.added))
            self.added = []

    def settle(self) -> None:
        """Waits until all large appends are written.

        Raises:
            Unavailable: the disk does not take it.
        """
        if not self._spilling:
            return
        spilling, self._spilling = self._spilling, []
        wait(spilling)
        failures = [error for each in spilling if (error := each.exception()) is not None]
        self.spilled += [run for each in spilling if each.exception() is None for run in each.result()]
        if failures:
            raise failures[0]

    def cancel(self) -> None:
        """Drops large appends that nobody has begun to write, and waits for the others."""
        self._spilling = [each for each in self._spilling if not each.cancel()]
        with suppress(Exception):  # what is thrown away may as well have failed
            self.settle()

    def _told(self, rows: pa.RecordBatch) -> pa.Table:
        return pa.Table.from_batches([rows.select(self._input.names)])


class OpenWork:
    """All traces; ends with ``commit`` or ``abort``, the latter by itself where it is used as a context."""

    def __init__(self, ground: Ground, after: int | None, traces: Mapping[str, OpenTrace]) -> None:
        self.after = after
        self.traces = traces
        self.ended = False
        self._ground = ground
        self._began = {name: trace.stored for name, trace in traces.items()}

    def trace(self, name: str) -> OpenTrace:
        """See ``Work``."""
        return self.traces[name]

    def standing(self, name: str) -> OpenTrace:
        """See ``Work``."""
        return OpenTrace(self.traces[name].schema, self._began[name], self._ground)

    def commit(self, version: int, *, note: str = "") -> None:
        """See ``Work``."""
        if self.ended:
            raise InvariantBroken("Work on the state was ended twice.", remedy="Please report this defect.")
        if self.after is not None and version <= self.after:
            raise InvariantBroken(
                f"State version {version} cannot follow version {self.after}.", remedy="Please report this defect."
            )
        for trace in self.traces.values():
            trace.settle()
        self._ground.finish(self, version, note)

    def abort(self) -> None:
        """See ``Work``."""
        if not self.ended:
            for trace in self.traces.values():
                trace.cancel()
            self._ground.drop(self)

    def __enter__(self) -> OpenWork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
