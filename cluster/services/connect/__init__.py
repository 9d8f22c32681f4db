"""Kafka Connect with Debezium's connector for PostgreSQL: one standalone worker, on 127.0.0.1."""

from cluster.services.connect.programs import ConnectPrograms, find_connect, install_connect
from cluster.services.connect.worker import ConnectWorker

__all__ = ["ConnectPrograms", "ConnectWorker", "find_connect", "install_connect"]
