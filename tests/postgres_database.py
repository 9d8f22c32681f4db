"""A database of a test's own on a real PostgreSQL server, and a writer on it that knows nothing of raypipe."""

from __future__ import annotations

import os
import time
import uuid
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

from pg8000.core import CoreConnection

GONE_WITHIN_S = 60.0


def connect(url: str) -> CoreConnection:
    """A connection to the database of a URL."""
    parts = urlsplit(url)
    return CoreConnection(
        parts.username,
        host=parts.hostname,
        port=parts.port,
        password=parts.password,
        database=parts.path.lstrip("/"),
        ssl_context=False,
        timeout=60,
    )


def run(url: str, statement: str) -> list[list]:
    """One statement on a connection of its own."""
    connection = connect(url)
    try:
        return connection.execute_simple(statement).rows or []
    finally:
        connection.close()


class Database:
    """A database of its own, dropped with its slots at the end.

    Args:
        server: URL of a superuser.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.name = f"t_{uuid.uuid4().hex[:16]}"
        self.slot = f"s_{self.name}"
        run(server, f"CREATE DATABASE {self.name}")
        self._writer = self.connect()

    def url_with(self, **options: str) -> str:
        """Of the database, read through a slot of this name unless another is given."""
        query = "&".join(f"{name}={value}" for name, value in {"slot": self.slot, **options}.items())
        return urlunsplit(urlsplit(self.server)._replace(path=f"/{self.name}", query=query))

    @property
    def url(self) -> str:
        return self.url_with()

    def connect(self) -> CoreConnection:
        """Another connection to it."""
        return connect(self.url)

    def rows(self, statement: str) -> list[list]:
        """Runs a statement by itself; returns its rows."""
        return self._writer.execute_simple(statement).rows or []

    def write(self, *statements: str) -> None:
        """Runs statements in one transaction."""
        self._transaction(statements, "COMMIT")

    def roll_back(self, *statements: str) -> None:
        """Runs statements in a transaction that comes to nothing."""
        self._transaction(statements, "ROLLBACK")

    def _transaction(self, statements: tuple[str, ...], end: str) -> None:
        try:
            for statement in ("BEGIN", *statements, end):
                self._writer.execute_simple(statement)
        except BaseException:
            self._writer.execute_simple("ROLLBACK")
            raise

    def reconnect(self) -> None:
        """After the server was away."""
        self.abandon()
        self._writer = self.connect()

    def abandon(self) -> None:
        """Closes the connection of a server that is thrown away with everything on it."""
        sock = self._writer._usock
        with suppress(Exception):
            self._writer.close()
        if sock is not None and (handle := sock.detach()) >= 0:
            os.close(handle)

    def close(self) -> None:
        with suppress(Exception):
            self._writer.close()
        drop_slots(self.server, self.name)
        run(self.server, f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")


def drop_slots(server: str, database: str) -> None:
    """Ends the readers of a database's slots and drops the slots."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while time.monotonic() < deadline:
        slots = run(server, f"SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = '{database}'")
        if not slots:
            return
        for slot, pid in slots:
            with suppress(Exception):  # it ends, or is dropped, at the same moment
                run(
                    server,
                    f"SELECT pg_terminate_backend({pid})" if pid else f"SELECT pg_drop_replication_slot('{slot}')",
                )
    raise AssertionError(f"slots of {database} are still there")
