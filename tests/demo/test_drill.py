"""The demo's drill: kills once, half way, and believes only a successor that has committed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from raypipe.cli.drill import Drill, Stage, Victim, of_sink, of_state
from raypipe.contracts import StateReport
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

    def drill(self, *victims: Victim) -> Drill:
        return Drill(
            victims=victims or [of_sink("warehouse")],
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
    cut: int | None,
    *,
    state: str = "ready",
    lag_rows: int = 0,
    pending: int = 0,
    reader: str = "streaming",
    owner: int | None = None,
    lineage: str = "first",
) -> Status:
    return Status(
        pipeline="shop",
        at=time.time() + 1,
        instances=(InstanceStatus(name="shop", state=reader, pending=pending),),
        sinks=(
            SinkStatus(name="warehouse", state=state, cut=cut, lag_rows=lag_rows),
            SinkStatus(name="lake", state="ready", cut=cut),
        ),
        stateful=(StateReport(folder="state", host="here", pid=owner, lineage=lineage, cut=cut),) if owner else (),
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
    assert not drill.recovered


def test_after_recovery_the_shop_closes_and_the_run_ends_once_all_has_drained(theatre: Theatre) -> None:
    drill = half_way(theatre)
    theatre.now, theatre.process = 9.0, 101
    for cut in (7, 7, 8):
        drill(status(cut))
    assert drill.recovered_s == {"sink:warehouse": 4.0}
    assert drill.recovered
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
    assert not drill.recovered
    assert "still waiting for sink warehouse" in theatre.told[-1]


def test_victims_are_killed_one_after_another_each_when_the_last_is_back(theatre: Theatre) -> None:
    drill = theatre.drill(of_sink("warehouse"), of_state())
    drill(status(5, owner=200))
    theatre.now = 4.0
    drill(status(6, owner=200))
    theatre.now = 8.0
    drill(status(7, owner=200))
    assert theatre.killed == [100]
    theatre.process = 101
    for cut in (7, 7, 8):
        drill(status(cut, owner=200))
    theatre.process = 200
    drill(status(9, owner=200))
    assert theatre.killed == [100, 200]
    theatre.process = 201
    for cut in (9, 10, 11):
        drill(status(cut, owner=200))  # told by the one that is dead
    assert drill.stage is Stage.KILLED
    for cut in (11, 12):
        drill(status(cut, owner=201))
    assert drill.recovered
    theatre.now = 10.0
    drill(status(13, owner=201))
    assert theatre.closed == 1


def test_a_state_that_had_to_begin_anew_is_no_recovery(theatre: Theatre) -> None:
    drill = theatre.drill(of_state())
    drill(status(5, owner=100))
    theatre.now = 5.0
    drill(status(6, owner=100))
    theatre.process = 101
    for cut in (6, 6, 7):
        drill(status(cut, owner=101, lineage="second"))
    assert "had to begin anew" in theatre.told[-1]
    assert not drill.recovered


def test_a_second_demo_clears_what_the_first_one_made(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    premises.clear(folder)
    for name in ("shop.db", "shop.db-wal", "log.db", "shard-0.db", "warehouse.duckdb.wal", "notes.txt"):
        (folder / name).touch()
    for name in ("lake/paid_orders", "state/traces"):
        (folder / name).mkdir(parents=True)
    premises.clear(folder)
    assert {path.name for path in folder.iterdir()} == {premises.MARK, "notes.txt"}


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shop.db").write_text("the real one")
    with pytest.raises(premises.NotOurs):
        premises.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["shop.db"]
