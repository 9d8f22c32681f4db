"""A sink that looks right and is not: on a quiet day it holds the right rows, and it keeps no rule beyond that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from raypipe.contracts import Sink
from raypipe.model import OP, ChangeBatch, Committed, Cut, Epoch, Op, SinkTable, TableState
from raypipe.sinks.netting import identity_columns, stored_columns

# The rules a quiet day needs. Every other rule must find this sink out.
KEPT = {
    "what_is_committed_is_there_with_its_cut",
    "a_store_that_was_never_opened_holds_nothing",
    "opening_again_tells_what_is_held",
    "a_truncate_in_the_stream_empties_the_table",
    "null_is_a_key_like_any_other",
    "a_delete_needs_no_more_than_the_key",
    "a_moved_key_moves_its_row",
    "many_batches_of_an_epoch_are_one_commit",
    "a_sink_at_rest_can_be_read_by_others_and_goes_on_afterwards",
}


class WeakSink:
    """Keeps its rows in a dictionary that stands for the store; writes them before it commits."""

    def __init__(self, store: dict[str, object], tables: tuple[SinkTable, ...]) -> None:
        self.name = "weak"
        self.tables = tables
        self._store = store
        self._epoch: Epoch | None = None

    def open(self, generation: int) -> Committed:
        self._store["generation"] = generation
        return self._committed()

    def begin(self, epoch: Epoch) -> None:
        self._epoch = epoch

    def write(self, table: str, batch: ChangeBatch) -> None:
        rows = self._store.setdefault(table, {})
        assert isinstance(rows, dict)
        identity = identity_columns(batch.schema)
        for row in batch.rows.to_pylist():
            if row[OP] == Op.TRUNCATE:
                rows.clear()
            elif Op(row[OP]).weight > 0:
                rows[tuple(row[name] for name in identity)] = {name: row[name] for name in stored_columns(batch.schema)}
            else:
                rows.pop(tuple(row[name] for name in identity), None)

    def commit(self) -> Committed:
        assert self._epoch is not None
        self._store["cut"] = self._epoch.upto
        return self._committed()

    def abort(self) -> None:
        self._epoch = None

    def rest(self) -> None:
        pass

    @contextmanager
    def contents(self) -> Iterator[WeakContents]:
        yield WeakContents(self._committed(), self._store)

    def close(self) -> None:
        pass

    def _committed(self) -> Committed:
        cut, generation = self._store.get("cut"), self._store.get("generation", 0)
        assert cut is None or isinstance(cut, Cut)
        assert isinstance(generation, int)
        return Committed(
            cut=cut, generation=generation, tables={table.name: TableState(view=table.view) for table in self.tables}
        )


class WeakContents:
    def __init__(self, committed: Committed, store: dict[str, object]) -> None:
        self.committed = committed
        self._store = store

    def rows(self, table: str) -> Iterator[pa.RecordBatch]:
        rows = self._store.get(table)
        if isinstance(rows, dict) and rows:
            yield pa.RecordBatch.from_pylist(list(rows.values()))


_stores: dict[Path, dict[str, object]] = {}


def make_weak(folder: Path, tables: tuple[SinkTable, ...]) -> list[Sink]:
    return [WeakSink(_stores.setdefault(folder, {}), tables)]


def plant_nothing(folder: Path, table: str) -> None:
    pass
