"""A row that waits in quarantine is told whole, as the server writes it, by copy and by stream."""

from __future__ import annotations

import json

from raypipe.sources.postgres.server_text import MOST_CHARACTERS

# A column of every kind that Arrow has no place for all values of, and of the others.
COLUMNS = {
    "id": "int PRIMARY KEY",
    "price": "numeric(12,2)",
    "wide": "numeric(60,30)",
    "day": "date",
    "at": "timestamptz",
    "local": "timestamp",
    "hour": "time",
    "days": "date[][]",
    "prices": "numeric(5,1)[]",
    "flag": "bool",
    "small": "real",
    "large": "double precision",
    "raw": "bytea",
    "note": "text",
    "free": "numeric",
    "codes": "char(4)[]",
    "mark": "uuid",
    "doc": "jsonb",
}
# Everything fits but the price.
ORDINARY = {
    "price": "NaN",
    "wide": "-0.000000000000000000000000000012",
    "day": "0044-03-15 BC",
    "at": "2026-11-27 01:02:03.40+03",
    "local": "0001-01-01 00:00:00.000001 BC",
    "hour": "23:59:59.50",
    "days": "{{2026-01-01,NULL},{0044-03-15 BC,20000-01-02}}",
    "prices": "{1.5,NULL,-2}",
    "flag": "true",
    "small": "0.1",
    "large": "1e-7",
    "raw": "\\xff00",
    "note": 'a "b" \\ \n é',
    "free": "0.10",
    "codes": '{a,"b c",NULL,"null","",",","\\\\","\\""}',
    "mark": "00000000-0000-0000-0000-0000000000ff",
    "doc": '{"a": [1, null]}',
}
ROWS = (
    {"id": "1", **ORDINARY},
    {"id": "2", **ORDINARY, "price": "1", "day": "infinity", "flag": "false", "large": "-Infinity", "small": "NaN"},
    {"id": "3", **ORDINARY, "at": "-infinity", "wide": "NaN", "local": "294276-12-31 23:59:59.25"},
    {"id": "4", "local": "infinity", "day": "-infinity", "hour": "24:00", "days": "{2026-01-01}", "note": ""},
    {"id": "5", "days": "[0:0][1:1]={{2026-01-01}}", "prices": "{NaN}", "price": "NaN"},
    {"id": "6", "prices": "{{1,2},{3,4}}", "codes": "{}", "raw": "", "local": "294247-01-10 04:00:54.775807"},
)


def test_a_row_in_quarantine_is_told_as_the_server_writes_it(database, read):
    database.write(f"CREATE TABLE strange({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})")
    database.write("ALTER TABLE strange REPLICA IDENTITY FULL", *(insertion(row) for row in ROWS))
    reading = read("strange").open().until_loaded()
    assert quarantine(reading) == written(database)  # by copy
    assert len(quarantine(reading)) == len(ROWS)
    database.write("UPDATE strange SET id = id + 10")
    reading.drain()
    assert quarantine(reading) == written(database)  # by stream


def test_a_value_that_stored_apart_does_not_fit_is_told_too(database, read):
    database.write(
        "CREATE TABLE strange(id int PRIMARY KEY, note text, prices numeric(8,1)[], at timestamptz)",
        "ALTER TABLE strange ALTER prices SET STORAGE EXTERNAL",
        "INSERT INTO strange SELECT 1, '', array_agg(n), now() FROM generate_series(1, 3000) n",
    )
    reading = read("strange").open().until_loaded()
    assert not quarantine(reading)
    database.write("UPDATE strange SET prices = prices || numeric 'NaN'")
    database.write("UPDATE strange SET note = 'n', at = 'infinity'")  # the stream leaves the array out
    reading.drain()
    assert quarantine(reading) == written(database)


def test_a_very_long_value_that_does_not_fit_is_cut(database, read):
    database.write(
        "CREATE TABLE strange(id int PRIMARY KEY, prices numeric(5,1)[])",
        "INSERT INTO strange SELECT 1, array_agg(0) || 'NaN'::numeric FROM generate_series(1, 50000)",
    )
    [row] = quarantine(read("strange").open().until_loaded()).values()
    assert row["prices"].startswith("{0.0,0.0,")
    assert (row["prices"][-1], len(row["prices"])) == ("…", MOST_CHARACTERS + 1)


def insertion(row: dict[str, str]) -> str:
    values = ", ".join("E'" + value.replace("\\", "\\\\").replace("'", "''") + "'" for value in row.values())
    return f"INSERT INTO strange({', '.join(row)}) VALUES ({values})"


def written(database) -> dict[str, dict[str, str | None]]:
    """By id, as the output functions have it."""
    database.rows("SET TimeZone = 'UTC'")
    found = database.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'strange'::regclass AND attnum > 0 ORDER BY attnum"
    )
    names = [row[0] for row in found]
    texts = ", ".join(f"CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END" for name in names)
    return {row[0]: dict(zip(names, row, strict=True)) for row in database.rows(f"SELECT {texts} FROM strange")}


def quarantine(reading) -> dict[str, dict[str, str | None]]:
    rows = [row for row in reading.present("_raypipe_quarantine") if row[0] == "shop.strange"]
    return {json.loads(row[1])[0]: json.loads(row[4]) for row in rows}
