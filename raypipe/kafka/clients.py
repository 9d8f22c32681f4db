"""Settings of every client of a Kafka, with each buffer and each wait bounded."""

from __future__ import annotations

import base64
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message

# librdkafka's own words, which end up on standard error otherwise. Errors that matter reach us as exceptions.
library_logger = logging.getLogger("raypipe.kafka.library")
library_logger.addHandler(logging.NullHandler())
library_logger.propagate = False

# Longest wait for an answer of a broker, a coordinator that moves included; a broker that is lost takes up to 10 s to
# be replaced.
ANSWER_S = 30.0
# A message must fit, and a single large value makes a single large message.
MESSAGE_BYTES = 64 << 20
# Memory of one consumer for what was fetched ahead.
CONSUMER_BYTES = 24 << 20
# What one fetch brings of one partition.
FETCH_BYTES = 4 << 20


def base_settings(
    servers: str, security: Mapping[str, str], name: str, on_error: Callable[[KafkaError], None]
) -> dict[str, Any]:
    """Of every client.

    Args:
        servers: ``host:port`` of brokers, separated by commas.
        security: For TLS and SASL.
        name: That shows in the brokers' metrics.
        on_error: Is told of connections that fail.
    """
    return {
        "bootstrap.servers": servers,
        "client.id": f"raypipe-{name}",
        "allow.auto.create.topics": False,
        "socket.keepalive.enable": True,
        # From the first failure on: a broker that restarts is back within seconds.
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        "topic.metadata.refresh.interval.ms": 5_000,
        # Pushing metrics to brokers is a connection and a wake-up more.
        "enable.metrics.push": False,
        "logger": library_logger,
        "error_cb": on_error,
        **security,
    }


def consumer_settings(group: str, wait_ms: int, queued_bytes: int) -> dict[str, Any]:
    """Of a consumer that reads what is committed, of partitions assigned by hand.

    Args:
        group: Required by the library: no group is joined, and nothing is committed under this name.
        wait_ms: How long a broker holds the answer to a fetch that finds nothing; a new message ends that at once.
        queued_bytes: Memory for what was fetched ahead.
    """
    return {
        "group.id": group,
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


def taken(consumer: Consumer, most: int, timeout_s: float) -> Sequence[Message]:
    """What the consumer has, waiting only if that is nothing; ``consume`` alone would wait until it has ``most``."""
    first = consumer.poll(timeout_s) if timeout_s > 0 else None
    rest = consumer.consume(most, 0)
    return rest if first is None else [first, *rest]


def topic_id(described: Any) -> str:
    """The usual form of an id that the library shows as base64 without its padding."""
    return str(uuid.UUID(bytes=base64.b64decode(f"{described}==")))
