"""One suite for every runner: whatever runs a plan, the sinks hold what the steps' SQL returns over the source."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import duckdb
import pytest
from resharding import AtWork

from cluster.services.kafka import KafkaCluster
from raypipe import faults
from raypipe.engine.reshard import Progress
from raypipe.engine.status import Status
from raypipe.errors import SourceGap
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.plan.model import Plan
from raypipe.spec import load
from raypipe.verify import verify

Runner = Callable[..., Status]

FILE = """\
pipeline: {name}
log: {log}
sources:
  shop: {{url: "sqlite:///shop.db", tables: [orders, refunds]}}
steps:
  paid:
    sql: {paid}
  money:
    sql: |
      SELECT id, amount FROM shop.orders
      UNION ALL
      SELECT id, -amount AS amount FROM shop.refunds
  large:
    sql: SELECT id, cents FROM paid WHERE cents > 5000
  recent:
    sql: SELECT id FROM shop.orders WHERE TIMESTAMP '2026-01-01' + to_days(id) <= now()
  totals:
    sql: |
      SELECT p.customer, count(*) AS n, sum(p.cents) AS cents, count(r.id) AS refunds
      FROM paid p LEFT JOIN shop.refunds r ON r.id = p.id GROUP BY p.customer
sinks:
  warehouse:
    url: "duckdb:///warehouse.duckdb"
    tables:
      paid: {{from: paid}}
      money: {{from: money}}
      large: {{from: large}}
      totals: {{from: totals}}
      recent: {{from: recent}}
      orders: {{from: shop.orders}}
  history:
    url: "delta:///lake"
    tables: {{orders: {{from: shop.orders, mode: history}}}}
{limits}
"""
PAID = "SELECT id, customer, (amount * 100)::BIGINT AS cents FROM shop.orders WHERE status = 'paid'"


class Shop:
    """A folder with a source, a pipeline file and whatever a runner makes of them."""

    def __init__(self, folder: Path, log: str = "sqlite:///log.db") -> None:
        self.folder = folder
        self.log = log
        self.name = f"suite{uuid.uuid4().hex[:8]}"  # a log in Kafka outlives the folder
        self.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, amount DECIMAL(10,2), status TEXT)",
            "CREATE TABLE refunds (id INTEGER PRIMARY KEY, amount DECIMAL(10,2))",
        )
        self.write()

    def write(self, paid: str = PAID, limits: str = "") -> None:
        (self.folder / "pipeline.yaml").write_text(FILE.format(name=self.name, log=self.log, paid=paid, limits=limits))

    def plan(self) -> Plan:
        return assemble(load(self.folder / "pipeline.yaml"))

    def execute(self, *statements: str) -> None:
        connection = sqlite3.connect(self.folder / "shop.db")
        try:
            connection.executescript(";\n".join(statements) + ";")
        finally:
            connection.close()

    def fill(self, rows: int, start: int = 1) -> None:
        self.execute(
            f"""WITH RECURSIVE n(i) AS (SELECT {start} UNION ALL SELECT i + 1 FROM n WHERE i < {start + rows - 1})
            INSERT INTO orders
            SELECT i, 'c' || i % 7, i % 97 + 0.5, CASE WHEN i % 3 THEN 'paid' ELSE 'open' END FROM n""",
            f"""WITH RECURSIVE n(i) AS (SELECT {start} UNION ALL SELECT i + 10 FROM n WHERE i < {start + rows - 10})
            INSERT INTO refunds SELECT i, i % 13 FROM n""",
        )

    def change(self) -> None:
        self.execute(
            "BEGIN",
            "UPDATE orders SET status = 'open' WHERE id % 5 = 0",
            "UPDATE orders SET status = 'paid', amount = amount + 60 WHERE id % 7 = 0",
            "UPDATE orders SET id = id + 1000000 WHERE id % 11 = 0",
            "DELETE FROM orders WHERE id % 13 = 0",
            "INSERT OR REPLACE INTO refunds VALUES (1, 5), (2000001, 6)",
            "COMMIT",
        )

    def read(self, table: str) -> list[tuple[object, ...]]:
        connection = duckdb.connect(str(self.folder / "warehouse.duckdb"), read_only=True)
        try:
            return connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()
        finally:
            connection.close()

    def expected_paid(self) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.folder / "shop.db")
        try:
            return connection.execute(
                "SELECT id, customer, CAST(round(amount * 100) AS INTEGER) FROM orders WHERE status = 'paid' ORDER BY 1"
            ).fetchall()
        finally:
            connection.close()


def local(plan: Plan, **options: object) -> Status:
    return run_local(plan, **options)  # type: ignore[arg-type]


def on_ray(plan: Plan, **options: object) -> Status:
    from actors.run import run_on_ray

    return run_on_ray(plan, **options)  # type: ignore[arg-type]


def careless(plan: Plan, **_: object) -> Status:
    """Runs each step's SQL over the source once, appends what comes out, and never deletes: must fail the suite."""
    source = sqlite3.connect(plan.instances[0].url.removeprefix("sqlite:///"))
    rows = source.execute("SELECT id, customer, CAST(amount * 100 AS INT) FROM orders WHERE status = 'paid'").fetchall()
    source.close()
    target = duckdb.connect(plan.sinks[0].url.removeprefix("duckdb:///"))
    target.execute("CREATE TABLE IF NOT EXISTS paid (id BIGINT, customer VARCHAR, cents BIGINT)")
    if rows:
        target.executemany("INSERT INTO paid VALUES (?, ?, ?)", rows)
    target.close()
    return Status(pipeline=plan.pipeline, state="stopped")


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    from actors.run import connect

    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAYPIPE_TEST", raising=False)  # Ray outlives the test that needed it first
        connect(None)
    yield
    ray.shutdown()


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def runner(request: pytest.FixtureRequest) -> Runner:
    if request.param == "ray":
        request.getfixturevalue("ray_session")
        return on_ray
    return local


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def loads_and_follows(run: Runner, shop: Shop) -> None:
    shop.fill(500)
    run(shop.plan(), until="idle")
    assert shop.read("paid") == shop.expected_paid()
    shop.change()
    run(shop.plan(), until="idle")
    assert shop.read("paid") == shop.expected_paid()


