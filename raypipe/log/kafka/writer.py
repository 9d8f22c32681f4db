"""The writer of one instance: its transactional producer, and where it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer

from raypipe import faults
from raypipe.errors import InvariantBroken, OutcomeUnknown, RaypipeError
from raypipe.kafka.clients import ANSWER_S
from raypipe.log.kafka.clients import Clients
from raypipe.log.kafka.failures import FENCED, explain, gap
from raypipe.log.kafka.fence import Fence, take
from raypipe.log.kafka.fold import InstanceState
from raypipe.log.kafka.follow import Follower
from raypipe.log.kafka.names import ControlTopics, kafka_topic, partition_key, topic_and_partition
from raypipe.log.kafka.records import TopicEntry
from raypipe.log.kafka.topics import Topics
from raypipe.model import Claim, Cut

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# What ends at all ends within milliseconds, unless its writer is alive and slow.
_SOON_S = 2.0
_AGAIN_S = 0.02


class Writer:
    """Owns the transactional id of an instance from its making on; whoever had it before can write nothing more.

    Args:
        clients: To connect with.
        names: Of the pipeline's own topics.
        follower: That knows where the log stands.
        fence: To register with.
        topics: To make and check.
        instance: Whose reader writes.
        claim: Its right to.

    Raises:
        Fenced: a later run or generation has begun.
        SourceGap: a topic of the instance was deleted or made anew.
        Unavailable: no answer.
    """

    def __init__(
        self,
        clients: Clients,
        names: ControlTopics,
        follower: Follower,
        fence: Fence,
        topics: Topics,
        instance: str,
        claim: Claim,
    ) -> None:
        self.clients = clients
        self._follower = follower
        self._fence = fence
        self._topics = topics
        self.instance = instance
        self.claim = claim
        self.place = clients.place
        self.address = clients.address
        fence.check(instance, claim)
        fence.register(instance, claim)
        transactional_id = names.transactional_id(instance)
        if faults.armed("mutant.no_fence"):
            transactional_id += f".{claim.generation}"
        self._producer: Producer | None = take(clients, transactional_id)
        try:
            fence.check(instance, claim)
            # The transaction of whoever wrote before has ended one way or the other: this is all there will be of it.
            end = topics.end(names.cuts)
            hanging = [] if follower.settles(end, _SOON_S) else [(names.cuts, 0)]
            self._end_what_hangs([*hanging, *self._hanging_tables()])
            history = follower.settle(end)
            self.identity = history.now.log
            self.entries: dict[str, TopicEntry] = {}
            self.fresh: dict[str, TopicEntry] = {}  # made by this writer, in no record yet
            self.next_offsets: dict[str, int] = {}  # of partitions that this writer's last transaction in them left
            mine = {topic_and_partition(key)[0] for key in self.state.ends}
            self.entries = {topic: history.now.topics[topic] for topic in sorted(mine)}
            topics.check_tables(self.entries)
        except BaseException:
            self.close()
            raise

    def _hanging_tables(self) -> list[tuple[str, int]]:
        """Partitions of our tables with a transaction in them that does not end and that no commit told of.

        Nobody but the writer of the instance writes to them, so it is ours, of before. It must go before the next one
        comes: that one's end would be its end too, and would bring its rows back.

        Where it hides rows that a commit has told of, it is the end of that commit which the broker lost; there the
        next one's end does right.
        """
        known = self._follower.sync().now.instances.get(self.instance, InstanceState()).ends
        ends = {
            (kafka_topic(topic), number): known[key][0] for key in known for topic, number in [topic_and_partition(key)]
        }
        deadline = time.monotonic() + _SOON_S
        while unsettled := self._topics.unsettled(list(ends)):
            if time.monotonic() > deadline:
                return sorted(place for place, stable_end in unsettled.items() if stable_end >= ends[place])
            time.sleep(_AGAIN_S)
        return []

    def _end_what_hangs(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Ends what the broker has left open of our own transactional id.

        A broker that restarts can lose the end of a transaction (KAFKA-12671, KAFKA-18957): taking the id over ends
        nothing then, since the coordinator knows of nothing, and the partition hides all that follows for ever. A
        transaction of the same id over the same partitions that is given up ends both; it ends nobody else's. What it
        cannot do is left to the wait that follows.

        No commit that a reader was told of can be undone so: one returns only when everybody sees its cut. And rows
        that stay behind without their cut are found out by the numbers of the messages when they are read.
        """
        if not partitions:
            return
        logger.warning(
            "a transaction that never ended is given up",
            extra={"instance": self.instance, "partitions": len(partitions)},
        )
        with suppress(KafkaException):
            self.begin()
            for name, number in partitions:
                self.producer.produce(name, value=b"", partition=number)
            self.flush(ANSWER_S)
            self._told(lambda: self.producer.abort_transaction(ANSWER_S))

    @property
    def producer(self) -> Producer:
        """To write with."""
        if self._producer is None:
            raise InvariantBroken(f"The writer of instance {self.instance} was used after its end.")
        return self._producer

    def begin(self) -> None:
        """Begins a transaction."""
        self._told(self.producer.begin_transaction)

    def commit(self, timeout_s: float) -> None:
        """Commits the transaction."""
        self._told(lambda: self.producer.commit_transaction(timeout_s))

    def flush(self, timeout_s: float) -> int:
        """Waits until the broker has answered for every message; returns how many it has not in time."""
        return int(self._told(lambda: self.producer.flush(timeout_s)))

    def serve(self, timeout_s: float = 0.0) -> None:
        """Lets delivery reports in, waiting for one if told to."""
        self._told(lambda: self.producer.poll(timeout_s))

    def _told(self, call: Callable[[], ResultT]) -> ResultT:
        """Makes a call that serves the library's callbacks.

        The library raises the error that ends a producer out of whatever call serves its callbacks, and loses it, as a
        ``SystemError``, if another callback follows. The next call that concerns the transaction tells it again.

        Raises:
            KafkaException: the producer can write nothing more, for instance because it was fenced; or the call failed.
        """
        try:
            return call()
        except SystemError:
            self.producer.abort_transaction(0)
            raise

    @property
    def state(self) -> InstanceState:
        """The instance as the newest committed record leaves it."""
        return self._follower.history.now.instances.get(self.instance, InstanceState())

    def entry(self, topic: str) -> TopicEntry:
        """How a topic is spread; made if the log has never written to it.

        Raises:
            InvariantBroken: it is another instance's.
            RaypipeError: a topic of that name holds messages of others.
        """
        known = self.entries.get(topic)
        if known is not None:
            return known
        for name, state in self._follower.history.now.instances.items():
            if name != self.instance and partition_key(topic, 0) in state.ends:
                raise InvariantBroken(f"Topic {topic} belongs to instance {name}, not to {self.instance}.")
        known = self._follower.history.now.topics.get(topic)
        if known is None:
            known = self.fresh[topic] = self._topics.make_table(topic, self.identity)
        self.entries[topic] = known
        return known

    def failed(self, error: KafkaException | KafkaError, *, sent: bool) -> RaypipeError:
        """What an error of the producer means.

        Args:
            error: Kafka's.
            sent: The commit was on its way, so it may have happened.
        """
        inner = error.args[0] if isinstance(error, KafkaException) else error
        if inner.code() in FENCED or inner.fatal():
            # If nobody has, the broker gave the transaction up, or somebody took the id and went away again.
            return self._overtaken() or self.unanswered(error)
        if sent and not inner.txn_requires_abort():
            return self.unanswered(error)
        return explain(self.place, error)

    def not_grown(self, key: str) -> RaypipeError:
        """What it means that a partition ends before what the log knows of it."""
        # Our own follower tells us of what a successor has committed, too.
        return self._overtaken() or gap(self.place, key)

    def _overtaken(self) -> RaypipeError | None:
        """That somebody later has come for the instance, if so; or that it is not known."""
        try:
            self._fence.check(self.instance, self.claim)
        except RaypipeError as fenced:
            return fenced
        return None

    def unanswered(self, error: BaseException | KafkaError | None) -> OutcomeUnknown:
        """Whether the commit is durable is not known."""
        cause = KafkaException(error) if isinstance(error, KafkaError) else error
        return OutcomeUnknown(
            f"Log {self.place} did not say whether the commit of instance {self.instance} is durable.",
            remedy="The reader starts again from the position that the log then says.",
            cause=cause,
            log=self.place,
            instance=self.instance,
        )

    def await_cut(self, number: int) -> bool:
        """Waits until a record of this writer is where every reader sees it."""
        return self._follower.await_cut(number)

    def cut(self, number: int) -> Cut | None:
        """The cut of a number that was waited for."""
        history = self._follower.history
        return history.last() if history.last_number == number else history.cut(number)

    def close(self) -> None:
        """Ends the producer; what is not committed is given up; idempotent.

        Dropped, not closed: closing a producer that was fenced tries to abort its transaction and fails with a warning.
        """
        self._producer = None
