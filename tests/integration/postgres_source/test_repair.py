"""After a gap, a restored backup or a doubt the sinks are made right by reading only what differs."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

import duckdb
import pytest
from postgres_database import Database
from reading import writers
from servers import missing_skips
from test_postgres_pipeline import SCHEMA, await_run, trade, wrong

from cluster.services.servers import private_postgres
from raypipe import faults
from raypipe.cli.app import main
from raypipe.cli.exits import Exit
from raypipe.errors import Kind, RaypipeError, SourceGap
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.log import open_existing_log
from raypipe.plan.model import Plan
from raypipe.repair import TableReport, repair
from raypipe.sources.postgres import install
from raypipe.sources.postgres.connect import Session
from raypipe.spec import load
from raypipe.verify import verify

PIPELINE = """
pipeline: {name}
log: {log}
sources:
  shop:
    url: {url}
    tables: [{tables}]
steps:
  paid:
    sql: SELECT id, amount * 2 AS doubled FROM shop.orders WHERE state = 'paid'
sinks:
  duck:
    url: duckdb:///store.duckdb
    tables:
      orders: {{from: shop.orders}}
      paid: {{from: paid}}
      {more}
"""

ROWS = 200_000
ORDERS = (
    "CREATE TABLE orders(id bigint PRIMARY KEY, state text, amount numeric(12,2), made timestamptz, note text)",
    "INSERT INTO orders SELECT g, CASE WHEN g % 3 = 0 THEN 'paid' ELSE 'new' END, g * 0.01, now(), md5(g::text)"
    f" FROM generate_series(1, {ROWS}) g",
)


def write_pipeline(
    folder: Path, database: Database, tables: str = "orders", more: str = "", log: str = "sqlite:///log.db"
) -> Path:
    file = folder / "pipeline.yaml"
    file.write_text(PIPELINE.format(name=database.name, log=log, url=database.url, tables=tables, more=more))
    return file


@pytest.fixture
def file(database: Database, tmp_path: Path) -> Path:
    """A pipeline over 200,000 orders that has carried all of them."""
    database.write(*ORDERS)
    file = write_pipeline(tmp_path, database)
    run_local(assemble(load(file)), until="idle")
    return file


def lose_slot(database: Database) -> None:
    database.rows(f"SELECT pg_drop_replication_slot('{database.slot}')")


def miss(database: Database, seed: int, count: int = 500) -> tuple[int, int, int]:
    """Changes, deletes and inserts of random rows that nobody reads; how many of each."""
    chance = random.Random(seed)
    chosen = chance.sample(range(1, ROWS + 1), count)
    third = count // 3
    changed, gone, new = chosen[:third], chosen[third : 2 * third], chosen[2 * third :]
    turned = "CASE WHEN state = 'paid' THEN 'new' ELSE 'paid' END"
    database.write(
        f"UPDATE orders SET state = {turned}, amount = amount + 1 WHERE id IN ({', '.join(map(str, changed))})",
        f"DELETE FROM orders WHERE id IN ({', '.join(map(str, gone))})",
        f"INSERT INTO orders SELECT g, 'paid', 1, now(), 'x' FROM unnest(ARRAY{[ROWS + key for key in new]}) g",
    )
    return len(changed), len(gone), len(new)


def only(plan: Plan, **options: object) -> TableReport:
    (report,) = repair(plan, **options).tables  # type: ignore[arg-type]
    return report


def test_what_was_missed_in_a_gap_is_read_again_and_nothing_else(file, database, seed):
    plan = assemble(load(file))
    lose_slot(database)
    changed, gone, new = miss(database, seed)
    with pytest.raises(SourceGap, match="is gone") as refused:
        run_local(plan, until="idle")
    assert "raypipe repair --new-slot" in refused.value.remedy
    with pytest.raises(SourceGap):
        repair(plan)
    with closing(open_existing_log(plan.log, pipeline=plan.pipeline)) as log:
        before = log.last_cut().rows
        found = repair(plan, new_slot=True)
        images = log.last_cut().rows - before
    (report,) = found.tables
    assert (report.changed, report.deleted, report.inserted) == (changed, gone, new)
    assert images == 2 * (changed + new) + gone
    assert report.rows == ROWS + new - gone
    assert report.differing < report.chunks / 5
    assert report.compared_bytes + report.reread_bytes < report.table_bytes / 5
    assert found.bridged == ("shop",)
    assert wrong(verify(plan)) == {}


def test_a_gap_is_mended_while_writers_go_on_writing(file, database, seed):
    def change(chance: random.Random) -> list[str]:
        some = chance.randint(1, ROWS)
        return [
            f"UPDATE orders SET amount = amount + 1, state = 'paid' WHERE id = {some}",
            f"DELETE FROM orders WHERE id = {some + 1}",
            f"INSERT INTO orders VALUES ({2 * ROWS + some}, 'paid', 1, now(), 'w') ON CONFLICT DO NOTHING",
            "COMMIT",
        ]

    plan = assemble(load(file))
    lose_slot(database)
    miss(database, seed)
    with writers(database, 2, seed, change):
        report = only(plan, new_slot=True)
        assert report.reread + report.deleted >= 500
        running = wrong(verify(plan))
    assert [running, wrong(verify(plan))] == [{}, {}]


def test_a_sink_that_somebody_changed_is_made_right_beside_the_run(file, database):
    plan = assemble(load(file))
    with duckdb.connect(str(file.parent / "store.duckdb")) as store:
        store.execute("DELETE FROM orders WHERE id = 1003")
        store.execute("UPDATE orders SET note = 'spoilt' WHERE id = 1004")
        store.execute("INSERT INTO orders SELECT 999999, state, amount, made, note FROM orders WHERE id = 1005")
        store.execute("INSERT INTO orders SELECT * FROM orders WHERE id = 1006")
    stop = Event()
    runner = Thread(target=run_local, args=(plan,), kwargs={"until": "forever", "stop": stop})
    runner.start()
    try:
        await_run(plan)
        database.write("UPDATE orders SET amount = 0 WHERE id < 100")
        report = only(plan)
        assert (report.inserted, report.changed, report.deleted) == (1, 2, 1)
        again = only(plan)
        assert (again.differing, again.reread, again.deleted) == (0, 0, 0)
        assert wrong(verify(plan)) == {}
    finally:
        stop.set()
        runner.join()


def test_a_slot_that_still_serves_is_left_alone(file, database):
    plan = assemble(load(file))
    database.write("INSERT INTO orders VALUES (500001, 'paid', 1, now(), 'x')")
    found = repair(plan, new_slot=True)
    assert (found.bridged, found.tables[0].reread) == ((), 0)
    assert wrong(verify(plan)) == {}


POINTS = [point for point in faults.POINTS if point.startswith("repair.")]
ON_THE_WAY = ["source.poll.after", "log.commit.before", "log.commit.after", "sink.commit.before", "sink.commit.after"]


@pytest.mark.chaos
@pytest.mark.parametrize("database", ["postgres18"], indirect=True)
def test_a_repair_that_is_killed_anywhere_is_simply_run_again(file, database, seed):
    fired = file.parent / "fired"

    def mend(armed: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"RAYPIPE_FAULTS": armed, "RAYPIPE_FAULTS_FIRED": str(fired)}
        command = [sys.executable, "-m", "raypipe", "repair", str(file), "--new-slot", "--json"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    plan = assemble(load(file))
    lose_slot(database)
    miss(database, seed)
    for number, point in enumerate([*POINTS, *ON_THE_WAY]):
        ended = mend(f"{point}=kill")
        assert ended.returncode == -signal.SIGKILL, ended.stdout + ended.stderr
        if number == len(POINTS):
            # What was mended so far is right, and a new gap begins.
            wait_for_slot(database)
            lose_slot(database)
            miss(database, seed + 1, 90)
        database.write(f"UPDATE orders SET note = '{point}' WHERE id = {number + 1}")
    assert {line.split()[0] for line in fired.read_text().splitlines()} == {*POINTS, *ON_THE_WAY}
    ended = mend("")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["tables"][0]["table"] == "shop.orders"
    assert wrong(verify(plan)) == {}


def wait_for_slot(database: Database) -> None:
    while database.rows(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{database.slot}' AND active"):
        Event().wait(0.05)


@pytest.mark.chaos
@pytest.mark.parametrize("mutant", ["mutant.repair_before_slot", "mutant.repair_keeps_gone"])
@pytest.mark.parametrize("database", ["postgres18"], indirect=True)
def test_a_repair_that_leaves_out_a_step_is_found_out(file, database, seed, mutant):
    plan = assemble(load(file))
    lose_slot(database)
    miss(database, seed)
    # What is written just before the slot is made is neither in the stream nor seen by whoever looked too early.
    faults.arm(f"{mutant}=skip")
    late = Late(database, "UPDATE orders SET note = 'late' WHERE id = 17")
    try:
        with late.before_the_slot_is_made():
            repair(plan, new_slot=True)
    finally:
        faults.arm("")
    assert late.wrote
    assert wrong(verify(plan)) != {}
    mended = only(plan)
    assert mended.reread + mended.deleted > 0
    assert wrong(verify(plan)) == {}


@pytest.mark.parametrize("database", ["postgres18"], indirect=True)
def test_without_the_mutants_the_same_repair_is_right(file, database, seed):
    plan = assemble(load(file))
    lose_slot(database)
    miss(database, seed)
    late = Late(database, "UPDATE orders SET note = 'late' WHERE id = 17")
    with late.before_the_slot_is_made():
        repair(plan, new_slot=True)
    assert late.wrote
    assert wrong(verify(plan)) == {}


class Late:
    """A writer whose change is committed right before a slot is made."""

    def __init__(self, database: Database, statement: str) -> None:
        self._database = database
        self._statement = statement
        self.wrote = False

    @contextmanager
    def before_the_slot_is_made(self) -> Iterator[None]:
        make = install.make_slot

        def write_and_make(session: Session) -> int:
            if not self.wrote:
                self._database.write(self._statement)
                self.wrote = True
            return make(session)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(install, "make_slot", write_and_make)
            yield


# What cannot be compared


def test_tables_that_cannot_be_compared_are_told_and_loaded_where_there_was_a_gap(database, tmp_path):
    database.write(*SCHEMA)
    more = "events: {from: shop.events}"
    file = write_pipeline(tmp_path, database, "orders, customers, events", more)
    plan = assemble(load(file))
    run_local(plan, until="idle")
    for table, words in (("shop.events", "has no key"), ("shop.customers", "No sink holds a copy")):
        with pytest.raises(RaypipeError, match=words) as refused:
            repair(plan, tables=[table])
        assert refused.value.kind is Kind.PIPELINE_FILE
    lose_slot(database)
    database.write("DELETE FROM events WHERE count < 50", "UPDATE orders SET state = 'paid' WHERE id < 9")
    found = repair(plan, new_slot=True)
    assert found.left.keys() == {"shop.events", "shop.customers"}
    assert wrong(verify(plan)) == {}


def test_the_command_says_what_it_did(file, database, capsys):
    lose_slot(database)
    database.write("DELETE FROM orders WHERE id = 7")

    def command(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["repair", str(file), *words])
        told = capsys.readouterr()
        return int(str(ended.value.code)), told.out + told.err

    code, told = command()
    assert (code, "--new-slot" in told) == (Exit.SOURCE_GAP, True)
    code, told = command("--new-slot")
    assert code == 0
    assert "1 row read again or deleted" in told
    code, told = command("--table", "shop.orders")
    assert (code, "nothing differed" in told) == (0, True)
    assert command("--table", "shop.other")[0] == Exit.USAGE


@pytest.mark.parametrize("database", ["postgres18"], indirect=True)
def test_a_gap_is_mended_over_a_log_in_kafka_too(database, kafka, tmp_path):
    database.write(*SCHEMA)
    plan = assemble(load(write_pipeline(tmp_path, database, log=f"kafka://{kafka.bootstrap}?partitions=2")))
    run_local(plan, until="idle")
    lose_slot(database)
    database.write("DELETE FROM orders WHERE id < 9", "UPDATE orders SET state = 'paid' WHERE id % 100 = 1")
    report = only(plan, new_slot=True)
    assert (report.changed, report.deleted) == (19, 8)  # every third was paid already
    assert wrong(verify(plan)) == {}


def test_a_history_shows_what_a_repair_changed(database, tmp_path):
    database.write(*SCHEMA)
    more = "past: {from: shop.orders, mode: history}"
    plan = assemble(load(write_pipeline(tmp_path, database, "orders", more)))
    run_local(plan, until="idle")
    lose_slot(database)
    database.write("DELETE FROM orders WHERE id = 1", "UPDATE orders SET state = 'paid' WHERE id = 2")
    repair(plan, new_slot=True)
    assert wrong(verify(plan)) == {}
    with duckdb.connect(str(tmp_path / "store.duckdb"), read_only=True) as store:
        told = store.execute(
            "SELECT id, _raypipe_op FROM past WHERE _raypipe_op BETWEEN 1 AND 4 ORDER BY id"
        ).fetchall()
    assert told == [(1, 4), (2, 3)]


# A backup that is restored, on a server of our own


def copy(folder: Path, to: Path) -> None:
    """With owners and rights, on which the server insists."""
    subprocess.run(["cp", "-a", str(folder), str(to)], check=True)


@pytest.mark.parametrize("major", [18, 15])
def test_a_server_restored_from_a_backup_is_followed_back(services_home, major, tmp_path, seed):
    with missing_skips(), private_postgres(services_home, major, {"fsync": "on"}) as server:
        database = Database(server.url)
        try:
            database.write(*SCHEMA)
            plan = assemble(load(write_pipeline(tmp_path, database)))
            run_local(plan, until="idle")
            server.stop()
            copy(server.data, tmp_path / "backup")
            server.start()
            database.reconnect()
            with writers(database, 1, seed, trade):
                run_local(plan, until=1.0)
            run_local(plan, until="idle")
            server.stop()
            shutil.rmtree(server.data)
            copy(tmp_path / "backup", server.data)
            server.start()
            database.reconnect()
            with pytest.raises(SourceGap, match="older copy"):
                run_local(plan, until="idle")
            assert only(plan, new_slot=True).reread > 0
            assert wrong(verify(plan)) == {}
        finally:
            database.abandon()
