"""What every log must do, run over all of them, and over weakened ones that must be found out."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from memory_log import MemoryLog, MemoryTransaction, Store

from raypipe.contracts import Log, LogBatch, LogSlice
from raypipe.errors import Fenced, SourceGap
from raypipe.log import open_log
from raypipe.model import OP, ORDINAL, ChangeBatch, Claim, Column, Cut, Op, TableName, TableSchema

DEADLINE_S = 60.0


@dataclass(frozen=True)
class OpenLog:
    """Opens another object on the same log.

    Attributes:
        opened: Does so.
        name: Of the pipeline whose log it is.
        partitions: That a topic is spread over.
    """

    opened: Callable[[], Log]
    name: str = "p"
    partitions: int = 1

    def __call__(self) -> Log:
        return self.opened()

    def topic(self, table: str, instance: str = "shop") -> str:
        return f"{self.name}.{instance}.main.{table}"


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
    transaction.append(topic or f"{claim.pipeline}.{instance}.main.t", changes("t", *ids))
    cut = transaction.commit(position, boundary=whole) or log.last_cut()
    return cut if cut is not None else Cut(number=0, log=log.identity, offsets={}, positions={})


def stored(log: Log, after: Cut | None, upto: Cut, *topics: str, max_bytes: int = 1 << 20) -> list[LogBatch]:
    parts = log.slices(after, upto, topics or topics_of(upto), max_bytes)
    return list(itertools.chain.from_iterable(log.read(part) for part in parts))


def ids(batches: list[LogBatch]) -> list[int]:
    return [number for batch in batches for number in batch.batch.rows.column("id").to_pylist()]


def topics_of(cut: Cut) -> tuple[str, ...]:
    return tuple(sorted({key.partition("/")[0] for key in cut.offsets}))


def beyond(later: Cut, earlier: Cut) -> bool:
    """Whether a cut's end offsets are those of an earlier one, some of them grown."""
    grown = [end > earlier.offsets.get(key, 0) for key, end in later.offsets.items()]
    return any(grown) and all(end <= later.offsets[key] for key, end in earlier.offsets.items())


def as_appended(batches: list[LogBatch], *appends: tuple[int, ...]) -> bool:
    """Whether the batches hold these appends, one after the other.

    The rows of one append, all of different keys, may come as several batches in any order: one for each partition.
    """
    found = ids(batches)
    for append in appends:
        share, found = found[: len(append)], found[len(append) :]
        if sorted(share) != sorted(append):
            return False
    return not found


def what_was_appended_comes_back_in_order_with_growing_offsets(open_log: OpenLog) -> None:
    log = open_log()
    transaction = log.begin("shop", log.claim(open_log.name))
    one, other = open_log.topic("a"), open_log.topic("b")
    given = [(one, changes("a", 1, 2, 3, 4, 5)), (other, changes("b", 6)), (one, changes("a", 7)), (one, changes("a"))]
    for topic, batch in given:
        transaction.append(topic, batch)
    cut = transaction.commit("1", boundary=True)
    assert cut is not None
    found = stored(open_log(), None, cut)
    assert as_appended(found, (1, 2, 3, 4, 5), (6,), (7,))
    by_id = {number: batch for batch in found for number in ids([batch])}
    for topic, batch in given:
        for place, number in enumerate(batch.rows.column("id").to_pylist()):
            back = by_id[number]
            assert back.topic == topic
            assert back.batch.schema == batch.schema
            assert back.batch.rows.schema == batch.rows.schema
            at = ids([back]).index(number)
            assert back.batch.rows.slice(at, 1).equals(batch.rows.slice(place, 1))
    if open_log.partitions == 1:
        for name in (one, other):
            offsets = [batch.offset for batch in found if batch.topic == name]
            assert offsets == sorted(set(offsets))
            assert max(offsets) < cut.offsets[name]
    assert set(topics_of(cut)) == {one, other}


