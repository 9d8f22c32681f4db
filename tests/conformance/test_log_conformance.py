"""What every log must do, run over all of them, and over weakened ones that must be found out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from memory_log import MemoryLog, MemoryTransaction, Store

from raypipe.contracts import Log, LogBatch, LogSlice
from raypipe.errors import Fenced, SourceGap
from raypipe.log import open_log
from raypipe.model import ChangeBatch, Claim, Column, Cut, Op, TableName, TableSchema

OpenLog = Callable[[], Log]  # another object on the same log
Check = Callable[[OpenLog], None]


def changes(table: str, *ids: int, op: Op = Op.INSERT) -> ChangeBatch:
    schema = TableSchema(
        table=TableName("shop", "main", table),
        columns=(Column(name="id", type=pa.int64(), declared="INTEGER"),),
        key=("id",),
    )
    count = len(ids)
    columns = [[int(op)] * count, [0] * count, list(ids), [0] * count, [None] * count, list(ids)]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, ChangeBatch.arrow_schema(schema), strict=True)]
    return ChangeBatch(schema=schema, rows=pa.record_batch(arrays, schema=ChangeBatch.arrow_schema(schema)))


def truncate(table: str) -> ChangeBatch:
    batch = changes(table, 0, op=Op.TRUNCATE)
    empty = pa.nulls(1, pa.int64())
    return ChangeBatch(schema=batch.schema, rows=batch.rows.set_column(5, batch.rows.schema.field(5), empty))


def put(log: Log, claim: Claim, instance: str, position: str, *ids: int, whole: bool = True, topic: str = "") -> Cut:
    """One transaction with one batch; returns the cut, or the last one if there is none."""
    transaction = log.begin(instance, claim)
    transaction.append(topic or f"p.{instance}.main.t", changes("t", *ids))
    cut = transaction.commit(position, boundary=whole) or log.last_cut()
    return cut if cut is not None else Cut(number=0, log=log.identity, offsets={}, positions={})


def stored(log: Log, after: Cut | None, upto: Cut, *topics: str, max_bytes: int = 1 << 20) -> list[LogBatch]:
    parts = log.slices(after, upto, topics or tuple(upto.offsets), max_bytes)
    return list(itertools.chain.from_iterable(log.read(part) for part in parts))


def ids(batches: list[LogBatch]) -> list[int]:
    return [number for batch in batches for number in batch.batch.rows.column("id").to_pylist()]


def what_was_appended_comes_back_in_order_with_dense_offsets(open_log: OpenLog) -> None:
    log = open_log()
    transaction = log.begin("shop", log.claim("p"))
    given = [("p.shop.main.a", changes("a", 1, 2)), ("p.shop.main.b", changes("b", 3)), ("p.shop.main.a", changes("a"))]
    for topic, batch in given:
        transaction.append(topic, batch)
    cut = transaction.commit("1", boundary=True)
    assert cut is not None
    found = stored(open_log(), None, cut)
    assert [(b.topic, b.offset) for b in found] == [("p.shop.main.a", 0), ("p.shop.main.b", 0), ("p.shop.main.a", 1)]
    for batch, (_, expected) in zip(found, given, strict=True):
        assert batch.batch.schema == expected.schema
        assert batch.batch.rows.equals(expected.rows)


def nothing_is_visible_before_the_commit_or_after_an_abort(open_log: OpenLog) -> None:
    log, other = open_log(), open_log()
    claim = log.claim("p")
    first = put(log, claim, "shop", "1", 1)
    transaction = log.begin("shop", claim)
    transaction.append("p.shop.main.t", changes("t", 2))
    assert other.last_cut() == first
    assert other.position("shop") == "1"
    transaction.abort()
    transaction.abort()
    last = put(log, claim, "shop", "3", 3)
    assert ids(stored(other, None, last)) == [1, 3]
    assert last.offsets == {"p.shop.main.t": 2}


def rows_position_and_cut_arrive_together(open_log: OpenLog) -> None:
    log, other = open_log(), open_log()
    assert other.position("shop") is None
    assert other.last_cut() is None
    cut = put(log, log.claim("p"), "shop", "at 7", 1, 2)
    assert cut.positions == {"shop": "at 7"}
    assert cut.offsets == {"p.shop.main.t": 1}
    assert cut.rows == 2
    assert cut.log == log.identity
    assert other.last_cut() == other.cut(cut.number) == cut
    assert Cut.from_json(cut.to_json()) == cut
    assert other.position("shop") == "at 7"


def a_transaction_in_several_commits_is_in_no_cut_before_it_is_whole(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim("p")
    before = put(log, claim, "shop", "1", 1)
    transaction = log.begin("shop", claim)
    transaction.append("p.shop.main.t", changes("t", 2))
    assert transaction.commit("2 in the middle", boundary=False) is None
    assert log.last_cut() == before
    assert log.position("shop") == "2 in the middle"
    resumed = open_log()
    after = put(resumed, resumed.renew(claim), "shop", "3", 3)
    assert ids(stored(log, before, after)) == [2, 3]
    assert after.offsets == {"p.shop.main.t": 3}


def a_cut_says_of_every_instance_only_what_is_whole(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim("p")
    put(log, claim, "east", "e1", 1)
    transaction = log.begin("east", claim)
    transaction.append("p.east.main.t", changes("t", 2))
    transaction.commit("e2", boundary=False, loading=["east.t"])
    west = put(log, claim, "west", "w1", 10)
    assert west.positions == {"east": "e1", "west": "w1"}
    assert west.offsets == {"p.east.main.t": 1, "p.west.main.t": 1}
    assert west.loading == ()
    assert west.rows == 2
    assert ids(stored(log, None, west)) == [1, 10]
    east = put(log, claim, "east", "e3", 3)
    assert east.positions == {"east": "e3", "west": "w1"}
    assert ids(stored(log, west, east)) == [2, 3]


def a_cut_joins_what_is_loading_in_every_instance(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim("p")
    log.begin("east", claim).commit("e1", boundary=True, loading=["east.b", "east.a"])
    cut = log.begin("west", claim).commit("w1", boundary=True, loading=["west.a"])
    assert cut is not None
    assert cut.loading == ("east.a", "east.b", "west.a")
    cut = log.begin("east", claim).commit("e2", boundary=True)
    assert cut is not None
    assert cut.loading == ("west.a",)
    assert cut.offsets == {}


def a_new_run_fences_the_old_one_even_inside_a_transaction(open_log: OpenLog) -> None:
    old, new = open_log(), open_log()
    claim = old.claim("p")
    cut = put(old, claim, "shop", "1", 1)
    transaction = old.begin("shop", claim)
    transaction.append("p.shop.main.t", changes("t", 2))
    later = new.claim("p")
    assert (later.run, later.generation) > (claim.run, claim.generation)
    with pytest.raises(Fenced):
        transaction.commit("2", boundary=True)
    with pytest.raises(Fenced):
        old.begin("shop", claim).commit("2", boundary=True)
    with pytest.raises(Fenced):
        old.renew(claim)
    assert new.last_cut() == cut
    assert new.position("shop") == "1"
    assert ids(stored(old, None, put(new, later, "shop", "3", 3))) == [1, 3]


def a_reader_that_starts_again_fences_its_predecessor_but_no_other_instance(open_log: OpenLog) -> None:
    log, other = open_log(), open_log()
    claim = log.claim("p")
    put(log, claim, "east", "e1", 1)
    put(log, claim, "west", "w1", 1)
    transaction = log.begin("east", claim)
    renewed = other.renew(claim)
    assert renewed.run == claim.run
    assert renewed.generation > claim.generation
    put(other, renewed, "east", "e2", 2)
    with pytest.raises(Fenced):
        transaction.commit("e9", boundary=True)
    put(log, claim, "west", "w2", 2)
    assert log.position("east") == "e2"
    assert log.position("west") == "w2"


def begin_alone_already_fences_the_predecessor(open_log: OpenLog) -> None:
    log, other = open_log(), open_log()
    claim = log.claim("p")
    transaction = log.begin("shop", claim)
    other.begin("shop", other.renew(claim)).abort()
    with pytest.raises(Fenced):
        transaction.commit("1", boundary=True)
    assert other.position("shop") is None


def cuts_are_listed_in_order_and_found_by_number(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim("p")
    made = [put(log, claim, "shop", str(n), n) for n in range(5)]
    numbers = [cut.number for cut in made]
    assert numbers == sorted(set(numbers))
    assert min(numbers) >= 1
    assert log.cuts() == made
    assert log.cuts(after=made[1].number, limit=2) == made[2:4]
    assert log.cut(made[3].number) == made[3]
    assert log.cut(made[-1].number + 1) is None
    assert log.last_cut() == made[-1]
    assert [cut.rows for cut in made] == [1, 2, 3, 4, 5]
    assert all(low.bytes < high.bytes for low, high in itertools.pairwise(made))


def slices_cover_every_batch_once_in_order_whatever_their_size(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim("p")
    cuts = [put(log, claim, "shop", str(n), n, n + 100) for n in range(7)]
    for max_bytes in (1, 3000, 1 << 30):
        assert ids(stored(log, cuts[1], cuts[5], max_bytes=max_bytes)) == [2, 102, 3, 103, 4, 104, 5, 105]
    parts = log.slices(None, cuts[6], ["p.shop.main.t"], 1)
    assert all(low.end == high.begin for low, high in itertools.pairwise(parts))
    assert [ids(list(open_log().read(part))) for part in parts] == [[n, n + 100] for n in range(7)]
    assert stored(log, cuts[3], cuts[3]) == []


def only_the_topics_asked_for_are_read(open_log: OpenLog) -> None:
    log = open_log()
    transaction = log.begin("shop", log.claim("p"))
    for n, name in enumerate("abab"):
        transaction.append(f"p.shop.main.{name}", changes(name, n))
    cut = transaction.commit("1", boundary=True)
    assert cut is not None
    assert ids(stored(log, None, cut, "p.shop.main.b")) == [1, 3]
    assert ids(stored(log, None, cut, "p.shop.main.b", "p.shop.main.a")) == [0, 1, 2, 3]
    assert stored(log, None, cut, "p.shop.main.none") == []


def what_was_forgotten_is_a_gap_and_never_an_empty_answer(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim("p")
    cuts = [put(log, claim, "shop", str(n), n) for n in range(4)]
    parts = log.slices(cuts[0], cuts[3], ["p.shop.main.t"], 1 << 20)
    assert log.retain(cuts[2]) > 0
    assert log.retain(cuts[2]) == 0
    with pytest.raises(SourceGap):
        stored(log, cuts[0], cuts[3])
    with pytest.raises(SourceGap):
        list(log.read(parts[0]))
    assert ids(stored(log, cuts[2], cuts[3])) == [3]
    assert [cut.number for cut in log.cuts()] == [cuts[2].number, cuts[3].number]
    assert log.cut(cuts[1].number) is None
    after = put(log, claim, "shop", "9", 9)
    assert after.offsets == {"p.shop.main.t": 5}
    assert after.number > cuts[3].number
    assert ids(stored(log, cuts[3], after)) == [9]


def a_load_is_found_until_its_truncate_is_forgotten(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim("p")
    topic = "p.shop.main.t"
    assert log.load_begins(topic) is None
    put(log, claim, "shop", "1", 1)
    assert log.load_begins(topic) is None
    for n in range(2):
        transaction = log.begin("shop", claim)
        transaction.append(topic, truncate("t"))
        transaction.append(topic, changes("t", n, op=Op.READ))
        last = transaction.commit(str(n), boundary=True)
        assert log.load_begins(topic) == 1 + 2 * n
    assert last is not None
    log.retain(last)
    assert log.load_begins(topic) is None


def a_cut_of_another_log_is_refused(open_log: OpenLog) -> None:
    log = open_log()
    cut = put(log, log.claim("p"), "shop", "1", 1)
    foreign = Cut.from_json(cut.to_json().replace(log.identity, "some-other-log"))
    with pytest.raises(SourceGap):
        log.slices(foreign, cut, ["p.shop.main.t"], 1 << 20)
    earlier_life = Cut.from_json(cut.to_json().replace('"shop":"1"', '"shop":"2"'))
    with pytest.raises(SourceGap):
        log.slices(earlier_life, cut, ["p.shop.main.t"], 1 << 20)


def notes_are_kept_replaced_found_by_prefix_and_removed(open_log: OpenLog) -> None:
    log, other = open_log(), open_log()
    log.write_note("status", "one")
    other.write_note("status", "two")
    log.write_note("request/%_", "é")
    assert log.notes("") == {"status": "two", "request/%_": "é"}
    assert other.notes("request/") == {"request/%_": "é"}
    assert other.notes("request/x") == {}
    other.write_note("status", None)
    other.write_note("status", None)
    assert log.notes("status") == {}


CHECKS: tuple[Check, ...] = (
    what_was_appended_comes_back_in_order_with_dense_offsets,
    nothing_is_visible_before_the_commit_or_after_an_abort,
    rows_position_and_cut_arrive_together,
    a_transaction_in_several_commits_is_in_no_cut_before_it_is_whole,
    a_cut_says_of_every_instance_only_what_is_whole,
    a_cut_joins_what_is_loading_in_every_instance,
    a_new_run_fences_the_old_one_even_inside_a_transaction,
    a_reader_that_starts_again_fences_its_predecessor_but_no_other_instance,
    begin_alone_already_fences_the_predecessor,
    cuts_are_listed_in_order_and_found_by_number,
    slices_cover_every_batch_once_in_order_whatever_their_size,
    only_the_topics_asked_for_are_read,
    what_was_forgotten_is_a_gap_and_never_an_empty_answer,
    a_load_is_found_until_its_truncate_is_forgotten,
    a_cut_of_another_log_is_refused,
    notes_are_kept_replaced_found_by_prefix_and_removed,
)


@pytest.fixture(params=["sqlite", "memory"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenLog]:
    store = Store()
    opened: list[Log] = []

    def one_more() -> Log:
        log = open_log(f"sqlite:///{tmp_path}/log.db") if request.param == "sqlite" else MemoryLog(store)
        opened.append(log)
        return log

    yield one_more
    for log in opened:
        log.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_log_keeps_the_contract(opener: OpenLog, check: Check) -> None:
    check(opener)


class WritesThrough(MemoryTransaction):
    def append(self, topic: str, batch: ChangeBatch) -> None:
        store = self.log.store
        tail = store.readers[self.instance].tail
        tail.append(LogBatch(topic=topic, offset=store.next_offset(topic), batch=batch))


class VisibleBeforeCommit(MemoryLog):
    def begin(self, instance: str, claim: Claim) -> MemoryTransaction:
        super().begin(instance, claim)
        return WritesThrough(self, instance, claim)


class NoFence(MemoryLog):
    def check(self, instance: str, claim: Claim) -> None:
        pass


class FencesAtBeginOnly(MemoryLog):
    def begin(self, instance: str, claim: Claim) -> MemoryTransaction:
        transaction = super().begin(instance, claim)
        transaction.log = NoFence(self.store)
        return transaction


class TornTransaction(MemoryTransaction):
    def commit(self, position: str, **rest: object) -> Cut | None:
        return super().commit(position, boundary=True)


class TornCut(MemoryLog):
    def begin(self, instance: str, claim: Claim) -> MemoryTransaction:
        super().begin(instance, claim)
        return TornTransaction(self, instance, claim)


class ExposesOthersTails(MemoryLog):
    def publish(self, instance: str) -> Cut:
        for reader in self.store.readers.values():
            self.store.whole += reader.tail
            reader.tail = []
        return super().publish(instance)


class ForgetsOtherInstances(MemoryLog):
    def publish(self, instance: str) -> Cut:
        super().publish(instance)
        self.store.cuts.pop()
        return self.cover(self.store.whole, {instance: self.store.readers[instance]})


class SilentGap(MemoryLog):
    def check_kept(self, begin: int) -> None:
        pass


class TrustsAnyCut(MemoryLog):
    def place(self, wanted: Cut) -> int:
        return next(place for cut, place in self.store.cuts if cut.number == wanted.number)


class ReadsBackwards(MemoryLog):
    def read(self, part: LogSlice) -> Iterator[LogBatch]:
        return reversed(list(super().read(part)))

    def slices(self, *args: object) -> list[LogSlice]:
        return super().slices(*args)[::-1]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weak", "check"),
    [
        (VisibleBeforeCommit, nothing_is_visible_before_the_commit_or_after_an_abort),
        (NoFence, a_new_run_fences_the_old_one_even_inside_a_transaction),
        (FencesAtBeginOnly, a_new_run_fences_the_old_one_even_inside_a_transaction),
        (FencesAtBeginOnly, begin_alone_already_fences_the_predecessor),
        (TornCut, a_transaction_in_several_commits_is_in_no_cut_before_it_is_whole),
        (ExposesOthersTails, a_cut_says_of_every_instance_only_what_is_whole),
        (ForgetsOtherInstances, a_cut_says_of_every_instance_only_what_is_whole),
        (SilentGap, what_was_forgotten_is_a_gap_and_never_an_empty_answer),
        (TrustsAnyCut, a_cut_of_another_log_is_refused),
        (ReadsBackwards, what_was_appended_comes_back_in_order_with_dense_offsets),
    ],
)
def test_a_weak_log_is_found_out(weak: type[MemoryLog], check: Check) -> None:
    store = Store()
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(lambda: weak(store))
