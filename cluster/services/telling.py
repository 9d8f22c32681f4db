"""What is said about a server: its line in a list, and its variables for a shell."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.services.connect import ConnectPrograms
from cluster.services.kafka import KafkaCluster
from cluster.services.postgres import SUPERUSER, PostgresServer
from cluster.services.servers import CONNECT, KAFKA, Server


def pids(server: Server) -> list[int | None]:
    """The process number of each of its processes, None for one that does not run."""
    return [broker.pid for broker in server.brokers] if isinstance(server, KafkaCluster) else [server.pid]


def line(server: Server) -> str:
    """Name, address, version and state in one line, without the password."""
    if isinstance(server, PostgresServer):
        name, version = f"postgres{server.programs.major}", server.programs.version()
        address = f"postgresql://{SUPERUSER}@127.0.0.1:{server.port}/postgres"
    else:
        name, version, address = KAFKA, server.programs.version(), server.bootstrap
    running = [str(pid) for pid in pids(server) if pid is not None]
    state = f"runs as {', '.join(running)}" if running else "does not run"
    return f"{name:12}{version:8}{address:50}{state}"


def programs(connect: ConnectPrograms) -> str:
    """The line of what is installed and started only by those who need one."""
    return f"{CONNECT:12}{connect.version():14}is installed; tests and benchmarks start one each"


def environment(servers: Sequence[Server]) -> str:
    """Lines ``NAME=value`` that a shell, and docker compose, can read."""
    values: dict[str, str] = {}
    for server in servers:
        if isinstance(server, PostgresServer):
            values[f"RAYPIPE_POSTGRES{server.programs.major}"] = server.url
        else:
            values |= {
                "RAYPIPE_KAFKA": server.bootstrap,
                "RAYPIPE_KAFKA_TLS": server.bootstrap_tls,
                "RAYPIPE_KAFKA_SASL": server.bootstrap_sasl,
                "RAYPIPE_KAFKA_SASL_TLS": server.bootstrap_sasl_tls,
            }
        values |= {
            "RAYPIPE_SERVICES_USER": SUPERUSER,
            "RAYPIPE_SERVICES_PASSWORD": server.password,
            "RAYPIPE_SERVICES_CA": str(server.certificates.authority) if server.certificates else "",
        }
    return "".join(f"{name}={value}\n" for name, value in values.items())
