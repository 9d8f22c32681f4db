"""Nothing is silently skipped: every way to lose the place in the stream is refused, with a remedy."""

from __future__ import annotations

import json
import threading
import time

import pytest
from postgres_database import Database, run
from servers import missing_skips

from cluster.services.servers import private_postgres
from raypipe.errors import Directive, RaypipeError, SourceGap, Unavailable

TABLE = ("CREATE TABLE a(id int PRIMARY KEY)", "INSERT INTO a SELECT generate_series(1, 10)")


@pytest.fixture
def reading(database, read):
    database.write(*TABLE)
    reading = read("a").open().until_loaded()
    reading.source.acknowledge(reading.position)
    return reading


def refused(reading, words: str) -> None:
    reading.source.close()
    with pytest.raises(SourceGap, match=words) as caught:
        reading.open()
    assert "new log" in caught.value.remedy
    assert caught.value.directive is Directive.STOP


def stop_reading(database, reading) -> None:
    """Closes the source and waits until the server has let go of its slot."""
    reading.source.close()
    active = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{database.slot}' AND active"
    _await(lambda: not database.rows(active))


def test_a_dropped_slot(database, reading):
    stop_reading(database, reading)
    database.rows(f"SELECT pg_drop_replication_slot('{database.slot}')")
    refused(reading, "is gone")


def test_a_slot_that_was_made_again(database, reading):
    stop_reading(database, reading)
    database.rows(f"SELECT pg_drop_replication_slot('{database.slot}')")
    database.write("INSERT INTO a VALUES (100)")
    database.rows(f"SELECT pg_create_logical_replication_slot('{database.slot}', 'pgoutput')")
    refused(reading, "made again")


def test_a_slot_that_somebody_advanced(database, reading):
    stop_reading(database, reading)
    database.write("INSERT INTO a VALUES (100)")
    database.rows(f"SELECT pg_replication_slot_advance('{database.slot}', pg_current_wal_flush_lsn())")
    refused(reading, "somebody else reads or advances it")


def test_a_position_of_another_timeline_cluster_or_database(database, reading):
    reading.source.close()
    parts = json.loads(reading.position)
    for name, value, words in (
        ("system", "123", "another database cluster"),
        ("database", 1, "another database of the cluster"),
        ("timeline", parts["timeline"] + 1, "older timeline"),
        ("slot", "other", "slot other"),
        ("lsn", "FFFF/0", "older copy"),
    ):
        reading.position = json.dumps({**parts, name: value})
        refused(reading, words)


def test_a_slot_of_another_database_is_not_taken(database, read):
    database.write(*TABLE)
    other = Database(database.server)
    try:
        other.write(*TABLE)
        read("a").open()
        reading = read("a", of=other, slot=database.slot)
        with pytest.raises(SourceGap, match="another database"):
            reading.open()
    finally:
        other.close()


def test_a_reader_that_was_forgotten_makes_way_for_its_successor(database, read, reading):
    second = read("a")
    second.position = reading.position
    second.held = reading.held
    second.open()
    database.write("INSERT INTO a VALUES (100)")
    second.drain()
    assert second.present("a")[(100,)] == 1
    with pytest.raises(RaypipeError) as caught:
        read_for_ever(reading)
    assert caught.value.directive is Directive.RETRY


def read_for_ever(reading) -> None:
    while True:
        reading.step()
        reading.source.wait(0.05)


def test_a_slot_that_another_program_reads_is_left_alone(database, read, reading):
    reading.source.close()
    from raypipe.sources.postgres import address, connect

    where = address.parse_address("shop", database.url)
    with_other_name = connect.Session(where, "x", replication=True)
    try:
        with_other_name.run("SET application_name = 'somebody'")
        with_other_name.begin_copy(
            f"START_REPLICATION SLOT \"{database.slot}\" LOGICAL 0/0 (proto_version '1', publication_names 'p')"
        )
        with pytest.raises(Unavailable, match="another program"):
            reading.open()
    finally:
        with_other_name.close()


def test_an_idle_slot_moves_with_the_log_of_other_tables(database, reading, monkeypatch):
    from raypipe.sources.postgres import reader

    monkeypatch.setattr(reader, "HEARTBEAT_BYTES", 1000)
    before = confirmed(database)
    database.write(
        "CREATE TABLE other(body text)", "INSERT INTO other SELECT repeat('x', 100) FROM generate_series(1, 99)"
    )
    pieces = reading.drain()
    assert [piece.batches for piece in pieces] == [()]
    assert pieces[0].boundary
    reading.source.acknowledge(reading.position)
    reading.open()
    assert confirmed(database) > before


