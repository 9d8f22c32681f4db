"""Server and reader compute the same marks of the same rows, and different ones of different rows."""

from __future__ import annotations

import pyarrow as pa

from raypipe.contracts import ComparesTables
from raypipe.contracts.repair import CHUNK, KEY_MARK, ROW_MARK, ROWS

SCHEMA = (
    "CREATE TYPE mood AS ENUM ('glad', 'sad')",
    "CREATE DOMAIN day AS date",
    """CREATE TABLE a(id bigint, word varchar(20), PRIMARY KEY (word, id), small int2, flag bool, real real,
      double float8, exact numeric(12,8), large numeric(30,2), free numeric, fixed char(7), doc json, docb jsonb,
      raw bytea, uid uuid, born date, "at time" time, made timestamp, seen timestamptz, how mood, one day, net inet,
      span interval, numbers int[], words text[], flags bool[], grid int[][])""",
    """INSERT INTO a SELECT g, 'w' || g || CASE WHEN g % 2 = 0 THEN 'é''"\\' ELSE '' END, g % 300, g % 2 = 0, g / 7.0,
      g / 11.0 * 1e10, g / 1e7, -g * 1e20, g * 1.50, 'x' || g, ('{"a": ' || g || '}')::json, jsonb_build_object('b', g),
      decode(md5(g::text), 'hex'), md5(g::text)::uuid, date '0044-03-15' + g * 1000,
      time '00:00:01.5' + g * interval '1 s',
      timestamp '1900-01-01 00:00:00.000001' + g * interval '37 days', timestamptz '1999-01-01' + g * interval '1.5 s',
      (CASE WHEN g % 2 = 0 THEN 'glad' ELSE 'sad' END)::mood,
      date '2000-01-01' - g, '10.0.0.1'::inet, g * interval '1 hour',
      ARRAY[g, NULL, -g], ARRAY['a"b', 'c' || g, NULL], ARRAY[true, NULL], ARRAY[[g, 1], [2, 3]]
      FROM generate_series(1, 500) g""",
    "INSERT INTO a(id, word) SELECT g, 'null' FROM generate_series(1, 20) g",
    "INSERT INTO a(id, word, real, double) VALUES (1, 'nan', 'NaN', 'NaN'), (2, 'zero', '-0', '-Infinity')",
)


def columns(batches) -> dict[int, tuple]:
    rows = [row for batch in batches for row in batch.to_pylist()]
    marks = {row[KEY_MARK]: tuple(row.values())[1:] for row in rows}
    assert len(marks) == len(rows)
    return marks


def test_both_sides_have_the_same_marks_of_every_type(database, read):
    database.write(*SCHEMA)
    reading = read("a")
    with reading.source.view() as view:
        assert isinstance(view, ComparesTables)
        held = [batch for batch in view.rows("shop.a") if batch.num_rows]
        here = columns(view.marks_of("shop.a", batch) for batch in held)
        there = columns(view.marks("shop.a", 4, [0, 1, 2, 3]))
        some = columns(view.marks("shop.a", 4, [1, 3]))
        sums = pa.Table.from_batches(view.checksums("shop.a", 4)).to_pylist()
    assert len(here) == 522
    assert here == there
    assert some == {mark: row for mark, row in here.items() if mark & 3 in (1, 3)}
    assert {row[CHUNK]: row[ROWS] for row in sums} == {
        chunk: sum(1 for mark in here if mark & 3 == chunk) for chunk in range(4)
    }


def test_every_column_of_a_row_counts(database, read):
    database.write(*SCHEMA)
    reading = read("a")

    def marks() -> dict[int, int]:
        with reading.source.view() as view:
            table = pa.Table.from_batches(view.marks("shop.a", 1, [0]))
        return dict(zip(table[KEY_MARK].to_pylist(), table[ROW_MARK].to_pylist(), strict=True))

    names = [
        row[0]
        for row in database.rows("SELECT attname FROM pg_attribute WHERE attrelid = 'a'::regclass AND attnum > 0")
    ]
    before = marks()
    for name in names:
        if name not in ("id", "word"):
            database.write(
                f'UPDATE a SET "{name}" = CASE WHEN "{name}" IS NULL THEN (SELECT "{name}" FROM a WHERE id = 7'
                f" AND word LIKE 'w%') END WHERE id = 5"
            )
            after = marks()
            changed = sum(before[key] != mark for key, mark in after.items())
            assert changed == 2, name
            before = after
