"""A standby takes over: with the slot brought along the stream goes on, without what was read it is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest
from postgres_database import Database, run
from reading import Reading
from servers import missing_skips

from cluster.services.servers import private_postgres
from raypipe.errors import SourceGap

WITHIN_S = 60


@contextmanager
def standby_of(home, primary, settings):
    """A standby that follows the primary through the physical slot ``standby``."""
    run(primary.url, "SELECT pg_create_physical_replication_slot('standby', true)")
    with private_postgres(home, 18) as standby:
        standby.kill()
        shutil.rmtree(standby.data)
        subprocess.run(
            [
                *primary.command("pg_basebackup"),
                *("-D", str(standby.data), "-R", "-S", "standby", "-X", "stream", "-c", "fast"),
                *("-d", f"dbname=postgres password={primary.password}"),
            ],
            check=True,
            capture_output=True,
            cwd=standby.folder,
            env=os.environ | {"PGPASSWORD": primary.password},
            **home.account.popen(),
        )
        standby.settings |= {"hot_standby_feedback": "on", **settings}
        standby.start()
        yield standby


def await_that(condition) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline


def caught_up(primary, standby) -> bool:
    ((sent,),) = run(primary.url, "SELECT pg_current_wal_lsn()::text")
    return run(standby.url, f"SELECT pg_last_wal_replay_lsn() >= '{sent}'::pg_lsn") == [[True]]


@pytest.mark.parametrize("brought_along", [True, False], ids=["with-its-slot", "behind-the-reader"])
def test_a_standby_takes_over(services_home, brought_along):
    with missing_skips(), private_postgres(services_home, 18, {"fsync": "on"}) as primary:
        database = Database(primary.url)
        database.write("CREATE TABLE a(id int PRIMARY KEY)", "INSERT INTO a SELECT generate_series(1, 100)")
        with standby_of(services_home, primary, {"sync_replication_slots": "on"}) as standby:
            if brought_along:
                run(primary.url, "ALTER SYSTEM SET synchronized_standby_slots = 'standby'")
                run(primary.url, "SELECT pg_reload_conf()")
            reading = Reading(database, ("a",), failover="on").open().until_loaded()
            reading.source.acknowledge(reading.position)
            database.write("INSERT INTO a SELECT generate_series(101, 200)")
            await_that(lambda: caught_up(primary, standby))

            def moved_and_synced() -> bool:
                """A slot is brought along once it has moved past what the standby would keep for it."""
                run(primary.url, "SELECT pg_log_standby_snapshot()")
                database.write("INSERT INTO a VALUES (0)", "DELETE FROM a WHERE id = 0")
                reading.drain()
                reading.source.acknowledge(reading.position)
                return synced(standby, database)

            await_that(moved_and_synced)
            if not brought_along:
                run(standby.url, "ALTER SYSTEM SET primary_conninfo = ''")  # it hears no more of what is committed
                run(standby.url, "SELECT pg_reload_conf()")
                await_that(lambda: run(standby.url, "SELECT count(*) FROM pg_stat_wal_receiver") == [[0]])
            database.write("INSERT INTO a VALUES (201)")
            await_that(lambda: reading.drain() and (201,) in reading.present("a"))
            reading.close()
            database.abandon()
            if brought_along:
                await_that(lambda: caught_up(primary, standby))
            primary.kill()
            assert run(standby.url, "SELECT pg_promote()") == [[True]]
            database.server = standby.url
            if brought_along:
                database.reconnect()
                database.write("INSERT INTO a VALUES (202)")
                reading.open()
                await_that(lambda: reading.drain() or (202,) in reading.present("a"))
                reading.agree()
                reading.close()
                database.abandon()
            else:
                with pytest.raises(SourceGap, match="promoted or restored to a state before changes"):
                    reading.open()


def synced(standby, database) -> bool:
    """Whether the standby's own worker has brought the slot along for good."""
    found = run(
        standby.url,
        f"SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = '{database.slot}'",
    )
    return found == [[True]]
