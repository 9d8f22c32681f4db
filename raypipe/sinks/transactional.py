"""The protocol of every sink whose store changes data and ledger in one transaction; the store itself is a ``Store``.

Fencing, idempotent commits, awaited loads, netting and widening are here, once; a store only knows how to run them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe import faults
from raypipe.contracts import SinkContents
from raypipe.errors import Conflict, Corrupt, Fenced, InvariantBroken, SchemaMismatch
from raypipe.model import BRANCH, ChangeBatch, Committed, Epoch, Mode, SinkTable, TableSchema
from raypipe.sinks.ledger import LEDGER_TABLE, Ledger, TableRecord, reconcile
from raypipe.sinks.nested import retyped
from raypipe.sinks.netting import (
    WEIGHT,
    drop_awaited,
    history_rows,
    identity_columns,
    net_keyed,
    net_multiset,
    stored_columns,
)
from raypipe.sinks.pending import PendingBatches
from raypipe.sinks.sharding import Shard
from raypipe.sinks.store import Snapshot, Store
from raypipe.sinks.types import check_key, check_names, fit, stored_schema, widened

_ANY_GENERATION = 2**62  # above every generation: what the mutant without a fence compares with
_ONE_STORE = Shard(index=0, count=1)


class TransactionalSink:
    """See ``contracts.Sink``.

    Args:
        name: Of the unit of commit.
        tables: As planned.
        store: That holds them.
        shard: Which rows are its own.
    """

    def __init__(self, *, name: str, tables: tuple[SinkTable, ...], store: Store, shard: Shard = _ONE_STORE) -> None:
        self.name = name
        self.tables = tables
        self._store = store
        self._shard = shard
        self._planned = {table.name: table for table in tables}
        self._generation = 0
        self._ledger = Ledger()
        self._columns: dict[str, pa.Schema] = {}
        self._epoch: Epoch | None = None
        self._held_already = False
        self._pending = PendingBatches()

    def open(self, generation: int) -> Committed:
        """Claims the store and makes its tables fit the plan, in one transaction."""
        self.close()
        self._generation = generation
        self._store.connect()
        try:
            self._store.begin()
            held = self._store.read_ledger()
            self._check_fence(held)
            ledger, anew = reconcile(held, self.tables, self._shard.count)
            for table in self.tables:
                if table in anew:
                    self._make(table, replaces=held.tables.get(table.name))
                else:
                    self._make_room(table.name, _arrow(table))
            self._write_ledger(replace(ledger, generation=generation))
            self._store.commit()
        except BaseException:
            self.close()
            raise
        faults.point("sink.open.after")
        return self._ledger.committed(self.tables)

    def begin(self, epoch: Epoch) -> None:
        """Starts the epoch's transaction."""
        self.abort()
        self._store.connect()
        self._store.begin()
        try:
            self._ledger = self._store.read_ledger()
            self._check_fence(self._ledger)
            self._held_already = self._holds(epoch)
            if faults.armed("mutant.cut_before_data"):
                self._write_ledger(replace(self._ledger, cut=epoch.upto))
                self._store.commit()
                self._store.begin()
        except BaseException:
            self._store.rollback()
            raise
        self._epoch = epoch

    def write(self, table: str, batch: ChangeBatch) -> None:
        """Takes the changes that are this sink's; applies them once enough have come."""
        self._required_epoch()
        if not self._held_already:
            share = self._shard.share(self._identified(table, batch))
            try:
                for ready in self._pending.add(table, share):
                    self._apply(*ready)
            except BaseException:
                self.abort()  # the store may have ended the transaction: nothing may follow as if it had not
                raise
        faults.point("sink.write.after")

    def commit(self) -> Committed:
        """Applies what is left, then cut and generation; one transaction."""
        epoch = self._required_epoch()
        faults.point("sink.commit.before")
        if self._held_already:
            self.abort()
            return self._ledger.committed(self.tables)
        try:
            for ready in self._pending.take():
                self._apply(*ready)
            faults.point("sink.commit.data")
            self._write_ledger(replace(self._ledger, cut=epoch.upto, generation=self._generation))
            self._store.commit()
        except Conflict:
            self.abort()
            self._tell_if_fenced()  # a store without locks notices a later claim as a conflict over the ledger
            raise
        except BaseException:
            self.abort()
            raise
        self._epoch = None
        faults.point("sink.commit.after")
        return self._ledger.committed(self.tables)

    def abort(self) -> None:
        """Rolls the unfinished epoch back."""
        self._pending = PendingBatches()
        if self._epoch is not None:
            self._epoch = None
            self._columns.clear()  # the rollback may have undone a widening
            self._store.rollback()

    def rest(self) -> None:
        """Lets go of the store between epochs."""
        if self._epoch is None:
            self._store.rest()

    @contextmanager
    def contents(self) -> Iterator[SinkContents]:
        """Reads the store in one transaction."""
        with self._store.snapshot() as snapshot:
            yield _Contents(self.tables, snapshot, self._shard)

    def close(self) -> None:
        """Disconnects."""
        self._pending = PendingBatches()
        self._epoch = None
        self._columns.clear()
        self._store.disconnect()

    def _required_epoch(self) -> Epoch:
        if self._epoch is None:
            raise InvariantBroken(f"Sink {self.name} was written to outside an epoch.")
        return self._epoch

    def _holds(self, epoch: Epoch) -> bool:
        """Whether the store holds the epoch already; an epoch that leaves a gap is a broken invariant."""
        held = self._ledger.cut.number if self._ledger.cut is not None else 0
        after = epoch.after.number if epoch.after is not None else 0
        if held != after and held < epoch.number:
            raise InvariantBroken(f"Sink {self.name} holds cut {held}; an epoch after cut {after} would not fit.")
        return held >= epoch.number

    def _check_fence(self, held: Ledger) -> None:
        if held.generation > self._generation and not faults.armed("mutant.no_fence"):
            raise self._fenced(held.generation)

    def _tell_if_fenced(self) -> None:
        self._store.begin()
        try:
            self._check_fence(self._store.read_ledger())
        finally:
            self._store.rollback()

    def _write_ledger(self, ledger: Ledger) -> None:
        fence = _ANY_GENERATION if faults.armed("mutant.no_fence") else self._generation
        if not self._store.write_ledger(ledger, fence):
            raise self._fenced(None)
        self._ledger = ledger

    def _fenced(self, generation: int | None) -> Fenced:
        return Fenced(
            f"Sink {self.name} in {self._store.where} belongs to a later run of the pipeline.",
            remedy="This run ends here; the later one goes on from what the sink holds.",
            sink=self.name,
            generation=self._generation,
            owner=generation,
        )

    def _make(self, table: SinkTable, replaces: TableRecord | None) -> None:
        where = self._store.where
        if table.name.lower() == LEDGER_TABLE:
            raise SchemaMismatch(f"{LEDGER_TABLE} in {where} is raypipe's own table.", remedy="Name yours otherwise.")
        check_names(table.schema, table.name, where)
        check_key(table.schema, table.name, where)
        columns = stored_schema(_arrow(table), table.name, where)
        self._columns.pop(table.name, None)
        if replaces is not None:
            self._store.drop(table.name)
        elif self._exists(table.name):
            raise SchemaMismatch(
                f"{where} has a table {table.name} that sink {self.name} did not make.",
                remedy="Name another table in the pipeline file, or rename or drop this one.",
                sink=self.name,
                table=table.name,
            )
        self._store.create(table.name, columns)
        self._index(table.name, table.schema)

    def _exists(self, table: str) -> bool:
        try:
            return self._store.columns(table) is not None
        except SchemaMismatch:  # it exists, with types that are not raypipe's
            return True

    def _index(self, table: str, schema: TableSchema) -> None:
        if self._planned[table].mode is Mode.CURRENT:
            self._store.index(table, identity_columns(schema) if schema.key else stored_columns(schema))

    def _make_room(self, table: str, incoming: pa.Schema) -> pa.Schema:
        """Widens a table for incoming columns if it must; returns the columns it has then."""
        stored = self._columns.get(table)
        if stored is None:
            stored = self._store.columns(table)
            if stored is None:
                raise Corrupt(
                    f"Table {table} has disappeared from {self._store.where}.",
                    remedy=f"Restore it, or remove the sink's row from {LEDGER_TABLE} to load everything again.",
                )
        wide = widened(stored, incoming, table, self._store.where)
        if wide != stored:
            self._store.widen(table, stored, wide)
            # Read back, as a store without a type of its own for a column keeps it as another (SQLite and uint64).
            wide = self._store.columns(table) or wide
        self._columns[table] = wide
        return wide

    def _identified(self, table: str, batch: ChangeBatch) -> ChangeBatch:
        """The batch with the key the user gave to a relation that has none of its own."""
        key = self._planned[table].schema.key
        if batch.schema.key or not key:
            return batch
        return ChangeBatch(schema=replace(batch.schema, key=key), rows=batch.rows)

    def _apply(self, table: str, batch: ChangeBatch) -> None:
        record = self._ledger.tables[table]
        batch, awaiting = drop_awaited(batch, record.awaiting)
        record = replace(record, awaiting=awaiting)
        if batch.num_rows:
            columns = self._make_room(table, _arrow(self._planned[table], batch.schema))
            if batch.schema.key != record.shape.key:
                record = replace(record, shape=replace(record.shape, key=batch.schema.key))
                self._index(table, batch.schema)
            if self._planned[table].mode is Mode.HISTORY:
                self._store.insert(table, fit(history_rows(batch), columns))
            elif batch.schema.key:
                self._apply_keyed(table, batch, columns)
            else:
                self._apply_multiset(table, batch, columns)
        self._ledger = self._ledger.with_table(table, record)

    def _apply_keyed(self, table: str, batch: ChangeBatch, columns: pa.Schema) -> None:
        net = net_keyed(batch)
        self._truncate(table, net.truncated, batch.schema)
        identity = _some(columns, identity_columns(batch.schema))
        self._store.replace(table, fit(net.upserts, columns), fit(net.deletes, identity))

    def _apply_multiset(self, table: str, batch: ChangeBatch, columns: pa.Schema) -> None:
        net = net_multiset(batch)
        self._truncate(table, net.truncated, batch.schema)
        names = stored_columns(batch.schema)
        gone = net.weights.filter(pc.less(net.weights[WEIGHT], 0))
        if gone.num_rows:
            copies = pc.negate(gone[WEIGHT]).combine_chunks()
            found = self._store.delete_copies(table, fit(gone, _some(columns, names)), copies)
            if found != pc.sum(copies).as_py():
                raise Corrupt(
                    f"Table {table} in {self._store.where} lacks rows that raypipe wrote: somebody else changed it.",
                    remedy="Load it again, and keep other writers away from it.",
                    table=table,
                )
        come = net.weights.filter(pc.greater(net.weights[WEIGHT], 0))
        if come.num_rows:
            self._store.insert(table, fit(_repeated(come), columns))

    def _truncate(self, table: str, branches: frozenset[int], schema: TableSchema) -> None:
        if branches and schema.branches == 1:
            self._store.delete_all(table)
        elif branches:
            self._store.delete_matching(table, pa.table({BRANCH: pa.array(sorted(branches), pa.int8())}))


