"""Fetches Kafka Connect and the connector with Maven, once for each checkout."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import CannotRun
from cluster.services.home import Home
from cluster.services.kafka import KafkaPrograms
from cluster.services.process import run_to_end

HERE = Path(__file__).parent
LOG4J = HERE / "log4j2.properties"


def installed(home: Home) -> tuple[KafkaPrograms, Path]:
    """What starts Connect, and the folder of its plugins; fetched if it is not there.

    Raises:
        CannotRun: Maven is missing or fails.
    """
    folder = home.folder / "debezium"
    connect = _fetched(HERE / "connect.pom.xml", folder / "connect")
    connector = _fetched(HERE / "connector.pom.xml", folder / "plugins" / "postgres")
    shutil.copy(LOG4J, connect)
    return replace(home.kafka(), jars=connect), connector.parent


def _fetched(pom: Path, jars: Path) -> Path:
    """Copies the jars that a pom names into a folder, unless they are there."""
    named, mark = hashlib.sha256(pom.read_bytes()).hexdigest(), jars / "pom.sha256"
    if mark.exists() and mark.read_text() == named:
        return jars
    shutil.rmtree(jars, ignore_errors=True)
    jars.mkdir(parents=True)
    try:
        done = run_to_end(
            [
                *("mvn", "-B", "-q", "-f", pom, "dependency:copy-dependencies"),
                *(f"-DoutputDirectory={jars}", "-DincludeScope=runtime"),
            ]
        )
    except FileNotFoundError:
        raise CannotRun("Maven is missing, which fetches Debezium: apt-get install maven") from None
    if done.returncode != 0:
        first = next((line for line in done.stdout.splitlines() if "[ERROR]" in line), done.stderr.strip())
        raise CannotRun(f"Maven could not fetch Debezium: {first}")
    mark.write_text(named)
    return jars
