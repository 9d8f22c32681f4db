"""The one folder that all servers of a checkout live in: data, logs, jars, certificates, the password, the ports."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.services.account import Account, ordinary_account
from cluster.services.certificates import Certificates, make_certificates
from cluster.services.connect.programs import ConnectPrograms, find_connect
from cluster.services.kafka.programs import KafkaPrograms, find_kafka
from cluster.services.ports import claimed_ports, is_free
from cluster.services.postgres import CERTIFIED, PostgresPrograms, find_postgres
from cluster.services.process import ServiceError

ROOT = Path(__file__).parents[2]

# Another folder than var/services of the checkout, for instance one for several checkouts.
FOLDER = "RAYPIPE_SERVICES"

# Where the folder goes if an ordinary user cannot enter the checkout, as below root's home.
OUTSIDE = Path("/var/tmp")


class NotInstalled(ServiceError):
    """A server's programs are not on this machine."""


@dataclass(frozen=True)
class Home:
    """A folder that the servers' account may enter, with what servers share.

    Attributes:
        folder: Absolute, without symbolic links.
        account: Who servers run as.
    """

    folder: Path
    account: Account

    @cached_property
    def password(self) -> str:
        """Of the superuser of each PostgreSQL and of Kafka's SASL user; chosen by chance once, in ``password``."""
        path = self.folder / "password"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(f"{secrets.token_urlsafe(18)}\n")
        return path.read_text().strip()

    @cached_property
    def certificates(self) -> Certificates:
        """For TLS, made once."""
        return make_certificates(self.folder / "tls", client_name=CERTIFIED)

    def postgres(self, major: int) -> PostgresPrograms:
        """Where a PostgreSQL is that the account can run. Raises `NotInstalled`."""
        found = find_postgres(major)
        if found is None:
            raise NotInstalled(f"PostgreSQL {major} is not installed: make services")
        if self.account.can_enter(found.bin):
            return found
        # A wheel in an environment below root's home: the account gets a copy, with the libraries where programs look
        # for them, in a folder beside that of the package.
        installation, copy = found.bin.parent, self.folder / f"programs-{found.version()}"
        package, libraries = installation.parent, installation.parent.with_suffix(".libs")
        if not copy.exists():
            unfinished = copy.with_name(f"{copy.name}.making")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(installation, unfinished / package.name / installation.name, symlinks=True)
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
            unfinished.rename(copy)
        return PostgresPrograms(major=major, bin=copy / package.name / installation.name / "bin", tls=found.tls)

    @property
    def kafka_folder(self) -> Path:
        """Where Kafka's jars are installed."""
        return self.folder / "kafka"

    def kafka_installed(self) -> bool:
        """Whether nothing of Kafka is missing."""
        return find_kafka(self.kafka_folder) is not None

    def kafka(self) -> KafkaPrograms:
        """Where Kafka is. Raises `NotInstalled`."""
        found = find_kafka(self.kafka_folder)
        if found is None:
            raise NotInstalled("Kafka is not installed: make services")
        return found

    @property
    def connect_folder(self) -> Path:
        """Where the jars of Connect and of Debezium are installed."""
        return self.folder / "connect"

    def connect(self) -> ConnectPrograms:
        """Where Connect and Debezium are. Raises `NotInstalled`."""
        found = find_connect(self.connect_folder)
        if found is None:
            raise NotInstalled("Kafka Connect and Debezium are not installed: make services")
        return found

    def ports(self, name: str, preferred: Mapping[str, int], running: Callable[[], bool]) -> dict[str, int]:
        """The ports of a server of this folder by their purpose: those of last time, or the preferred ones.

        While the server does not run, a port that somebody else listens on is replaced by a free one.
        """
        path = self.folder / "ports.json"
        known: dict[str, dict[str, int]] = json.loads(path.read_text()) if path.exists() else {}
        ports = known.get(name, dict(preferred))
        if running():
            return ports
        taken = [purpose for purpose, port in ports.items() if not is_free(port)]
        with claimed_ports(len(taken)) as free:
            ports |= dict(zip(taken, free, strict=True))
        if ports != known.get(name):
            unfinished = path.with_suffix(".making")
            unfinished.write_text(json.dumps({**known, name: ports}, indent=2) + "\n")
            unfinished.rename(path)
        return ports

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lets one process at a time install, start or stop the servers of this folder; others wait."""
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def open_home(folder: Path | None = None) -> Home:
    """The home in a folder; by default that of the environment's ``RAYPIPE_SERVICES``, or ``var/services``.

    Raises:
        ServiceError: An ordinary user cannot enter the folder, and it is not empty.
    """
    account = ordinary_account()
    chosen = (folder or Path(os.environ.get(FOLDER) or ROOT / "var" / "services")).absolute()
    if chosen.is_symlink() and not chosen.exists():
        chosen.unlink()  # somebody has cleaned up where it led
    chosen.mkdir(parents=True, exist_ok=True)
    folder = chosen.resolve()
    return Home(folder if account.can_enter(folder) else _outside(chosen), account)


def _outside(chosen: Path) -> Path:
    """Moves an empty folder to where the account can enter it, and leaves a link."""
    if chosen.is_symlink() or any(chosen.iterdir()):
        raise ServiceError(f"The user nobody cannot enter {chosen}: name another folder in {FOLDER}.")
    outside = OUTSIDE / f"raypipe-services-{hashlib.sha256(bytes(chosen)).hexdigest()[:12]}"
    outside.mkdir(mode=0o755, exist_ok=True)
    if outside.is_symlink() or outside.stat().st_uid != os.geteuid():
        raise ServiceError(f"{outside} belongs to somebody else: name another folder in {FOLDER}.")
    chosen.rmdir()
    chosen.symlink_to(outside)
    return outside.resolve()
