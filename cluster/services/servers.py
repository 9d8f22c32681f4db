"""The servers: those that a home's users share, by name, and private ones that a test starts for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from cluster.services.connect.worker import ConnectWorker
from cluster.services.home import Home
from cluster.services.kafka import KafkaCluster
from cluster.services.kafka.broker import Ports
from cluster.services.kafka.programs import QUICK_TO_START
from cluster.services.ports import claimed_ports
from cluster.services.postgres import MAJORS, THROWAWAY, PostgresServer
from cluster.services.private import private_folder

# 54 and the major version; Kafka's usual port and its neighbours.
POSTGRES_PORTS = {15: 5415, 16: 5416, 18: 5418}
KAFKA_PORTS = {"plain": 9092, "tls": 9093, "sasl": 9094, "sasl_tls": 9095, "controller": 9099}

POSTGRES_NAMES = {f"postgres{major}": major for major in MAJORS}
KAFKA = "kafka"
NAMES = (*POSTGRES_NAMES, KAFKA)
# Installed with the others and started by those who need one: a worker's connectors are its user's own.
CONNECT = "connect"

# A slot that nobody reads keeps the server's log from being recycled; past this it is lost, and the disk is not full.
SHARED_SETTINGS = {"max_wal_size": "4GB", "max_slot_wal_keep_size": "16GB", "max_connections": "200"}

# A broker that was killed is missed after this time, and not before is its successor let in: 9 s by default.
SOON_MISSED = {"broker.session.timeout.ms": "4000", "broker.heartbeat.interval.ms": "500"}

Server = PostgresServer | KafkaCluster


def shared_postgres(home: Home, major: int) -> PostgresServer:
    """The PostgreSQL that a home's users share, running or not. Raises `NotInstalled`."""
    folder = home.folder / f"postgres{major}"
    programs = home.postgres(major)
    server = PostgresServer(
        programs=programs,
        folder=folder,
        port=POSTGRES_PORTS[major],
        password=home.password,
        account=home.account,
        certificates=home.certificates if programs.tls else None,  # making them needs openssl
        settings=SHARED_SETTINGS,
    )
    server.port = home.ports(folder.name, {"port": server.port}, lambda: server.pid is not None)["port"]
    return server


def shared_kafka(home: Home) -> KafkaCluster:
    """The single broker that a home's users share, running or not. Raises `NotInstalled`."""

    def broker(ports: Mapping[str, int]) -> KafkaCluster:
        return KafkaCluster(
            programs=home.kafka(),
            folder=home.kafka_folder,
            ports=[Ports(**ports)],
            password=home.password,
            account=home.account,
            certificates=home.certificates,
        )

    def running() -> bool:
        return broker(KAFKA_PORTS).brokers[0].pid is not None

    return broker(home.ports(KAFKA, KAFKA_PORTS, running))


def shared(home: Home, name: str) -> Server:
    """The shared server of one of `NAMES`, running or not. Raises `NotInstalled`."""
    return shared_kafka(home) if name == KAFKA else shared_postgres(home, POSTGRES_NAMES[name])


@contextmanager
def private_postgres(home: Home, major: int, settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """A PostgreSQL of one's own on a free port, started in a temporary folder and removed at the end.

    It is quick rather than durable (`THROWAWAY`) unless ``settings`` say otherwise. Raises `NotInstalled`.
    """
    with private_folder(home.account, f"postgres{major}") as folder, claimed_ports(1) as ports:
        server = PostgresServer(
            programs=home.postgres(major),
            folder=folder,
            port=ports[0],
            password=home.password,
            account=home.account,
            certificates=home.certificates,
            settings={**THROWAWAY, **(settings or {})},
        )
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def private_kafka(
    home: Home,
    brokers: int = 1,
    settings: Mapping[str, str] | None = None,
    java_options: Sequence[str] = QUICK_TO_START,
    before_start: Callable[[KafkaCluster], None] = lambda _: None,
) -> Iterator[KafkaCluster]:
    """A cluster of one's own on free ports, started in a temporary folder and removed at the end.

    It is quick to start rather than quick at work; ``java_options=()`` for measurements. ``before_start`` is given the
    cluster when its ports are known, to change settings of single brokers. Raises `NotInstalled`.
    """
    with private_folder(home.account, "kafka") as folder, claimed_ports(len(KAFKA_PORTS) * brokers) as claimed:
        numbers = iter(claimed)
        ports = [Ports(**{purpose: next(numbers) for purpose in KAFKA_PORTS}) for _ in range(brokers)]
        servers = KafkaCluster(
            programs=home.kafka(),
            folder=folder,
            ports=ports,
            password=home.password,
            account=home.account,
            certificates=home.certificates,
            java_options=java_options,
            settings={**SOON_MISSED, **(settings or {})},
        )
        try:
            before_start(servers)
            servers.start()
            yield servers
        finally:
            servers.kill()


@contextmanager
def private_connect(
    home: Home, bootstrap: str, settings: Mapping[str, str] | None = None, heap_mb: int = 512
) -> Iterator[ConnectWorker]:
    """A Connect worker of one's own on a free port, in a temporary folder that is removed at the end.

    Args:
        home: That it is installed in.
        bootstrap: Of the Kafka it writes to.
        settings: Over those of `ConnectWorker`.
        heap_mb: Of the whole worker.

    Raises `NotInstalled`.
    """
    with private_folder(home.account, "connect") as folder, claimed_ports(1) as (port,):
        worker = ConnectWorker(
            programs=home.connect(),
            folder=folder,
            port=port,
            bootstrap=bootstrap,
            account=home.account,
            heap_mb=heap_mb,
            settings=settings,
        )
        try:
            worker.start()
            yield worker
        finally:
            worker.kill()
