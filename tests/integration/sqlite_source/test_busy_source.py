"""Locks: a source that is held by others, and writers that must not be held up."""

import os
import resource
import sqlite3
import threading
import time

import pytest
from source_scene import LITTLE, Database, assert_agrees, following

from raypipe.errors import Unavailable
from raypipe.model import Op
from raypipe.sources.sqlite import connect, install

ITEMS = "CREATE TABLE items(id INTEGER PRIMARY KEY, v TEXT)"
NUMBERS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 500)"
MANY = f"{NUMBERS} INSERT INTO items SELECT x, 'v' FROM n"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(connect, "BUSY_TIMEOUT_S", 0.02)


def test_a_locked_source_is_unavailable_and_goes_on_when_it_is_free(tmp_path):
    with following(tmp_path, ["items"], ITEMS, journal="delete") as follower:
        follower.database.write(MANY, "BEGIN EXCLUSIVE", "DELETE FROM items WHERE id = 1")
        for attempt in (follower.step, follower.reopen, lambda: install(follower.database.path, ["items"])):
            with pytest.raises(Unavailable, match="locked"):
                attempt()
        follower.database.write("COMMIT")
        follower.reopen()
        assert_agrees(follower)


def test_waiting_on_a_locked_source_is_no_error(tmp_path):
    with following(tmp_path, ["items"], ITEMS, journal="delete") as follower:
        follower.database.write("BEGIN EXCLUSIVE")
        follower.source.wait(0.01)
        follower.database.write("COMMIT")


def test_acknowledging_a_locked_source_prunes_later(tmp_path):
    with following(tmp_path, ["items"], ITEMS) as follower:
        follower.database.write(MANY)
        follower.drain()
        follower.database.write("BEGIN IMMEDIATE")
        follower.source.acknowledge(follower.position)
        assert follower.step() is None  # a writer does not stop readers of a WAL
        follower.source.wait(0.03)
        follower.database.write("COMMIT")
        assert follower.step() is None
        follower.source.wait(0.05)
        assert follower.database.writer.execute("SELECT count(*) FROM _raypipe_changes_1").fetchone() == (1,)


def test_an_alteration_seen_while_the_source_is_locked_is_dealt_with_later(tmp_path):
    with following(tmp_path, ["items"], ITEMS, MANY) as follower:
        follower.database.write("ALTER TABLE items DROP COLUMN v", "BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            follower.step()
        follower.database.write("COMMIT")
        follower.reopen()
        assert_agrees(follower)


def test_a_full_disk_is_unavailable_and_nothing_is_lost(tmp_path):
    with following(tmp_path, ["items"], ITEMS) as follower:
        follower.database.write("INSERT INTO items SELECT value, hex(zeroblob(5000)) FROM json_each('[1, 2, 3, 4, 5]')")
        free, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most))
        try:
            with pytest.raises(Unavailable, match=r"disk|input/output"):
                follower.step()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (free, most))
        follower.reopen()
        follower.drain()
        assert follower.ops == [Op.INSERT] * 5
        assert_agrees(follower)


def test_a_source_that_cannot_be_written_is_unavailable(tmp_path):
    database = Database(tmp_path, ITEMS, journal="delete")
    free, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    try:
        with pytest.raises(Unavailable):
            install(database.path, ["items"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (free, most))
    assert database.objects() == {"items"}


def test_no_lock_is_held_between_polls_nor_while_a_view_is_read(tmp_path):
    with following(tmp_path, ["items"], ITEMS, MANY, journal="delete") as follower:
        follower.reopen(reload=["shop.items"])
        writer = sqlite3.connect(follower.database.path, isolation_level=None, timeout=0)
        while follower.step(LITTLE * 20_000) is not None and follower.loading:
            writer.execute("BEGIN EXCLUSIVE")
            writer.execute("COMMIT")
        with follower.make().view() as view:
            writer.execute("DELETE FROM items")
            assert sum(batch.num_rows for batch in view.rows("shop.items")) == 500
        writer.close()


def test_a_commit_wakes_whoever_waits(tmp_path):
    with following(tmp_path, ["items"], ITEMS) as follower:
        assert follower.step() is None

        def write():
            writer = sqlite3.connect(follower.database.path)
            writer.execute("INSERT INTO items VALUES (1, 'v')")
            writer.commit()
            writer.close()

        # Waits for ever if nothing wakes it: the test's own timeout ends that.
        thread = threading.Thread(target=write)
        thread.start()
        follower.source.wait(1e6)
        thread.join()
        assert follower.step() is not None


def test_an_idle_wait_ends_at_its_timeout(tmp_path):
    with following(tmp_path, ["items"], ITEMS) as follower:
        assert follower.step() is None
        began = time.monotonic()
        follower.source.wait(0.05)
        assert time.monotonic() - began > 0.04


def test_a_writer_killed_in_the_middle_of_a_transaction_leaves_a_journal_that_is_rolled_back(tmp_path):
    with following(tmp_path, ["items"], ITEMS, MANY, journal="delete") as follower:
        child = os.fork()
        if not child:
            writer = sqlite3.connect(follower.database.path, isolation_level=None)
            writer.execute("PRAGMA cache_size=1")
            writer.execute("BEGIN")
            writer.execute("UPDATE items SET v = hex(zeroblob(2000))")  # spills into the file
            os._exit(0)
        os.waitpid(child, 0)
        assert_agrees(follower)
        assert follower.ops == []
