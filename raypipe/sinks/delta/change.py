"""The one commit that brings a table to an epoch's end: which of Delta's operations does it, and over which rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties

from raypipe.model import TableSchema
from raypipe.sinks.delta import merge
from raypipe.sinks.delta.lake import Lake
from raypipe.sinks.delta.reduce import Counts, Reduced, Touched, present_rows, reduce_keyed, reduce_multiset
from raypipe.sinks.delta.stage import Spool, Stage
from raypipe.sinks.netting import identity_columns

Change = Callable[[CommitProperties], None]
"""Commits the change of an epoch, together with the marks given."""


def recorded(lake: Lake, stage: Stage) -> Change:
    """The change of a history: every staged row is added."""
    return partial(lake.append, stage.tables()) if stage.num_rows else lake.note


def present(lake: Lake, stage: Stage, schema: TableSchema, columns: pa.Schema, spill: Path) -> Change:
    """The change of a table that holds the present state.

    Args:
        lake: The table before.
        stage: Holds the epoch.
        schema: Of the relation.
        columns: All of the table.
        spill: Folder for what does not fit into memory.

    Raises:
        Corrupt: the table lacks rows that are to go.
    """
    if not stage.num_rows:
        return lake.note
    reduced = _reduced(lake, stage, schema, columns, spill)
    rows = present_rows(reduced.rows)
    if not reduced.rows.num_rows and not reduced.truncated:
        return lake.note
    if len(reduced.truncated) == schema.branches:
        return partial(lake.replace, rows)
    if lake.is_empty() or not (reduced.gone or reduced.truncated or schema.key):
        return partial(lake.append, rows)
    touched = Touched() if reduced.truncated else reduced.touched
    if schema.key:
        on = merge.meets_identity(identity_columns(schema), touched)
    else:
        on = merge.meets_copies(lake.columns.names, touched)
    return partial(lake.merge, reduced.rows, on, reduced.truncated)


def _reduced(lake: Lake, stage: Stage, schema: TableSchema, columns: pa.Schema, spill: Path) -> Reduced:
    if schema.key:
        return reduce_keyed(stage, schema, columns, lake.partition_by)

    def copies(rows: Spool, touched: Touched) -> Counts:
        held = lake.scan(columns.names, merge.within(touched, merge.quoted))
        return merge.count_copies(held, rows, columns.names, spill)

    return reduce_multiset(stage, schema, columns, lake.partition_by, copies)
