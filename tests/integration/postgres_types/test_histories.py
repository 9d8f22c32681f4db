"""Any history of many tables on real servers: the images, folded, are the tables."""

from __future__ import annotations

import random
from typing import Any

import pytest
from decoder_lab import Lab

from raypipe.model import IMAGE, OP, Image, Op
from raypipe.sources.postgres.decode import Decoded, Shape, decode
from raypipe.sources.postgres.events import Event, Relation, Rows, Truncate

TABLES = ("a", "b", "c", "d", "e")
KEYS = 12
STEPS = 400

Contents = dict[int, list[Any]]


def statements(chance: random.Random) -> list[str]:
    """Changes that hit the same few keys again and again; long texts are stored apart, short ones are not."""
    found = []
    for _ in range(STEPS):
        table, key, other = chance.choice(TABLES), chance.randrange(KEYS), chance.randrange(KEYS)
        note = chance.choice(["NULL", "'short'", f"repeat('{chance.choice('xyz')}', 2500)"])
        number = chance.choice(["NULL", str(chance.randrange(10**9)), "0.5"])
        found.append(
            chance.choice(
                [
                    f"INSERT INTO {table} VALUES ({key}, {number}, {note}, now()) ON CONFLICT DO NOTHING",
                    f"INSERT INTO {table} SELECT g, {number}, {note}, NULL FROM generate_series({key}, {other}) g"
                    " ON CONFLICT (id) DO UPDATE SET n = excluded.n",
                    f"UPDATE {table} SET n = {number} WHERE id >= {key}",
                    f"UPDATE {table} SET note = {note} WHERE id = {key}",
                    f"UPDATE {table} SET id = id + 100 * {1 + chance.randrange(10**6)} WHERE id = {key}",
                    f"DELETE FROM {table} WHERE id = {key}",
                    f"DELETE FROM {table} WHERE id > {KEYS + chance.randrange(10**8)}",
                    *(["TRUNCATE " + table] if chance.random() < 0.05 else []),
                ]
            )
        )
    return found


def in_transactions(chance: random.Random, found: list[str]) -> list[list[str]]:
    """Cut into transactions, some with a savepoint that is rolled back."""
    cut: list[list[str]] = []
    while found:
        size = chance.randint(1, 12)
        part, found = found[:size], found[size:]
        if chance.random() < 0.3:
            place = chance.randrange(len(part) + 1)
            part = [
                *part[:place],
                "SAVEPOINT s",
                f"DELETE FROM {chance.choice(TABLES)}",
                "ROLLBACK TO s",
                *part[place:],
            ]
        cut.append(part)
    return cut


def fold(contents: Contents, part: Decoded) -> None:
    """Applies images of one table in order; values that were not sent are those of the row before."""
    gone: list[Any] | None = None
    for place, row in enumerate(part.rows.to_pylist()):
        values = [row[name] for name in part.schema.names]
        if row[OP] in (Op.UPDATE_BEFORE, Op.DELETE):
            gone = contents.pop(values[0])
            assert row[IMAGE] == Image.KEY or values == gone
            continue
        for column in part.absent[place].nonzero()[0] if part.absent is not None else ():
            assert row[IMAGE] == Image.PARTIAL
            assert gone is not None
            values[column] = gone[column]
        assert values[0] not in contents
        contents[values[0]] = values


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_the_images_of_any_history_fold_into_the_tables(lab: Lab, seed: int, identity: str) -> None:
    chance = random.Random(seed)
    for table in TABLES:
        lab.database.write(
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, n numeric(20,3), note text, at timestamptz)",
            f"ALTER TABLE {table} ALTER COLUMN note SET STORAGE EXTERNAL",
            f"ALTER TABLE {table} REPLICA IDENTITY {identity}",
        )
    lab.database.rows("CREATE TABLE last (id int PRIMARY KEY)")
    lab.publish(*TABLES, "last")
    for transaction in in_transactions(chance, statements(chance)):
        lab.database.write(*transaction)
    lab.database.rows("INSERT INTO last VALUES (1)")
    shapes_by_name = {table: lab.shape(table) for table in TABLES}
    shapes: dict[int, Shape] = {}
    names: dict[int, str] = {}
    contents: dict[str, Contents] = {table: {} for table in TABLES}

    def ended(seen: list[Event]) -> bool:
        return any(isinstance(event, Relation) and event.table == "last" for event in seen)

    for event in lab.events(ended):
        if isinstance(event, Relation):
            names[event.oid] = event.table
            if event.table in shapes_by_name:
                shapes[event.oid] = shapes_by_name[event.table]
        if isinstance(event, Truncate):
            for oid in event.oids:
                contents[names[oid]].clear()
        for part in decode(event, shapes) if isinstance(event, Rows) else ():
            assert part.misfits is None
            fold(contents[part.schema.table.table], part)
    for table in TABLES:
        columns, _ = lab.copy(shapes_by_name[table], table)
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        assert contents[table] == {row[0]: list(row) for row in rows}
    assert any(contents.values())


def test_one_transaction_of_many_gulps_is_one_transaction(lab: Lab) -> None:
    count = 60_000
    lab.database.rows("CREATE TABLE big (id int PRIMARY KEY, note text)")
    lab.publish("big")
    lab.database.rows(f"INSERT INTO big SELECT g, repeat('n', g % 300) FROM generate_series(1, {count}) g")
    shape = lab.shape("big")
    ordinals, ids, ends = [], [], []

    def ended(seen: list[Event]) -> bool:
        return bool(ends)

    for event in lab.events(ended):
        if isinstance(event, Rows):
            assert len(event.transactions.xid) == 1
            ordinals += event.ordinal.tolist()
            ends += event.transactions.end_lsn[event.transactions.end_lsn > 0].tolist()
            for part in decode(event, {int(event.oid[0]): shape}) if len(event) else ():
                ids += part.rows.column("id").to_pylist()
    assert ordinals == list(range(count))
    assert ids == list(range(1, count + 1))
    columns, _ = lab.copy(shape, "big")
    assert columns[0].to_pylist() == ids
