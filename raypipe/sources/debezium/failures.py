"""What Kafka's errors mean for a source, in words for the person who must act."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from raypipe.errors import RaypipeError, SourceGap, Unavailable
from raypipe.kafka.errors import DENIED, MISSING, OUT_OF_RANGE, REFUSED, error_of

_GONE = MISSING | {KafkaError._UNKNOWN_PARTITION}

BEGIN_ANEW = "begin anew: remove the log and what the sinks hold, and run again"


def missing(error: KafkaError) -> bool:
    """Whether there is no such topic."""
    return error.code() in _GONE


def explain(place: str, error: KafkaException | KafkaError, topic: str) -> RaypipeError:
    """The error a user should see instead of Kafka's."""
    inner = error_of(error)
    if inner.code() in OUT_OF_RANGE:
        return gap(topic, "messages that follow it were deleted, by a retention or by somebody")
    if missing(inner):
        return gap(topic, "the topic is gone")
    if inner.code() in REFUSED:
        return refused(place, inner)
    if inner.code() in DENIED:
        return Unavailable(
            f"Kafka at {place} forbids this user to read topic {topic} ({inner.name()}).",
            remedy="Grant it DESCRIBE and READ on the topics of the source.",
            topic=topic,
        )
    return Unavailable(
        f"Kafka at {place} does not serve topic {topic} ({inner.name()}: {inner.str()}).",
        remedy="Check that the brokers run, and that this user may describe and read the topic.",
        topic=topic,
    )


def refused(place: str, error: KafkaError) -> Unavailable:
    """The brokers let nobody in with what the URL says."""
    return Unavailable(
        f"Kafka at {place} refused the connection ({error.name()}: {error.str()}).",
        remedy="Check user, password and mechanism, and that `ca` is the authority of the brokers' certificates.",
    )


def silent(place: str, topics: str, seconds: float) -> Unavailable:
    """No answer in time."""
    return Unavailable(
        f"Kafka at {place} did not answer within {seconds:.0f} s about {topics}.",
        remedy="Check that the brokers run, that host and port are right, and that the topics have leaders.",
    )


def gap(topic: str, why: str) -> SourceGap:
    """A topic cannot be read on from a position."""
    return SourceGap(
        f"Topic {topic} cannot be read on from the log's position: {why}.",
        remedy=(
            "Keep the topic whole (cleanup.policy=compact, or retention.ms=-1), have Debezium take a new snapshot into"
            f" it, and {BEGIN_ANEW}."
        ),
        topic=topic,
    )
