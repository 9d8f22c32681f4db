"""Connections to Kafka with every buffer and wait bounded."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient

from raypipe.kafka.clients import ANSWER_S, CONSUMER_BYTES, MESSAGE_BYTES, base_settings, consumer_settings
from raypipe.kafka.errors import LastError
from raypipe.log.kafka.address import KafkaAddress

# Memory of one producer for what the broker has not confirmed.
PRODUCER_BYTES = 64 << 20
PRODUCER_MESSAGES = 400_000

# How long a broker holds the answer to a fetch that finds nothing. A consumer that follows a topic hears of a new
# record at once all the same and costs nothing while idle; a consumer that jumps about must have its last fetch
# answered before it can ask for another place.
FOLLOW_WAIT_MS = 500
JUMP_WAIT_MS = 2


class Clients:
    """Makes clients of one Kafka.

    Args:
        address: Of the brokers.
        pipeline: For names that show in the brokers' metrics.
    """

    def __init__(self, address: KafkaAddress, pipeline: str) -> None:
        self.address = address
        self.pipeline = pipeline
        self.place = str(address)
        self._errors = LastError()

    @property
    def last_error(self) -> KafkaError | None:
        """Why a connection failed last."""
        return self._errors.error

    def admin(self) -> AdminClient:
        """For topics, offsets and deletions."""
        return AdminClient(self._base())

    def following(self) -> Consumer:
        """A consumer that stays at the end of small topics."""
        return self._consumer(FOLLOW_WAIT_MS, queued_bytes=4 << 20)

    def jumping(self) -> Consumer:
        """A consumer that is told again and again where to read, and that answers for offsets."""
        return self._consumer(JUMP_WAIT_MS, queued_bytes=CONSUMER_BYTES)

    def producer(self) -> Producer:
        """For records outside of transactions; no record is lost, doubled or out of order."""
        return Producer(self._base() | self._producing())

    def transactional(self, transactional_id: str) -> Producer:
        """For the transactions of one writer."""
        timeout_ms = self.address.transaction_timeout_ms
        return Producer(
            self._base()
            | self._producing()
            | {
                "transactional.id": transactional_id,
                "transaction.timeout.ms": timeout_ms,
                # A producer of its own accord connects to a broker when it needs one. The one it has learnt the cluster
                # from it gives up, and if none is connected at the moment in which it looks for the coordinator of its
                # transactions, it looks again after half a second. Connected to all, it has its id within 10 ms.
                "enable.sparse.connections": False,
                # A message must be given up before the broker gives up its transaction.
                "delivery.timeout.ms": min(int(ANSWER_S * 1000), timeout_ms),
                # Arrow payloads are compressed already; JSON is not.
                "compression.type": "lz4" if self.address.debezium else "none",
            }
        )

    def _base(self) -> dict[str, Any]:
        return base_settings(self.address.servers, self.address.security, self.pipeline, self._errors.note)

    def _producing(self) -> dict[str, Any]:
        return {
            "enable.idempotence": True,
            "acks": "all",
            # Nobody gains from waiting: a transaction is flushed when its batches are in.
            "linger.ms": 0,
            "message.max.bytes": MESSAGE_BYTES,
            "queue.buffering.max.kbytes": PRODUCER_BYTES >> 10,
            "queue.buffering.max.messages": PRODUCER_MESSAGES,
            "delivery.timeout.ms": int(ANSWER_S * 1000),
            # A commit that meets the end of the last one waits this long before it asks again.
            "retry.backoff.ms": 5,
        }

    def _consumer(self, wait_ms: int, queued_bytes: int) -> Consumer:
        return Consumer(self._base() | consumer_settings(f"{self.pipeline}.raypipe", wait_ms, queued_bytes))
