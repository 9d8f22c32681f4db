"""PostgreSQL's arrays, and lists and structs that steps make, into every sink; verified, and read by others."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable
from postgres_database import Database
from reading import wrong

from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.plan.model import Plan
from raypipe.spec import load
from raypipe.verify import verify

PIPELINE = """
pipeline: arrays
log: sqlite:///log.db
sources:
  shop:
    url: {url}
    tables: [parcels, sightings]
steps:
  described:
    sql: |
      SELECT id, list_reverse(sizes) AS sizes, {{'first': names[1], 'prices': prices}} AS label,
             [{{'n': 1, 'mood': moods}}] AS moods, string_split(note, ' ') AS words
      FROM shop.parcels WHERE id % 5 <> 0
sinks:
  duck:
    url: duckdb:///store.duckdb
    tables: &tables
      parcels: {{from: shop.parcels}}
      sightings: {{from: shop.sightings}}
      described: {{from: described}}
      told: {{from: shop.parcels, mode: history}}
  lake:
    url: delta:///lake
    tables: *tables
  shards:
    urls: [sqlite:///one.db, sqlite:///two.db]
    tables: *tables
"""

SCHEMA = (
    "CREATE TYPE mood AS ENUM ('glad', 'so \"so\"')",
    "CREATE TABLE parcels(id int PRIMARY KEY, sizes int[], names text[][], prices numeric(10,2)[], seen timestamptz[],"
    " marks uuid[], moods mood[], note text)",
    "CREATE TABLE sightings(prices numeric(10,2)[], names text[][])",
    "ALTER TABLE sightings REPLICA IDENTITY FULL",
)
NAMES = """CASE g % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN ARRAY[['a,"\\', NULL], ['', 'é' || g]]
 ELSE ARRAY[[E'line\\nline']] END"""
FILL = (
    "INSERT INTO parcels SELECT g, CASE WHEN g % 3 = 0 THEN NULL ELSE ARRAY[g, NULL, -g] END, " + NAMES + ","
    " CASE g % 3 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY[g * 1.25, NULL, 99999999.99] END,"
    " ARRAY[timestamptz '2026-11-27 01:02:03.456789+03' + g * interval '1 day', NULL],"
    " ARRAY[gen_random_uuid()], ARRAY['glad', NULL, 'so \"so\"']::mood[], 'note ' || g FROM generate_series(1, 200) g",
    "INSERT INTO sightings SELECT ARRAY[g % 3, NULL], " + NAMES + " FROM generate_series(1, 60) g",
)
CHANGES = (
    "UPDATE parcels SET sizes = sizes || 7, moods = '{}' WHERE id % 7 = 0",
    "UPDATE parcels SET names = NULL, prices = ARRAY[0.1, 0.10, NULL] WHERE id % 11 = 0",
    "UPDATE parcels SET id = id + 1000, seen = NULL WHERE id % 13 = 0",
    "DELETE FROM parcels WHERE id % 17 = 0",
    "DELETE FROM sightings WHERE prices = ARRAY[0, NULL]::numeric[] AND names = '{}'",
    "UPDATE sightings SET prices = ARRAY[]::numeric[] WHERE names IS NULL",
)


@pytest.fixture
def database(postgres18):
    database = Database(postgres18.url)
    yield database
    database.close()


@pytest.fixture
def plan(database: Database, tmp_path: Path) -> Plan:
    database.write(*SCHEMA, *FILL)
    file = tmp_path / "pipeline.yaml"
    file.write_text(PIPELINE.format(url=database.url))
    return assemble(load(file))


def test_arrays_arrive_in_every_sink_as_they_are(plan: Plan, database: Database, tmp_path: Path) -> None:
    run_local(plan, until="idle")
    loaded = verify(plan)
    database.write(*CHANGES)
    run_local(plan, until="idle")
    changed = verify(plan)
    assert (wrong(loaded), wrong(changed)) == ({}, {})
    assert len(changed.tables) == 12
    found = {
        row[0]: (row[1], [None if price is None else str(price) for price in row[2] or []])
        for row in database_rows(tmp_path)
    }
    for names, prices in (read_in_lake(tmp_path), read_in_shards(tmp_path)):
        assert names == {number: row[0] for number, row in found.items()}
        assert prices == {number: row[1] for number, row in found.items()}
    assert found[2][0] == [['a,"\\', None], ["", "é2"]]
    assert found[4] == (None, ["5.00", None, "99999999.99"])


def test_a_sink_that_lost_one_element_is_found_out(plan: Plan, tmp_path: Path) -> None:
    run_local(plan, until="idle")
    with duckdb.connect(str(tmp_path / "store.duckdb")) as connection:
        connection.execute("UPDATE parcels SET prices = prices[1:2] WHERE id = 1")
        connection.execute("UPDATE parcels SET names = NULL WHERE id = 5")
    with closing(sqlite3.connect(tmp_path / "one.db")) as one, closing(sqlite3.connect(tmp_path / "two.db")) as two:
        changed = 0
        for shard in (one, two):
            changed += shard.execute("UPDATE parcels SET sizes = '[]' WHERE id IN (3, 6)").rowcount
            shard.commit()
    assert changed == 2
    assert wrong(verify(plan)) == {"duck.parcels": (0, 0, 2), "shards.parcels": (0, 0, 2)}


def database_rows(folder: Path) -> list[tuple]:
    with duckdb.connect(str(folder / "store.duckdb"), read_only=True) as connection:
        return connection.execute("SELECT id, names, prices FROM parcels").fetchall()


def read_in_lake(folder: Path) -> tuple[dict, dict]:
    with duckdb.connect() as connection:
        connection.register("lake", DeltaTable(folder / "lake" / "parcels").to_pyarrow_dataset())
        rows = connection.execute("SELECT id, names, prices FROM lake").fetchall()
    return {row[0]: row[1] for row in rows}, {
        row[0]: [None if price is None else str(price) for price in row[2] or []] for row in rows
    }


def read_in_shards(folder: Path) -> tuple[dict, dict]:
    rows = []
    for shard in ("one.db", "two.db"):
        with closing(sqlite3.connect(folder / shard)) as connection:
            rows += connection.execute("SELECT id, names, prices FROM parcels").fetchall()
    names = {row[0]: None if row[1] is None else json.loads(row[1]) for row in rows}
    return names, {row[0]: json.loads(row[2] or "[]") for row in rows}
