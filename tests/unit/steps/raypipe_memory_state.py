"""State in memory, as simple as can be: what the real store must agree with, and what tests of views run on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.contracts import WEIGHT, TraceSchema


class MemoryTrace:
    """See ``contracts.Trace``."""

    def __init__(self, schema: TraceSchema, database: duckdb.DuckDBPyConnection, rows: pa.Table | None = None) -> None:
        self.schema = schema
        self._database = database
        self._arrow = pa.schema([*schema.columns, pa.field(WEIGHT, pa.int64())])
        self.held = self._arrow.empty_table() if rows is None else rows

    def holding(self, rows: pa.Table) -> MemoryTrace:
        """Another trace, of these rows."""
        return MemoryTrace(self.schema, self._database, rows)

    def probe(self, keys: pa.Table) -> pa.Table:
        if not self.schema.key:
            return self.held
        self._database.register("held", self.held)
        self._database.register("keys", keys)
        same = " AND ".join(f'h."{name}" IS NOT DISTINCT FROM k."{name}"' for name in self.schema.key)
        found = self._database.sql(
            f"SELECT h.* FROM held h WHERE EXISTS (SELECT 1 FROM keys k WHERE {same}) ORDER BY ALL"
        )
        return found.to_arrow_table().cast(self._arrow)

    def replace(self, rows: pa.Table, stays: npt.NDArray[np.bool_]) -> pa.Table:
        before = self.probe(rows)
        numbered = rows.append_column("_place", pa.array(range(rows.num_rows), pa.int64()))
        self._database.register("numbered", numbered.append_column("_stays", pa.array(stays)))
        key = ", ".join(f'"{name}"' for name in self.schema.key)
        lasts = f"FROM numbered QUALIFY _place = max(_place) OVER (PARTITION BY {key})"
        come = self._database.sql(f"SELECT * EXCLUDE (_place, _stays) FROM ({lasts}) WHERE _stays").to_arrow_table()
        parts = [(come.cast(self.schema.columns), 1), (before.drop_columns([WEIGHT]), -1)]
        weighted = [part.append_column(WEIGHT, pa.array([sign] * part.num_rows, pa.int64())) for part, sign in parts]
        delta = self._added_up(pa.concat_tables(weighted))
        self.append(delta)
        return delta

    def should_scan(self, keys: int) -> bool:
        return False

    def rows(self) -> Iterator[pa.RecordBatch]:
        yield from self.held.to_batches()

    @property
    def count(self) -> int:
        return int(self.held.num_rows)

    def clear(self) -> None:
        self.held = self._arrow.empty_table()

    def append(self, rows: pa.Table) -> None:
        self.held = self._added_up(pa.concat_tables([self.held, rows.cast(self._arrow)]))
        assert min(self.held[WEIGHT].to_pylist(), default=1) > 0, "a trace holds a row less than not at all"

    def _added_up(self, rows: pa.Table) -> pa.Table:
        self._database.register("rows", rows)
        names = ", ".join(f'"{name}"' for name in self.schema.columns.names)
        total = self._database.sql(
            f"SELECT {names}, sum({WEIGHT})::BIGINT AS {WEIGHT} FROM rows GROUP BY ALL HAVING sum({WEIGHT}) <> 0 "
            "ORDER BY ALL"
        )
        return total.to_arrow_table().cast(self._arrow)


class MemoryWork:
    """See ``contracts.Work``."""

    def __init__(self, state: MemoryState, traces: dict[str, MemoryTrace]) -> None:
        self._state = state
        self._traces = traces
        self._began = {name: trace.held for name, trace in traces.items()}

    def trace(self, name: str) -> MemoryTrace:
        return self._traces[name]

    def standing(self, name: str) -> MemoryTrace:
        return self._traces[name].holding(self._began[name])

    def commit(self, version: int, *, note: str = "") -> None:
        self._state.kept.setdefault(version, ({name: trace.held for name, trace in self._traces.items()}, note))

    def abort(self) -> None:
        pass


class MemoryState:
    """See ``contracts.StateStore``."""

    lineage = "memory"

    def __init__(self, schemas: Sequence[TraceSchema]) -> None:
        self._schemas = {schema.name: schema for schema in schemas}
        self._database = duckdb.connect()
        self.kept: dict[int, tuple[dict[str, pa.Table], str]] = {}

    def versions(self) -> Sequence[int]:
        return tuple(sorted(self.kept))

    def note(self, version: int) -> str:
        return self.kept[version][1]

    def begin(self, after: int | None) -> MemoryWork:
        held = self.kept[after][0] if after is not None else {}
        return MemoryWork(
            self,
            {name: MemoryTrace(schema, self._database, held.get(name)) for name, schema in self._schemas.items()},
        )

    def keep(self, versions: Collection[int]) -> None:
        self.kept = {version: held for version, held in self.kept.items() if version in versions}

    def reset(self) -> None:
        self.kept.clear()

    def close(self) -> None:
        self._database.close()