def test_a_run_until_idle_loads_and_a_second_one_follows_the_changes(runner: Runner, shop: Shop) -> None:
    loads_and_follows(runner, shop)
    report = verify(shop.plan())
    assert report.ok, report.to_json()
    assert {table.table for table in report.tables} == {"paid", "money", "large", "recent", "totals", "orders"}


def test_a_log_in_kafka_serves_every_runner(runner: Runner, tmp_path: Path, kafka: KafkaCluster) -> None:
    shop = Shop(tmp_path, f"kafka://{kafka.bootstrap}?partitions=3")
    loads_and_follows(runner, shop)
    report = verify(shop.plan())
    assert report.ok, report.to_json()


def test_a_careless_runner_fails_the_suite(shop: Shop) -> None:
    with pytest.raises(AssertionError):
        loads_and_follows(careless, shop)


def test_a_step_whose_sql_changed_is_loaded_anew(runner: Runner, shop: Shop) -> None:
    shop.fill(300)
    runner(shop.plan(), until="idle")
    shop.write(paid="SELECT id, customer, (amount * 100)::BIGINT AS cents FROM shop.orders WHERE status = 'open'")
    runner(shop.plan(), until="idle")
    assert verify(shop.plan()).ok
    assert len(shop.read("paid")) == 100


