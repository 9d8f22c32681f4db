"""Apache Kafka in KRaft mode from its jars: one broker or several, on 127.0.0.1."""

from cluster.services.kafka.broker import KafkaBroker
from cluster.services.kafka.cluster import KafkaCluster
from cluster.services.kafka.programs import KafkaPrograms, find_kafka, install_kafka

__all__ = ["KafkaBroker", "KafkaCluster", "KafkaPrograms", "find_kafka", "install_kafka"]
