"""What Kafka's errors mean for the log, in words for the person who must act."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from raypipe.errors import Corrupt, LimitExceeded, RaypipeError, SourceGap, Unavailable
from raypipe.kafka.errors import DENIED, MISSING, OUT_OF_RANGE, REFUSED, error_of

# What a writer gets whose transactional id was taken by another, or whose transaction the broker gave up.
FENCED = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
    }
)

RECOVER = (
    "Stop the pipeline; restore the topics from a backup, or delete every topic of this pipeline and run again: with a"
    " new log every table is loaded again and the sinks are rebuilt from it."
)


def explain(place: str, error: KafkaException | KafkaError, topic: str = "") -> RaypipeError:
    """The error a user should see instead of Kafka's.

    Args:
        place: Of the log, without secrets.
        error: Kafka's.
        topic: That it is about, if one.
    """
    inner = error_of(error)
    code = inner.code()
    of = f"topic {topic} of " if topic else ""
    told = f"{inner.name()}: {inner.str()}"
    if code in OUT_OF_RANGE:
        return gap(place, topic)
    if code in MISSING:
        return SourceGap(
            f"Log {place} lacks {f'topic {topic}' if topic else 'a topic'}, which was there: somebody deleted it.",
            remedy=f"Forbid others to delete topics of this pipeline. {RECOVER}",
            log=place,
            topic=topic,
        )
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return LimitExceeded(
            f"A message for {of}log {place} is larger than its broker takes.",
            remedy="Raise max.message.bytes of the topic (and message.max.bytes of the brokers).",
            log=place,
        )
    if code in DENIED:
        return Unavailable(
            f"Log {place} forbids this user what raypipe must do ({told}).",
            remedy="Grant it the rights that the how-to on Kafka logs lists.",
            log=place,
            topic=topic,
        )
    if code in REFUSED:
        return Unavailable(
            f"Log {place} refused the connection ({told}).",
            remedy="Check user, password and mechanism, and that `ca` is the authority of the brokers' certificates.",
            log=place,
        )
    if code in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE):
        return Unavailable(
            f"Log {place} does not answer ({told}).",
            remedy="Check that the brokers run and that host and port are right; the run goes on when they are back.",
            log=place,
        )
    return Unavailable(f"Log {place} failed for now ({of}{told}).", remedy="It is tried again.", log=place)


def gap(place: str, topic: str) -> SourceGap:
    """Part of a topic that is still needed is gone."""
    return SourceGap(
        f"Log {place} no longer holds a part of topic {topic} that is still needed: it was deleted by somebody else, or"
        " by a retention that is not raypipe's, or the topic was made anew.",
        remedy=(
            "Set retention.ms=-1 and retention.bytes=-1 on the pipeline's topics and forbid others to delete from them;"
            " reload the tables of the sinks that are behind."
        ),
        log=place,
        topic=topic,
    )


def damaged(place: str, what: str, cause: BaseException | None = None) -> Corrupt:
    """The log is not what raypipe wrote."""
    return Corrupt(f"Log {place} is damaged: {what}.", remedy=RECOVER, cause=cause, log=place)


@contextmanager
def explained(place: str, topic: str = "") -> Iterator[None]:
    """Turns Kafka's errors within the block into raypipe's."""
    try:
        yield
    except KafkaException as error:
        raise explain(place, error, topic) from error
