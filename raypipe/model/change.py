"""Changes: what happened to rows, as flat Arrow batches with one row image per batch row.

An update is two rows, ``UPDATE_BEFORE`` then ``UPDATE_AFTER``, with one (commit, ordinal), always adjacent and always
in one batch. So a row-wise view is maintained by running its own SQL over the batch: an update that leaves the WHERE
drops its after image and the before image alone remains, which is a delete; a changed key deletes the old and
writes the new. Read as weights (``Op.weight``) a batch is a Z-set, which is what stateful views will need.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import pyarrow as pa

from raypipe.model.table import TableSchema

RESERVED_PREFIX = "_raypipe_"
OP = "_raypipe_op"
IMAGE = "_raypipe_image"
COMMIT = "_raypipe_commit"
ORDINAL = "_raypipe_ordinal"
TIME = "_raypipe_time"
BRANCH = "_raypipe_branch"


class Op(IntEnum):
    """What a batch row says, in the column ``_raypipe_op`` (int8)."""

    READ = 0  # the row as a snapshot found it: present
    INSERT = 1
    UPDATE_BEFORE = 2  # the row an update replaced: absent from now on
    UPDATE_AFTER = 3
    DELETE = 4
    TRUNCATE = 5  # every row of the table (of the branch) is gone; the data columns are NULL

    @property
    def weight(self) -> int:
        """+1 when the image is present after the change, -1 when absent, 0 for TRUNCATE."""
        return _WEIGHTS[self]


_WEIGHTS = {Op.READ: 1, Op.INSERT: 1, Op.UPDATE_BEFORE: -1, Op.UPDATE_AFTER: 1, Op.DELETE: -1, Op.TRUNCATE: 0}


class Image(IntEnum):
    """How much of the row an image holds, in the column ``_raypipe_image`` (int8)."""

    FULL = 0
    KEY = 1  # the key columns only; every other column is NULL and means nothing
    PARTIAL = 2  # some columns unchanged and absent; reserved for sources that send such images


SYSTEM_FIELDS: tuple[pa.Field, ...] = (
    pa.field(OP, pa.int8(), nullable=False),
    pa.field(IMAGE, pa.int8(), nullable=False),
    pa.field(COMMIT, pa.int64(), nullable=False),  # place of the source transaction in its instance's commit order
    pa.field(ORDINAL, pa.int64(), nullable=False),  # place of the change in its transaction; both images share it
    pa.field(TIME, pa.timestamp("us", tz="UTC"), nullable=True),  # when the source made the change, by its clock
)
BRANCH_FIELD = pa.field(BRANCH, pa.int8(), nullable=False)


@dataclass(frozen=True)
class ChangeBatch:
    """Changes of one table under one schema version, in source order.

    Attributes:
        schema: The table's schema; ``rows`` has ``SYSTEM_FIELDS``, then ``BRANCH`` if the schema has branches, then
            the table's columns in order.
        rows: The changes.
    """

    schema: TableSchema
    rows: pa.RecordBatch

    @property
    def num_rows(self) -> int:
        """Row images in the batch (an update counts two)."""
        return int(self.rows.num_rows)

    @staticmethod
    def arrow_schema(schema: TableSchema) -> pa.Schema:
        """The Arrow schema a batch of this table has."""
        branch = (BRANCH_FIELD,) if schema.branches > 1 else ()
        return pa.schema([*SYSTEM_FIELDS, *branch, *schema.arrow()])
