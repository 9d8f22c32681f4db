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
