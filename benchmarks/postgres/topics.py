"""Topics of the lab's broker: made, and watched while somebody fills them."""

from __future__ import annotations

import time
from contextlib import closing

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.postgres.lab import Lab

FILLED_WITHIN_S = 600.0
# How often the end of a topic is asked for: fine enough for work that takes seconds.
LOOK_EVERY_S = 0.005


def make_topic(lab: Lab, name: str) -> None:
    """Makes a topic of one partition."""
    admin = AdminClient({"bootstrap.servers": lab.kafka.bootstrap})
    for made in admin.create_topics([NewTopic(name, 1, 1)]).values():
        made.result(30.0)


def end_of(lab: Lab, topic: str) -> int:
    """The offset behind a topic's last message."""
    with closing(_consumer(lab)) as consumer:
        return _end(consumer, topic)


def filled(lab: Lab, topic: str, upto: int) -> float:
    """Waits until a topic ends at an offset or later; returns when it did, in seconds since 1970."""
    deadline = time.monotonic() + FILLED_WITHIN_S
    with closing(_consumer(lab)) as consumer:
        while (end := _end(consumer, topic)) < upto:
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {end:,} of {upto:,} messages arrived in topic {topic}")
            time.sleep(LOOK_EVERY_S)
    return time.time()


def _consumer(lab: Lab) -> Consumer:
    return Consumer({"bootstrap.servers": lab.kafka.bootstrap, "group.id": "benchmark", "enable.auto.commit": False})


def _end(consumer: Consumer, topic: str) -> int:
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30.0)
    return int(end)
