"""What Kafka's error codes mean, for those who put them into words."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

# What the user may not do.
DENIED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
# Nobody is let in with what the URL says.
REFUSED = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL})
# 100 is UNKNOWN_TOPIC_ID and 103 INCONSISTENT_TOPIC_ID, which the library does not name.
MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, 100, 103})
OUT_OF_RANGE = frozenset({KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET})


def error_of(error: KafkaException | KafkaError) -> KafkaError:
    """The error inside an exception."""
    inner = error.args[0] if isinstance(error, KafkaException) else error
    assert isinstance(inner, KafkaError)
    return inner


class LastError:
    """Why a connection failed last: it says why an answer did not come."""

    def __init__(self) -> None:
        self.error: KafkaError | None = None

    def note(self, error: KafkaError) -> None:
        """For librdkafka's ``error_cb``. A refusal stays, because what follows it are the attempts to connect again."""
        if self.error is None or (error.code() != KafkaError._ALL_BROKERS_DOWN and self.error.code() not in REFUSED):
            self.error = error


_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        # What a client says of every partition while no broker answers.
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        # A leader has changed, and client and broker do not yet know of the same one.
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        # Of the group that no partition is read by.
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)


def passing(error: KafkaError) -> bool:
    """Whether a consumer mends this by itself, given time."""
    return error.code() in _PASSING or error.retriable()
