"""Tables are loaded in chunks while they change, and the load can stop anywhere."""

import json
import random

import pytest
from source_scene import LITTLE, PLENTY, Database, assert_agrees, following, rows_of

from raypipe.model import OP, Op

NUMBERS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {})"
SHAPES = {
    "rowid alias": "CREATE TABLE items(k INTEGER PRIMARY KEY, v TEXT)",
    "hidden rowid": "CREATE TABLE items(k TEXT PRIMARY KEY, v TEXT)",
    "no key": "CREATE TABLE items(k INTEGER, v TEXT)",
    "without rowid": "CREATE TABLE items(k TEXT COLLATE NOCASE PRIMARY KEY, v TEXT) WITHOUT ROWID",
    "composite": "CREATE TABLE items(v TEXT, k INTEGER, x AS (k % 3) STORED, PRIMARY KEY (v, k)) WITHOUT ROWID",
}


def write_something(database, dice, letter=""):
    k = dice.randrange(-5, 60)
    database.write(
        dice.choice(
            [
                f"INSERT OR REPLACE INTO items(k, v) VALUES ({k}, 'i{k}')",
                f"INSERT OR IGNORE INTO items(k, v) VALUES ('{letter}{k}', 'i''{k}')",
                f"UPDATE OR REPLACE items SET v = v || '!' WHERE k = {k}",
                f"UPDATE OR REPLACE items SET k = {dice.randrange(-5, 60)} WHERE k = {k}",
                f"DELETE FROM items WHERE k = {k}",
            ]
        )
    )


@pytest.mark.parametrize("table", SHAPES.values(), ids=SHAPES)
def test_a_table_that_changes_while_it_is_loaded_arrives_whole(tmp_path, table, seed):
    dice = random.Random(seed)
    rows = NUMBERS.format(40) + " INSERT INTO items(k, v) SELECT x, 'v' || x FROM n"
    with following(tmp_path, ["items"], table, rows) as follower:
        for _ in range(4):
            follower.reopen(reload=["shop.items"])
            steps = vacuums = 0
            while (piece := follower.step(LITTLE)) is not None:
                steps += 1
                if steps < 100:
                    write_something(follower.database, dice, dice.choice("kK") if "k TEXT" in table else "")
                if dice.random() < 0.2:
                    follower.reopen()
                if piece.loading and vacuums < 2 and dice.random() < 0.1:
                    vacuums += 1
                    follower.database.write("VACUUM")
            assert_agrees(follower)


def test_small_tables_are_loaded_in_one_piece(tmp_path):
    database = Database(tmp_path, "CREATE TABLE a(x)", "CREATE TABLE b(x)", "INSERT INTO a VALUES (1)")
    follower = database.follow("a", "b")
    assert follower.step() is None
    assert follower.ops == [Op.TRUNCATE, Op.READ, Op.TRUNCATE]
    follower.close()


def test_a_load_is_resumed_where_it_stopped(tmp_path):
    rows = NUMBERS.format(300) + " INSERT INTO items SELECT x, hex(zeroblob(100)) FROM n"
    with following(tmp_path, ["items"], SHAPES["rowid alias"], rows) as follower:
        follower.reopen(reload=["shop.items"])
        follower.ops = []
        follower.step(20_000)
        first = follower.ops.count(Op.READ)
        assert 0 < first < 300
        assert 0 < follower.source.progress()["shop.items"] < 1
        follower.reopen()
        follower.drain()
        assert follower.ops == [Op.READ] * (300 - first)
        assert follower.source.progress() == {}
        assert_agrees(follower)


def test_a_vacuum_during_the_load_begins_it_anew_where_rowids_may_have_moved(tmp_path):
    table = "CREATE TABLE items(k TEXT PRIMARY KEY, v TEXT)"
    rows = NUMBERS.format(50) + " INSERT INTO items SELECT 'k' || x, 'v' FROM n"
    with following(tmp_path, ["items"], table, rows) as follower:
        follower.reopen(reload=["shop.items"])
        for _ in range(20):
            follower.step(LITTLE)
        follower.database.write("DELETE FROM items WHERE rowid < 15", "VACUUM")  # rows move below the cursor
        follower.reopen()  # also one that began after the VACUUM
        follower.drain(LITTLE)
        assert Op.TRUNCATE in follower.ops
        assert_agrees(follower)


