"""The demo's drill: kills once, half way, and believes only a successor that has committed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from raypipe.cli.drill import Drill, Stage
from raypipe.demo import premises
from raypipe.engine.status import InstanceStatus, SinkStatus, Status


@dataclass
class Theatre:
    """Everything a drill touches, as plain values."""

    now: float = 0.0
    process: int | None = 100
    killed: list[int] = field(default_factory=list)
    closed: int = 0
    stop: Event = field(default_factory=Event)
    told: list[str] = field(default_factory=list)

    def drill(self) -> Drill:
        return Drill(
            sink="warehouse",
            busy_s=10,
            patience_s=60,
            process_of=lambda _: self.process,
            close_shop=self._close,
            stop=self.stop,
            tell=self.told.append,
            clock=lambda: self.now,
            kill=self.killed.append,
        )

    def _close(self) -> None:
        self.closed += 1


def status(
    cut: int | None, *, state: str = "ready", lag_rows: int = 0, pending: int = 0, reader: str = "streaming"
) -> Status:
    return Status(
        pipeline="shop",
        at=time.time() + 1,
        instances=(InstanceStatus(name="shop", state=reader, pending=pending),),
        sinks=(
            SinkStatus(name="warehouse", state=state, cut=cut, lag_rows=lag_rows),
            SinkStatus(name="lake", state="ready", cut=cut),
        ),
    )


@pytest.fixture
def theatre() -> Theatre:
    return Theatre()


def half_way(theatre: Theatre) -> Drill:
    """A drill right after its kill, at cut 7."""
    drill = theatre.drill()
    drill(status(5))
    theatre.now = 5.0
    drill(status(7))
    assert drill.stage is Stage.KILLED
    return drill


def test_the_time_runs_from_when_every_sink_holds_something(theatre: Theatre) -> None:
    drill = theatre.drill()
    theatre.now = 50.0
    drill(status(None))
    drill(status(3, reader="loading"))
    assert drill.stage is Stage.LOADING
    drill(status(3))
    assert drill.stage is Stage.BUSY
    assert not theatre.killed


def test_the_actor_is_killed_half_way_and_once(theatre: Theatre) -> None:
    drill = half_way(theatre)
    theatre.now = 6.0
    drill(status(7))
    assert theatre.killed == [100]


def test_an_actor_that_is_just_being_replaced_is_killed_later(theatre: Theatre) -> None:
    drill = theatre.drill()
    drill(status(5))
    theatre.now, theatre.process = 5.0, None
    drill(status(7))
    assert not theatre.killed
    theatre.process = 101
    drill(status(8))
    assert theatre.killed == [101]


def test_a_later_cut_without_a_successor_is_no_recovery(theatre: Theatre) -> None:
    drill = half_way(theatre)
    drill(status(8))
    assert drill.stage is Stage.KILLED


def test_a_successor_without_a_later_cut_is_no_recovery(theatre: Theatre) -> None:
    drill = half_way(theatre)
    theatre.process = 101
    drill(status(7))  # older than the blow, and told after the successor was seen
    drill(status(8, state="opening"))
    drill(status(8))  # what the old one had committed
    drill(status(8))
    assert drill.recovered_s is None


def test_after_recovery_the_shop_closes_and_the_run_ends_once_all_has_drained(theatre: Theatre) -> None:
    drill = half_way(theatre)
    theatre.now, theatre.process = 9.0, 101
    for cut in (7, 7, 8):
        drill(status(cut))
    assert drill.recovered_s == 4.0
    drill(status(9))
    assert theatre.closed == 0
    theatre.now = 10.0
    drill(status(10))
    assert theatre.closed == 1
    for behind in (status(10, pending=3), status(10, lag_rows=3), status(10, state="retrying")):
        drill(behind)
        assert not theatre.stop.is_set()
    drill(status(11))
    assert theatre.stop.is_set()
    assert drill.stage is Stage.DONE


def test_a_drill_that_takes_too_long_ends_the_run_and_says_where_it_hung(theatre: Theatre) -> None:
    drill = half_way(theatre)
    theatre.now = 61.0
    drill(status(7, state="retrying"))
    assert theatre.stop.is_set()
    assert drill.recovered_s is None
    assert "still killed" in theatre.told[-1]


def test_a_second_demo_clears_what_the_first_one_made(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    premises.clear(folder)
    for name in ("shop.db", "shop.db-wal", "log.db", "shard-0.db", "warehouse.duckdb.wal", "notes.txt"):
        (folder / name).touch()
    (folder / "lake" / "paid_orders").mkdir(parents=True)
    premises.clear(folder)
    assert {path.name for path in folder.iterdir()} == {premises.MARK, "notes.txt"}


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shop.db").write_text("the real one")
    with pytest.raises(premises.NotOurs):
        premises.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["shop.db"]