class _Contents:
    """See ``contracts.SinkContents`` and ``contracts.HoldsAShare``."""

    def __init__(self, tables: tuple[SinkTable, ...], snapshot: Snapshot, shard: Shard) -> None:
        self._tables = {table.name: table for table in tables}
        self._snapshot = snapshot
        self._shard = shard
        self.committed = snapshot.ledger.committed(tables)

    def rows(self, table: str) -> Iterator[pa.RecordBatch]:
        """Rows with the plan's columns and types, whatever else the stored table has."""
        stored = self._snapshot.columns(table)
        if stored is None:
            return
        wanted = pa.schema([pa.field(f.name, _plain(f.type)) for f in _arrow(self._tables[table])])
        present = _some(stored, [name for name in wanted.names if name in stored.names])
        for rows in self._snapshot.rows(table, present):
            try:
                yield from fit(pa.Table.from_batches([rows]), wanted).to_batches()
            except pa.ArrowInvalid:
                raise SchemaMismatch(f"Table {table} holds values that its columns in the plan cannot.") from None

    def strays(self, table: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows that another shard should hold."""
        return self._shard.strays(rows, self._tables[table].schema.key)


def _arrow(table: SinkTable, schema: TableSchema | None = None) -> pa.Schema:
    """Columns of a sink table as changes bring them: with the system columns if it is a history."""
    full = ChangeBatch.arrow_schema(schema or table.schema)
    if table.mode is Mode.HISTORY:
        return full
    return _some(full, stored_columns(schema or table.schema))


def _some(schema: pa.Schema, names: list[str]) -> pa.Schema:
    return pa.schema([pa.field(name, schema.field(name).type) for name in names])


def _plain(arrow: pa.DataType) -> pa.DataType:
    return retyped(arrow, lambda leaf: leaf.value_type if pa.types.is_dictionary(leaf) else leaf)


def _repeated(weights: pa.Table) -> pa.Table:
    """Each row as often as its weight says."""
    times = weights[WEIGHT].to_numpy()
    rows = weights.drop_columns([WEIGHT])
    return rows if (times == 1).all() else rows.take(pa.array(np.repeat(np.arange(times.size), times)))