def changes_of_a_key_come_back_in_order_and_a_truncate_comes_once_in_its_place(open_log: OpenLog) -> None:
    log = open_log()
    transaction = log.begin("shop", log.claim(open_log.name))
    topic, seen = open_log.topic("t"), list(range(30))
    before, after = changes("t", *seen), changes("t", *seen, op=Op.READ)
    both = pa.Table.from_batches([before.rows, truncate("t").rows, after.rows]).combine_chunks().to_batches()[0]
    transaction.append(topic, ChangeBatch(schema=before.schema, rows=both))
    transaction.append(topic, changes("t", *seen, op=Op.DELETE))
    cut = transaction.commit("1", boundary=True)
    assert cut is not None
    rows = [
        row
        for batch in stored(open_log(), None, cut)
        for row in zip(batch.batch.rows.column(OP).to_pylist(), batch.batch.rows.column("id").to_pylist(), strict=True)
    ]
    ops = [op for op, _ in rows]
    assert ops == [Op.INSERT] * 30 + [Op.TRUNCATE] + [Op.READ] * 30 + [Op.DELETE] * 30
    for begin in (0, 31, 61):
        assert sorted(number for _, number in rows[begin : begin + 30]) == seen
    assert cut.rows == 91


def an_update_that_changes_its_key_deletes_the_old_and_writes_the_new(open_log: OpenLog) -> None:
    log = open_log()
    transaction = log.begin("shop", log.claim(open_log.name))
    count = 20
    old, new = list(range(count)), list(range(100, 100 + count))
    batch = changes("t", *[number for pair in zip(old, new, strict=True) for number in pair])
    ops = pa.array([int(Op.UPDATE_BEFORE), int(Op.UPDATE_AFTER)] * count, pa.int8())
    ordinals = pa.array([number for number in old for _ in range(2)], pa.int64())
    rows = batch.rows.set_column(0, batch.rows.schema.field(0), ops)
    for column in (2, 3):
        rows = rows.set_column(column, rows.schema.field(column), ordinals)
    transaction.append(open_log.topic("t"), ChangeBatch(schema=batch.schema, rows=rows))
    cut = transaction.commit("1", boundary=True)
    assert cut is not None
    gone, present = [], []
    for logged in stored(open_log(), None, cut):
        images = list(zip(*(logged.batch.rows.column(name).to_pylist() for name in (OP, ORDINAL, "id")), strict=True))
        for place, (op, ordinal, number) in enumerate(images):
            if op == Op.UPDATE_BEFORE:
                assert images[place + 1][:2] == (Op.UPDATE_AFTER, ordinal)
            (gone if Op(op).weight < 0 else present).append(number)
    assert (sorted(gone), sorted(present)) == (old, new)


def nothing_is_visible_before_the_commit_or_after_an_abort(open_log: OpenLog) -> None:
    log, other = open_log(), open_log()
    claim = log.claim(open_log.name)
    first = put(log, claim, "shop", "1", 1)
    transaction = log.begin("shop", claim)
    transaction.append(open_log.topic("t"), changes("t", 2))
    assert other.last_cut() == first
    assert other.position("shop") == "1"
    transaction.abort()
    transaction.abort()
    last = put(log, claim, "shop", "3", 3)
    assert ids(stored(other, None, last)) == [1, 3]
    assert beyond(last, first)


def rows_position_and_cut_arrive_together(open_log: OpenLog) -> None:
    log, other = open_log(), open_log()
    assert other.position("shop") is None
    assert other.last_cut() is None
    cut = put(log, log.claim(open_log.name), "shop", "at 7", 1, 2)
    assert cut.positions == {"shop": "at 7"}
    assert topics_of(cut) == (open_log.topic("t"),)
    assert cut.rows == 2
    assert cut.log == log.identity
    assert other.last_cut() == other.cut(cut.number) == cut
    assert Cut.from_json(cut.to_json()) == cut
    assert other.position("shop") == "at 7"


