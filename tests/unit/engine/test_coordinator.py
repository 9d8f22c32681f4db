"""The coordinator's decisions, without log, sinks or clock."""

from __future__ import annotations

import random

import pytest

from raypipe.engine.backoff import Backoff
from raypipe.engine.coordinator import Coordinator, OpenSink, RunEpoch, Wait
from raypipe.engine.sizing import EpochSizing
from raypipe.errors import Conflict, InvariantBroken, Unavailable
from raypipe.model import Cut

MIB = 1 << 20


def cut(number: int, size: int | None = None) -> Cut:
    return Cut(number=number, log="l", offsets={"t": number}, positions={"i": str(number)}, bytes=size or number * 100)


def coordinator(*sinks: str, max_bytes: int = 64 * MIB) -> Coordinator:
    made = Coordinator(sinks, EpochSizing(max_bytes))
    for sink in sinks:
        made.opened(sink, None)
    return made


def test_sinks_are_opened_before_anything_else() -> None:
    made = Coordinator(["a", "b"], EpochSizing(MIB))
    assert made.decide([cut(1)], 0.0) == OpenSink(sink="a")
    made.opened("a", None)
    assert made.decide([cut(1)], 0.0) == OpenSink(sink="b")


def test_sinks_that_hold_the_same_cut_share_an_epoch() -> None:
    made = coordinator("a", "b")
    assert made.decide([cut(1), cut(2)], 0.0) == RunEpoch(sinks=("a", "b"), after=None, upto=cut(2))


def test_a_sink_that_fell_behind_catches_up_alone_and_stops_where_the_others_stand() -> None:
    made = coordinator("a", "b")
    made.committed("a", cut(5))
    made.committed("b", cut(2))
    decision = made.decide([cut(n) for n in range(3, 9)], 0.0)
    assert decision == RunEpoch(sinks=("b",), after=cut(2), upto=cut(5))


def test_the_others_go_on_while_one_sink_waits_for_its_retry() -> None:
    made = coordinator("a", "b")
    made.committed("a", cut(1))
    made.committed("b", cut(1))
    made.failed("a", Unavailable("full"), now=10.0)
    assert made.decide([cut(2)], 10.0) == RunEpoch(sinks=("b",), after=cut(1), upto=cut(2))
    made.committed("b", cut(2))
    assert made.decide([], 10.0) == Wait(until=10.1)
    assert made.decide([], 10.2) == OpenSink(sink="a")


def test_an_unknown_outcome_is_read_back_at_once() -> None:
    made = coordinator("a")
    made.failed("a", Conflict("lost a race"), now=10.0)
    assert made.decide([], 10.0) == OpenSink(sink="a")


def test_an_epoch_takes_at_least_one_cut_however_large() -> None:
    made = coordinator("a", max_bytes=MIB)
    assert made.decide([cut(1, 500 * MIB), cut(2, 501 * MIB)], 0.0) == RunEpoch(
        sinks=("a",), after=None, upto=cut(1, 500 * MIB)
    )


def test_an_epoch_takes_all_cuts_that_fit_its_budget() -> None:
    made = coordinator("a", max_bytes=2 * MIB)
    cuts = [cut(n, n * MIB) for n in range(1, 6)]
    assert made.decide(cuts, 0.0) == RunEpoch(sinks=("a",), after=None, upto=cuts[1])


def test_no_epoch_crosses_a_barrier_and_sinks_come_to_rest_at_it() -> None:
    made = coordinator("a", "b")
    made.hold_at(3)
    cuts = [cut(n) for n in range(1, 6)]
    assert made.decide(cuts, 0.0) == RunEpoch(sinks=("a", "b"), after=None, upto=cut(3))
    made.committed("a", cut(3))
    assert not made.at_barrier()
    made.committed("b", cut(3))
    assert made.at_barrier()
    assert made.decide(cuts[3:], 0.0) == Wait(until=None)
    made.hold_at(None)
    assert made.decide(cuts[3:], 0.0) == RunEpoch(sinks=("a", "b"), after=cut(3), upto=cut(5))


def test_a_sink_that_goes_back_is_a_broken_invariant() -> None:
    made = coordinator("a")
    made.committed("a", cut(5))
    with pytest.raises(InvariantBroken, match="from cut 5 back to 4"):
        made.committed("a", cut(4))


def test_the_log_keeps_what_the_slowest_sink_needs_even_while_it_is_away() -> None:
    made = coordinator("a", "b")
    assert made.forgettable() is None
    made.committed("a", cut(9))
    made.committed("b", cut(4))
    made.failed("b", Unavailable("away"), now=0.0)
    assert made.forgettable() == cut(4)


def test_random_failures_never_lose_skip_or_repeat_a_cut() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(50):
        made = Coordinator(["a", "b", "c"], EpochSizing(MIB))
        stores: dict[str, list[int]] = {"a": [], "b": [], "c": []}
        cuts: list[Cut] = []
        now = 0.0
        for _ in range(200):
            now += chance.random() * 3
            if chance.random() < 0.4:
                last = cuts[-1] if cuts else cut(0, 1)
                cuts.append(cut(last.number + chance.randint(1, 3), last.bytes + chance.randint(1, 2 * MIB)))
            behind = made.furthest_behind()
            decision = made.decide([each for each in cuts if each.number > behind], now)
            if isinstance(decision, OpenSink):
                held = stores[decision.sink]
                made.opened(decision.sink, next((c for c in cuts if held and c.number == held[-1]), None))
            elif isinstance(decision, RunEpoch):
                for sink in decision.sinks:
                    held = stores[sink]
                    assert (decision.after.number if decision.after else 0) == (held[-1] if held else 0)
                    outcome = chance.random()
                    if outcome < 0.7:
                        held.append(decision.upto.number)
                        made.committed(sink, decision.upto)
                    else:
                        if outcome < 0.85:
                            held.append(decision.upto.number)  # the reply was lost after the commit
                        made.failed(sink, Conflict("x") if outcome < 0.9 else Unavailable("x"), now)
        for held in stores.values():
            assert held == sorted(set(held))


def test_back_off_doubles_up_to_five_seconds_and_knows_when_it_is_exhausted() -> None:
    backoff, delays = Backoff(), []
    for _ in range(9):
        backoff = backoff.after_failure(100.0, at_once=False)
        delays.append(round(backoff.retry_at - 100.0, 3))
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert not backoff.exhausted(150.0, 60.0)
    assert backoff.exhausted(161.0, 60.0)
    assert not backoff.exhausted(1e9, None)


def test_epochs_grow_with_measured_speed_between_floor_and_bound() -> None:
    sizing = EpochSizing(64 * MIB, target_s=2.0)
    first = sizing.budget_bytes()
    sizing.observe(10, 5.0)
    assert sizing.budget_bytes() == first, "small epochs say nothing about speed"
    sizing.observe(20 * MIB, 1.0)
    assert sizing.budget_bytes() == 40 * MIB
    for _ in range(20):
        sizing.observe(MIB, 60.0)
    assert sizing.budget_bytes() == EpochSizing.FLOOR_BYTES
