"""The expected contents: the user's own SQL run by DuckDB over the source tables of one read transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from raypipe.contracts import SourceView
from raypipe.errors import SqlError
from raypipe.plan import oracle_sql
from raypipe.plan.model import Plan
from raypipe.plan.views.clocks import CLOCK, clock_row


class Oracle:
    """A scratch database with the source tables and, on demand, the relations of the plan.

    Args:
        folder: For the database; the caller removes it.
        memory: DuckDB's limit; what exceeds it is spilled into the folder.
    """

    def __init__(self, folder: Path, memory: str = "1GiB") -> None:
        self.database = duckdb.connect(
            str(folder / "oracle.duckdb"),
            config={"memory_limit": memory, "temp_directory": str(folder), "threads": 2},
        )
        self.database.execute("SET TimeZone = 'UTC'")
        self.database.execute("SET python_enable_replacements = false")

    def load(self, plan: Plan, views: Mapping[str, SourceView], observer: Callable[[str, int], None]) -> dict[str, int]:
        """Copies every captured table; returns the rows in quarantine by table, where there are any.

        Args:
            plan: Names the tables.
            views: An open read transaction for each instance.
            observer: Told table and rows so far.
        """
        parked: dict[str, int] = {}
        for instance in plan.instances:
            self.database.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(instance.name)}")
            view = views[instance.name]
            for schema in instance.tables:
                name = str(schema.table)
                target = f"{quote(instance.name)}.{quote(schema.table.table)}"
                self.fill(target, schema.arrow(), view.rows(name), lambda rows, name=name: observer(name, rows))  # type: ignore[misc]
                if count := view.parked(name):
                    parked[name] = count
        return parked

    def fill(
        self, target: str, schema: pa.Schema, batches: object, observer: Callable[[int], None] = lambda _: None
    ) -> None:
        """Makes a table of a schema and fills it with record batches."""
        self.database.register("incoming", schema.empty_table())
        self.database.execute(f"CREATE OR REPLACE TABLE {target} AS SELECT * FROM incoming")
        rows = 0
        for batch in batches:  # type: ignore[attr-defined]
            self.database.register("incoming", pa.Table.from_batches([batch]))
            self.database.execute(f"INSERT INTO {target} SELECT * FROM incoming")
            rows += batch.num_rows
            observer(rows)
        self.database.unregister("incoming")

    def stand_at(self, at: float) -> None:
        """What now() means: the time of the cut, seconds since 1970."""
        self.database.register("incoming", clock_row(at))
        self.database.execute(f"CREATE OR REPLACE TABLE {quote(CLOCK)} AS SELECT * FROM incoming")
        self.database.unregister("incoming")

    def expect(self, plan: Plan, relation: str) -> str:
        """Computes a relation; returns the name of the table that holds it.

        Raises:
            SqlError: the SQL fails on the data.
        """
        name = quote(f"expected {relation}")
        try:
            self.database.execute(f"CREATE OR REPLACE TABLE {name} AS {oracle_sql(plan, relation)}")
        except duckdb.Error as error:
            raise SqlError(
                f"The SQL of {relation} fails over the source tables ({type(error).__name__}).",
                remedy="Run it by hand over a copy of the source to see the row.",
                relation=relation,
            ) from error
        return name

    def close(self) -> None:
        """Closes the scratch database."""
        self.database.close()


def quote(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