@pytest.mark.parametrize("point", ["source.poll.after", "log.commit.before", "log.commit.after"])
def test_a_failure_before_a_table_is_loaded_anew_does_not_forget_to(point: str, shop: Shop) -> None:
    shop.fill(30)
    local(shop.plan(), until="idle")
    shop.write(paid="SELECT id, customer, (amount * 100)::BIGINT AS cents FROM shop.orders WHERE status = 'open'")
    faults.arm(f"{point}=raise@1")
    try:
        local(shop.plan(), until="idle")
    finally:
        faults.arm("")
    assert len(shop.read("paid")) == 10
    assert verify(shop.plan()).ok


def test_a_new_log_over_sinks_of_another_is_refused_with_what_to_remove(shop: Shop) -> None:
    shop.fill(30)
    for _ in range(3):  # the sinks' generations are ahead of any that a new log gives
        local(shop.plan(), until="idle")
    for name in ("log.db", "log.db-wal", "log.db-shm"):
        (shop.folder / name).unlink(missing_ok=True)
    for _ in range(2):
        with pytest.raises(SourceGap, match=r"of another log than.*remove the log and what the sink holds"):
            local(shop.plan(), until="idle")
    for path in shop.folder.glob("log.db*"):
        path.unlink()
    (shop.folder / "warehouse.duckdb").unlink()
    shutil.rmtree(shop.folder / "lake")
    local(shop.plan(), until="idle")
    assert verify(shop.plan()).ok


def test_state_that_went_away_or_is_damaged_is_loaded_anew(runner: Runner, shop: Shop) -> None:
    shop.fill(300)
    runner(shop.plan(), until="idle")
    shutil.rmtree(shop.folder / f"{shop.name}.state")
    shop.change()
    runner(shop.plan(), until="idle")
    assert verify(shop.plan()).ok
    [newest] = sorted((shop.folder / f"{shop.name}.state" / "1" / "0" / "traces").glob("*.commit"))[-1:]
    content = bytearray(newest.read_bytes())
    content[200:300] = bytes(100)  # of a run; the manifest stands at the end
    newest.write_bytes(content)
    shop.execute("UPDATE orders SET status = 'paid', amount = amount + 1")
    runner(shop.plan(), until="idle")
    assert verify(shop.plan()).ok


def test_state_that_went_away_is_restored_from_a_checkpoint(runner: Runner, shop: Shop) -> None:
    shop.write(limits="checkpoints: saved\nlimits: {state_shards: 2}")
    shop.fill(2000)
    stop = Event()

    def look(status: Status) -> None:
        told = [report.checkpoints for report in status.stateful if report.checkpoints is not None]
        if len(told) == 2 and all(report.versions and report.making is None for report in told):
            stop.set()

    runner(shop.plan(), until=60.0, observer=look, stop=stop)
    assert stop.is_set(), "no checkpoint was made in time"
    shop.execute("UPDATE orders SET customer = 'new' WHERE id % 100 = 1")
    runner(shop.plan(), until="idle")
    shutil.rmtree(shop.folder / f"{shop.name}.state")
    shop.execute("UPDATE orders SET customer = 'newer' WHERE id % 100 = 2")
    status = runner(shop.plan(), until="idle")
    assert verify(shop.plan()).ok
    assert status.rows < 1000, "nothing is loaded again"


def test_state_goes_on_in_another_number_of_shards(runner: Runner, shop: Shop) -> None:
    shop.fill(2000)
    runner(shop.plan(), until="idle")
    for number, shards in enumerate((3, 2, 1)):
        shop.write(limits=f"limits: {{state_shards: {shards}}}")
        shop.execute(f"UPDATE orders SET customer = 'new {number}' WHERE id % 100 = {number}")
        status = runner(shop.plan(), until="idle")
        assert verify(shop.plan()).ok
        assert status.rows < 1000, "nothing is loaded again"
        assert [path.name for path in (shop.folder / f"{shop.name}.state").iterdir()] == [str(shards)]


