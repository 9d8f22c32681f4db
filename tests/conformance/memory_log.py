"""A log in memory that keeps the contract, small enough to be right by reading: the reference of the suite."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from raypipe.contracts import LogBatch, LogSlice
from raypipe.errors import Fenced, SourceGap
from raypipe.model import OP, ChangeBatch, Claim, Cut, Op


@dataclass
class Reader:
    generation: int = 0
    position: str | None = None
    loading: tuple[str, ...] = ()
    tail: list[LogBatch] = field(default_factory=list)  # beyond its last boundary
    cut_position: str | None = None
    cut_loading: tuple[str, ...] = ()


@dataclass
class Store:
    """What survives the log objects that are opened on it."""

    runs: dict[str, int] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    readers: dict[str, Reader] = field(default_factory=dict)
    whole: list[LogBatch] = field(default_factory=list)  # covered by cuts, in their order
    forgotten: int = 0
    cuts: list[tuple[Cut, int]] = field(default_factory=list)  # with the number of batches each covers
    notes: dict[str, str] = field(default_factory=dict)

    def next_offset(self, topic: str) -> int:
        tails = [batch for reader in self.readers.values() for batch in reader.tail]
        return sum(batch.topic == topic for batch in self.whole + tails)


class MemoryTransaction:
    def __init__(self, log: MemoryLog, instance: str, claim: Claim) -> None:
        self.log = log
        self.instance = instance
        self.claim = claim
        self.appends: list[tuple[str, ChangeBatch]] = []

    def append(self, topic: str, batch: ChangeBatch) -> None:
        self.appends.append((topic, batch))

    def commit(self, position: str, *, boundary: bool, loading: Collection[str] = ()) -> Cut | None:
        self.log.check(self.instance, self.claim)
        store = self.log.store
        reader = store.readers[self.instance]
        for topic, batch in self.appends:
            reader.tail.append(LogBatch(topic=topic, offset=store.next_offset(topic), batch=batch))
        self.appends.clear()
        reader.position, reader.loading = position, tuple(sorted(loading))
        return self.log.publish(self.instance) if boundary else None

    def abort(self) -> None:
        self.appends.clear()


class MemoryLog:
    identity = "memory"

    def __init__(self, store: Store) -> None:
        self.store = store

    def claim(self, pipeline: str) -> Claim:
        self.store.runs[pipeline] = self.store.runs.get(pipeline, 0) + 1
        return self._next_generation(pipeline, self.store.runs[pipeline])

    def renew(self, claim: Claim) -> Claim:
        self.check_run(claim)
        return self._next_generation(claim.pipeline, claim.run)

    def _next_generation(self, pipeline: str, run: int) -> Claim:
        self.store.generations[pipeline] = self.store.generations.get(pipeline, 0) + 1
        return Claim(pipeline=pipeline, run=run, generation=self.store.generations[pipeline])

    def check_run(self, claim: Claim) -> None:
        if self.store.runs.get(claim.pipeline) != claim.run:
            raise Fenced("a later run has begun")

    def check(self, instance: str, claim: Claim) -> None:
        self.check_run(claim)
        if self.store.readers[instance].generation > claim.generation:
            raise Fenced("a later reader has begun")

    def begin(self, instance: str, claim: Claim) -> MemoryTransaction:
        reader = self.store.readers.setdefault(instance, Reader())
        self.check(instance, claim)
        reader.generation = max(reader.generation, claim.generation)
        return MemoryTransaction(self, instance, claim)

    def publish(self, instance: str) -> Cut:
        reader = self.store.readers[instance]
        self.store.whole += reader.tail
        reader.tail = []
        reader.cut_position, reader.cut_loading = reader.position, reader.loading
        return self.cover(self.store.whole, self.store.readers)

    def cover(self, whole: list[LogBatch], readers: dict[str, Reader]) -> Cut:
        cut = Cut(
            number=self.store.cuts[-1][0].number + 1 if self.store.cuts else 1,
            log=self.identity,
            offsets={batch.topic: batch.offset + 1 for batch in whole},
            positions={name: r.cut_position for name, r in readers.items() if r.cut_position is not None},
            loading=tuple(sorted({table for r in readers.values() for table in r.cut_loading})),
            rows=sum(batch.batch.num_rows for batch in whole),
            bytes=sum(batch.batch.rows.nbytes for batch in whole),
        )
        self.store.cuts.append((cut, len(whole)))
        return cut

    def position(self, instance: str) -> str | None:
        return self.store.readers.get(instance, Reader()).position

    def cuts(self, after: int = 0, limit: int = 1000) -> list[Cut]:
        return [cut for cut, _ in self.store.cuts if cut.number > after][:limit]

    def cut(self, number: int) -> Cut | None:
        return next((cut for cut, _ in self.store.cuts if cut.number == number), None)

    def last_cut(self) -> Cut | None:
        return self.store.cuts[-1][0] if self.store.cuts else None

    def known_cut(self) -> Cut | None:
        return self.last_cut()

    def place(self, wanted: Cut) -> int:
        for cut, place in self.store.cuts:
            if cut == wanted:
                return place
        raise SourceGap("unknown cut")

    def slices(self, after: Cut | None, upto: Cut, topics: Collection[str], max_bytes: int) -> list[LogSlice]:
        begin = self.store.forgotten if after is None else self.place(after)
        self.check_kept(begin)
        ends = range(begin + 1, self.place(upto) + 1)
        return [LogSlice(begin=str(end - 1), end=str(end), topics=tuple(topics), bytes=1) for end in ends]

    def check_kept(self, begin: int) -> None:
        if begin < self.store.forgotten:
            raise SourceGap("forgotten")

    def read(self, part: LogSlice) -> Iterator[LogBatch]:
        begin, end = int(part.begin), int(part.end)
        self.check_kept(begin)
        kept = self.store.whole[max(begin, self.store.forgotten) : end]
        yield from (batch for batch in kept if batch.topic in part.topics)

    def load_begins(self, topic: str) -> int | None:
        kept = self.store.whole[self.store.forgotten :]
        loads = [b.offset for b in kept if b.topic == topic and Op.TRUNCATE in b.batch.rows.column(OP).to_pylist()]
        return loads[-1] if loads else None

    def retain(self, oldest: Cut) -> int:
        place = self.place(oldest)
        freed = sum(batch.batch.rows.nbytes for batch in self.store.whole[self.store.forgotten : place])
        self.store.forgotten = max(self.store.forgotten, place)
        self.store.cuts = [(cut, at) for cut, at in self.store.cuts if cut.number >= oldest.number]
        return freed

    def size(self) -> int:
        tails = [batch for reader in self.store.readers.values() for batch in reader.tail]
        return sum(batch.batch.rows.nbytes for batch in self.store.whole[self.store.forgotten :] + tails)

    def write_note(self, key: str, text: str | None) -> None:
        if text is None:
            self.store.notes.pop(key, None)
        else:
            self.store.notes[key] = text

    def notes(self, prefix: str) -> Mapping[str, str]:
        return {key: text for key, text in self.store.notes.items() if key.startswith(prefix)}

    def close(self) -> None:
        pass
