"""Where a source goes on, and when it must refuse to."""

import json
import os
import shutil
import sqlite3
from contextlib import closing

import pytest
from source_scene import LITTLE, Database, assert_agrees, following

from raypipe.errors import Corrupt, InvariantBroken, RaypipeError, SchemaMismatch, SourceGap, Unavailable
from raypipe.model import Op
from raypipe.sources import open_source
from raypipe.sources.sqlite import prune, remove

ITEMS = "CREATE TABLE items(id INTEGER PRIMARY KEY, v TEXT)"
NUMBERS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 100)"
MANY = f"{NUMBERS} INSERT INTO items SELECT x, 'v' FROM n"


@pytest.fixture
def follower(tmp_path):
    # A rollback journal keeps everything in one file, which these tests copy about.
    with following(tmp_path, ["items"], ITEMS, journal="delete") as follower:
        yield follower


def test_reopening_at_every_position_loses_and_repeats_nothing(follower):
    follower.database.write(MANY, "UPDATE items SET v = 'w'", "DELETE FROM items WHERE id % 2")
    while follower.step(LITTLE) is not None:
        follower.reopen()
    assert_agrees(follower)


def test_a_piece_that_was_never_acknowledged_comes_again_the_same(follower):
    follower.database.write(MANY, "UPDATE items SET v = 'w'")
    first = follower.source.poll(5000)
    follower.reopen()
    again = follower.source.poll(5000)
    assert again.position == first.position
    assert again.batches[0].rows.equals(first.batches[0].rows)


