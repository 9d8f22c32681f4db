"""Brokers that form one cluster: started together, ended together, each to be killed alone."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.services.account import Account
from cluster.services.certificates import Certificates
from cluster.services.kafka.broker import USER, KafkaBroker, Membership, Ports
from cluster.services.kafka.programs import KafkaPrograms

# A single broker serves tests and benchmarks; of three, each holds a third of the work and all of the memory.
HEAP_ALONE_MB = 512
HEAP_OF_MANY_MB = 256


class KafkaCluster:
    """One broker or several, on 127.0.0.1; nothing runs before `start`.

    Attributes:
        brokers: By number, from 1 on.
        folder: Holds a folder for each broker.
        password: Of the SASL user `user`.
        certificates: ``authority`` is what a client of the TLS ports trusts.
    """

    user = USER

    def __init__(
        self,
        *,
        programs: KafkaPrograms,
        folder: Path,
        ports: Sequence[Ports],
        password: str,
        account: Account,
        certificates: Certificates,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.programs = programs
        self.folder = folder
        self.password = password
        self.certificates = certificates
        self._account = account
        membership = Membership(
            cluster_id=_cluster_id(folder),
            controllers={node: one.controller for node, one in enumerate(ports, start=1)},
        )
        self.brokers = [
            KafkaBroker(
                programs=programs,
                node=node,
                ports=one,
                membership=membership,
                folder=folder / f"broker{node}",
                password=password,
                account=account,
                certificates=certificates,
                heap_mb=HEAP_ALONE_MB if len(ports) == 1 else HEAP_OF_MANY_MB,
                settings=settings,
            )
            for node, one in enumerate(ports, start=1)
        ]

    @property
    def bootstrap(self) -> str:
        """Addresses without security, as ``bootstrap.servers`` wants them."""
        return self._addresses([broker.ports.plain for broker in self.brokers])

    @property
    def bootstrap_tls(self) -> str:
        """Addresses with TLS (``security.protocol=SSL``); a client certificate is not asked for."""
        return self._addresses([broker.ports.tls for broker in self.brokers])

    @property
    def bootstrap_sasl(self) -> str:
        """Addresses with SCRAM-SHA-512 and no TLS (``SASL_PLAINTEXT``)."""
        return self._addresses([broker.ports.sasl for broker in self.brokers])

    @property
    def bootstrap_sasl_tls(self) -> str:
        """Addresses with SCRAM-SHA-512 over TLS (``SASL_SSL``)."""
        return self._addresses([broker.ports.sasl_tls for broker in self.brokers])

    def start(self) -> None:
        """Starts all brokers that do not run, side by side, and waits until each serves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._account.own(self.folder)
        down = [broker for broker in self.brokers if broker.pid is None]
        with ThreadPoolExecutor(max_workers=len(self.brokers)) as side_by_side:
            list(side_by_side.map(KafkaBroker.launch, down))
        for broker in down:
            broker.await_ready()

    def stop(self) -> None:
        """Ends all brokers in order, side by side."""
        with ThreadPoolExecutor(max_workers=len(self.brokers)) as side_by_side:
            list(side_by_side.map(KafkaBroker.stop, self.brokers))

    def kill(self) -> None:
        """Ends all brokers at once (SIGKILL)."""
        for broker in self.brokers:
            broker.kill()

    @staticmethod
    def _addresses(ports: Sequence[int]) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in ports)


def _cluster_id(folder: Path) -> str:
    """What the brokers in a folder were formatted with, a new one if they were not."""
    for properties in sorted(folder.glob("broker*/data/meta.properties")):
        for line in properties.read_text().splitlines():
            if line.startswith("cluster.id="):
                return line.partition("=")[2]
    # Sixteen bytes as Kafka writes them; a leading hyphen would look like an option on a command line.
    return "r" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
