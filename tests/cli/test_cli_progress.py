"""What a run shows of itself, and how log events look."""

from __future__ import annotations

import io
import logging

import pytest

from raypipe.cli import logs, progress
from raypipe.cli.run import parsed_until
from raypipe.cli.terminal import aligned
from raypipe.engine.status import InstanceStatus, SinkStatus, Status

RUNNING = Status(
    pipeline="shop",
    run=3,
    state="running",
    epochs=7,
    rows=12345,
    rows_per_s=4567.8,
    executors={"inline": 7},
    instances=(InstanceStatus(name="db", state="loading", loading={"db.orders": 0.25}, pending=40, parked=2),),
    sinks=(
        SinkStatus(name="lake", state="ready", cut=9, lag_rows=1, lag_s=0.31),
        SinkStatus(name="mart", state="retrying", error="The disk is full."),
    ),
)


def test_a_status_is_one_readable_line() -> None:
    assert progress.one_line(RUNNING) == (
        "shop run 3 running | 12,345 rows | 4,568 rows/s | 7 epochs | db loading db.orders 25% 40 waiting 2 parked"
        " | lake cut 9 0.3 s (1 row) behind | mart retrying no cut yet (The disk is full.)"
    )


def test_without_a_terminal_a_line_comes_only_when_something_other_than_a_number_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress.for_people() as show:
        for rows in range(50):
            show(Status(pipeline="shop", state="running", rows=rows))
        show(Status(pipeline="shop", state="stopped", rows=50))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "stopped" in lines[1]


def test_for_machines_every_status_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.json_lines() as show:
        show(RUNNING)
    assert Status.from_json(capsys.readouterr().out) == RUNNING


def test_on_a_terminal_sources_loads_and_sinks_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    drawn = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda: Console(file=drawn, force_terminal=True, width=100))
    with progress.live() as show:
        show(RUNNING)
    for word in ("shop", "12,345 rows", "db.orders", "lake", "The disk is full."):
        assert word in drawn.getvalue()


@pytest.mark.parametrize(
    ("text", "until"),
    [("idle", "idle"), ("forever", "forever"), ("30s", 30.0), ("5m", 300.0), ("1.5h", 5400.0), ("90", 90.0)],
)
def test_until_is_a_condition_or_a_duration(text: str, until: str | float) -> None:
    assert parsed_until(text) == until


def test_cells_stand_below_each_other() -> None:
    assert aligned([("a", "bb", "c"), ("aaa", "b")]) == ["  a    bb  c", "  aaa  b"]
    assert aligned([]) == []


def test_a_log_event_is_one_line_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.begin()
    logs.begin()
    logging.getLogger("raypipe.local").warning(
        "tables will be loaded again", extra={"tables": ["shop.orders"], "run": 3}
    )
    logging.getLogger("raypipe.local").info("not shown unless asked for")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING raypipe.local: tables will be loaded again tables=['shop.orders'] run=3")
