"""A store of state: versions made of shared immutable runs, one writer, one file for each commit."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from raypipe import faults
from raypipe.contracts import TraceSchema, TraceTotals
from raypipe.errors import Fenced, InvariantBroken, LimitExceeded, OutcomeUnknown, StateLost, Unavailable
from raypipe.state.folder import Folder, commit_name
from raypipe.state.holding import Holding, Version, files_of, manifest_of, new_lineage, stored_run
from raypipe.state.limits import Limits
from raypipe.state.manifest import RunEntry
from raypipe.state.order import plain_schema
from raypipe.state.reading import merged
from raypipe.state.recovery import fenced, recover
from raypipe.state.run import Run
from raypipe.state.spilling import Spilling
from raypipe.state.upkeep import Upkeep, foldable
from raypipe.state.work import OpenTrace, OpenWork
from raypipe.state.writing import RunFile, blocks_of

# Who claims a folder while others do so too tries again; each try that fails means that another one succeeded.
_CLAIMS = 16
_PLACE_BYTES = 8

# The versions that hold some rows, the name of their trace, and the rows as they are stored, in order.
Part: TypeAlias = tuple[Collection[int], str, Iterator[pa.RecordBatch]]


class Store:
    """See ``StateStore``; any thread may begin, commit and keep, and several works may be open at a time."""

    def __init__(
        self, folder: Folder, generation: int, identity: str, traces: Sequence[TraceSchema], limits: Limits
    ) -> None:
        self.limits = limits
        self._folder = folder
        self.generation = generation
        self.identity = identity
        self._traces = {
            trace.name: TraceSchema(name=trace.name, columns=plain_schema(trace.columns), key=trace.key)
            for trace in traces
        }
        if len(self._traces) < len(traces):
            raise InvariantBroken("Two traces of the state have one name.", remedy="Please report this defect.")
        self._lock = threading.RLock()
        self._held = Holding()
        self._pending: dict[str, int] = {}  # runs that no version names yet, with the bytes of their files
        self._works: weakref.WeakSet[OpenWork] = weakref.WeakSet()
        self._broken = False
        self._closed = False
        self._upkeep = Upkeep(self, limits)
        self._spilling = Spilling(lambda schema, rows, name: self._write_file(schema, [rows], name), self.release)

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
            if store._claim():
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
            self._check_open()
            runs: Mapping[str, tuple[Run, ...]] = {} if after is None else self._version(after).runs
            work = OpenWork(
                self,
                after,
                {name: OpenTrace(schema, runs.get(name, ()), self) for name, schema in self._traces.items()},
            )
            self._works.add(work)
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
            self._check_open()
            self._write_anew({}, new_lineage())

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
        written: list[Run] = []
        try:
            for numbers, trace, rows in parts:
                with self._lock:
                    self._check_room(0)
                run = self._write_file(self._traces[trace], rows)
                if run.rows:
                    written.append(run)
                    for number in numbers:
                        runs = versions[number].runs
                        runs[trace] = (*runs.get(trace, ()), run)
            with self._lock:
                self._check_open()
                self._write_anew(versions, lineage)
        finally:
            for run in written:
                self.release(run.name)

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
        return self._folder.path

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

    def settle(self) -> None:
        """Waits until nothing is left to merge.

        Raises:
            RaypipeError: a merge failed.
        """
        self._upkeep.settle()

    def close(self) -> None:
        """See ``StateStore``."""
        with self._lock:
            self._closed = True
        self._spilling.close()
        self._upkeep.close()
        with self._lock:
            self._held = Holding()

    # What work needs of the store.

    def spill(self, schema: TraceSchema, runs: Sequence[Run]) -> Run:
        """See ``Ground``."""
        with self._lock:
            self._check_room(sum(run.bytes for run in runs))
        return self.write_run(schema, runs)

    def spill_later(self, schema: TraceSchema, rows: pa.Table) -> Future[list[Run]]:
        """See ``Ground``."""
        with self._lock:
            expected = rows.nbytes + _PLACE_BYTES * rows.num_rows
            self._check_room(expected)
            name = self._fresh_run(expected)
        return self._spilling.later(schema, rows, name)

    def finish(self, work: OpenWork, version: int, note: str) -> None:
        """See ``Ground``."""
        self._upkeep.make_room()
        with self._lock:
            self._check_open()
            if version not in self._held.versions:
                self._commit(work, version, note)
            self.drop(work)
        self._upkeep.look()

    def drop(self, work: OpenWork) -> None:
        """See ``Ground``."""
        with self._lock:
            work.ended = True
            self._works.discard(work)
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
        return self._write_file(schema, merged(runs, schema, self.limits))

    def _fresh_run(self, expected_bytes: int = 0) -> str:
        with self._lock:
            self._check_open()
            name = self._folder.fresh("run")
            self._pending[name] = expected_bytes
            return name

    def _write_file(self, schema: TraceSchema, rows: Iterable[pa.RecordBatch], name: str = "") -> Run:
        name = name or self._fresh_run()
        try:
            with RunFile(self._folder.path, name) as file:
                entry = file.add(schema, blocks_of(rows, self.limits.block_bytes), name)
                file.finish()
        except BaseException:
            self.release(name)
            raise
        if entry is None:
            self.release(name)
            self._folder.remove([name])
            return Run(name=name, blocks=[])
        with self._lock:
            self._pending[name] = self._held.files[name] = file.bytes
            self._held.entries[name] = entry
        return stored_run(name, entry, self._folder.map(name), schema)

    def release(self, name: str) -> None:
        """Says that a run's file is from now on needed only by the versions that name it."""
        with self._lock:
            self._pending.pop(name, None)

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

    def _claim(self) -> bool:
        """Makes the first commit of this writer; False if somebody else was quicker."""
        folder = self._folder
        self._held = recover(folder, generation=self.generation, identity=self.identity, traces=self._traces)
        folder.claim = self._held.sequence + 1
        try:
            self._write_commit(self._held.versions)
        except Fenced:
            return False
        faults.point("state.open.claimed")
        folder.remove(folder.left_behind(self._held.files))
        return True

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
        self._check_room(sum(run.bytes for own in added.values() for run in own))
        self._write_commit({**self._held.versions, number: version}, number, added)
        self._held.versions[number] = version

    def _write_anew(self, versions: dict[int, Version], lineage: str) -> None:
        """Lets these versions stand for all that are held."""
        before, self._held.lineage = self._held.lineage, lineage
        try:
            self._write_commit(versions)
        except BaseException:
            self._held.lineage = before
            raise
        self._held.versions = versions

    def _write_commit(
        self, versions: Mapping[int, Version], number: int = 0, added: Mapping[str, Sequence[Run]] | None = None
    ) -> None:
        """Writes the next commit: these versions, of which one gains what was added."""
        folder, held = self._folder, self._held
        sequence = held.sequence + 1
        name, temporary = commit_name(sequence), folder.fresh("tmp")
        entries: dict[str, RunEntry] = {}
        taken = False
        faults.point("state.commit.before")
        with RunFile(folder.path, temporary) as file:
            for trace, runs in (added or {}).items():
                schema = self._traces[trace]
                rows = merged(runs, schema, self.limits)
                entry = file.add(schema, blocks_of(rows, self.limits.block_bytes), name)
                if entry is not None:
                    entries[folder.fresh("part")] = entry
            manifest = manifest_of(
                held,
                versions,
                number,
                entries,
                {run.name for run in self._runs_at_work()} | self._pending.keys(),
                generation=self.generation,
                identity=self.identity,
                traces=self._traces,
            )
            if faults.armed("mutant.state_name_early"):
                taken = folder.take(temporary, sequence)
                faults.point("state.commit.named")
            file.finish(manifest.to_bytes())
        self._broken = True  # until it is known to have gone well
        faults.point("state.commit.written")
        if not (taken or folder.take(temporary, sequence)):
            folder.remove([temporary])
            raise fenced(folder)
        faults.point("state.commit.named")
        try:
            folder.sync()
        except Unavailable as error:
            raise OutcomeUnknown(
                f"Whether the last commit of the state in {folder.path} is durable is not known.", cause=error
            ) from error
        self._broken = False
        held.sequence = sequence
        held.files[name] = file.bytes
        held.entries = dict(manifest.runs)
        if entries:
            content = folder.map(name)
            for run_name, entry in entries.items():
                runs_of = versions[number].runs
                runs_of[entry.trace] = (
                    *runs_of[entry.trace],
                    stored_run(run_name, entry, content, self._traces[entry.trace]),
                )
        faults.point("state.commit.after")
        self._clean(versions)

    def _clean(self, versions: Mapping[int, Version]) -> None:
        """Removes the files that neither a version nor open work nor a merge needs."""
        held = self._held
        needed = files_of(versions) | {run.file for run in self._runs_at_work()}
        needed |= set(self._pending) | {commit_name(held.sequence)}
        gone = held.files.keys() - needed
        self._folder.remove(gone)
        held.files = {name: size for name, size in held.files.items() if name not in gone}

    def _runs_at_work(self) -> Iterator[Run]:
        """Stored runs that open work reads or has written."""
        return (
            run for work in self._works for trace in work.traces.values() for run in (*trace.stored, *trace.spilled)
        )

    def _check_room(self, more: int) -> None:
        held = self._held.run_bytes + sum(self._pending.values())
        if held + more > self.limits.state_bytes:
            raise LimitExceeded(
                f"The state of stateful steps would grow to {held + more} bytes, over {self.limits.state_bytes}.",
                remedy="Raise limits.state_bytes, or let the steps keep fewer columns, rows or tables.",
                bytes=held + more,
                limit=self.limits.state_bytes,
            )

    def _check_open(self) -> None:
        if self._closed:
            raise InvariantBroken("The state was used after it was closed.", remedy="Please report this defect.")
        if self._broken:
            raise Unavailable(f"A commit of the state in {self._folder.path} failed; it must be opened again.")

    def _version(self, number: int) -> Version:
        self._check_open()
        if number not in self._held.versions:
            raise StateLost(
                f"The state in {self._folder.path} is not kept for cut {number}.",
                remedy="It is rebuilt from the log or from a new snapshot.",
                cause=self.lost,
                cut=number,
            )
        return self._held.versions[number]
