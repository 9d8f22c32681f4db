"""One broker, which is a controller too: its settings, its storage, its process."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.services.account import Account
from cluster.services.certificates import Certificates
from cluster.services.kafka.programs import KafkaPrograms
from cluster.services.process import Server, ServerProcess, ServiceError, run_to_end

USER = "raypipe"

READY_WITHIN_S = 90.0
STOP_WITHIN_S = 30.0
FORMAT_HEAP_MB = 64


@dataclass(frozen=True, kw_only=True)
class Ports:
    """TCP ports of one broker on 127.0.0.1, each named by what a client needs to use it."""

    plain: int
    tls: int
    sasl: int
    sasl_tls: int
    controller: int


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What all brokers of one cluster know alike: its id, and its controllers by node number."""

    cluster_id: str
    controllers: Mapping[int, int]  # node number to the port of its controller

    @property
    def voters(self) -> str:
        """As the property ``controller.quorum.voters`` wants it."""
        return ",".join(f"{node}@127.0.0.1:{port}" for node, port in self.controllers.items())


class KafkaBroker(Server):
    """One node of a cluster, with its data in a folder of its own; nothing runs before `launch` or `start`.

    One that is paused for longer than its session's timeout is fenced.

    Attributes:
        node: Its number, from 1 on.
        ports: Where it listens.
        folder: Holds ``data``, ``server.properties`` and ``server.log``.
        settings: Over our own in ``server.properties``. Changes count from the next start on.
    """

    def __init__(
        self,
        *,
        programs: KafkaPrograms,
        node: int,
        ports: Ports,
        membership: Membership,
        folder: Path,
        password: str,
        account: Account,
        certificates: Certificates,
        heap_mb: int,
        java_options: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.node = node
        self.ports = ports
        self.folder = folder
        self.settings = dict(settings or {})
        self._programs = programs
        self._membership = membership
        self._password = password
        self._account = account
        self._certificates = certificates
        self._heap_mb = heap_mb
        self._java_options = java_options
        name = f"Kafka broker {node} in {folder}"
        self._process = ServerProcess(name=name, folder=folder, log=self.log, account=account)

    def start(self) -> None:
        """Starts the broker and waits until it serves. Only with a majority of the cluster up does it ever.

        Raises `ServiceError` with the end of its log if it does not come up.
        """
        if self.pid is None:
            self.launch()
            self.await_ready()

    def launch(self) -> None:
        """Starts the process, after formatting its storage if there is none, and does not wait until it serves."""
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._configure()
        self._account.own(self.folder)
        if not (self.folder / "data" / "meta.properties").exists():
            self._format()
        self._process.spawn(
            self._programs.command("kafka.Kafka", self._properties, heap_mb=self._heap_mb, options=self._java_options)
        )

    def await_ready(self) -> None:
        """Waits until a broker that was launched serves: it is registered with the controllers and not fenced."""
        self._process.await_ready(lambda: self._process.has_said("Kafka Server started"), READY_WITHIN_S)

    def stop(self) -> None:
        """Ends the broker in order: it hands its leaderships over first."""
        self._process.end(signal.SIGTERM, STOP_WITHIN_S)

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _format(self) -> None:
        data = self.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        user = f"SCRAM-SHA-512=[name={USER},password={self._password}]"
        options = ("--cluster-id", self._membership.cluster_id, "--config", self._properties, "--add-scram", user)
        formatted = run_to_end(
            self._programs.command("kafka.tools.StorageTool", "format", *options, heap_mb=FORMAT_HEAP_MB),
            cwd=self.folder,
            **self._account.popen(),
        )
        if formatted.returncode != 0:
            raise ServiceError(f"Kafka could not format {data}.\n{formatted.stdout}{formatted.stderr}")

    def _configure(self) -> None:
        """Writes the properties anew at every start, so that they are always those of this object."""
        # Kafka wants key and certificate in one file.
        keystore = self.folder / "server.keystore.pem"
        keystore.touch(mode=0o600)
        keystore.write_text(self._certificates.server_key.read_text() + self._certificates.server.read_text())
        truststore = self.folder / "authority.pem"
        shutil.copyfile(self._certificates.authority, truststore)
        nodes = len(self._membership.controllers)
        properties = {
            **_identity(self.node, self.ports, self._membership),
            **_security(keystore, truststore),
            **cluster_settings(nodes),
            "log.dirs": str(self.folder / "data"),
            **self.settings,
        }
        text = "# Written at every start; changes here are lost.\n"
        self._properties.write_text(text + "".join(f"{name}={value}\n" for name, value in properties.items()))


def _identity(node: int, ports: Ports, membership: Membership) -> dict[str, str]:
    listeners = {"PLAINTEXT": ports.plain, "SSL": ports.tls, "SASL_PLAINTEXT": ports.sasl, "SASL_SSL": ports.sasl_tls}
    return {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "controller.quorum.voters": membership.voters,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": _addresses({**listeners, "CONTROLLER": ports.controller}),
        "advertised.listeners": _addresses(listeners),
        "listener.security.protocol.map": ",".join(
            [*(f"{name}:{name}" for name in listeners), "CONTROLLER:PLAINTEXT"],
        ),
    }


def _addresses(listeners: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())


def _security(keystore: Path, truststore: Path) -> dict[str, str]:
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(truststore),
        "ssl.client.auth": "requested",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
    }


def cluster_settings(nodes: int) -> dict[str, str]:
    """What does not depend on where a broker lives: the same for one that Docker runs.

    Every partition is on up to three nodes, and written by two of them where there are three. The rest is less than
    the defaults, which are for a server that does nothing else: 50 partitions of each internal topic, three threads
    for each listener, and a cleaner's buffer of 128 MB, half the heap of a small broker.
    """
    copies, written = str(min(nodes, 3)), str(min(nodes, 2))
    return {
        "default.replication.factor": copies,
        "min.insync.replicas": written,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": written,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": written,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.num.partitions": "1",
        "num.network.threads": "2",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
        "group.initial.rebalance.delay.ms": "0",
        "message.max.bytes": str(10 << 20),
        # A topic that nobody made on purpose has none of the settings that the log depends on.
        "auto.create.topics.enable": "false",
    }