def confirmed(database) -> str:
    ((place,),) = database.rows(
        f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{database.slot}'"
    )
    high, _, low = place.partition("/")
    return f"{high.zfill(8)}/{low.zfill(8)}"


@pytest.mark.parametrize(("database", "failover"), [("postgres18", True), ("postgres15", False)], indirect=["database"])
def test_a_slot_follows_a_failover_where_the_server_can(database, read, failover):
    database.write(*TABLE)
    reading = read("a", failover="on")
    if not failover:
        with pytest.raises(RaypipeError, match="no failover slots"):
            reading.open()
        return
    reading.open().until_loaded().agree()
    assert database.rows(f"SELECT failover FROM pg_replication_slots WHERE slot_name = '{database.slot}'") == [[True]]


def test_installing_twice_changes_nothing_and_removing_leaves_nothing(database, read):
    database.write(*TABLE)
    source = read("a").source
    source.install()
    source.install()
    source.remove()
    source.remove()
    assert database.rows("SELECT 1 FROM pg_publication") == []
    assert database.rows(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{database.slot}'") == []


# On servers of our own, which may be stopped, killed and set as one likes


@pytest.fixture
def private(services_home, request):
    major, settings = request.param
    with missing_skips(), private_postgres(services_home, major, settings) as server:
        yield server


@pytest.mark.parametrize(
    "private",
    [(18, {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"})],
    indirect=True,
)
def test_a_slot_that_the_server_gave_up(private, reading_of):
    database, reading = reading_of(private)
    reading.source.close()
    for _ in range(4):
        database.write("CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 30000)", "DROP TABLE big")
        database.rows("SELECT pg_switch_wal()")
        database.rows("CHECKPOINT")
    refused(reading, "gave up")


@pytest.mark.parametrize("private", [(18, {"fsync": "on"}), (15, {"fsync": "on"})], indirect=True)
@pytest.mark.parametrize("end", ["stop", "crash", "kill"])
def test_a_server_that_ends_in_mid_stream_goes_on_where_it_was(private, end, reading_of):
    database, reading = reading_of(private)
    database.write("INSERT INTO a SELECT generate_series(100, 200)")
    reading.drain()
    database.write("INSERT INTO a VALUES (300)")
    getattr(private, end)()
    with pytest.raises(RaypipeError) as caught:
        read_for_ever(reading)
    assert caught.value.directive is Directive.RETRY
    private.start()
    reading.open()
    database.reconnect()
    database.write("INSERT INTO a VALUES (301)")
    reading.agree()


@pytest.mark.parametrize("private", [(18, {}), (15, {})], indirect=True)
def test_what_the_server_keeps_for_us_is_told(private, reading_of):
    """On a server of our own: what others write would be kept for us too."""
    database, reading = reading_of(private)
    before = reading.source.kept()["kept_bytes"]
    database.write("INSERT INTO a SELECT generate_series(1000, 9000)")
    assert reading.source.kept()["kept_bytes"] > before + 100_000
    reading.drain()
    reading.source.acknowledge(reading.position)
    _await(lambda: reading.source.kept()["kept_bytes"] < 100_000)


@pytest.mark.parametrize("private", [(18, {})], indirect=True)
def test_a_commit_that_waits_for_a_standby_is_not_lost_between_stream_and_copy(private, services_home, read):
    """It is in the stream, and yet nobody sees it: a copy made now would not have it."""
    database = Database(private.url)
    writer = database.connect()
    try:
        database.write("CREATE TABLE a(id int PRIMARY KEY)", "INSERT INTO a SELECT generate_series(1, 2000)")
        _wait_for_standby(private, "nobody")
        reading = read("a", of=database).open()
        reading.step(3000)
        assert reading.loading
        thread = threading.Thread(target=lambda: writer.execute_simple("INSERT INTO a VALUES (5000)"), daemon=True)
        thread.start()
        _await(lambda: run(private.url, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
        released = threading.Timer(1.0, lambda: _wait_for_standby(private, ""))
        released.start()
        reading.until_loaded(3000)
        released.join()
        thread.join()
        assert reading.present("a")[(5000,)] == 1
        reading.agree()
        reading.close()
    finally:
        writer.close()
        database.close()


def _wait_for_standby(server, name: str) -> None:
    run(server.url, f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    run(server.url, "SELECT pg_reload_conf()")
    _await(lambda: run(server.url, "SHOW synchronous_standby_names") == [[name]])


def _await(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline


@pytest.fixture
def reading_of(read):
    made = []

    def make(server):
        database = Database(server.url)
        made.append(database)
        database.write(*TABLE)
        reading = read("a", of=database).open().until_loaded()
        reading.source.acknowledge(reading.position)
        return database, reading

    yield make
    for database in made:
        database.abandon()
