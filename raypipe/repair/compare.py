"""Compares a source table with copies of it: checksums of chunks first, then marks of rows, never the rows themselves.

A chunk is the rows whose keys share some bits of their hash, so that both sides know which rows are in it, whatever
order their database has for keys. A key is suspect if its row has another mark on the two sides, if only one side has
it, or if a copy has it twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from raypipe import faults
from raypipe.contracts import ComparesTables
from raypipe.contracts.repair import BYTES, CHECKSUM, CHECKSUM_MODULUS, CHUNK, KEY_MARK, ROW_MARK, ROWS
from raypipe.repair.report import TableReport

# Rows that share a chunk: few enough that one changed row costs few marks, enough that checksums are few.
CHUNK_ROWS = 64
# A checksum is some 40 bytes on the way: 10 MB at most.
MOST_CHUNKS = 1 << 18
BATCH_KEYS = 5_000
_MARK_BYTES = 40

Keys = tuple[tuple[str, ...], ...]


class Comparison:
    """Of one table; keeps marks in a scratch database that spills to disk.

    Args:
        folder: For the database.
        table: ``instance.table``.
        width: Columns of its key.
        view: Of its source.
    """

    def __init__(self, folder: Path, table: str, width: int, view: ComparesTables) -> None:
        self._database = duckdb.connect(
            str(Path(tempfile.mkdtemp(dir=folder)) / "marks.duckdb"),
            config={"memory_limit": "512MiB", "temp_directory": str(folder), "threads": 2},
        )
        self._database.execute("SET enable_progress_bar = false")
        self._table = table
        self._view = view
        self._keys = [f"k{place}" for place in range(width)]
        self._copies: list[str] = []
        columns = f"{KEY_MARK} BIGINT, {ROW_MARK} BIGINT, {', '.join(f'{key} VARCHAR' for key in self._keys)}"
        self._database.execute(f"CREATE TABLE held(copy INTEGER, {columns})")
        self._database.execute(f"CREATE TABLE source({columns})")
        self._database.execute(f"CREATE TABLE sums({CHUNK} BIGINT, {ROWS} BIGINT, {CHECKSUM} BIGINT, {BYTES} BIGINT)")
        texts = ", ".join(f"{key} VARCHAR" for key in self._keys)
        self._database.execute(f"CREATE TABLE suspects({texts}, what VARCHAR)")

    def hold(self, copy: str, rows: Iterable[pa.RecordBatch]) -> None:
        """Takes the marks of the rows of a copy."""
        number = len(self._copies)
        self._copies.append(copy)
        for batch in rows:
            if batch.num_rows:
                self._fill("held", f"{number}, *", self._view.marks_of(self._table, batch))

    def find(self) -> TableReport:
        """Compares every copy that was taken with the source, and remembers the suspect keys."""
        chunks = self._chunks()
        for batch in self._view.checksums(self._table, chunks):
            self._fill("sums", "*", batch)
        differing = [int(row[0]) for row in self._all(self._differing_sql(chunks))]
        compared = self._number("SELECT count(*) FROM sums") * _MARK_BYTES
        if differing:
            for batch in self._view.marks(self._table, chunks, differing):
                compared += batch.nbytes
                self._fill("source", "*", batch)
            self._suspect(chunks, differing)
        rows, size = self._all(f"SELECT coalesce(sum({ROWS}), 0), coalesce(sum({BYTES}), 0) FROM sums")[0]
        counts = {
            what: self._number(f"SELECT count(*) FROM suspects WHERE what = '{what}'")
            for what in ("inserted", "changed", "deleted")
        }
        reread = counts["inserted"] + counts["changed"]
        return TableReport(
            table=self._table,
            copies=tuple(self._copies),
            chunks=chunks,
            differing=len(differing),
            rows=int(rows),
            compared_bytes=compared,
            reread_bytes=int(reread * size / max(rows, 1)),
            table_bytes=int(size),
            **counts,
        )

    def suspects(self) -> Iterator[Keys]:
        """The suspect keys, some thousands at a time."""
        cursor = self._database.cursor().execute(f"SELECT {', '.join(self._keys)} FROM suspects")
        while rows := cursor.fetchmany(BATCH_KEYS):
            yield tuple(rows)

    def close(self) -> None:
        """Ends the database."""
        self._database.close()

    def _chunks(self) -> int:
        most = self._number("SELECT max(n) FROM (SELECT count(*) AS n FROM held GROUP BY copy)")
        return min(1 << max(most // CHUNK_ROWS, 1).bit_length(), MOST_CHUNKS)

    def _differing_sql(self, chunks: int) -> str:
        """Chunks in which some copy has other rows than the source, or one that only one of them has."""
        held = (
            f"SELECT copy, {KEY_MARK} & {chunks - 1} AS {CHUNK}, count(*) AS {ROWS},"
            f" (sum({ROW_MARK}::HUGEINT) % {CHECKSUM_MODULUS})::BIGINT AS {CHECKSUM} FROM held GROUP BY ALL"
        )
        copies = f"SELECT unnest(range({len(self._copies)})) AS copy"
        everywhere = f"SELECT copy, s.* FROM sums AS s CROSS JOIN ({copies})"
        return (
            f"SELECT DISTINCT coalesce(s.{CHUNK}, h.{CHUNK}) FROM ({everywhere}) AS s"
            f" FULL JOIN ({held}) AS h ON h.copy = s.copy AND h.{CHUNK} = s.{CHUNK}"
            f" WHERE (s.{ROWS}, s.{CHECKSUM}) IS DISTINCT FROM (h.{ROWS}, h.{CHECKSUM}) ORDER BY 1"
        )

    def _suspect(self, chunks: int, differing: Sequence[int]) -> None:
        keys = ", ".join(self._keys)
        self._database.register("wanted", pa.table({CHUNK: pa.array(differing, pa.int64())}))
        self._database.execute(
            f"CREATE TABLE near AS SELECT * FROM held SEMI JOIN wanted ON {KEY_MARK} & {chunks - 1} = {CHUNK}"
        )
        copies = f"SELECT unnest(range({len(self._copies)})) AS copy"
        found = (
            # Rows of the source that some copy has not, or has otherwise, or twice.
            f"SELECT {keys}, {KEY_MARK}, CASE WHEN {KEY_MARK} IN (SELECT {KEY_MARK} FROM near) THEN 'changed'"
            f" ELSE 'inserted' END AS what FROM (SELECT s.*, c.copy FROM source AS s CROSS JOIN ({copies}) AS c) AS s"
            f" LEFT JOIN (SELECT copy, {KEY_MARK}, min({ROW_MARK}) AS {ROW_MARK}, count(*) AS copies FROM near"
            f" GROUP BY ALL) AS n USING (copy, {KEY_MARK})"
            f" WHERE n.{ROW_MARK} IS DISTINCT FROM s.{ROW_MARK} OR n.copies > 1"
        )
        gone = f"SELECT {keys}, {KEY_MARK}, 'deleted' AS what FROM near ANTI JOIN source USING ({KEY_MARK})"
        if faults.armed("mutant.repair_keeps_gone"):
            gone += " LIMIT 0"
        self._database.execute(
            f"INSERT INTO suspects SELECT {keys}, what FROM ({found} UNION ALL ({gone}))"
            f" QUALIFY row_number() OVER (PARTITION BY {KEY_MARK}) = 1"
        )

    def _fill(self, table: str, chosen: str, batch: pa.RecordBatch) -> None:
        self._database.register("incoming", pa.Table.from_batches([batch]))
        self._database.execute(f"INSERT INTO {table} SELECT {chosen} FROM incoming")
        self._database.unregister("incoming")

    def _all(self, sql: str) -> list[tuple[int, ...]]:
        return self._database.execute(sql).fetchall()

    def _number(self, sql: str) -> int:
        return int(self._all(sql)[0][0] or 0)
