"""Who may write: runs, generations and writers, in one topic whose order everybody agrees on.

The claims topic is appended to, never changed. The offset of a record is its number, so no two claims are equal, and no
lock is needed. What makes it a fence is the order of steps on both sides:

    a new run:     1. appends its claim   2. reads who has registered   3. takes each one's transactional id
    a new writer:  a. registers           b. takes its transactional id  c. reads the claims, and refuses to write if
                                                                            a later run or writer is there

A writer of the old run has registered before 2 or after it. If before, 3 finds it: if 3 comes after b, the broker
rejects whatever it still has in hand, even inside a transaction; if b comes after 3, then c comes after 1 and it
refuses. If after 2, its c comes after 1 too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from raypipe import faults
from raypipe.errors import Fenced, Kind, RaypipeError
from raypipe.kafka.clients import ANSWER_S
from raypipe.kafka.errors import error_of
from raypipe.log.kafka.clients import Clients
from raypipe.log.kafka.failures import FENCED, damaged, explain
from raypipe.log.kafka.names import ControlTopics
from raypipe.log.kafka.query import Query
from raypipe.log.overtaken import overtaken
from raypipe.model import Claim

# Appends a record to a topic and returns its offset once it is durable.
Append = Callable[[str, bytes | None, bytes | None], int]

# Transactional ids taken at the same time by a new run: each waits for the broker for some 10 ms.
_TAKERS = 8
# Past this many records the claims are summed up in one and the others deleted.
_SUMMED_UP_AT = 2_000
_ATTEMPTS = 5


@dataclass
class _Known:
    """What the claims topic says up to an offset."""

    next_offset: int = 0
    run: int = 0
    writers: dict[str, int] = field(default_factory=dict)  # highest generation registered for each instance
    records: int = 0


class Fence:
    """Claims of one pipeline on one log.

    Args:
        clients: To connect with.
        names: Of the topics.
        query: For questions.
        append: For records.
        trim: Deletes the records of a topic below an offset.
    """

    def __init__(
        self,
        clients: Clients,
        names: ControlTopics,
        query: Query,
        append: Append,
        trim: Callable[[str, int], None],
    ) -> None:
        self._clients = clients
        self._names = names
        self._query = query
        self._append = append
        self._trim = trim
        self._known: _Known | None = None
        self._runs: dict[int, int] = {}  # offset of a run's claim to its number

    def claim(self, pipeline: str) -> Claim:
        """The next run of the pipeline, which fences all before it.

        Raises:
            RaypipeError: the log belongs to another pipeline.
        """
        if pipeline != self._names.pipeline:
            raise RaypipeError(
                f"Log {self._clients.place} was opened for pipeline {self._names.pipeline!r}, not for {pipeline!r}.",
                kind=Kind.PIPELINE_FILE,
                remedy="Give each pipeline a name of its own.",
                pipeline=pipeline,
            )
        self._read()
        offset = self._write({"kind": "run"})
        known = self._read()
        run = self._runs.get(offset)
        if run is None:  # summed up by somebody else between the two lines above
            return self.claim(pipeline)
        self._take_over(known.writers)
        if known.records > _SUMMED_UP_AT:
            self._sum_up()
        return Claim(pipeline=pipeline, run=run, generation=offset + 1)

    def renew(self, held: Claim) -> Claim:
        """The next generation of the same run.

        Raises:
            Fenced: a later run has begun.
        """
        self.check_run(held)
        offset = self._write({"kind": "generation"})
        self.check_run(held)
        return Claim(pipeline=held.pipeline, run=held.run, generation=offset + 1)

    def register(self, instance: str, held: Claim) -> None:
        """Makes a writer known, before it takes its transactional id."""
        self._write({"kind": "writer", "instance": instance, "generation": held.generation})

    def check(self, instance: str, held: Claim) -> None:
        """Checks that nobody later has come for the instance.

        Raises:
            Fenced: a later run or generation has begun.
        """
        if faults.armed("mutant.no_fence"):
            return
        self.check_run(held)
        later = self._read().writers.get(instance, 0)
        if later > held.generation:
            raise Fenced(
                f"A later reader of instance {instance} (generation {later}) has taken over from generation"
                f" {held.generation}.",
                remedy="Nothing of this reader was written; let it end.",
                pipeline=held.pipeline,
                instance=instance,
                generation=held.generation,
                later=later,
            )

    def check_run(self, held: Claim) -> None:
        """Checks that the claim's run is the latest.

        Raises:
            Fenced: a later one has begun.
            Corrupt: the log does not know the run, so it is not the log that granted the claim.
        """
        latest = self._read().run
        if latest > held.run:
            raise overtaken(held, latest)
        if latest < held.run:
            raise damaged(self._clients.place, f"its topics were made anew or restored and do not know run {held.run}")

    def _write(self, fields: dict[str, object]) -> int:
        return self._append(self._names.claims, None, json.dumps(fields, separators=(",", ":")).encode())

    def _read(self) -> _Known:
        """Reads what was appended since the last time."""
        first, end = self._query.bounds(self._names.claims)
        if self._known is None or self._known.next_offset < first:
            self._known = self._from_summary(first, self._query.read(self._names.claims, first, end))
        else:
            for message in self._query.read(self._names.claims, self._known.next_offset, end):
                self._apply(self._known, message)
        self._known.next_offset = max(self._known.next_offset, end)
        return self._known

    def _from_summary(self, first: int, messages: Sequence[Message]) -> _Known:
        """State after the messages; records that a summary among them covers were counted by it already."""
        known = _Known(next_offset=first)
        for message in messages:
            fields = self._fields(message)
            if fields["kind"] == "summary" and fields["upto"] >= known.next_offset:
                known = _Known(
                    next_offset=fields["upto"],
                    run=fields["run"],
                    writers=dict(fields["writers"]),
                )
        if known.next_offset < first:
            raise damaged(self._clients.place, f"records of topic {self._names.claims} were deleted")
        self._runs = {}
        for message in messages:
            if (message.offset() or 0) >= known.next_offset:
                self._apply(known, message)
        return known

    def _apply(self, known: _Known, message: Message) -> None:
        fields, offset = self._fields(message), message.offset() or 0
        known.records += 1
        if fields["kind"] == "run":
            known.run += 1
            self._runs[offset] = known.run
        elif fields["kind"] == "writer":
            instance, generation = str(fields["instance"]), int(fields["generation"])
            known.writers[instance] = max(known.writers.get(instance, 0), generation)

    def _fields(self, message: Message) -> dict[str, Any]:
        try:
            fields = json.loads(message.value() or b"")
            if fields["kind"] not in ("run", "generation", "writer", "summary"):
                raise ValueError(fields["kind"])
        except (ValueError, LookupError, TypeError) as error:
            raise damaged(
                self._clients.place,
                f"message {message.offset()} of topic {self._names.claims} was not written by this raypipe",
                error,
            ) from error
        return dict(fields)

    def _take_over(self, instances: dict[str, int]) -> None:
        """Takes the transactional id of every writer there ever was, which ends their transactions."""
        if not instances or faults.armed("mutant.no_fence"):
            return
        with ThreadPoolExecutor(min(_TAKERS, len(instances))) as takers:
            list(takers.map(self._take, instances))

    def _take(self, instance: str) -> None:
        take(self._clients, self._names.transactional_id(instance))

    def _sum_up(self) -> None:
        known = self._read()
        upto = known.next_offset
        self._write(
            {
                "kind": "summary",
                "upto": upto,
                "run": known.run,
                "writers": known.writers,
            }
        )
        self._trim(self._names.claims, upto)
        known.records = 0


def take(clients: Clients, transactional_id: str) -> Producer:
    """A producer that owns a transactional id; whoever had it before can write nothing more.

    Raises:
        Unavailable: no answer of the coordinator; try again.
    """
    for attempt in range(_ATTEMPTS):
        producer = clients.transactional(transactional_id)
        try:
            producer.init_transactions(ANSWER_S)
            return producer
        except KafkaException as error:
            # Two that take one id at the same time fence each other while they do: the later one tries again.
            if error_of(error).code() not in FENCED or attempt + 1 == _ATTEMPTS:
                producer.poll(0)  # lets the library say what it knows of its connections
                silent = error_of(error).code() == KafkaError._TIMED_OUT
                raise explain(clients.place, (clients.last_error if silent else None) or error) from error
    raise AssertionError("unreachable")
