"""What things are called in Kafka: topics, partitions, transactional ids."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from raypipe.errors import SchemaMismatch

# Kafka takes letters, digits, dots, underscores and hyphens, 249 of them at most.
_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")
_LENGTH = 249
_DIGEST = 12


@dataclass(frozen=True)
class ControlTopics:
    """Names of a pipeline's own topics beside its tables.

    Attributes:
        pipeline: Its name, which is the prefix of all its topics.
    """

    pipeline: str

    @property
    def cuts(self) -> str:
        """One record for each commit; its offset numbers the cut."""
        return f"{self.pipeline}.raypipe.cuts"

    @property
    def positions(self) -> str:
        """What the cuts below the oldest kept come to; compacted."""
        return f"{self.pipeline}.raypipe.positions"

    @property
    def claims(self) -> str:
        """Runs, generations and writers in the order in which they came."""
        return f"{self.pipeline}.raypipe.claims"

    @property
    def notes(self) -> str:
        """Small texts by key; compacted."""
        return f"{self.pipeline}.raypipe.notes"

    def transactional_id(self, instance: str) -> str:
        """Of the writer of an instance: whoever takes it fences the one before."""
        return f"{self.pipeline}.{instance}"


def kafka_topic(topic: str) -> str:
    """The name in Kafka of a topic of the log: itself, unless a table's name has letters that Kafka's names lack.

    Then those become underscores, and a digest of the whole name keeps different names different.

    Raises:
        SchemaMismatch: the name holds a slash, which separates topic and partition in a cut.
    """
    if "/" in topic:
        raise SchemaMismatch(
            f"Topic {topic} has a slash in its name, which a Kafka log cannot keep.",
            remedy="Leave the table out of the pipeline, or capture a view or table of another name.",
            topic=topic,
        )
    plain = _ILLEGAL.sub("_", topic)
    if plain == topic and len(topic) <= _LENGTH:
        return topic
    digest = hashlib.sha256(topic.encode()).hexdigest()[:_DIGEST]
    return f"{plain[: _LENGTH - _DIGEST - 1]}-{digest}"


def partition_key(topic: str, partition: int) -> str:
    """How a cut names a partition: the topic itself for the first, ``topic/1`` and so on for the others."""
    return topic if partition == 0 else f"{topic}/{partition}"


def topic_and_partition(key: str) -> tuple[str, int]:
    """Reads what ``partition_key`` made."""
    topic, slash, partition = key.partition("/")
    return topic, int(partition) if slash else 0
