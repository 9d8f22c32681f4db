"""Checkpoints: a version of the state in an object store, from which a store on any machine can begin.

Runs are immutable, so a checkpoint uploads those that the object store lacks, then says in one object which they are::

    runs/<name>.<n>.arrows                  a piece of a run: an Arrow IPC stream, LZ4
    checkpoints/<version>.<generation>.json what there is, with a checksum of itself and of each piece

Whoever restores takes the newest one that is whole; one whose upload was cut off has no such object, or a damaged one.
Where a state is in several shards, a version can be restored if the checkpoints of all of them have it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from raypipe import faults
from raypipe.contracts import TraceSchema
from raypipe.errors import Fenced, StateLost
from raypipe.state.limits import Limits
from raypipe.state.manifest import schema_from_text, schema_text
from raypipe.state.order import places_of, plain_schema, stored_schema
from raypipe.state.remote import Remote
from raypipe.state.sharding import WHOLE, Share, lineage_of
from raypipe.state.store import Part, Store

_FORMAT = 1
_KEPT = 2  # the newest, and one in case that is damaged
_NAME = re.compile(r"(\d+)\.(\d+)\.json")
# Trace, and length and checksum of each piece.
Described: TypeAlias = tuple[str, list[tuple[int, int]]]
_WRITE = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """What a checkpoint cost.

    Attributes:
        version: It holds.
        runs: Uploaded now.
        bytes: Of them.
        reused: Runs that were there already.
    """

    version: int
    runs: int
    bytes: int
    reused: int


def checkpoint(store: Store, version: int, remote: Remote, *, keep: Collection[int] = ()) -> Uploaded:
    """Uploads a version. The store may go on meanwhile.

    Args:
        store: That keeps it.
        version: Its number.
        remote: Of this store alone.
        keep: Versions whose checkpoints stay beside this one; the newest other one if none is named.

    Raises:
        StateLost: the version is not kept, or damaged.
        Fenced: a later generation has made checkpoints here.
        Unavailable: the object store does not take it; a later call goes on where this one stopped.
    """
    with store.begin(version) as work:  # as long as it is open its runs stay
        note, lineage = store.note(version), store.lineage
        before = _listed(remote)
        if any(_is_later(remote, store, *each) for each in before):
            raise Fenced("A later run makes the checkpoints of this state; this one wrote nothing more.")
        known = _known(remote, before)
        described: dict[str, Described] = {}
        uploaded = size = 0
        for name, trace in work.traces.items():
            for run in trace.stored:
                if run.name in known:
                    described[run.name] = known[run.name]
                    continue
                pieces = []
                for number, block in enumerate(run.blocks):
                    content = _encoded(block.read(), trace.schema)
                    remote.put(_piece(run.name, number), content)
                    faults.point("state.checkpoint.run")
                    pieces.append((len(content), zlib.crc32(content)))
                described[run.name] = (name, pieces)
                uploaded, size = uploaded + 1, size + sum(length for length, _ in pieces)
        body = {
            "format": _FORMAT,
            "version": version,
            "note": note,
            "identity": store.identity,
            "lineage": lineage,
            "traces": {
                name: {"columns": schema_text(trace.schema.columns), "key": trace.schema.key}
                for name, trace in work.traces.items()
            },
            "runs": described,
        }
    text = json.dumps(body, separators=(",", ":"))
    remote.put(f"checkpoints/{version}.{store.generation}.json", f"{zlib.crc32(text.encode()):08x}{text}".encode())
    faults.point("state.checkpoint.named")
    _clean(remote, {*keep, version} if keep else ())
    return Uploaded(version=version, runs=uploaded, bytes=size, reused=len(described) - uploaded)


def restore(
    remotes: Sequence[Remote],
    folder: Path,
    *,
    generation: int,
    identity: str,
    traces: Sequence[TraceSchema],
    limits: Limits | None = None,
    version: int | None = None,
    share: Share = WHOLE,
) -> Store:
    """Opens a store that holds a checkpoint, or the share of it that a shard needs; what the folder held is forgotten.

    Args:
        remotes: Of each shard that the state was in.
        folder: Of the new store.
        generation: Of its writer.
        identity: See ``Store.open``.
        traces: Likewise; one that the checkpoint lacks begins empty.
        limits: Bounds.
        version: To restore; None for the newest that all remotes have.
        share: What of it.

    Raises:
        StateLost: there is no such checkpoint that is whole.
        Unavailable: the object store or the disk does not answer.
    """
    found = [dict(_whole(remote, identity, traces)) for remote in remotes]
    common = _common(found)
    store = Store.open(folder, generation=generation, identity=identity, traces=traces, limits=limits)
    damage: StateLost | None = None
    for number in sorted(common if version is None else common & {version}, reverse=True):
        bodies = [each[number] for each in found]
        try:
            store.adopt(
                {number: str(bodies[0]["note"])},
                lineage=_lineage(bodies),
                parts=(
                    part
                    for remote, body in zip(remotes, bodies, strict=True)
                    for part in _parts(remote, body, number, share, store)
                ),
            )
        except StateLost as error:
            damage = error
            continue
        return store
    store.close()
    raise StateLost(
        "No checkpoint of this state is there and whole.",
        remedy="The state is rebuilt from the log or from a new snapshot.",
        cause=damage,
    )


def restorable(remotes: Sequence[Remote], *, identity: str, traces: Sequence[TraceSchema]) -> dict[int, str]:
    """Versions that ``restore`` may take from these, each with its lineage.

    Raises:
        Unavailable: the object store does not answer.
    """
    found = [dict(_whole(remote, identity, traces)) for remote in remotes]
    return {number: _lineage([each[number] for each in found]) for number in _common(found)}


def _common(found: Sequence[dict[int, dict[str, object]]]) -> set[int]:
    return set.intersection(*(set(each) for each in found)) if found else set()


def _lineage(bodies: Sequence[dict[str, object]]) -> str:
    return lineage_of([str(body["lineage"]) for body in bodies])


def _is_later(remote: Remote, store: Store, version: int, generation: int) -> bool:
    """Whether a checkpoint is of a later writer of the same state; generations of another log mean nothing."""
    if generation <= store.generation:
        return False
    body = _read(remote, version, generation)
    return body is not None and body["identity"] == store.identity


def _piece(run: str, number: int) -> str:
    return f"runs/{run}.{number}.arrows"


def _encoded(rows: pa.RecordBatch, schema: TraceSchema) -> pa.Buffer:
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, stored_schema(schema.columns), options=_WRITE) as writer:
        writer.write_batch(rows)
    return stream.getvalue()


def _listed(remote: Remote) -> list[tuple[int, int]]:
    """Version and generation of each checkpoint, ascending."""
    names = (_NAME.fullmatch(name) for name in remote.list("checkpoints"))
    return sorted((int(found[1]), int(found[2])) for found in names if found)


def _read(remote: Remote, version: int, generation: int) -> dict[str, object] | None:
    content = remote.get(f"checkpoints/{version}.{generation}.json") or b""
    try:
        if int(content[:8], 16) != zlib.crc32(content[8:]):
            return None
        body = json.loads(content[8:])
    except ValueError:
        return None
    return body if isinstance(body, dict) and body.get("format") == _FORMAT else None


def _runs(body: dict[str, object]) -> dict[str, Described]:
    runs = body["runs"]
    assert isinstance(runs, dict)
    return {name: (trace, [(length, crc) for length, crc in pieces]) for name, (trace, pieces) in runs.items()}


def _known(remote: Remote, listed: Collection[tuple[int, int]]) -> dict[str, Described]:
    """Runs that the newest checkpoint holds, and whose objects are there in full."""
    for version, generation in sorted(listed, reverse=True):
        body = _read(remote, version, generation)
        if body is not None:
            sizes = {f"runs/{name}": size for name, size in remote.list("runs").items()}
            return {
                name: each
                for name, each in _runs(body).items()
                if all(sizes.get(_piece(name, number)) == length for number, (length, _) in enumerate(each[1]))
            }
    return {}


def _whole(remote: Remote, identity: str, traces: Sequence[TraceSchema]) -> Iterator[tuple[int, dict[str, object]]]:
    wanted = {trace.name: trace for trace in traces}
    for version, generation in _listed(remote):
        body = _read(remote, version, generation)
        if body is None or body["identity"] != identity:
            continue
        described = body["traces"]
        assert isinstance(described, dict)
        same = all(
            tuple(each["key"]) == wanted[name].key
            and schema_from_text(each["columns"]).equals(plain_schema(wanted[name].columns))
            for name, each in described.items()
            if name in wanted
        )
        if same:
            yield version, body


def _parts(remote: Remote, body: dict[str, object], number: int, share: Share, store: Store) -> Iterator[Part]:
    for name, (trace, pieces) in _runs(body).items():
        if store.holds(trace):
            yield (number,), trace, _fetched(remote, name, pieces, share)


def _fetched(remote: Remote, run: str, pieces: list[tuple[int, int]], share: Share) -> Iterator[pa.RecordBatch]:
    for number, (_, crc) in enumerate(pieces):
        content = remote.get(_piece(run, number))
        if content is None or zlib.crc32(content) != crc:
            raise StateLost(f"Run {run} of a checkpoint is missing or damaged.")
        with pa.ipc.open_stream(content) as stream:
            batch = stream.read_next_batch()
        at = places_of(batch)
        begin = int(np.searchsorted(at, np.uint64(share.low), "left"))
        end = int(np.searchsorted(at, np.uint64(share.high), "right"))
        if end > begin:
            yield batch.slice(begin, end - begin)


def _clean(remote: Remote, versions: Collection[int]) -> None:
    """Removes the checkpoints of other versions (older ones, if none is named), and the runs that only they name."""
    listed = _listed(remote)
    kept = [each for each in listed if each[0] in versions] if versions else listed[-_KEPT:]
    old = [each for each in listed if each not in kept]
    if not old:
        return
    needed = {name for each in kept if (body := _read(remote, *each)) is not None for name in _runs(body)}
    for each in old:
        body = _read(remote, *each)
        # First what names them: a checkpoint that is listed is whole.
        remote.remove(f"checkpoints/{each[0]}.{each[1]}.json")
        for name, (_, pieces) in (_runs(body) if body is not None else {}).items():
            for number in range(len(pieces) if name not in needed else 0):
                remote.remove(_piece(name, number))
