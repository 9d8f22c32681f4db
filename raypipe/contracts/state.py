"""What state is: the rows that stateful steps remember, at every version that somebody may still go on from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# How often a row is there (int64), the last column of all rows that go into a trace or come out of one.
WEIGHT = "_raypipe_weight"
WEIGHT_FIELD = pa.field(WEIGHT, pa.int64(), nullable=False)


@dataclass(frozen=True, kw_only=True)
class TraceSchema:
    """The rows of one trace.

    Attributes:
        name: Unique in its store; the same after a restart.
        columns: Of the rows, without the weight.
        key: Columns that rows are looked up by. None: all rows have one key.
    """

    name: str
    columns: pa.Schema
    key: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TraceTotals:
    """What some traces hold together.

    Attributes:
        traces: How many they are.
        runs: Sorted pieces that they are made of.
        rows: Stored; rows that cancel each other out count until they are merged.
        bytes: Of their runs.
    """

    traces: int = 0
    runs: int = 0
    rows: int = 0
    bytes: int = 0

    def plus(self, other: TraceTotals) -> TraceTotals:
        """Both together."""
        return TraceTotals(
            traces=self.traces + other.traces,
            runs=self.runs + other.runs,
            rows=self.rows + other.rows,
            bytes=self.bytes + other.bytes,
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """What an owner of state says of its checkpoints.

    Attributes:
        versions: That it can be restored at, ascending; None if it does not know yet.
        making: The one that is being uploaded.
        tried: The last one whose upload has ended, well or not.
        trouble: Why that failed, or why ``versions`` is not known; empty if all is well.
    """

    versions: tuple[int, ...] | None = None
    making: int | None = None
    tried: int | None = None
    trouble: str = ""


@dataclass(frozen=True, kw_only=True)
class ReshardReport:
    """How far an owner of state is with cutting it for another number of shards.

    Attributes:
        shards: That number.
        cut_bytes: Done so far.
        left_bytes: Known to be left.
        ready: What comes from now on is little enough to be cut while the sinks stand still.
        trouble: Why it goes on no more; empty if all is well.
    """

    shards: int
    cut_bytes: int = 0
    left_bytes: int = 0
    ready: bool = False
    trouble: str = ""


@dataclass(frozen=True, kw_only=True)
class StateReport:
    """What stateful steps remember, as one owner of state says of itself.

    Attributes:
        folder: Where it lies.
        host: Whose disk that is.
        pid: Process that owns it.
        actor: Name of the Ray actor that owns it; empty in a local run.
        lineage: See ``StateStore``: another one means that the state began anew.
        cut: The newest that it is kept for; None if there is none yet.
        versions: For how many cuts it is kept.
        bytes: On disk, all versions together.
        limit: It may grow to.
        steps: What the operators of each stateful step hold, at the newest cut.
        inputs: Likewise what is held of each relation that they read.
        checkpoints: Of it; None if the pipeline has none made.
        reshard: What is being done for another number of shards; None if nothing is.
    """

    folder: str
    host: str
    pid: int
    actor: str = ""
    lineage: str = ""
    cut: int | None = None
    versions: int = 0
    bytes: int = 0
    limit: int = 0
    steps: Mapping[str, TraceTotals] = field(default_factory=dict)
    inputs: Mapping[str, TraceTotals] = field(default_factory=dict)
    checkpoints: CheckpointReport | None = None
    reshard: ReshardReport | None = None

    @property
    def total(self) -> TraceTotals:
        """Of all traces."""
        total = TraceTotals()
        for each in (*self.steps.values(), *self.inputs.values()):
            total = total.plus(each)
        return total

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> StateReport:
        """Reads what ``dataclasses.asdict`` made."""
        parts = {
            part: {name: TraceTotals(**totals) for name, totals in fields[part].items()} for part in ("steps", "inputs")
        }
        checkpoints = fields.get("checkpoints")
        if checkpoints is not None:
            known = checkpoints["versions"]
            checkpoints = CheckpointReport(**{**checkpoints, "versions": None if known is None else tuple(known)})
        reshard = ReshardReport(**fields["reshard"]) if fields.get("reshard") is not None else None
        return cls(**{**fields, **parts, "checkpoints": checkpoints, "reshard": reshard})


class Readable(Protocol):
    """A multiset of rows, looked up by key.

    Values are equal as DuckDB groups them: NULL is NULL, NaN is NaN, -0.0 is 0.0. Of equal rows one is told, with the
    sum of their weights, and none if that is zero. The order of an answer depends on the rows alone.
    """

    schema: TraceSchema

    def probe(self, keys: pa.Table) -> pa.Table:
        """All rows whose key is among ``keys``, with their weights.

        Args:
            keys: The key columns, and maybe others; a key may be there several times.

        Raises:
            StateLost: what is stored is damaged.
            SchemaMismatch: a key column is missing, or does not fit the trace's type.
        """
        ...

    def should_scan(self, keys: int) -> bool:
        """Whether ``rows`` costs less than probing for so many keys."""
        ...

    def rows(self) -> Iterator[pa.RecordBatch]:
        """All rows, with their weights, in batches of bounded size.

        Raises:
            StateLost: what is stored is damaged.
        """
        ...

    @property
    def count(self) -> int:
        """How many rows are stored; rows that cancel each other out count until they are merged."""
        ...


class Trace(Readable, Protocol):
    """What a version holds of a relation, and what the work that reads it has added since."""

    def replace(self, rows: pa.Table, stays: npt.NDArray[np.bool_]) -> pa.Table:
        """Lets the last row of each key stand for all that there are of it, or removes them all.

        Args:
            rows: Without weights; several may have one key.
            stays: Whether there is such a row afterwards, or none of its key; of the latter only the key counts.

        Returns:
            What was added to the trace, with its weights: each different row once.

        Raises:
            StateLost: what is stored is damaged.
            SchemaMismatch: a column is missing, or does not fit the trace's type.
            LimitExceeded: the state would outgrow its bound.
        """
        ...

    def clear(self) -> None:
        """Removes all rows; what reads the trace afterwards finds it empty until more are appended."""
        ...

    def append(self, rows: pa.Table) -> None:
        """Adds rows with their weights; what reads the trace afterwards sees them.

        Many rows may still be on their way to the disk when it returns; a failure of the disk is then raised by
        whatever reads the trace, or by the commit.

        Raises:
            SchemaMismatch: a column is missing, or does not fit the trace's type.
            LimitExceeded: the state would outgrow its bound.
        """
        ...


class Work(Protocol):
    """What one epoch does to the state: all of it becomes a version, or nothing."""

    def trace(self, name: str) -> Trace:
        """A trace as it stands after this work's own appends."""
        ...

    def standing(self, name: str) -> Readable:
        """A trace as it stood when this work began."""
        ...

    def commit(self, version: int, *, note: str = "") -> None:
        """Makes the appends durable as a version; if it is there already, leaves it as it is.

        Args:
            version: Number of the cut that the state now stands at; above that it was begun from.
            note: Kept with the version.

        Raises:
            Fenced: a later generation owns the state; nothing was committed.
            Unavailable: the disk does not take it; open the store again and see.
            LimitExceeded: the state would outgrow its bound.
        """
        ...

    def abort(self) -> None:
        """Throws the appends away; idempotent, and nothing after a commit."""
        ...


class StateStore(Protocol):
    """The traces of one shard of a pipeline, with one writer."""

    @property
    def lineage(self) -> str:
        """A UUID that is made whenever the store begins without a version: new, reset, lost, or of something else."""
        ...

    def versions(self) -> Sequence[int]:
        """Numbers of the cuts whose state can be read, ascending."""
        ...

    def note(self, version: int) -> str:
        """What was noted when the version was committed.

        Raises:
            StateLost: the version is not kept.
        """
        ...

    def begin(self, after: int | None) -> Work:
        """Begins work on top of a version; None is the empty state before all versions.

        Raises:
            StateLost: the version is not kept.
        """
        ...

    def keep(self, versions: Collection[int]) -> None:
        """Forgets all other versions but the newest."""
        ...

    def reset(self) -> None:
        """Forgets everything, durably."""
        ...

    def close(self) -> None:
        """Releases what it holds; idempotent. Work that is not committed is lost."""
        ...
