"""One version of a Delta table, and the commits that can follow it. Every method that commits makes one commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, write_deltalake
from deltalake.exceptions import TableNotFoundError

from raypipe.sinks.delta import merge
from raypipe.sinks.delta.marks import OWNER_PROPERTY
from raypipe.sinks.delta.reduce import GONE
from raypipe.sinks.delta.stage import Spool
from raypipe.sinks.types import fit

_PROPERTIES = {
    # Loading a table reads the log from its last checkpoint: 10 keeps the 500th commit nearly as quick as the first.
    "delta.checkpointInterval": "10",
    # Log files older than this go when a checkpoint is written, data files that no version since then needs go when
    # the table is vacuumed. So this is how far back readers can travel; Delta's own 30 and 7 days would fill a disk.
    "delta.logRetentionDuration": "interval 1 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
    "delta.enableExpiredLogCleanup": "true",
    # A merge rewrites every file it touches, whole.
    "delta.targetFileSize": str(32 << 20),
}


class Lake:
    """A loaded version. A commit succeeds only if nothing it conflicts with was committed since."""

    def __init__(self, delta: DeltaTable) -> None:
        self.delta = delta

    @classmethod
    def load(cls, path: Path) -> Lake | None:
        """The newest version, None if there is no Delta table."""
        if not path.exists():
            return None
        try:
            return cls(DeltaTable(str(path)))
        except TableNotFoundError:
            return None

    @classmethod
    def create(
        cls, path: Path, columns: pa.Schema, partition_by: Sequence[str], owner: str, marks: CommitProperties
    ) -> None:
        """Makes an empty table that tells whose it is."""
        DeltaTable.create(
            str(path),
            schema=columns,
            partition_by=list(partition_by),
            configuration={**_PROPERTIES, OWNER_PROPERTY: owner},
            commit_properties=marks,
            raise_if_key_not_exists=False,
        )

    @property
    def owner(self) -> str | None:
        """What ``create`` was told, None for a table that raypipe did not make."""
        owner: str | None = self.delta.metadata().configuration.get(OWNER_PROPERTY)
        return owner

    @property
    def columns(self) -> pa.Schema:
        """Names and types, without anything else the schema says."""
        return pa.schema([pa.field(field.name, field.type) for field in pa.schema(self.delta.schema())])

    @property
    def partition_by(self) -> tuple[str, ...]:
        """Columns the table is partitioned by."""
        return tuple(self.delta.metadata().partition_columns)

    @property
    def version(self) -> int:
        """Number of the loaded version."""
        version: int = self.delta.version()
        return version

    def is_empty(self) -> bool:
        """No file, so certainly no row."""
        return not self.delta.file_uris()

    def scan(self, names: Sequence[str], predicate: str = "") -> pa.RecordBatchReader:
        """Rows of this version, as a stream."""
        return pa.RecordBatchReader.from_stream(self.delta.scan(columns=list(names), predicate=predicate or None))

    def note(self, marks: CommitProperties) -> None:
        """Commits marks and no rows."""
        self.delta.create_write_transaction(
            [], "append", self.delta.schema(), list(self.partition_by), commit_properties=marks
        )
        self.delta.update_incremental()

    def append(self, rows: Iterable[pa.Table], marks: CommitProperties) -> None:
        """Adds rows."""
        write_deltalake(self.delta, _reader(rows, self.columns), mode="append", commit_properties=marks)

    def replace(self, rows: Iterable[pa.Table], marks: CommitProperties) -> None:
        """Puts rows in the place of all rows."""
        write_deltalake(self.delta, _reader(rows, self.columns), mode="overwrite", commit_properties=marks)

    def make_anew(self, columns: pa.Schema, partition_by: Sequence[str], marks: CommitProperties) -> None:
        """Empties the table and gives it other columns and partitions."""
        self._reshape(iter(()), columns, partition_by, marks)

    def reshape(self, columns: pa.Schema, partition_by: Sequence[str], marks: CommitProperties) -> None:
        """Gives the table wider columns or other partitions; its rows stay the same, in new files."""
        rows = self.scan(self.columns.names)
        self._reshape((pa.Table.from_batches([batch]) for batch in rows), columns, partition_by, marks)

    def add_columns(self, columns: pa.Schema, marks: CommitProperties) -> None:
        """Adds columns, NULL in all rows there are; writes no file."""
        self.delta.alter.add_columns(Schema.from_arrow(columns).fields, commit_properties=marks)

    def merge(self, rows: Spool, on: str, truncated: frozenset[int], marks: CommitProperties) -> None:
        """Deletes, updates and inserts.

        Args:
            rows: As ``reduce.Reduced`` says.
            on: Which stored row a given one meets.
            truncated: Branches of which all stored rows go that meet none.
            marks: Of the commit.
        """
        columns = self.columns
        merger = self.delta.merge(
            _reader(rows.tables(), columns.append(pa.field(GONE, pa.bool_()))),
            on,
            source_alias=merge.SOURCE,
            target_alias=merge.TARGET,
            commit_properties=marks,
        )
        values = merge.assignments(columns.names)
        merger = merger.when_matched_delete(predicate=merge.is_gone()).when_matched_update(values)
        merger = merger.when_not_matched_insert(values, predicate=f"NOT {merge.is_gone()}")
        if truncated:
            merger = merger.when_not_matched_by_source_delete(predicate=merge.of_branches(truncated))
        merger.execute()
        # A merge that changes nothing makes no commit, and the marks would be lost.
        if any(self.delta.transaction_version(mark.app_id) != mark.version for mark in marks.app_transactions or ()):
            self.note(marks)

    def compact(self) -> None:
        """Merges small files; commits nothing if there is nothing to merge."""
        self.delta.optimize.compact()

    def vacuum(self) -> None:
        """Deletes files that no version younger than the table's retention needs, left by whomever."""
        self.delta.vacuum(dry_run=False, full=True)

    def _reshape(
        self, rows: Iterable[pa.Table], columns: pa.Schema, partition_by: Sequence[str], marks: CommitProperties
    ) -> None:
        write_deltalake(
            self.delta,
            _reader(rows, columns),
            mode="overwrite",
            schema_mode="overwrite",
            partition_by=list(partition_by),
            commit_properties=marks,
        )


def _reader(tables: Iterable[pa.Table], columns: pa.Schema) -> pa.RecordBatchReader:
    """The tables as a stream with exactly these columns; what cannot be read surfaces where the stream is used."""

    def batches() -> Iterator[pa.RecordBatch]:
        for table in tables:
            yield from fit(table, columns).to_batches()

    return pa.RecordBatchReader.from_batches(columns, batches())