def a_transaction_in_several_commits_is_in_no_cut_before_it_is_whole(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim(open_log.name)
    before = put(log, claim, "shop", "1", 1)
    transaction = log.begin("shop", claim)
    transaction.append(open_log.topic("t"), changes("t", 2))
    assert transaction.commit("2 in the middle", boundary=False) is None
    assert log.last_cut() == before
    assert log.position("shop") == "2 in the middle"
    resumed = open_log()
    after = put(resumed, resumed.renew(claim), "shop", "3", 3)
    assert ids(stored(log, before, after)) == [2, 3]
    assert beyond(after, before)


def a_cut_says_of_every_instance_only_what_is_whole(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim(open_log.name)
    first = put(log, claim, "east", "e1", 1)
    transaction = log.begin("east", claim)
    transaction.append(open_log.topic("t", "east"), changes("t", 2))
    transaction.commit("e2", boundary=False, loading=["east.t"])
    west = put(log, claim, "west", "w1", 10)
    assert west.positions == {"east": "e1", "west": "w1"}
    assert topics_of(west) == (open_log.topic("t", "east"), open_log.topic("t", "west"))
    assert {key: end for key, end in west.offsets.items() if ".east." in key} == first.offsets
    assert west.loading == ()
    assert west.rows == 2
    assert ids(stored(log, None, west)) == [1, 10]
    east = put(log, claim, "east", "e3", 3)
    assert east.positions == {"east": "e3", "west": "w1"}
    assert ids(stored(log, west, east)) == [2, 3]


def a_cut_joins_what_is_loading_in_every_instance(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim(open_log.name)
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
    claim = old.claim(open_log.name)
    cut = put(old, claim, "shop", "1", 1)
    transaction = old.begin("shop", claim)
    transaction.append(open_log.topic("t"), changes("t", 2))
    later = new.claim(open_log.name)
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
    claim = log.claim(open_log.name)
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
    claim = log.claim(open_log.name)
    transaction = log.begin("shop", claim)
    other.begin("shop", other.renew(claim)).abort()
    with pytest.raises(Fenced):
        transaction.commit("1", boundary=True)
    assert other.position("shop") is None


def cuts_are_listed_in_order_and_found_by_number(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim(open_log.name)
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
    claim = log.claim(open_log.name)
    cuts = [put(log, claim, "shop", str(n), n, n + 100) for n in range(7)]
    for max_bytes in (1, 3000, 1 << 30):
        found = stored(log, cuts[1], cuts[5], max_bytes=max_bytes)
        assert as_appended(found, (2, 102), (3, 103), (4, 104), (5, 105))
    parts = log.slices(None, cuts[6], [open_log.topic("t")], 1)
    assert [sorted(ids(list(open_log().read(part)))) for part in parts] == [[n, n + 100] for n in range(7)]
    assert all(isinstance(end, str) for part in parts for end in (part.begin, part.end))
    assert stored(log, cuts[3], cuts[3]) == []


def only_the_topics_asked_for_are_read(open_log: OpenLog) -> None:
    log = open_log()
    transaction = log.begin("shop", log.claim(open_log.name))
    for n, name in enumerate("abab"):
        transaction.append(open_log.topic(name), changes(name, n))
    cut = transaction.commit("1", boundary=True)
    assert cut is not None
    assert ids(stored(log, None, cut, open_log.topic("b"))) == [1, 3]
    assert ids(stored(log, None, cut, open_log.topic("b"), open_log.topic("a"))) == [0, 1, 2, 3]
    assert stored(log, None, cut, open_log.topic("none")) == []


def what_was_forgotten_is_a_gap_and_never_an_empty_answer(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim(open_log.name)
    cuts = [put(log, claim, "shop", str(n), n) for n in range(4)]
    parts = log.slices(cuts[0], cuts[3], [open_log.topic("t")], 1 << 20)
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
    assert beyond(after, cuts[3])
    assert after.number > cuts[3].number
    assert ids(stored(log, cuts[3], after)) == [9]


def a_load_is_found_until_its_truncate_is_forgotten(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim(open_log.name)
    topic = open_log.topic("t")
    assert log.load_begins(topic) is None
    before = put(log, claim, "shop", "1", 1)
    assert log.load_begins(topic) is None
    for n in range(2):
        transaction = log.begin("shop", claim)
        transaction.append(topic, truncate("t"))
        transaction.append(topic, changes("t", n, op=Op.READ))
        last = transaction.commit(str(n), boundary=True)
        assert last is not None
        begins = log.load_begins(topic)
        assert begins is not None
        assert before.offsets.get(topic, 0) <= begins < last.offsets[topic]
        before = last
    assert last is not None
    log.retain(last)
    assert log.load_begins(topic) is None


def a_cut_in_which_nothing_happened_is_a_later_cut_at_the_same_place(open_log: OpenLog) -> None:
    log = open_log()
    claim = log.claim(open_log.name)
    first = put(log, claim, "shop", "1", 1)
    second = log.begin("shop", claim).commit("1", boundary=True, loading=["shop.u"])
    assert second is not None
    assert second.number > first.number
    assert second.at >= first.at
    assert (second.offsets, second.positions) == (first.offsets, first.positions)
    assert second.loading == ("shop.u",)
    assert [cut.number for cut in log.cuts(after=first.number)] == [second.number]
    topics = [open_log.topic("t")]
    assert [list(log.read(part)) for part in log.slices(first, second, topics, 1 << 20)] == []
    third = put(log, claim, "shop", "2", 2)
    between = [read for part in log.slices(second, third, topics, 1 << 20) for read in log.read(part)]
    assert sum(read.batch.num_rows for read in between) > 0
    log.retain(third)
    assert log.cut(first.number) is None


def a_cut_of_another_log_is_refused(open_log: OpenLog) -> None:
    log = open_log()
    cut = put(log, log.claim(open_log.name), "shop", "1", 1)
    foreign = Cut.from_json(cut.to_json().replace(log.identity, "some-other-log"))
    with pytest.raises(SourceGap):
        log.slices(foreign, cut, [open_log.topic("t")], 1 << 20)
    earlier_life = Cut.from_json(cut.to_json().replace('"shop":"1"', '"shop":"2"'))
    with pytest.raises(SourceGap):
        log.slices(earlier_life, cut, [open_log.topic("t")], 1 << 20)


def notes_are_kept_replaced_found_by_prefix_and_removed(open_log: OpenLog) -> None:
    log, other = open_log(), open_log()
    assert log.notes("") == other.notes("") == {}
    log.write_note("status", "one")
    assert log.notes("status") == {"status": "one"}
    other.write_note("status", "two")
    log.write_note("request/%_", "é")
    both = {"status": "two", "request/%_": "é"}
    assert open_log().notes("") == both
    assert soon(lambda: log.notes("") == both)
    assert soon(lambda: other.notes("request/") == {"request/%_": "é"})
    assert other.notes("request/x") == {}
    other.write_note("status", None)
    other.write_note("status", None)
    assert open_log().notes("status") == {}
    assert soon(lambda: log.notes("status") == {})


def what_others_committed_is_heard_of_without_asking(open_log: OpenLog) -> None:
    log, other = open_log(), open_log()
    claim = log.claim(open_log.name)
    assert other.known_cut() is None
    for n in range(3):
        cut = put(log, claim, "shop", str(n), n)
        assert log.known_cut() == cut
        assert soon(lambda cut=cut: other.known_cut() == cut)
    assert other.cuts() == log.cuts()
    before = other.size()
    assert before == log.size() > 0
    log.retain(cut)
    assert soon(lambda: other.size() < before)


def soon(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
    return True


CHECKS: tuple[Check, ...] = (
    what_was_appended_comes_back_in_order_with_growing_offsets,
    changes_of_a_key_come_back_in_order_and_a_truncate_comes_once_in_its_place,
    an_update_that_changes_its_key_deletes_the_old_and_writes_the_new,
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
    a_cut_in_which_nothing_happened_is_a_later_cut_at_the_same_place,
    a_cut_of_another_log_is_refused,
    notes_are_kept_replaced_found_by_prefix_and_removed,
    what_others_committed_is_heard_of_without_asking,
)


@pytest.fixture(params=["sqlite", "memory", "kafka", "kafka with 3 partitions", "kafka with 3 partitions of json"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenLog]:
    store = Store()
    opened: list[Log] = []
    kind, _, _ = request.param.partition(" ")
    name = f"p{uuid.uuid4().hex[:10]}"
    partitions = 3 if "3" in request.param else 1
    url = f"sqlite:///{tmp_path}/log.db"
    if kind == "kafka":
        url = f"kafka://{request.getfixturevalue('kafka').bootstrap}?partitions={partitions}"
        if "json" in request.param:
            url += "&debezium=shop.t,shop.a,shop.b"

    def one_more() -> Log:
        log = MemoryLog(store) if kind == "memory" else open_log(url, pipeline=name)
        opened.append(log)
        return log

    yield OpenLog(one_more, name, partitions)
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
        (ReadsBackwards, what_was_appended_comes_back_in_order_with_growing_offsets),
    ],
)
def test_a_weak_log_is_found_out(weak: type[MemoryLog], check: Check) -> None:
    store = Store()
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(OpenLog(lambda: weak(store)))
