"""Fixtures that give a test real servers: shared ones, and a home to start private ones from.

A server that is not installed skips the test with one line; in CI it fails the test, or nobody would notice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.services.home import Home, NotInstalled, open_home
from cluster.services.kafka import KafkaCluster
from cluster.services.postgres import PostgresServer
from cluster.services.servers import KAFKA, shared, shared_kafka, shared_postgres
from cluster.services.telling import pids

# Which run of pytest this is, the same in all of xdist's workers.
RUN = "RAYPIPE_TEST_RUN"


def pytest_configure() -> None:
    """Names the run in the process that xdist's workers inherit their environment from."""
    os.environ.setdefault(RUN, str(os.getpid()))


def pytest_unconfigure() -> None:
    """Stops the shared servers that this run has started; those that ran before go on."""
    if os.environ[RUN] != str(os.getpid()):
        return  # a worker
    del os.environ[RUN]
    home = open_home()
    started = _started(home, str(os.getpid()))
    if started.exists():
        with home.lock():
            for name in started.read_text().split():
                shared(home, name).stop()
            started.unlink()


@pytest.fixture(scope="session")
def services_home() -> Home:
    """Where the servers live; `private_postgres` and `private_kafka` of `cluster.services.servers` start from it."""
    return open_home()


@pytest.fixture(scope="session")
def postgres15(services_home: Home) -> PostgresServer:
    """The shared PostgreSQL 15, Debian's: with TLS, ICU and contrib; without failover slots."""
    return _running_postgres(services_home, 15)


@pytest.fixture(scope="session")
def postgres16(services_home: Home) -> PostgresServer:
    """The shared PostgreSQL 16, the wheel's: without TLS, ICU and contrib."""
    return _running_postgres(services_home, 16)


@pytest.fixture(scope="session")
def postgres18(services_home: Home) -> PostgresServer:
    """The shared PostgreSQL 18, the wheel's: with failover slots; without TLS, ICU and contrib."""
    return _running_postgres(services_home, 18)


@pytest.fixture(scope="session")
def kafka(services_home: Home) -> KafkaCluster:
    """The shared Kafka: one broker."""
    with missing_skips(), services_home.lock():
        server = shared_kafka(services_home)
        _start(services_home, server, KAFKA)
    return server


@contextmanager
def missing_skips() -> Iterator[None]:
    """Makes a server that is not installed skip the test, or fail it in CI."""
    try:
        yield
    except NotInstalled as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason), pytrace=False)
        pytest.skip(str(reason))


def _running_postgres(home: Home, major: int) -> PostgresServer:
    with missing_skips(), home.lock():
        server = shared_postgres(home, major)
        _start(home, server, f"postgres{major}")
    return server


def _start(home: Home, server: PostgresServer | KafkaCluster, name: str) -> None:
    if not all(pids(server)):
        server.start()
        with _started(home, os.environ[RUN]).open("a") as names:
            names.write(f"{name}\n")


def _started(home: Home, run: str) -> Path:
    return home.folder / f"started-by-tests-{run}"
