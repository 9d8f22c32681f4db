"""The inline executor: steps run in the consumer's own process, batch by batch; milliseconds for a small epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from raypipe import faults
from raypipe.contracts import Log
from raypipe.engine.coalesce import coalesce
from raypipe.model import ChangeBatch, Cut

# Slices are the unit in which an epoch is read.
SLICE_BYTES = 8 << 20


class Steps(Protocol):
    """What an executor needs of the steps: changes of one source table in, changes of relations out."""

    def apply(self, relation: str, batch: ChangeBatch) -> Iterator[tuple[str, ChangeBatch]]:
        """Runs a batch of a source table through the steps below it."""
        ...


class Executor(Protocol):
    """Turns what lies between two cuts into changes of relations, in the log's order.

    Attributes:
        name: For the status: ``inline`` or ``ray_data``.
        rows: Row images read so far.
        seconds: By stage, so far.
    """

    name: str

    @property
    def rows(self) -> int:
        """See above."""
        ...

    @property
    def seconds(self) -> Mapping[str, float]:
        """See above."""
        ...

    def outputs(self, after: Cut | None, upto: Cut) -> Iterator[tuple[str, ChangeBatch] | None]:
        """Yields (relation, changes), and None now and then so that the caller can look up."""
        ...


class InlineExecutor:
    """See ``Executor``.

    Args:
        log: To read from.
        steps: To run.
        relations: Topic to the relation it carries.
    """

    name = "inline"

    def __init__(self, log: Log, steps: Steps, relations: Mapping[str, str]) -> None:
        self._log = log
        self._steps = steps
        self._relations = relations
        self.rows = 0
        self.seconds = {"read_log": 0.0, "steps": 0.0}

    def outputs(self, after: Cut | None, upto: Cut) -> Iterator[tuple[str, ChangeBatch] | None]:
        """Reads slice by slice, runs the steps on batches of a useful size."""
        for part in self._log.slices(after, upto, tuple(self._relations), SLICE_BYTES):
            batches = coalesce(self._log.read(part))
            while True:
                began = time.perf_counter()
                read = next(batches, None)
                self.seconds["read_log"] += time.perf_counter() - began
                if read is None:
                    break
                topic, batch = read
                self.rows += batch.num_rows
                yield None
                changes = self._steps.apply(self._relations[topic], batch)
                while True:
                    began = time.perf_counter()
                    output = next(changes, None)
                    self.seconds["steps"] += time.perf_counter() - began
                    if output is None:
                        break
                    faults.point("epoch.step.after")
                    yield output
