"""Runs of a store cut for another number of shards, ahead of the moment when those take over.

A shard's share of a run is a contiguous part of it, and runs do not change. So their pieces can be written while the
store is at work, round after round, into a folder that is of one store and one number of shards::

    <n>.pack   pieces of runs for one of the new shards, as in any file of runs
    <n>.list   which runs they are of and where they lie, with a checksum; written after the packs that it names

A piece counts only for the run that it was cut from: of the same name, with the same checksums. What was left half
done, is damaged, or is of a run that is gone is as if it was not there.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from raypipe import faults
from raypipe.contracts import TraceSchema
from raypipe.disks import sync_folder
from raypipe.errors import InvariantBroken, StateLost
from raypipe.state.failures import says_why
from raypipe.state.limits import Limits
from raypipe.state.manifest import RunEntry, block_fields, block_of
from raypipe.state.run import Run, Stored
from raypipe.state.sharding import Share, lineage_of
from raypipe.state.store import Piece, Store
from raypipe.state.work import OpenWork
from raypipe.state.writing import RunFile, blocks_of

# A pack that has grown so large is followed by another: its disk space is freed only when all of its runs are gone.
_PACK_BYTES = 16 << 20
# After about so much of the runs a list is written: what a crash can take back.
_LIST_BYTES = 256 << 20
_NUMBERED = re.compile(r"(\d{8})\.(?:pack|list)")

# Told how many bytes of runs have been gone through since the last time; raises to end the round.
Passed = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """A run, cut.

    Attributes:
        digest: Of what it was cut from.
        pieces: By shard; none for one that has no rows of it.
    """

    digest: int
    pieces: Mapping[int, Piece] = field(default_factory=dict)


class Cuttings:
    """What has been cut of one store. Used by one thread.

    Args:
        folder: Made when there is something to cut.
        shards: How many there shall be.

    Raises, from every method:
        Unavailable: the disk does not answer, or is full.
    """

    def __init__(self, folder: Path, shards: int) -> None:
        self._folder = folder
        self._shares = [Share(shard=shard, shards=shards) for shard in range(shards)]
        self._known: dict[str, dict[str, _Cut]] = {}  # by list

    def left(self, store: Store) -> int:
        """How many bytes of the runs of a store are not cut."""
        with _on_all(store) as works:
            return sum(run.bytes for _, run in self._uncut(works))

    def cut(self, store: Store, passed: Passed = lambda _: None) -> int:
        """Cuts what is not cut yet of a store, durably; returns how many bytes of runs that was.

        Raises:
            StateLost: a run is damaged.
        """
        done = 0
        with _on_all(store) as works:
            uncut = self._uncut(works)
            while uncut:
                batch, size = [], 0
                while uncut and size < _LIST_BYTES:
                    batch.append(uncut.pop())
                    size += batch[-1][1].bytes
                self._cut(batch, store.limits, passed)
                done += size
        return done

    def pieces(self, runs: Sequence[Run]) -> list[Mapping[int, Piece] | None]:
        """The pieces of each run, by shard; None for one that is not cut."""
        with says_why(self._folder, "read"):
            found = self._listed()
        cuts = [found.get(run.name) for run in runs]
        return [
            cut.pieces if cut is not None and cut.digest == _digest(run) else None
            for run, cut in zip(runs, cuts, strict=True)
        ]

    def _uncut(self, works: Mapping[int, OpenWork]) -> list[tuple[TraceSchema, Run]]:
        held = {run: trace.schema for work in works.values() for trace in work.traces.values() for run in trace.stored}
        found = self.pieces(list(held))
        return [(schema, run) for (run, schema), cut in zip(held.items(), found, strict=True) if cut is None]

    def _listed(self) -> dict[str, _Cut]:
        names = sorted(path.name for path in self._folder.glob("*.list"))
        self._known = {
            name: self._known[name] if name in self._known else dict(self._read(self._folder / name)) for name in names
        }
        return {run: cut for cuts in self._known.values() for run, cut in cuts.items()}

    def _read(self, path: Path) -> Iterator[tuple[str, _Cut]]:
        content = path.read_bytes()
        if content[:8] != f"{zlib.crc32(content[8:]):08x}".encode():
            return
        sizes = {pack.name: pack.stat().st_size for pack in self._folder.glob("*.pack")}
        runs: dict[str, Any] = json.loads(content[8:])
        for run, (digest, trace, listed) in runs.items():
            entries = {
                int(shard): RunEntry(trace=trace, file=file, blocks=tuple(map(block_of, blocks)))
                for shard, (file, blocks) in listed.items()
            }
            if all(entry.end <= sizes.get(entry.file, 0) for entry in entries.values()):
                pieces = {shard: Piece(path=self._folder / entry.file, entry=entry) for shard, entry in entries.items()}
                yield run, _Cut(digest=digest, pieces=pieces)

    def _cut(self, runs: Sequence[tuple[TraceSchema, Run]], limits: Limits, passed: Passed) -> None:
        with says_why(self._folder, "written"):
            self._folder.mkdir(parents=True, exist_ok=True)
            taken = [int(found[1]) for name in os.listdir(self._folder) if (found := _NUMBERED.fullmatch(name))]
        number = max(taken, default=0)
        cuts: dict[str, tuple[int, str, dict[int, tuple[str, list[list[int]]]]]] = {
            run.name: (_digest(run), schema.name, {}) for schema, run in runs
        }
        for share in self._shares:
            waiting = [each for each in runs if _reaches(each[1], share)]
            while waiting:
                number += 1
                for run, entry in self._pack(number, waiting, share, limits, passed):
                    cuts[run.name][2][share.shard] = (entry.file, [block_fields(block) for block in entry.blocks])
                faults.point("reshard.packed")
        self._list(number + 1, json.dumps(cuts, separators=(",", ":")).encode())
        faults.point("reshard.listed")

    def _pack(
        self, number: int, waiting: list[tuple[TraceSchema, Run]], share: Share, limits: Limits, passed: Passed
    ) -> list[tuple[Run, RunEntry]]:
        """Writes pieces of runs that wait until the pack is large enough, and takes those out."""
        made = []
        with RunFile(self._folder, f"{number:08d}.pack") as file:
            while waiting and file.bytes < _PACK_BYTES:
                schema, run = waiting.pop()
                rows = _passing(run.between(share.low, share.high), passed)
                entry = file.add(schema, blocks_of(rows, limits.block_bytes), file.name)
                if entry is not None:
                    made.append((run, entry))
            if made:
                file.finish()  # one that holds nothing is removed
        return made

    def _list(self, number: int, content: bytes) -> None:
        path = self._folder / f"{number:08d}.list"
        with says_why(self._folder, "written"):
            with open(path.with_suffix(".new"), "wb") as file:
                file.write(f"{zlib.crc32(content):08x}".encode() + content)
                file.flush()
                os.fsync(file.fileno())
            path.with_suffix(".new").rename(path)
            sync_folder(self._folder)


class Takeover:
    """Versions that lie in some stores, in pieces for each of the shards that are to have them.

    Args:
        stores: Of all shards that there were; they stay open, and are not written.
        cuttings: Of each of them, in which everything is cut.
        versions: Numbers of cuts that all of them keep.

    Raises:
        StateLost: one of the stores does not keep a version.
        Unavailable: the disk does not answer.
    """

    def __init__(self, stores: Sequence[Store], cuttings: Sequence[Cuttings], versions: Collection[int]) -> None:
        self._notes = {number: stores[0].note(number) for number in versions}
        self._lineage = lineage_of([store.lineage for store in stores])
        self._parts: list[tuple[list[int], str, Mapping[int, Piece]]] = []
        for store, cut in zip(stores, cuttings, strict=True):
            with _works() as works:
                works |= {number: store.begin(number) for number in versions}
                holders: dict[Run, tuple[str, list[int]]] = {}
                for number, work in works.items():
                    for name, trace in work.traces.items():
                        for run in trace.stored:
                            holders.setdefault(run, (name, []))[1].append(number)
                found = cut.pieces(list(holders))
                for (run, (name, numbers)), pieces in zip(holders.items(), found, strict=True):
                    if pieces is not None:
                        self._parts.append((numbers, name, pieces))
                    elif not faults.armed("mutant.reshard_forgets"):
                        raise InvariantBroken(f"Run {run.name} is not cut.", remedy="Please report this defect.")

    def into(self, store: Store, shard: int) -> None:
        """Gives a shard's store what is for it, in place of all that it holds; from any thread.

        Raises:
            LimitExceeded: the shard's part would outgrow its bound.
            Unavailable: the disk does not take it.
        """
        store.adopt(
            self._notes,
            lineage=self._lineage,
            parts=((numbers, name, pieces[shard]) for numbers, name, pieces in self._parts if shard in pieces),
        )


@contextmanager
def _on_all(store: Store) -> Iterator[dict[int, OpenWork]]:
    """Work on all versions that a store keeps."""
    with _works() as works:
        for number in store.versions():
            with suppress(StateLost):  # it was kept until now
                works[number] = store.begin(number)
        yield works


@contextmanager
def _works() -> Iterator[dict[int, OpenWork]]:
    """Works that do nothing, but let their runs stay; ended afterwards."""
    works: dict[int, OpenWork] = {}
    try:
        yield works
    finally:
        for work in works.values():
            work.abort()


def _passing(batches: Sequence[pa.RecordBatch], passed: Passed) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        passed(batch.nbytes)
        yield batch


def _reaches(run: Run, share: Share) -> bool:
    return any(block.last >= share.low and block.first <= share.high for block in run.blocks)


def _digest(run: Run) -> int:
    """Of a stored run: of the checksums and places of its pieces."""
    return zlib.crc32(
        json.dumps([block_fields(block.block) for block in run.blocks if isinstance(block, Stored)]).encode()
    )
