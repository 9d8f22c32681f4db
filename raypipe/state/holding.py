"""What a store holds: versions, the runs that they are made of, and the files that these lie in."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from raypipe.contracts import TraceSchema
from raypipe.errors import StateLost
from raypipe.state.manifest import Manifest, RunEntry, VersionEntry
from raypipe.state.order import stored_schema
from raypipe.state.run import Run, Stored


def new_lineage() -> str:
    """See ``StateStore``."""
    return str(uuid.uuid4())


@dataclass(kw_only=True)
class Version:
    """A version, with the runs of each trace."""

    note: str
    runs: dict[str, tuple[Run, ...]]


@dataclass(kw_only=True)
class Holding:
    """Changed only by the store, with its lock.

    Attributes:
        sequence: Of the newest commit.
        lineage: See ``StateStore``.
        lost: Why something that was there is not held.
        versions: By number.
        entries: Where each run lies, by name.
        files: Bytes of each file that may be the store's to remove.
    """

    sequence: int = 0
    lineage: str = field(default_factory=new_lineage)
    lost: StateLost | None = None
    versions: dict[int, Version] = field(default_factory=dict)
    entries: dict[str, RunEntry] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

    @property
    def newest(self) -> Mapping[str, tuple[Run, ...]]:
        """The runs of the newest version, by trace."""
        return self.versions[max(self.versions)].runs if self.versions else {}

    @property
    def run_bytes(self) -> int:
        """Of all runs that some version is made of."""
        return sum(run.bytes for run in _runs_of(self.versions))


def manifest_of(
    held: Holding,
    versions: Mapping[int, Version],
    gaining: int,
    entries: Mapping[str, RunEntry],
    wanted: Collection[str],
    *,
    generation: int,
    identity: str,
    traces: Mapping[str, TraceSchema],
) -> Manifest:
    """The next commit.

    Args:
        held: What is held now.
        versions: Those that the commit keeps.
        gaining: Number of the one that also has the new runs.
        entries: New runs, by name.
        wanted: Names of runs that no version has yet, or no longer, and that must stay all the same.
        generation: See ``Manifest``.
        identity: Likewise.
        traces: Likewise.
    """
    known = {**held.entries, **entries}
    listed = []
    for number, version in sorted(versions.items()):
        named = {trace: [run.name for run in runs] for trace, runs in version.runs.items()}
        for name, entry in entries.items() if number == gaining else ():
            named[entry.trace].append(name)
        runs_of = {trace: tuple(names) for trace, names in named.items() if names}
        listed.append(VersionEntry(number=number, note=version.note, runs=runs_of))
    kept = {name for version in listed for names in version.runs.values() for name in names}
    return Manifest(
        sequence=held.sequence + 1,
        generation=generation,
        identity=identity,
        lineage=held.lineage,
        traces=traces,
        # A run that is only being written is not known yet, and no version can name it.
        runs={name: known[name] for name in sorted(kept | {name for name in wanted if name in known})},
        versions=tuple(listed),
    )


def files_of(versions: Mapping[int, Version]) -> set[str]:
    """The files that versions need."""
    return {run.file for run in _runs_of(versions)}


def _runs_of(versions: Mapping[int, Version]) -> set[Run]:
    return {run for version in versions.values() for runs in version.runs.values() for run in runs}


def stored_run(name: str, entry: RunEntry, content: pa.Buffer, schema: TraceSchema) -> Run:
    """A run in a mapped file; nothing of it is read before it is needed."""
    stored = stored_schema(schema.columns)
    blocks = [
        Stored(block, content.slice(block.offset, block.length), stored, entry.trace, entry.file)
        for block in entry.blocks
    ]
    return Run(name=name, blocks=blocks, file=entry.file)
