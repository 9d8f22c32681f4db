"""The comparison with Flink: what both read, what raypipe makes of it, and who notices a wrong answer."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.flink.decode import Changes
from benchmarks.flink.feeds import FileFeed, LogFeed, fill
from benchmarks.flink.inputs import Inputs, make_inputs
from benchmarks.flink.installation import INSTALL, PYTHON, find
from benchmarks.flink.judge import Judge
from benchmarks.flink.queries import QUERIES
from benchmarks.flink.raypipe_worker import answer
from benchmarks.flink.settings import HEAP
from benchmarks.flink.sides import Course, by_flink, by_raypipe
from benchmarks.flink_side_by_side import asked, figures_of
from benchmarks.harness import CannotRun
from raypipe.model import OP, Op

ROWS = 6_000
ORDERS, EVENTS = ("orders", "customers"), ("person", "auction", "bid")


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("orders") / "inputs", ORDERS, ROWS)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("events") / "inputs", EVENTS, ROWS)


def test_each_change_of_an_order_tells_what_the_change_before_left(orders: Inputs) -> None:
    held: dict[int, dict[str, object]] = {}
    letters = set()
    for line in orders.file("orders").read_text().splitlines():
        change = json.loads(line)
        letters.add(change["op"])
        row = change["after"] or change["before"]
        assert change["before"] == held.pop(row["order_id"], None)
        if change["after"]:
            held[row["order_id"]] = change["after"]
    assert letters == {"c", "u", "d"}


def test_files_are_read_whole_and_side_by_side_however_many_lines_are_taken(orders: Inputs) -> None:
    rows = dict.fromkeys(ORDERS, 0)
    with closing(Changes(orders, ORDERS)) as changes:
        while changes.taken < changes.lines:
            for schema, batch in changes.take(777, 1):
                ops = batch.rows.column(OP).to_numpy()
                rows[schema.table.table] += int((ops != Op.UPDATE_BEFORE).sum())
    assert rows == orders.lines


@pytest.mark.parametrize("name", ["B", "q2"])
def test_the_answer_from_the_files_and_the_one_from_the_log_are_right(
    name: str, orders: Inputs, events: Inputs, tmp_path: Path
) -> None:
    query = QUERIES[name]
    inputs = orders if query.tables[0] in ORDERS else events
    url = fill(tmp_path / "log.db", inputs, query.tables)
    feeds = {"files": FileFeed(inputs, query.tables), "log": LogFeed(url, inputs, query.tables)}
    with closing(Judge.of(query, inputs)) as judge:
        for way, feed in feeds.items():
            did = answer(query, feed, tmp_path / way, tmp_path / f"{way}.parquet")
            assert did.lines == sum(inputs.lines[table] for table in query.tables)
            assert not judge.of_raypipe(tmp_path / f"{way}.parquet")


def test_the_judge_notices_a_row_that_is_missing(orders: Inputs, tmp_path: Path) -> None:
    query = QUERIES["A"]
    file = tmp_path / "answer.parquet"
    answer(query, FileFeed(orders, query.tables), tmp_path / "state", file)
    told = pq.read_table(file)
    pq.write_table(told.slice(0, told.num_rows - 1), file)
    with closing(Judge.of(query, orders)) as judge:
        assert judge.of_raypipe(file)


def test_the_judge_folds_what_flink_tells(orders: Inputs, tmp_path: Path) -> None:
    query = QUERIES["B"]
    with closing(Judge.of(query, orders)) as judge:
        right = pa.Table.to_pylist(judge.database.sql("FROM expected").to_arrow_table())
        images = [{"c0": row["region"], "c1": row["orders"], "c2": float(row["total"])} for row in right]
        lines = [{"before": None, "after": {**image, "c1": 0}, "op": "c"} for image in images]
        lines += [{"before": {**image, "c1": 0}, "after": None, "op": "d"} for image in images]
        lines += [{"before": None, "after": image, "op": "c"} for image in images]
        columns = ("region", "orders", "total")
        (tmp_path / "part").write_text("\n".join(map(json.dumps, lines)))
        assert not judge.of_flink(tmp_path, columns)
        (tmp_path / "part").write_text("\n".join(map(json.dumps, lines[:-1])))
        assert judge.of_flink(tmp_path, columns)


def test_without_flink_the_next_step_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(PYTHON, str(tmp_path / "python"))
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/java")
    with pytest.raises(CannotRun, match=INSTALL):
        find()


def test_a_question_that_is_not_there_is_refused_and_every_one_has_its_goal() -> None:
    with pytest.raises(CannotRun, match="q99"):
        asked("A q99")
    assert [query.name for query in asked("q5 A")] == ["q5", "A"]
    for query in asked(""):
        assert all(figure.goal for figure in figures_of(query) if "_epochs_" not in figure.name)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["B", "q11"])
def test_both_sides_answer_a_question_alike(name: str, orders: Inputs, events: Inputs, tmp_path: Path) -> None:
    try:
        flink = find()
    except CannotRun as missing:
        pytest.skip(str(missing))
    query = QUERIES[name]
    inputs = orders if query.tables[0] in ORDERS else events
    course = Course(checked=inputs, measured=inputs)
    for cost in (
        by_flink(flink, query, HEAP, course, tmp_path / "flink"),
        by_raypipe(query, course, tmp_path / "raypipe"),
    ):
        assert cost.cpu_s > 0
        assert cost.peak_mb > 0
