"""Every sink keeps every rule of the contract; a sink that forgets some is found out by these very rules."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sink_rules import KEYED, RULES, Stage, changes, table
from sinks import SINKS, SinkMaker
from weak_sink import KEPT, make_weak, plant_nothing

from raypipe import faults
from raypipe.errors import RaypipeError
from raypipe.model import Op


@pytest.fixture
def stage(maker: SinkMaker, tmp_path: Path, seed: int) -> Iterator[Stage]:
    stage = Stage(maker, tmp_path, seed)
    yield stage
    stage.clear()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("maker", SINKS, ids=str)
def test_sink(rule, maker, stage):
    rule(stage)


def test_a_sink_that_only_looks_right_is_found_out(tmp_path, seed):
    kept = set()
    for rule in RULES:
        stage = Stage(SinkMaker(name="weak", make=make_weak, plant=plant_nothing), tmp_path / rule.__name__, seed)
        try:
            rule(stage)
            kept.add(rule.__name__)
        except (AssertionError, pytest.fail.Exception):
            pass  # an assertion of the rule's own; any other error is one of the fake
        finally:
            stage.clear()
    assert kept == KEPT


@pytest.mark.parametrize("maker", SINKS, ids=str)
def test_without_the_fence_an_overtaken_writer_would_write(maker, stage):
    old = stage.run(table()).open(1)
    old.rest()
    stage.run(table()).open(2).rest()
    faults.arm("mutant.no_fence=skip")
    old.epoch(1, changes(KEYED, (Op.TRUNCATE,), (Op.READ, 1, "a")))
    assert old.held() == {1}


@pytest.mark.parametrize("maker", SINKS, ids=str)
def test_with_the_cut_before_the_data_a_crash_would_lose_the_epoch(maker, stage):
    run = stage.run(table()).open(1)
    run.epoch(1, changes(KEYED, (Op.TRUNCATE,), (Op.READ, 1, "a")))
    faults.arm("mutant.cut_before_data=skip,sink.commit.data=raise")
    with suppress(RaypipeError):
        run.epoch(2, changes(KEYED, (Op.INSERT, 2, "b")))
    run.close()
    assert run.rows() == [(1, "a")]
    assert 2 in run.held()