def test_state_is_shared_out_to_other_shards_while_the_run_goes_on(runner: Runner, shop: Shop) -> None:
    shop.fill(2000)
    with AtWork(shop.plan(), runner) as run:
        run.carried(lambda: shop.fill(200, start=5000))
        rows = run.told[-1].rows
        for number, shards in enumerate((3, 2)):
            answer = run.reshard(shards)
            assert (answer.progress, answer.shards) == (Progress.DONE, shards)
            run.carried(
                lambda number=number: shop.execute(
                    f"UPDATE orders SET customer = 'new {number}' WHERE id % 100 = {number}"
                )
            )
            assert verify(shop.plan()).ok
        run.until(lambda status: len(status.stateful) == 2, "word of both shards")
        assert run.told[-1].rows < rows + 1000, "nothing is loaded again"
        assert len({status.run for status in run.told if status.run}) == 1
    assert [path.name for path in (shop.folder / f"{shop.name}.state").iterdir()] == ["2"]


def test_a_run_ends_when_told_and_the_next_resumes(runner: Runner, shop: Shop) -> None:
    shop.fill(300)
    stop = Event()
    status = runner(shop.plan(), until="forever", stop=stop, observer=lambda s: stop.set() if s.epochs else None)
    assert status.state == "stopped"
    shop.change()
    runner(shop.plan(), until="idle")
    assert shop.read("paid") == shop.expected_paid()


def test_a_run_tells_where_it_stands(runner: Runner, shop: Shop) -> None:
    shop.fill(300)
    told: list[Status] = []
    status = runner(shop.plan(), until="idle", observer=told.append)
    assert told
    assert status.rows >= 330
    assert {sink.name: sink.lag_rows for sink in status.sinks} == {"warehouse": 0, "history.orders": 0}
    assert status.instances[0].position is not None
    held = {sink.cut for sink in status.sinks if sink.name == "warehouse"}
    for report in status.stateful:
        assert {report.cut} == held
        assert report.actor.startswith(f"{shop.name}/") == (runner is on_ray)
        assert report.folder.startswith(str(shop.folder))
        assert "totals" in report.steps
        assert report.inputs.keys() >= {"paid", "shop.refunds"}
        assert 0 < report.total.bytes <= report.bytes <= report.limit
    assert status.stateful
    assert Status.from_json(status.to_json()) == status


def test_a_run_at_work_is_verified_while_its_tables_change(runner: Runner, shop: Shop) -> None:
    shop.fill(300)
    stop, begun = Event(), Event()
    run = Thread(
        target=lambda: runner(
            shop.plan(), until="forever", stop=stop, observer=lambda status: begun.set() if status.epochs else None
        )
    )
    run.start()
    try:
        assert begun.wait(60)
        for round_ in range(2):
            shop.change()
            shop.fill(20, start=10_000 * (round_ + 1))
            report = verify(shop.plan())
            assert report.ok, report.to_json()
        assert run.is_alive()
    finally:
        stop.set()
        run.join()


@pytest.mark.ray
@pytest.mark.parametrize("log", ["sqlite", "kafka"])
def test_ray_data_and_inline_executors_give_identical_results(
    ray_session: None, tmp_path: Path, request: pytest.FixtureRequest, log: str
) -> None:
    url = "sqlite:///log.db"
    if log == "kafka":
        url = f"kafka://{request.getfixturevalue('kafka').bootstrap}?partitions=3&debezium=shop.refunds"
    found = []
    for executor, limit in (("inline", 1 << 40), ("ray_data", 1)):
        folder = tmp_path / executor
        folder.mkdir()
        shop = Shop(folder, url)
        shop.write(limits=f"limits: {{ray_data_bytes: {limit}}}")
        shop.fill(20_000)
        first = on_ray(shop.plan(), until="idle")
        shop.change()
        second = on_ray(shop.plan(), until="idle")
        assert set(first.executors) == set(second.executors) == {executor}
        assert verify(shop.plan()).ok
        found.append([shop.read(table) for table in ("paid", "money", "large", "totals", "orders")])
    assert found[0] == found[1]
