"""The log in Kafka: a topic for each table, rows, position and cut in one Kafka transaction."""

from raypipe.log.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
