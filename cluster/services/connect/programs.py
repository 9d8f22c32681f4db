"""Connect's jars and the connector's, which Connect loads apart from its own, by the poms beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.services.kafka.programs import KafkaPrograms, find_java
from cluster.services.maven import Jars

HERE = Path(__file__).parent
WORKER = Jars(what="Kafka Connect", pom=HERE / "worker.pom.xml", beside=(HERE / "log4j2.properties",))
DEBEZIUM = Jars(what="Debezium", pom=HERE / "debezium.pom.xml")


@dataclass(frozen=True, kw_only=True)
class ConnectPrograms:
    """What a worker is started with.

    Attributes:
        worker: Java, and the jars of Connect.
        plugins: The folder that holds the folder of the connector's jars, and nothing else.
    """

    worker: KafkaPrograms
    plugins: Path

    def version(self) -> str:
        """The connector's version, such as ``3.7.0.Final``."""
        return next(self.plugins.glob("*/debezium-connector-postgres-*.jar")).stem.removeprefix(
            "debezium-connector-postgres-"
        )


def find_connect(folder: Path) -> ConnectPrograms | None:
    """What `install_connect` has put into a folder; None if that, or a Java to run it, is missing."""
    java, jars, debezium = find_java(), WORKER.find(folder), DEBEZIUM.find(folder / "plugins")
    if java is None or jars is None or debezium is None:
        return None
    return ConnectPrograms(worker=KafkaPrograms(java=java, jars=jars), plugins=debezium.parent)


def install_connect(folder: Path) -> None:
    """Copies the jars that the poms name into a folder, unless they are there.

    Raises:
        ServiceError: Maven is missing or fails.
    """
    WORKER.fetch(folder)
    DEBEZIUM.fetch(folder / "plugins")
