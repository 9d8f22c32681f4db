"""The Ray Data executor: a large epoch as one bounded dataset, its slices of the log transformed in parallel.

Order is kept: slices come back in the order in which they were cut, and outputs of a slice in the order in which its
task made them. A task that is run again makes the same, and Ray passes on what had not come yet.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayTaskError

from actors import blocks
from actors.remote_state import RemoteState
from raypipe import faults
from raypipe.contracts import Log, LogSlice
from raypipe.engine.coalesce import coalesce
from raypipe.errors import RaypipeError, SchemaMismatch
from raypipe.local.demand import Demand
from raypipe.log import open_existing_log
from raypipe.model import ChangeBatch, Cut
from raypipe.plan.model import Plan
from raypipe.state import shard_of
from raypipe.steps import Flow, Intake, Needs

# A slice is a task: large enough to outweigh a task's cost (some 10 ms), small enough for several a core.
SLICE_BYTES = 16 << 20

# What a dataset may keep in the object store. Unbounded, Ray Data lets the outputs of an epoch pile up there before
# a slower sink, and pages of the store that a process has touched stay part of its memory.
STORE_BYTES = 128 << 20
# A task hands its outputs on in blocks of this size, so that few of them fill the bound above.
BLOCK_BYTES = 4 << 20


class RayDataExecutor:
    """See ``raypipe.local.inline.Executor``.

    Args:
        plan: What runs.
        log: To cut into slices.
        relations: Topic to the relation it carries.
        streamed: Relations to make of the log batch by batch.
        wanted: Those that the sinks of this epoch are fed from; others come for the state.
        shards: Of the state that takes its part; 0 if none does.
    """

    name = "ray_data"

    def __init__(
        self,
        plan: Plan,
        log: Log,
        relations: Mapping[str, str],
        streamed: Collection[str],
        wanted: Collection[str],
        shards: int = 0,
    ) -> None:
        self._log = log
        self._topics = tuple(relations)
        self._transform = partial(
            _transform,
            plan=plan,
            relations=dict(relations),
            streamed=tuple(streamed),
            wanted=frozenset(wanted),
            shards=shards,
        )
        self.rows = 0
        self.seconds = {"ray_data": 0.0}

    def outputs(self, after: Cut | None, upto: Cut) -> Iterator[tuple[str, ChangeBatch] | None]:
        """Runs the dataset and yields its outputs as they come, in the log's order."""
        for _, block in self.blocks(after, upto):
            yield None
            yield from blocks.made_in(block)

    def blocks(self, after: Cut | None, upto: Cut) -> Iterator[tuple[Any, pa.Table]]:
        """Runs the dataset and yields its blocks as they come: the reference, and what it refers to.

        Raises:
            RaypipeError: what a task raised.
        """
        slices = self._log.slices(after, upto, self._topics, SLICE_BYTES)
        if not slices:
            return
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=STORE_BYTES)
        context.target_max_block_size = BLOCK_BYTES
        context.enable_progress_bars = False
        context.raise_original_map_exception = True
        dataset = ray.data.from_items([asdict(part) for part in slices], override_num_blocks=len(slices)).map_batches(
            self._transform, batch_size=1, batch_format="pyarrow", zero_copy_batch=True
        )
        try:
            began = time.perf_counter()
            for bundle in dataset.iter_internal_ref_bundles():
                for entry in bundle.blocks:
                    block = ray.get(entry.ref)
                    self.seconds["ray_data"] += time.perf_counter() - began
                    self.rows += blocks.rows_read(block)
                    yield entry.ref, block
                    began = time.perf_counter()
        except RayTaskError as error:
            if isinstance(error.cause, RaypipeError):
                raise error.cause from None
            raise


class SharedExecutor:
    """See ``raypipe.local.inline.Executor``: of a dataset whose blocks the shards of the state take in themselves.

    Args:
        dataset: Makes what is streamed, and the portions.
        state: The shards.
        needs: What the sinks need of them.
    """

    def __init__(self, dataset: RayDataExecutor, state: RemoteState, needs: Needs) -> None:
        self._dataset = dataset
        self._state = state
        self._needs = needs
        self._seconds = 0.0
        self.name = dataset.name

    @property
    def rows(self) -> int:
        """See ``Executor``."""
        return self._dataset.rows

    @property
    def seconds(self) -> Mapping[str, float]:
        """See ``Executor``."""
        return {**self._dataset.seconds, "views": self._seconds}

    def outputs(self, after: Cut | None, upto: Cut) -> Iterator[tuple[str, ChangeBatch] | None]:
        """What the dataset makes for sinks, then what the stateful steps make of it; then their state is durable."""
        epoch = self._state.begin(after, upto, self._needs)
        try:
            for reference, block in self._dataset.blocks(after, upto):
                epoch.take_in(reference)
                yield None
                yield from blocks.made_in(block)
            yield None
            made = epoch.finish()
            while True:
                began = time.perf_counter()
                output = next(made, None)
                self._seconds += time.perf_counter() - began
                if output is None:
                    break
                yield output
        finally:
            epoch.abort()


def _transform(
    batch: pa.Table,
    *,
    plan: Plan,
    relations: Mapping[str, str],
    streamed: Collection[str],
    wanted: frozenset[str],
    shards: int,
) -> Iterator[pa.Table]:
    """One slice in a Ray task: read it from the log, run the steps, encode what comes out for whom."""
    log = open_existing_log(plan.log, pipeline=plan.pipeline)
    flow = Flow(plan, streamed)
    state = _ForState(plan, shards) if shards else None
    try:
        for fields in batch.to_pylist():
            part = LogSlice(**(fields | {"topics": tuple(fields["topics"])}))
            for topic, batch in coalesce(log.read(part)):
                yield blocks.read(batch.num_rows)
                for relation, changes in flow.apply(relations[topic], batch):
                    if relation in wanted:
                        yield blocks.made(relation, changes)
                    if state is not None:
                        yield from state.rows(relation, changes)
                    faults.point("epoch.slice.output")
    finally:
        if state is not None:
            state.close()
        flow.close()
        log.close()


class _ForState:
    """What a task makes for the shards of the state."""

    def __init__(self, plan: Plan, shards: int) -> None:
        demand = Demand.of(plan)
        self._inputs = demand.inputs
        self._intake = Intake(plan, demand.relations, shards, shard_of)

    def rows(self, relation: str, changes: ChangeBatch) -> Iterator[pa.Table]:
        """Rows of a block."""
        if relation not in self._inputs:
            return
        if relation in self._intake.relations:
            try:
                portions = list(self._intake.portions(relation, changes))
            except SchemaMismatch:
                pass  # whether this matters, the shards know
            else:
                yield from (blocks.portion(shard, portion) for shard, portion in portions)
                return
        yield blocks.fed(relation, changes)

    def close(self) -> None:
        """Ends what it computes with."""
        self._intake.close()
