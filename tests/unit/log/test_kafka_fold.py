"""Cuts by folding: every reader makes the same of the same records, wherever it begins and whatever it forgot."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from raypipe.log.kafka.fold import Base, Fold, segments_between
from raypipe.log.kafka.history import History, Numbered
from raypipe.log.kafka.messages import Header, header_of
from raypipe.log.kafka.records import CutRecord, Mark, TopicEntry
from raypipe.model import Cut

LOG = "0b0e3a5e-0000-4000-8000-00000000abcd"


def records(seed: int, count: int) -> list[Numbered]:
    """Commits of two instances as they come through the topic, with gaps for the ends of transactions."""
    chance = random.Random(seed)
    made: list[Numbered] = []
    commits = {"east": 0, "west": 0}
    ends: dict[str, tuple[int, int]] = {}
    number = 0
    for _ in range(count):
        instance = chance.choice(sorted(commits))
        commits[instance] += 1
        number += chance.randint(1, 3)
        marks = []
        for _ in range(chance.randint(0, 3)):
            key = f"p.{instance}.main.t" + chance.choice(["", "/1"])
            offset, held = ends.get(key, (0, 0))
            ends[key] = (offset + chance.randint(1, 4), held + 1)
            marks.append(Mark(ends={key: ends[key]}, bytes=chance.randint(1, 100)))
        record = CutRecord(
            instance=instance,
            generation=1,
            number=commits[instance],
            boundary=chance.random() < 0.6,
            position=f"{instance} {commits[instance]}",
            loading=(f"{instance}.t",) if chance.random() < 0.3 else (),
            marks=tuple(marks),
            rows=len(marks),
            place=commits[instance],
            loads={f"p.{instance}.main.t": 3} if chance.random() < 0.1 else {},
            topics={f"p.{instance}.main.t": TopicEntry(id="x", partitions=2)} if commits[instance] == 1 else {},
            at=float(number),
        )
        made.append((number, record))
    return made


def cuts_of(given: list[Numbered]) -> dict[int, Cut]:
    fold, found = Fold(log=LOG), {}
    for number, record in given:
        fold.apply(number, record)
        if record.boundary:
            found[number] = fold.cut()
    return found


def history(given: list[Numbered], window: int, base: Base | None = None) -> History:
    def fetch(after: int, upto: int) -> Iterator[Numbered]:
        return (one for one in given if after < one[0] <= upto)

    base = base or Base(fold=Fold(log=LOG))
    made = History(base, fetch, window)
    for number, record in given:
        if number > base.fold.number:
            made.apply(number, record)
    return made


@pytest.mark.parametrize("window", [1, 40, 10_000])
def test_every_cut_is_found_again_however_few_records_stay_in_memory(seed: int, window: int) -> None:
    given = records(seed, 700)
    expected = cuts_of(given)
    made = history(given, window)
    assert made.last() == expected[max(expected)]
    assert made.cuts(0, 10_000) == list(expected.values())
    some = sorted(expected)[len(expected) // 2]
    assert made.cuts(some, 3) == [expected[number] for number in sorted(expected) if number > some][:3]
    assert {number: made.cut(number) for number in range(given[-1][0] + 2)} == {
        number: expected.get(number) for number in range(given[-1][0] + 2)
    }


def test_one_that_begins_at_a_base_agrees_with_one_that_saw_everything(seed: int) -> None:
    given = records(seed, 400)
    expected = cuts_of(given)
    oldest = sorted(expected)[len(expected) // 3]
    everything = history(given, 10_000)
    below = everything.state_before(oldest)
    assert below is not None
    for number, record in given:
        if below.number < number < oldest:
            below.apply(number, record)
    state = everything.state_at(oldest)
    assert state is not None
    base = Base(fold=below, oldest=oldest, forgotten=state.cut_ends(), forgotten_bytes=state.bytes)
    base = Base.from_bytes(base.to_bytes())
    later = history(given, 10_000, base)
    everything.forget(base)
    for made in (later, everything):
        assert made.cuts(0, 10_000) == [cut for number, cut in expected.items() if number >= oldest]
        assert made.cut(sorted(expected)[0]) is None
        assert made.now.bytes == state.bytes + sum(
            mark.bytes for _, mark in segments_between(state.copy(), iter(given_after(given, oldest)), 10**9)
        )
    assert later.now.cut_ends() == everything.now.cut_ends()


def given_after(given: list[Numbered], number: int) -> list[Numbered]:
    return [one for one in given if one[0] > number]


def test_segments_bring_each_message_once_and_only_when_it_is_whole(seed: int) -> None:
    given = records(seed, 300)
    expected = cuts_of(given)
    fold = Fold(log=LOG)
    at: dict[str, int] = {}
    for instance, mark in segments_between(fold, iter(given), max(expected)):
        for key, (end, _) in mark.ends.items():
            assert key.startswith(f"p.{instance}.")
            assert end > at.get(key, 0)
            at[key] = end
    assert at == expected[max(expected)].offsets


def test_a_commit_that_is_missing_is_noticed() -> None:
    given = [one for one in records(1, 20) if one[1].instance == "east"]
    fold = Fold(log=LOG)
    fold.apply(*given[0])
    with pytest.raises(ValueError, match="others are gone"):
        fold.apply(*given[2])


def test_records_and_headers_are_read_back() -> None:
    for number, record in records(3, 50):
        assert number
        assert CutRecord.from_bytes(record.to_bytes()) == record
    header = Header(log=LOG, place=7, sequence=2**40, messages=3, copy=True)
    assert header_of([("other", b""), ("raypipe", header.to_bytes())]) == header
    assert header_of([]) is None
    with pytest.raises(ValueError, match="format"):
        header_of([("raypipe", b"?")])
    with pytest.raises(ValueError, match="format"):
        CutRecord.from_bytes(records(3, 1)[0][1].to_bytes().replace(b'"format":1', b'"format":2'))


def test_a_long_backlog_keeps_a_bounded_number_of_states(seed: int) -> None:
    given = records(seed, 20_000)
    made = history(given, 500)
    assert len(made._states) <= 33
    expected = cuts_of(given)
    for number in random.Random(seed).sample(sorted(expected), 20):
        assert made.cut(number) == expected[number]