def test_a_source_replaced_by_another_database_is_refused(follower, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    other = Database(tmp_path / "elsewhere", ITEMS, MANY, journal="delete")
    other.follow("items").close()
    follower.source.close()
    shutil.copy(other.path, follower.database.path)
    with pytest.raises(SourceGap, match="another database"):
        follower.reopen()


def test_a_source_whose_capture_was_removed_is_refused_and_left_alone(follower):
    follower.source.close()
    remove(follower.database.path)
    before = follower.database.objects()
    with pytest.raises(SourceGap, match="no capture"):
        follower.reopen()
    assert follower.database.objects() == before


def test_an_older_copy_is_refused(follower, tmp_path):
    shutil.copy(follower.database.path, tmp_path / "backup")
    follower.database.write(MANY)
    follower.drain()
    follower.source.close()
    shutil.copy(tmp_path / "backup", follower.database.path)
    with pytest.raises(SourceGap, match="older copy"):
        follower.reopen()


def test_an_older_copy_that_has_moved_on_since_is_refused(follower, tmp_path):
    shutil.copy(follower.database.path, tmp_path / "backup")
    follower.database.write(MANY)
    follower.drain()
    follower.source.close()
    follower.database.writer.close()
    shutil.copy(tmp_path / "backup", follower.database.path)
    follower.database.writer = sqlite3.connect(follower.database.path, isolation_level=None)
    wait_for_another_millisecond(follower)
    follower.database.write(MANY, "UPDATE items SET v = 'other'")
    with pytest.raises(SourceGap, match="restored and has moved on"):
        follower.reopen()


def wait_for_another_millisecond(follower):
    moment = "SELECT julianday('now')"
    begin = follower.database.writer.execute(moment).fetchone()
    while follower.database.writer.execute(moment).fetchone() == begin:
        pass


def test_changes_pruned_by_somebody_else_are_missed(follower):
    old = follower.position
    follower.database.write(MANY)
    follower.drain()
    follower.source.acknowledge(follower.position)
    follower.position = old
    with pytest.raises(SourceGap, match="pruned"):
        follower.reopen()


def test_a_file_exchanged_under_an_open_source_is_noticed(follower, tmp_path):
    follower.database.write(MANY)
    shutil.copy(follower.database.path, tmp_path / "next")
    os.replace(tmp_path / "next", follower.database.path)
    with pytest.raises(Unavailable, match="replaced"):
        follower.step()
    follower.reopen()  # it is the same database after all
    follower.drain()
    assert follower.ops == [Op.INSERT] * 100


def test_a_file_that_goes_away_is_awaited(follower):
    os.rename(follower.database.path, follower.database.path.with_name("away"))
    with pytest.raises(Unavailable):
        follower.step()
    with pytest.raises(Unavailable):
        follower.source.wait(0)
    with pytest.raises(Unavailable, match="does not exist"):
        follower.reopen()
    os.rename(follower.database.path.with_name("away"), follower.database.path)
    follower.reopen()
    assert_agrees(follower)


def test_a_copy_written_into_the_open_file_is_noticed(follower, tmp_path):
    shutil.copy(follower.database.path, tmp_path / "backup")
    follower.database.write(MANY)
    follower.drain()
    follower.database.writer.close()
    with (
        closing(sqlite3.connect(tmp_path / "backup")) as backup,
        closing(sqlite3.connect(follower.database.path)) as here,
    ):
        backup.backup(here)
    follower.database.writer = sqlite3.connect(follower.database.path, isolation_level=None)
    with pytest.raises(SourceGap, match="older copy"):
        follower.step()


def test_nothing_is_pruned_before_it_is_acknowledged(follower):
    follower.database.write(MANY)
    follower.drain()
    position = follower.position
    follower.source.wait(0.01)
    assert changes_left(follower) == 100
    follower.source.acknowledge(position)
    assert changes_left(follower) == 1  # the change at the position stays, as its mark
    follower.reopen()
    assert_agrees(follower)


def test_pruning_goes_on_while_the_source_is_idle(follower, monkeypatch):
    monkeypatch.setattr(prune, "ROWS_AT_ONCE", 10)
    follower.database.write(MANY)
    follower.drain()
    follower.source.acknowledge(follower.position)
    assert 50 < changes_left(follower) < 100
    assert follower.step() is None
    for _ in range(100):  # a busy machine gets less done in one wait
        follower.source.wait(0.2)
        if changes_left(follower) == 1:
            break
    assert changes_left(follower) == 1


def test_rows_left_in_the_stash_and_drained_change_tables_go_too(follower):
    follower.database.write(
        MANY, "INSERT OR IGNORE INTO items VALUES (1, 'q')", "ALTER TABLE items ADD COLUMN w DEFAULT 1"
    )
    follower.drain()
    follower.source.acknowledge(follower.position)
    follower.database.write("ALTER TABLE items ADD COLUMN x DEFAULT 1", "INSERT OR IGNORE INTO items(id) VALUES (1)")
    follower.drain()
    follower.database.write("DELETE FROM items")
    follower.drain()
    wait_until_pruned(follower)
    follower.database.write("ALTER TABLE items DROP COLUMN v")
    follower.drain()
    kept = {name for name in follower.database.objects() if "changes" in name}
    assert kept == {"_raypipe_changes_3", "_raypipe_changes_4"}
    assert follower.database.writer.execute("SELECT count(*) FROM _raypipe_stash_4").fetchone() == (0,)


def wait_until_pruned(follower):
    assert follower.step() is None
    follower.source.acknowledge(follower.position)
    follower.source.wait(0.01)


def changes_left(follower):
    return follower.database.writer.execute("SELECT count(*) FROM _raypipe_changes_1").fetchone()[0]


def test_a_position_is_one_line_of_compact_json(follower):
    follower.database.write(MANY)
    follower.drain()
    assert "\n" not in follower.position
    assert sorted(json.loads(follower.position)) == ["identity", "mark", "seq", "tables"]
    with pytest.raises(InvariantBroken):
        follower.source.open("LSN 0/16B3748")


def test_what_is_no_database_is_said_to_be_none(tmp_path):
    (tmp_path / "text.db").write_text("not a database, and long enough to be looked at" * 30)
    with pytest.raises(Corrupt, match="not a sound database"):
        open_source("shop", f"sqlite:///{tmp_path}/text.db", ["items"]).tables()
    with pytest.raises(Unavailable, match="does not exist"):
        open_source("shop", f"sqlite:///{tmp_path}/none.db", ["items"]).tables()
    assert not (tmp_path / "none.db").exists()


def test_a_table_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    database = Database(tmp_path, ITEMS, "CREATE TABLE orders(id)")
    source = open_source("shop", f"sqlite:///{database.path}", ["Order"])
    with pytest.raises(SchemaMismatch, match=r"no table 'Order'.*mean 'orders'.*items, orders"):
        source.tables()


def test_urls_that_name_no_database_file_are_refused():
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:shop.db", "mongodb://x/y"):
        with pytest.raises(RaypipeError, match="sqlite:///"):
            open_source("shop", url, ["items"])
