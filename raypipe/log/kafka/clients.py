"""Connections to Kafka with every buffer and wait bounded."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient

from raypipe.log.kafka.address import KafkaAddress
from raypipe.log.kafka.failures import REFUSED

# librdkafka's own words, which end up on standard error otherwise. Errors that matter reach us as exceptions.
library_logger = logging.getLogger("raypipe.log.kafka.library")
library_logger.addHandler(logging.NullHandler())
library_logger.propagate = False

# Longest wait for an answer of a broker, a coordinator that moves included; a broker that is lost takes up to 10 s to
# be replaced.
ANSWER_S = 30.0

# A message must fit, and a single large value makes a single large message.
MESSAGE_BYTES = 64 << 20

# Memory of one producer for what the broker has not confirmed.
PRODUCER_BYTES = 64 << 20
PRODUCER_MESSAGES = 400_000

# Memory of one consumer for what was fetched ahead.
CONSUMER_BYTES = 24 << 20
# What one fetch brings of one partition.
FETCH_BYTES = 4 << 20

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
        self.last_error: KafkaError | None = None

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
                # A message must be given up before the broker gives up its transaction.
                "delivery.timeout.ms": min(int(ANSWER_S * 1000), timeout_ms),
                # Arrow payloads are compressed already; JSON is not.
                "compression.type": "lz4" if self.address.debezium else "none",
            }
        )

    def _base(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.address.servers,
            "client.id": f"raypipe-{self.pipeline}",
            "allow.auto.create.topics": False,
            "socket.keepalive.enable": True,
            # From the first failure on: a broker that restarts is back within seconds.
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
            "topic.metadata.refresh.interval.ms": 60_000,
            # Pushing metrics to brokers is a connection and a wake-up more.
            "enable.metrics.push": False,
            "logger": library_logger,
            "error_cb": self._note_error,
            **self.address.security,
        }

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
        return Consumer(
            self._base()
            | {
                # Required by the library. Partitions are assigned by hand and nothing is committed under this name.
                "group.id": f"{self.pipeline}.raypipe",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "check.crcs": True,
                "fetch.wait.max.ms": wait_ms,
                "fetch.message.max.bytes": FETCH_BYTES,
                "fetch.max.bytes": 4 * FETCH_BYTES,
                "receive.message.max.bytes": MESSAGE_BYTES + 4 * FETCH_BYTES,
                "queued.max.messages.kbytes": queued_bytes >> 10,
                # A full queue is looked at again after this; the default of a second would stop a fast reader.
                "fetch.queue.backoff.ms": 5,
                "fetch.error.backoff.ms": 50,
            }
        )

    def _note_error(self, error: KafkaError) -> None:
        """Keeps why a connection failed: it says why an answer did not come.

        A refusal stays, because what follows it are the attempts to connect again.
        """
        if self.last_error is None or (
            error.code() != KafkaError._ALL_BROKERS_DOWN and self.last_error.code() not in REFUSED
        ):
            self.last_error = error
