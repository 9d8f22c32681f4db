"""The servers that Docker runs are those of ``make services``: versions, ports, user and settings."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from pathlib import Path
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


def test_what_docker_keeps_lies_in_a_volume_of_each_server(composed: dict[str, Any]) -> None:
    whole = yaml.safe_load((ROOT / "cluster" / "services" / "compose.yaml").read_text())
    assert set(whole["volumes"]) == set(composed)
    for name, service in composed.items():
        [(volume, mounted)] = [entry.split(":") for entry in service["volumes"]]
        environment = service["environment"]
        assert volume == name
        assert Path(environment.get("PGDATA") or environment["KAFKA_LOG_DIRS"]).is_relative_to(mounted)


def test_docker_waits_until_each_server_answers(composed: dict[str, Any]) -> None:
    for name, service in composed.items():
        check = service["healthcheck"]
        assert check["test"][0] == "CMD"
        assert "localhost:9092" in check["test"] if name == "kafka" else f"--username={SUPERUSER}" in check["test"]
        assert int(check["interval"].removesuffix("s")) * check["retries"] >= 60


def test_clients_of_dockers_kafka_come_back_to_the_port_that_is_published(composed: dict[str, Any]) -> None:
    environment = composed["kafka"]["environment"]
    listeners, advertised, protocols = (
        dict(entry.split(":", 1) for entry in environment[name].split(","))
        for name in ("KAFKA_LISTENERS", "KAFKA_ADVERTISED_LISTENERS", "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP")
    )
    assert advertised["PLAINTEXT"] == f"//127.0.0.1:{KAFKA_PORTS['plain']}"
    assert set(listeners) == set(protocols)
    assert set(advertised) == set(listeners) - {environment["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    node, _, voter = environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].partition("@")
    assert int(node) == environment["KAFKA_NODE_ID"]
    assert listeners["CONTROLLER"] == f"//{voter}"


def test_dockers_postgres_asks_for_a_password_that_somebody_chose(composed: dict[str, Any]) -> None:
    for name in POSTGRES_NAMES:
        environment = composed[name]["environment"]
        assert environment["POSTGRES_PASSWORD"].startswith("${RAYPIPE_SERVICES_PASSWORD:?")
        assert "--auth=scram-sha-256" in environment["POSTGRES_INITDB_ARGS"]
