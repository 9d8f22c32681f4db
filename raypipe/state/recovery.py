"""What the newest commit in a folder still gives: versions all of whose files are there."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from raypipe import faults
from raypipe.contracts import TraceSchema
from raypipe.errors import Fenced, StateLost, Unavailable
from raypipe.state.folder import Folder, commit_name
from raypipe.state.holding import Holding, Version, new_lineage, stored_run
from raypipe.state.manifest import Manifest
from raypipe.state.run import Run


def recover(folder: Folder, *, generation: int, identity: str, traces: Mapping[str, TraceSchema]) -> Holding:
    """Reads the newest commit; content is checked when it is first read, names and lengths of files now.

    Raises:
        Fenced: a later generation made it.
        Unavailable: the folder cannot be read.
    """
    held = Holding(sequence=folder.newest())
    if not held.sequence:
        return held
    place = str(folder.path)
    try:
        manifest = Manifest.from_file(folder.map(commit_name(held.sequence)), place)
    except StateLost as error:
        held.lost = error
        return held
    except OSError as error:
        raise Unavailable(f"The state in {place} cannot be read.", cause=error) from error
    if manifest.identity != identity:
        return held  # of something else, whose generations mean nothing here
    if manifest.generation > generation and not faults.armed("mutant.no_fence"):
        raise fenced(folder)
    shared = manifest.traces.keys() & traces.keys()
    alike = all(_same_shape(manifest.traces[name], traces[name]) for name in shared)
    if not alike:
        return held
    runs = _runs(manifest, folder, {name: traces[name] for name in shared}, held)
    for version in manifest.versions:
        wanted = {trace: named for trace, named in version.runs.items() if trace in shared}
        if all(name in runs for named in wanted.values() for name in named):
            held.versions[version.number] = Version(
                note=version.note,
                runs={trace: tuple(runs[name] for name in named) for trace, named in wanted.items()},
            )
    held.lineage = new_lineage() if manifest.versions and not held.versions else manifest.lineage
    return held


def fenced(folder: Folder) -> Fenced:
    """The error for a writer that somebody has taken the folder from."""
    return Fenced(f"A later run owns the state in {folder.path}; this one wrote nothing more.", folder=str(folder.path))


def _runs(manifest: Manifest, folder: Folder, traces: Mapping[str, TraceSchema], held: Holding) -> dict[str, Run]:
    contents: dict[str, pa.Buffer | None] = {}
    runs: dict[str, Run] = {}
    for name, entry in manifest.runs.items():
        if entry.trace not in traces:
            continue
        if entry.file not in contents:
            contents[entry.file] = _content(folder, entry.file)
        content = contents[entry.file]
        if content is None or len(content) < entry.end:
            held.lost = StateLost(
                f"A file of the state in {folder.path} is missing or too short: {entry.file}.",
                remedy="The state is rebuilt from the log or from a new snapshot.",
            )
            continue
        runs[name] = stored_run(name, entry, content, traces[entry.trace])
        held.entries[name] = entry
        held.files[entry.file] = len(content)
    return runs


def _content(folder: Folder, file: str) -> pa.Buffer | None:
    try:
        return folder.map(file)
    except (OSError, pa.ArrowException):
        return None


def _same_shape(stored: TraceSchema, wanted: TraceSchema) -> bool:
    return stored.key == wanted.key and bool(stored.columns.equals(wanted.columns))