def test_at_every_cut_a_loading_table_is_its_rows_up_to_the_cursor(tmp_path):
    rows = NUMBERS.format(30) + " INSERT INTO items SELECT x, 'v' FROM n"
    with following(tmp_path, ["items"], SHAPES["rowid alias"], rows) as follower:
        follower.reopen(reload=["shop.items"])
        seen = 0
        while (piece := follower.step(LITTLE)) is not None and piece.loading:
            seen += 1
            cursor = json.loads(piece.position)["loading"]["items"]
            if cursor and piece.boundary:
                with follower.make().view() as view:
                    held = rows_of(view.rows("shop.items"))
                loaded = {row for row in held if int(row[0][1]) <= int(cursor[0])}
                assert set(follower.tables["shop.items"]) == loaded
            follower.database.write(f"UPDATE items SET v = 'w{seen}', k = k + 100 WHERE k = {seen * 2}")
        assert seen > 5


def test_a_reload_takes_only_the_tables_it_names(tmp_path):
    database = Database(tmp_path, "CREATE TABLE a(x)", "CREATE TABLE b(x)", "INSERT INTO a VALUES (1)")
    follower = database.follow("a", "b")
    follower.reopen(reload=["shop.a"])
    pieces = follower.drain()
    assert [str(batch.schema.table) for piece in pieces for batch in piece.batches] == ["shop.a"]
    assert follower.ops == [Op.TRUNCATE, Op.READ]
    follower.close()


def test_a_table_chosen_later_is_loaded_and_the_others_go_on(tmp_path):
    with following(tmp_path, ["a"], "CREATE TABLE a(x)", "CREATE TABLE b(x)", "INSERT INTO b VALUES (1)") as follower:
        follower.chosen = ["a", "b"]
        follower.reopen()
        follower.drain()
        assert follower.ops == [Op.TRUNCATE, Op.READ]
        assert_agrees(follower)


def test_a_backlog_larger_than_a_piece_is_cut_only_at_its_end(tmp_path):
    with following(tmp_path, ["items"], SHAPES["rowid alias"]) as follower:
        follower.database.write(NUMBERS.format(5000) + " INSERT INTO items SELECT x, 'v' FROM n")
        first = follower.step(50_000)
        assert not first.boundary
        assert first.pending == 5000 - first.batches[0].num_rows
        follower.database.write("UPDATE items SET v = 'later'")  # belongs to a later cut
        pieces = [first, *follower.drain(50_000)]
        cut = next(place for place, piece in enumerate(pieces) if piece.boundary)
        assert sum(piece.batches[0].num_rows for piece in pieces[: cut + 1]) == 5000
        assert pieces[cut].pending == 5000
        assert_agrees(follower)


def test_many_small_transactions_share_a_piece(tmp_path):
    with following(tmp_path, ["items"], SHAPES["rowid alias"]) as follower:
        follower.database.write(*(f"INSERT INTO items VALUES ({k}, 'v')" for k in range(100)))
        assert len(follower.drain()) == 1


def test_memory_stays_bounded_however_wide_the_rows(tmp_path):
    with following(tmp_path, ["items"], SHAPES["rowid alias"]) as follower:
        follower.database.write(NUMBERS.format(400) + " INSERT INTO items SELECT x, hex(zeroblob(5000)) FROM n")
        pieces = follower.drain(500_000)
        assert max(sum(batch.rows.nbytes for batch in piece.batches) for piece in pieces) < 2_000_000
        follower.reopen(reload=["shop.items"])
        pieces = follower.drain(500_000)
        assert max(sum(batch.rows.nbytes for batch in piece.batches) for piece in pieces) < 2_000_000
        assert_agrees(follower)


def test_a_view_and_the_stream_meet_at_a_position_in_a_busy_source(tmp_path, seed):
    dice = random.Random(seed)
    with following(tmp_path, ["items"], SHAPES["rowid alias"]) as follower:
        for _ in range(10):
            for _ in range(20):
                write_something(follower.database, dice)
            with follower.make().view() as view:
                for _ in range(5):
                    write_something(follower.database, dice)
                follower.drain(dice.choice([LITTLE, PLENTY]), upto=view.position)
                assert follower.position == view.position
                assert follower.tables["shop.items"] == rows_of(view.rows("shop.items"))


def test_times_are_those_of_the_changes(tmp_path):
    with following(tmp_path, ["items"], SHAPES["rowid alias"]) as follower:
        (before,) = follower.database.writer.execute("SELECT unixepoch('now') - 1").fetchone()
        follower.database.write("INSERT INTO items VALUES (1, 'v')")
        piece = follower.step()
        rows = piece.batches[0].rows
        assert rows.column(OP).to_pylist() == [Op.INSERT]
        assert before < rows.column("_raypipe_time")[0].as_py().timestamp() < before + 60
