"""What one writer of a store puts on disk: files of runs, and commits that name the versions made of them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from raypipe import faults
from raypipe.contracts import TraceSchema
from raypipe.errors import Fenced, InvariantBroken, LimitExceeded, OutcomeUnknown, Unavailable
from raypipe.state.failures import says_why
from raypipe.state.folder import Folder, commit_name
from raypipe.state.holding import Holding, Version, files_of, manifest_of, stored_run
from raypipe.state.limits import Limits
from raypipe.state.manifest import RunEntry
from raypipe.state.reading import merged
from raypipe.state.recovery import fenced, recover
from raypipe.state.run import Run
from raypipe.state.work import OpenWork
from raypipe.state.writing import RunFile, blocks_of


class Commits:
    """Of one store, and what is held after them.

    Attributes:
        lock: Of all that is held; ``commit``, ``replace_all``, ``check_room`` and ``check_open`` are called with it.
        folder: Where the files are.
        generation: Of the writer.
        identity: What the state is of.
        traces: All that there are, by name.
        held: Changed with the lock.
        works: Open ones, whose runs stay.
    """

    def __init__(
        self, folder: Folder, generation: int, identity: str, traces: Mapping[str, TraceSchema], limits: Limits
    ) -> None:
        self.lock = threading.RLock()
        self.folder = folder
        self.generation = generation
        self.identity = identity
        self.traces = traces
        self.held = Holding()
        self.works: weakref.WeakSet[OpenWork] = weakref.WeakSet()
        self._limits = limits
        self._pending: dict[str, int] = {}  # runs that no version names yet, with the bytes of their files
        self._broken = False
        self._closed = False

    def claim(self) -> bool:
        """Makes the first commit of this writer; False if somebody else was quicker."""
        folder = self.folder
        self.held = recover(folder, generation=self.generation, identity=self.identity, traces=self.traces)
        folder.claim = self.held.sequence + 1
        try:
            self.commit(self.held.versions)
        except Fenced:
            return False
        faults.point("state.open.claimed")
        folder.remove(folder.left_behind(self.held.files))
        return True

    def reserve(self, expected_bytes: int = 0) -> str:
        """A name for a run that is going to be written, counted as so large until it is."""
        with self.lock:
            self.check_open()
            name = self.folder.fresh("run")
            self._pending[name] = expected_bytes
            return name

    def write(self, schema: TraceSchema, rows: Iterable[pa.RecordBatch], name: str = "") -> Run:
        """A new run in a file of its own, durable but in no version, until ``release``.

        Args:
            schema: Of its trace.
            rows: As they are stored, in order.
            name: From ``reserve``, or empty for a fresh one.

        Raises:
            Unavailable: the disk does not take it.
        """
        name = name or self.reserve()
        try:
            with RunFile(self.folder.path, name) as file:
                entry = file.add(schema, blocks_of(rows, self._limits.block_bytes), name)
                file.finish()
        except BaseException:
            self.release(name)
            raise
        if entry is None:
            self.release(name)
            self.folder.remove([name])
            return Run(name=name, blocks=[])
        with self.lock:
            self._pending[name] = self.held.files[name] = file.bytes
            self.held.entries[name] = entry
        return stored_run(name, entry, self.folder.map(name), schema)

    def link(self, path: Path) -> str:
        """Gives a finished file on the same disk a name in this folder; it stays, in no version, until ``release``.

        Raises:
            Unavailable: the disk does not take it.
        """
        size = path.stat().st_size
        name = self.reserve(size)
        try:
            with says_why(self.folder.path, "written"):
                os.link(path, self.folder.path / name)
        except BaseException:
            self.release(name)
            raise
        with self.lock:
            self.held.files[name] = size
        return name

    def linked(self, entry: RunEntry, content: pa.Buffer) -> Run:
        """A run in a file that was linked, whose content this is; in no version."""
        with self.lock:
            name = self.folder.fresh("part")
            self.held.entries[name] = entry
        return stored_run(name, entry, content, self.traces[entry.trace])

    def release(self, name: str) -> None:
        """Says that a run's file is from now on needed only by the versions that name it."""
        with self.lock:
            self._pending.pop(name, None)

    def replace_all(self, versions: dict[int, Version], lineage: str) -> None:
        """Commits these versions in place of all that are held."""
        before, self.held.lineage = self.held.lineage, lineage
        try:
            self.commit(versions)
        except BaseException:
            self.held.lineage = before
            raise
        self.held.versions = versions

    def commit(
        self, versions: Mapping[int, Version], number: int = 0, added: Mapping[str, Sequence[Run]] | None = None
    ) -> None:
        """Writes the next commit: these versions, of which one gains what was added.

        Raises:
            Fenced: somebody else has made the next commit.
            OutcomeUnknown: it has its name, but perhaps not durably.
            Unavailable: the disk does not take it.
        """
        folder, held = self.folder, self.held
        sequence = held.sequence + 1
        name, temporary = commit_name(sequence), folder.fresh("tmp")
        entries: dict[str, RunEntry] = {}
        taken = False
        faults.point("state.commit.before")
        with RunFile(folder.path, temporary) as file:
            for trace, runs in (added or {}).items():
                schema = self.traces[trace]
                rows = merged(runs, schema, self._limits)
                entry = file.add(schema, blocks_of(rows, self._limits.block_bytes), name)
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
                traces=self.traces,
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
                    stored_run(run_name, entry, content, self.traces[entry.trace]),
                )
        faults.point("state.commit.after")
        self._clean(versions)

    def close(self) -> None:
        """Nothing is written any more."""
        with self.lock:
            self._closed = True

    def check_room(self, more: int) -> None:
        """Raises ``LimitExceeded`` if so many bytes more are too many."""
        held = self.held.run_bytes + sum(self._pending.values())
        if held + more > self._limits.state_bytes:
            raise LimitExceeded(
                f"The state of stateful steps would grow to {held + more} bytes, over {self._limits.state_bytes}.",
                remedy="Raise limits.state_bytes, or let the steps keep fewer columns, rows or tables.",
                bytes=held + more,
                limit=self._limits.state_bytes,
            )

    def check_open(self) -> None:
        """Raises ``InvariantBroken`` after ``close``, and ``Unavailable`` after a commit that failed half way."""
        if self._closed:
            raise InvariantBroken("The state was used after it was closed.", remedy="Please report this defect.")
        if self._broken:
            raise Unavailable(f"A commit of the state in {self.folder.path} failed; it must be opened again.")

    def _clean(self, versions: Mapping[int, Version]) -> None:
        """Removes the files that neither a version nor open work nor a merge needs."""
        held = self.held
        needed = files_of(versions) | {run.file for run in self._runs_at_work()}
        needed |= set(self._pending) | {commit_name(held.sequence)}
        gone = held.files.keys() - needed
        self.folder.remove(gone)
        held.files = {name: size for name, size in held.files.items() if name not in gone}

    def _runs_at_work(self) -> Iterator[Run]:
        """Stored runs that open work reads or has written."""
        return (run for work in self.works for trace in work.traces.values() for run in (*trace.stored, *trace.spilled))
