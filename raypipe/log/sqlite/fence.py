"""Who may write: runs and generations, checked inside the transaction that they guard."""

from __future__ import annotations

from raypipe import faults
from raypipe.errors import Fenced, Kind, RaypipeError
from raypipe.log.overtaken import overtaken
from raypipe.log.sqlite.failures import damaged
from raypipe.log.sqlite.file import LogFile
from raypipe.model import Claim


def claim(file: LogFile, pipeline: str) -> Claim:
    """The next run of the pipeline, which fences all before it.

    Raises:
        RaypipeError: the log belongs to another pipeline.
    """
    with file.transaction():
        # Positions are kept by instance and batches are forgotten when one pipeline's sinks have them: a second
        # pipeline in the same file would take over the first one's position and lose what it has not read.
        owner = file.first("SELECT pipeline FROM claims WHERE pipeline <> ?", (pipeline,))
        if owner is not None:
            raise RaypipeError(
                f"Log {file.path} belongs to pipeline {owner[0]!r}, not to {pipeline!r}.",
                kind=Kind.PIPELINE_FILE,
                remedy="Give each pipeline a log of its own: change `log:` in the pipeline file.",
                pipeline=pipeline,
                owner=str(owner[0]),
            )
        run, generation = file.one(
            "INSERT INTO claims (pipeline, run, generation) VALUES (?, 1, 1) ON CONFLICT (pipeline)"
            " DO UPDATE SET run = run + 1, generation = generation + 1 RETURNING run, generation",
            (pipeline,),
        )
    return Claim(pipeline=pipeline, run=run, generation=generation)


def renew(file: LogFile, held: Claim) -> Claim:
    """The next generation of the same run.

    Raises:
        Fenced: a later run has begun.
    """
    with file.transaction():
        check_run(file, held)
        (generation,) = file.one(
            "UPDATE claims SET generation = generation + 1 WHERE pipeline = ? RETURNING generation", (held.pipeline,)
        )
    return Claim(pipeline=held.pipeline, run=held.run, generation=generation)


def raise_floor(file: LogFile, instance: str, held: Claim) -> None:
    """Makes the claim's generation the lowest that may write for the instance; writes only if it was lower.

    Raises:
        Fenced: a later run or generation has begun.
    """
    check(file, instance, held)
    floor = _floor(file, instance)
    if floor is not None and floor >= held.generation:
        return
    with file.transaction():
        check(file, instance, held)
        file.run(
            "INSERT INTO writers (instance, generation) VALUES (?, ?)"
            " ON CONFLICT (instance) DO UPDATE SET generation = max(generation, excluded.generation)",
            (instance, held.generation),
        )


def check(file: LogFile, instance: str, held: Claim) -> None:
    """Checks that the claim may still write for the instance; in a write transaction the answer holds to its end.

    Raises:
        Fenced: a later run or generation has begun.
    """
    if faults.armed("mutant.no_fence"):
        return
    check_run(file, held)
    floor = _floor(file, instance)
    if floor is not None and floor > held.generation:
        raise Fenced(
            f"A later reader of instance {instance} (generation {floor}) has taken over from generation"
            f" {held.generation}.",
            remedy="Nothing of this reader was written; let it end.",
            pipeline=held.pipeline,
            instance=instance,
            generation=held.generation,
            later=floor,
        )


def check_run(file: LogFile, held: Claim) -> None:
    """Checks that the claim's run is the latest of its pipeline.

    Raises:
        Fenced: a later one has begun.
        Corrupt: the log does not know the run, so it is not the log that granted the claim.
    """
    row = file.first("SELECT run FROM claims WHERE pipeline = ?", (held.pipeline,))
    latest = 0 if row is None else row[0]
    if latest > held.run:
        raise overtaken(held, latest)
    if latest < held.run:
        raise damaged(file.path, f"it was replaced by an older copy or a new log that does not know run {held.run}")


def _floor(file: LogFile, instance: str) -> int | None:
    row = file.first("SELECT generation FROM writers WHERE instance = ?", (instance,))
    return None if row is None else int(row[0])
