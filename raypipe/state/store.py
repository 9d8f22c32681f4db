"""A store of state: versions made of shared immutable runs, one writer, one file for each commit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from raypipe.contracts import TraceSchema, TraceTotals
from raypipe.errors import InvariantBroken, StateLost, Unavailable
from raypipe.state.commits import Commits
from raypipe.state.folder import Folder
from raypipe.state.holding import Holding, Version, new_lineage
from raypipe.state.limits import Limits
from raypipe.state.manifest import RunEntry
from raypipe.state.order import plain_schema
from raypipe.state.reading import merged
from raypipe.state.run import Run
from raypipe.state.spilling import Spilling
from raypipe.state.upkeep import Upkeep, foldable
from raypipe.state.work import OpenTrace, OpenWork

# Who claims a folder while others do so too tries again; each try that fails means that another one succeeded.
_CLAIMS = 16
_PLACE_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Rows in a finished file beside the store.

    Attributes:
        path: Of the file; it may hold others, too.
        entry: Where they are in it.
    """

    path: Path
    entry: RunEntry


# The versions that hold some rows, the name of their trace, and the rows as they are stored, in order.
Part: TypeAlias = tuple[Collection[int], str, Iterator[pa.RecordBatch] | Piece]


class Store:
    """See ``StateStore``; any thread may begin, commit and keep, and several works may be open at a time."""

    def __init__(
        self, folder: Folder, generation: int, identity: str, traces: Sequence[TraceSchema], limits: Limits
    ) -> None:
        self.limits = limits
        self.generation = generation
        self.identity = identity
        self._traces = {
            trace.name: TraceSchema(name=trace.name, columns=plain_schema(trace.columns), key=trace.key)
            for trace in traces
        }
        if len(self._traces) < len(traces):
            raise InvariantBroken("Two traces of the state have one name.", remedy="Please report this defect.")
        self._commits = Commits(folder, generation, identity, self._traces, limits)
        self._lock = self._commits.lock
        self._upkeep = Upkeep(self, limits)
        self._spilling = Spilling(lambda schema, rows, name: self._commits.write(schema, [rows], name), self.release)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        generation: int,
        identity: str,
        traces: Sequence[TraceSchema],
        limits: Limits | None = None,
    ) -> Store:
        """Takes a folder over; what an earlier writer left unfinished is removed.

        Args:
            folder: Of this store alone; made if it is not there.
            generation: Of the writer.
            identity: What the state is of. State of anything else is forgotten.
            traces: All that there are. One that is new is empty in the versions that are there, one that is no longer
                listed goes; if one has another shape than before, all versions are forgotten.
            limits: Bounds.

        Raises:
            Fenced: a later generation owns the folder.
            Unavailable: the folder cannot be read or written.
        """
        store = cls(Folder(folder), generation, identity, traces, limits or Limits())
        for _ in range(_CLAIMS):
            if store._commits.claim():
                return store
        raise Unavailable(
            f"Others keep taking over the state in {folder}.",
            remedy="Make sure that the pipeline runs once.",
            folder=str(folder),
        )

    @property
    def lineage(self) -> str:
        """See ``StateStore``."""
        return self._held.lineage

    @property
    def lost(self) -> StateLost | None:
        """What was damaged when the store was opened."""
        return self._held.lost

    def versions(self) -> tuple[int, ...]:
        """See ``StateStore``."""
        with self._lock:
            return tuple(sorted(self._held.versions))

    def note(self, version: int) -> str:
        """See ``StateStore``."""
        with self._lock:
            return self._version(version).note

    def begin(self, after: int | None) -> OpenWork:
        """See ``StateStore``."""
        with self._lock:
            self._commits.check_open()
            runs: Mapping[str, tuple[Run, ...]] = {} if after is None else self._version(after).runs
            work = OpenWork(
                self,
                after,
                {name: OpenTrace(schema, runs.get(name, ()), self) for name, schema in self._traces.items()},
            )
            self._commits.works.add(work)
            return work

    def keep(self, versions: Collection[int]) -> None:
        """See ``StateStore``."""
        with self._lock:
            held = self._held.versions
            newest = max(held, default=0)
            self._held.versions = {
                number: version for number, version in held.items() if number in versions or number == newest
            }

    def reset(self) -> None:
        """See ``StateStore``."""
        with self._lock:
            self._commits.check_open()
            self._commits.replace_all({}, new_lineage())

    def adopt(self, notes: Mapping[int, str], *, lineage: str, parts: Iterable[Part]) -> None:
        """Takes over versions that were written elsewhere, in place of all that is held.

        Args:
            notes: Kept with each version.
            lineage: See ``StateStore``.
            parts: Each a run or a part of one; read one after another.

        Raises:
            LimitExceeded: the state would outgrow its bound.
            RaypipeError: whatever the parts raise; the store holds what it held before.
        """
        versions = {number: Version(note=note, runs={}) for number, note in notes.items()}
        written: list[str] = []
        linked: dict[Path, tuple[str, pa.Buffer]] = {}
        try:
            for numbers, trace, rows in parts:
                with self._lock:
                    self._commits.check_room(0)
                if isinstance(rows, Piece):
                    if rows.path not in linked:
                        file = self._commits.link(rows.path)
                        linked[rows.path] = file, self._commits.folder.map(file)
                    file, content = linked[rows.path]
                    run = self._commits.linked(replace(rows.entry, file=file), content)
                else:
                    run = self._commits.write(self._traces[trace], rows)
                    written.append(run.name)
                if run.rows:
                    for number in numbers:
                        runs = versions[number].runs
                        runs[trace] = (*runs.get(trace, ()), run)
            with self._lock:
                self._commits.check_open()
                self._commits.replace_all(versions, lineage)
        finally:
            for name in (*written, *(file for file, _ in linked.values())):
                self.release(name)

    def holds(self, trace: str) -> bool:
        """Whether there is a trace of that name."""
        return trace in self._traces

    @property
    def bytes(self) -> int:
        """On disk."""
        with self._lock:
            return sum(self._held.files.values())

    @property
    def path(self) -> Path:
        """Of its folder."""
        return self._commits.folder.path

    @property
    def files(self) -> int:
        """How many there are in the folder."""
        with self._lock:
            return len(self._held.files)

    def totals(self) -> dict[str, TraceTotals]:
        """What each trace holds in the newest version."""
        with self._lock:
            newest = self._held.newest
        return {
            name: TraceTotals(
                traces=1,
                runs=len(newest.get(name, ())),
                rows=sum(run.rows for run in newest.get(name, ())),
                bytes=sum(run.bytes for run in newest.get(name, ())),
            )
            for name in self._traces
        }

    def rest_merges(self) -> None:
        """Makes no runs of others any more beside the work, until ``resume_merges``; so what is there stays."""
        self._upkeep.rest()

    def resume_merges(self) -> None:
        """Merges beside the work again."""
        self._upkeep.resume()

    def settle(self) -> None:
        """Waits until nothing is left to merge.

        Raises:
            RaypipeError: a merge failed.
        """
        self._upkeep.settle()

    def close(self) -> None:
        """See ``StateStore``."""
        self._commits.close()
        self._spilling.close()
        self._upkeep.close()
        with self._lock:
            self._commits.held = Holding()

    # What work needs of the store.

    def spill(self, schema: TraceSchema, runs: Sequence[Run]) -> Run:
        """See ``Ground``."""
        with self._lock:
            self._commits.check_room(sum(run.bytes for run in runs))
        return self.write_run(schema, runs)

    def spill_later(self, schema: TraceSchema, rows: pa.Table) -> Future[list[Run]]:
        """See ``Ground``."""
        with self._lock:
            expected = rows.nbytes + _PLACE_BYTES * rows.num_rows
            self._commits.check_room(expected)
            name = self._commits.reserve(expected)
        return self._spilling.later(schema, rows, name)

    def finish(self, work: OpenWork, version: int, note: str) -> None:
        """See ``Ground``."""
        self._upkeep.make_room()
        with self._lock:
            self._commits.check_open()
            if version not in self._held.versions:
                self._commit(work, version, note)
            self.drop(work)
        self._upkeep.look()

    def drop(self, work: OpenWork) -> None:
        """See ``Ground``."""
        with self._lock:
            work.ended = True
            self._commits.works.discard(work)
            for trace in work.traces.values():
                for run in trace.spilled:
                    self.release(run.name)

    # What upkeep needs of the store.

    def newest(self) -> Mapping[str, tuple[Run, ...]]:
        """The runs of the newest version, by trace."""
        with self._lock:
            return dict(self._held.newest)

    def schema(self, trace: str) -> TraceSchema:
        """Of a trace."""
        return self._traces[trace]

    def write_run(self, schema: TraceSchema, runs: Sequence[Run]) -> Run:
        """Merges runs into a new one in a file of its own, durable but in no version.

        Raises:
            StateLost: a run is damaged.
            Unavailable: the disk does not take it.
        """
        return self._commits.write(schema, merged(runs, schema, self.limits))

    def replace(self, trace: str, old: Sequence[Run], new: Run) -> None:
        """Lets a merged run stand for those it was made of, wherever all of them are."""
        gone = set(old)
        with self._lock:
            for version in self._held.versions.values():
                runs = version.runs.get(trace, ())
                if gone <= set(runs):
                    kept = tuple(run for run in runs if run not in gone)
                    version.runs[trace] = (new, *kept) if new.rows else kept
        self.release(new.name)

    def release(self, name: str) -> None:
        """See ``Ground``."""
        self._commits.release(name)

    @property
    def _held(self) -> Holding:
        return self._commits.held

    def _commit(self, work: OpenWork, number: int, note: str) -> None:
        base = self._held.versions.get(work.after) if work.after is not None else None
        version = Version(note=note, runs={})
        for name, trace in work.traces.items():
            stored = base.runs.get(name, ()) if base is not None and not trace.cleared else trace.stored
            version.runs[name] = (*stored, *trace.spilled)
        added = {name: trace.added for name, trace in work.traces.items() if trace.added}
        for name, own in added.items():
            folded = foldable(version.runs[name], self.limits)
            version.runs[name] = tuple(run for run in version.runs[name] if run not in folded)
            added[name] = [*folded, *own]
        self._commits.check_room(sum(run.bytes for own in added.values() for run in own))
        self._commits.commit({**self._held.versions, number: version}, number, added)
        self._held.versions[number] = version

    def _version(self, number: int) -> Version:
        self._commits.check_open()
        if number not in self._held.versions:
            raise StateLost(
                f"The state in {self.path} is not kept for cut {number}.",
                remedy="It is rebuilt from the log or from a new snapshot.",
                cause=self.lost,
                cut=number,
            )
        return self._held.versions[number]
