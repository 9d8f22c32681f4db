"""The servers that Docker runs are those of ``make services``: versions, ports, user and settings."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from typing import Any

import pytest
import yaml

from cluster.services.home import ROOT
from cluster.services.kafka.broker import cluster_settings
from cluster.services.kafka.cluster import HEAP_ALONE_MB
from cluster.services.kafka.programs import POM
from cluster.services.postgres import REPLICATION, SUPERUSER
from cluster.services.servers import KAFKA_PORTS, NAMES, POSTGRES_NAMES, POSTGRES_PORTS, SHARED_SETTINGS


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    composed: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / "services" / "compose.yaml").read_text())["services"]
    return composed


def test_docker_runs_the_same_servers_on_loopback_only(composed: dict[str, Any]) -> None:
    assert set(composed) == set(NAMES)
    assert all(port.startswith("127.0.0.1:") for service in composed.values() for port in service["ports"])


@pytest.mark.parametrize("name", sorted(POSTGRES_NAMES))
def test_docker_runs_the_same_postgres(composed: dict[str, Any], name: str) -> None:
    service, major = composed[name], POSTGRES_NAMES[name]
    assert service["image"] == f"postgres:{major}"
    assert service["ports"] == [f"127.0.0.1:{POSTGRES_PORTS[major]}:5432"]
    assert service["environment"]["POSTGRES_USER"] == SUPERUSER
    settings = dict(word.removeprefix("-c").split("=") for word in service["command"][1:])
    assert settings == {**REPLICATION, **SHARED_SETTINGS, "timezone": "UTC"}


def test_docker_runs_the_same_kafka(composed: dict[str, Any]) -> None:
    service = composed["kafka"]
    namespace = {"": "http://maven.apache.org/POM/4.0.0"}
    broker = xml.parse(POM).getroot().findall("dependencies/dependency", namespace)[0]
    assert service["image"] == f"apache/kafka:{broker.findtext('version', namespaces=namespace)}"
    assert service["ports"] == [f"127.0.0.1:{KAFKA_PORTS['plain']}:9092"]
    environment = {name: str(value) for name, value in service["environment"].items()}
    assert environment["KAFKA_HEAP_OPTS"] == f"-Xms{HEAP_ALONE_MB}m -Xmx{HEAP_ALONE_MB}m"
    for name, value in cluster_settings(1).items():
        assert environment["KAFKA_" + name.upper().replace(".", "_")] == value, name
