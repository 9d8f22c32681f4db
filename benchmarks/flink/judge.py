"""Whether an answer is right: DuckDB asks the question over the files, read as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from benchmarks.flink.inputs import CHANGING, TABLES, Inputs
from benchmarks.flink.queries import Query
from benchmarks.kept import difference_of, in_order

# As DuckDB calls the types of the tables' columns.
_TYPES = {"int64": "BIGINT", "string": "VARCHAR", "timestamp[us]": "TIMESTAMP", "decimal128(12, 2)": "DECIMAL(12,2)"}


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Knows the answer to one question; a context.

    Attributes:
        database: That has the tables as they are in the end, and the answer as ``expected``.
        query: The question.
    """

    database: duckdb.DuckDBPyConnection
    query: Query

    @classmethod
    def of(cls, query: Query, inputs: Inputs) -> Judge:
        """Answers the question."""
        database = duckdb.connect(config={"threads": 1})
        database.execute("SET TimeZone = 'UTC'")
        for table in query.tables:
            schema = TABLES[table]
            database.execute(f"CREATE SCHEMA IF NOT EXISTS {schema.table.instance}")
            database.execute(f"CREATE TABLE {schema.table} AS {_rows(table, inputs.file(table))}")
        compared = ", ".join(query.compared) or "*"
        database.execute(f"CREATE TABLE expected AS SELECT {compared} FROM ({query.step})")
        return cls(database=database, query=query)

    def close(self) -> None:
        """Forgets everything."""
        self.database.close()

    def of_raypipe(self, answer: Path) -> str:
        """In what an answer differs, a Parquet file of changes with their weights; empty if in nothing."""
        return self._difference(f"SELECT * FROM '{answer}'")

    def of_flink(self, folder: Path, columns: tuple[str, ...]) -> str:
        """The same of Flink's, files of Debezium's JSON whose columns are ``c0``, ``c1`` and so on.

        Args:
            folder: Of the files; those that begin with a dot are files too.
            columns: Their names.
        """
        types = dict(self._described(self.query.step))
        image = "STRUCT(" + ", ".join(f"c{place} {types[name]}" for place, name in enumerate(columns)) + ")"
        paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".crc")]
        files = [str(path) for path in sorted(paths, key=_number)]
        if not files:
            return "there is none" if self._count() else ""
        lines = f"read_ndjson({files!r}, columns={{before: '{image}', after: '{image}', op: 'VARCHAR'}})"
        named = ", ".join(f"image.c{place} AS {name}" for place, name in enumerate(columns))
        # An update of Flink is two lines, each of them with one image.
        told = (
            f"SELECT {named}, weight AS _weight, line FROM (SELECT coalesce(after, before) AS image,"
            f" CASE op WHEN 'd' THEN -1 ELSE 1 END AS weight, row_number() OVER () AS line FROM {lines})"
        )
        if self.query.upserts:
            newest = f"row_number() OVER (PARTITION BY {self.query.upserts} ORDER BY line DESC) = 1"
            told = f"SELECT * FROM ({told}) QUALIFY {newest} AND _weight > 0"
        return self._difference(told)

    def _difference(self, changes: str) -> str:
        types = self._described("FROM expected")
        # To the types of the expected answer: a count is a wider number in one engine than in the other.
        columns = ", ".join(f'CAST("{name}" AS {type_}) AS "{name}"' for name, type_ in types)
        self.database.execute(
            f"CREATE OR REPLACE TABLE found AS SELECT {columns}, sum(_weight)::BIGINT AS _weight FROM ({changes})"
            " GROUP BY ALL HAVING sum(_weight) <> 0"
        )
        below = self.database.execute("SELECT count(*) FROM found WHERE _weight < 0").fetchone()
        if below != (0,):
            return "a row went that never came"
        found = in_order(self.database, "SELECT * EXCLUDE (_weight) FROM found, range(_weight)")
        return difference_of(found.drop_columns(["range"]), in_order(self.database, "SELECT * FROM expected"))

    def _described(self, sql: str) -> list[tuple[str, str]]:
        return [(row[0], row[1]) for row in self.database.execute(f"DESCRIBE {sql}").fetchall()]

    def _count(self) -> int:
        counted = self.database.execute("SELECT count(*) FROM expected").fetchone()
        return int(counted[0]) if counted else 0


def _number(path: Path) -> int:
    """The place of a file among those of a task, the last part of its name."""
    last = path.name.rpartition("-")[2]
    return int(last) if last.isdecimal() else 0


def _rows(table: str, path: Path) -> str:
    """SQL for a table as it is after all lines of its file."""
    columns = {column.name: _TYPES[str(column.type)] for column in TABLES[table].columns}
    if table not in CHANGING:
        return f"SELECT * FROM read_csv('{path}', header=false, columns={columns})"
    image = "STRUCT(" + ", ".join(f"{name} {type_}" for name, type_ in columns.items()) + ")"
    key = TABLES[table].key[0]
    return f"""
        SELECT image.* FROM (
            SELECT coalesce(after, before) AS image, op, row_number() OVER () AS line
            FROM read_ndjson('{path}', columns={{before: '{image}', after: '{image}', op: 'VARCHAR'}}))
        QUALIFY row_number() OVER (PARTITION BY image.{key} ORDER BY line DESC) = 1 AND op <> 'd'"""
