"""The Ray Data executor: a large epoch as one bounded dataset, its slices of the log transformed in parallel.

Outputs of several relations have several schemas, and a dataset has one, so each travels as one row: slice, relation,
and the changes encoded as in the log. Order is kept: slices come back in the order in which they were cut.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from functools import partial

import numpy as np
import pyarrow as pa
import ray.data

from raypipe.codec import decode, encode
from raypipe.contracts import Log, LogSlice
from raypipe.engine.coalesce import coalesce
from raypipe.log import open_existing_log
from raypipe.model import ChangeBatch, Cut
from raypipe.plan.model import Plan
from raypipe.steps import Flow

# A slice is a task: large enough to outweigh a task's cost (some 10 ms), small enough for several a core.
SLICE_BYTES = 16 << 20

# What a dataset may keep in the object store. Unbounded, Ray Data lets the outputs of an epoch pile up there before
# a slower sink, and pages of the store that a process has touched stay part of its memory.
STORE_BYTES = 32 << 20
# A task hands its outputs on in blocks of this size, so that few of them fill the bound above.
BLOCK_BYTES = 4 << 20

_OUTPUT = pa.schema([("relation", pa.string()), ("rows_read", pa.int64()), ("changes", pa.large_binary())])


class RayDataExecutor:
    """See ``raypipe.local.inline.Executor``.

    Args:
        plan: What runs.
        log: To cut into slices.
        relations: Topic to the relation it carries.
        wanted: Relations that sinks are fed from.
    """

    name = "ray_data"

    def __init__(self, plan: Plan, log: Log, relations: Mapping[str, str], wanted: Collection[str]) -> None:
        self._plan = plan
        self._log = log
        self._relations = dict(relations)
        self._wanted = tuple(wanted)
        self.rows = 0
        self.seconds = {"ray_data": 0.0}

    def outputs(self, after: Cut | None, upto: Cut) -> Iterator[tuple[str, ChangeBatch] | None]:
        """Runs the dataset and yields its outputs as they come, in the log's order."""
        slices = self._log.slices(after, upto, tuple(self._relations), SLICE_BYTES)
        if not slices:
            return
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=STORE_BYTES)
        context.target_max_block_size = BLOCK_BYTES
        context.enable_progress_bars = False
        transform = partial(_transform, plan=self._plan, relations=self._relations, wanted=self._wanted)
        dataset = ray.data.from_items([asdict(part) for part in slices], override_num_blocks=len(slices)).map_batches(
            transform, batch_size=1, batch_format="pyarrow", zero_copy_batch=True
        )
        began = time.perf_counter()
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
            self.seconds["ray_data"] += time.perf_counter() - began
            for relation, rows_read, changes in zip(*(block.column(name) for name in _OUTPUT.names), strict=True):
                self.rows += rows_read.as_py()
                yield (relation.as_py(), decode(changes.as_buffer())) if relation.is_valid else None
            began = time.perf_counter()


def _transform(
    batch: pa.Table, *, plan: Plan, relations: Mapping[str, str], wanted: Collection[str]
) -> Iterator[pa.Table]:
    """One slice in a Ray task: read it from the log, run the steps, encode what comes out."""
    log = open_existing_log(plan.log, pipeline=plan.pipeline)
    flow = Flow(plan, wanted)
    try:
        for fields in batch.to_pylist():
            part = LogSlice(**(fields | {"topics": tuple(fields["topics"])}))
            for topic, batch in coalesce(log.read(part)):
                yield _row(None, batch.num_rows, None)
                for relation, changes in flow.apply(relations[topic], batch):
                    yield _row(relation, 0, encode(changes))
    finally:
        flow.close()
        log.close()


def _row(relation: str | None, rows_read: int, changes: pa.Buffer | None) -> pa.Table:
    size = 0 if changes is None else changes.size
    bounds = pa.py_buffer(np.array([0, size], np.int64))
    packed = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, bounds, changes or pa.py_buffer(b"")])
    return pa.table([pa.array([relation], pa.string()), pa.array([rows_read], pa.int64()), packed], schema=_OUTPUT)
