"""SIGKILL of the reader at every step of its protocol, and connections that break: nothing lost, doubled or torn."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from postgres_database import Database
from reading import Reading, writers
from test_postgres_pipeline import PIPELINE, SCHEMA, trade, wrong

from raypipe import faults
from raypipe.cli.exits import Exit
from raypipe.errors import Directive, RaypipeError
from raypipe.local.assemble import assemble
from raypipe.spec import load
from raypipe.verify import verify

READER_POINTS = [point for point in faults.POINTS if point.startswith(("source.", "log.append", "log.commit"))]
WITHIN_S = 90


class Run:
    """The pipeline over a database, as processes that can be killed."""

    def __init__(self, database: Database, folder: Path) -> None:
        database.write(*SCHEMA)
        self.file = folder / "pipeline.yaml"
        self.file.write_text(PIPELINE.format(url=database.url) + "limits: {poll_bytes: 65536}\n")
        self.fired = folder / "fired"

    def run(self, armed: str = "", until: str = "idle") -> tuple[int, str]:
        environment = os.environ | {"RAYPIPE_FAULTS": armed, "RAYPIPE_FAULTS_FIRED": str(self.fired)}
        ended = subprocess.run(
            [sys.executable, "-m", "raypipe", "run", str(self.file), "--local", "--until", until],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=WITHIN_S,
        )
        return ended.returncode, ended.stdout

    def check(self) -> None:
        assert wrong(verify(assemble(load(self.file)))) == {}


@pytest.mark.chaos
def test_a_reader_killed_at_every_point_of_its_protocol_loses_and_doubles_nothing(postgres18, tmp_path, seed):
    database = Database(postgres18.url)
    try:
        pipeline = Run(database, tmp_path)
        chance = random.Random(seed)
        with writers(database, 2, seed, trade):
            for point in READER_POINTS:
                code, output = pipeline.run(f"{point}=kill@{chance.randint(1, 6)}", until="forever")
                assert code == -signal.SIGKILL, output
        assert {line.split()[0] for line in pipeline.fired.read_text().splitlines()} == set(READER_POINTS)
        pipeline.check()
    finally:
        database.close()


@pytest.mark.chaos
def test_a_reader_that_acknowledges_too_early_is_found_out_by_its_successor(postgres18, tmp_path):
    database = Database(postgres18.url)
    try:
        pipeline = Run(database, tmp_path)
        assert pipeline.run()[0] == 0
        database.write("INSERT INTO orders VALUES (70000, 1, 1, 'paid', 'x')")
        code, output = pipeline.run("mutant.acknowledge_early=skip,log.commit.before=kill")
        assert code == -signal.SIGKILL, output
        code, output = pipeline.run()
        assert "somebody else reads or advances it" in output
        assert code not in (0, Exit.INTERRUPTED)
    finally:
        database.close()


# The way between


class Proxy:
    """A way to the server that can be cut, reset, or made to hang."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.hangs = threading.Event()
        self._closed = threading.Event()
        self._ended = 0  # connections made before this many breaks are to end
        self._resets = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        ways: dict[socket.socket, socket.socket] = {}
        ended = 0
        while not self._closed.is_set():
            if ended != self._ended:
                ended = self._ended
                self._end(ways)
            if self.hangs.is_set():
                self._closed.wait(0.01)
                continue
            for each in select.select([self._listener, *ways], [], [], 0.01)[0]:
                if each is self._listener:
                    client, server = each.accept()[0], socket.create_connection(("127.0.0.1", self._port))
                    ways |= {client: server, server: client}
                elif each in ways:
                    self._carry(ways, each)
        self._end(ways)
        self._listener.close()

    def _carry(self, ways: dict[socket.socket, socket.socket], one: socket.socket) -> None:
        other = ways[one]
        try:
            part = one.recv(1 << 14)
            if part:
                other.sendall(part)
                return
        except OSError:
            pass
        for each in (one, other):
            del ways[each]
            each.close()

    def _end(self, ways: dict[socket.socket, socket.socket]) -> None:
        for each in ways:
            if self._resets:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
        ways.clear()

    def cut(self) -> None:
        """Both sides see their connections end."""
        self._ended += 1

    def reset(self) -> None:
        """Both sides see a reset."""
        self._resets = True
        self._ended += 1

    def close(self) -> None:
        self._closed.set()
        self._thread.join()


@contextmanager
def through_proxy(database: Database, *tables: str):
    parts = urlsplit(database.url)
    with closing(Proxy(parts.port)) as proxy:
        way = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}")))
        reading = Reading(database, tables)
        kind = type(reading.source)
        reading._make = lambda: kind("shop", way, tables)
        reading.source = reading._make()
        try:
            yield proxy, reading
        finally:
            reading.close()


@pytest.mark.parametrize("break_off", ["cut", "reset"])
def test_a_connection_that_breaks_at_any_moment_costs_nothing(database, break_off, seed):
    database.write("CREATE TABLE a(id int PRIMARY KEY, body text)", "CREATE TABLE n(body text)")
    database.write("ALTER TABLE n REPLICA IDENTITY FULL", "INSERT INTO a SELECT g, 'x' FROM generate_series(1, 3000) g")
    chance = random.Random(seed)
    with through_proxy(database, "a", "n") as (proxy, reading):
        reading.open()
        directives: list[Directive] = []
        for turn in range(12):
            database.write(f"INSERT INTO n SELECT 'r' || g FROM generate_series(1, {chance.randint(1, 900)}) g")
            database.write(f"UPDATE a SET body = 'y{turn}' WHERE id % 7 = {turn % 7}")
            timer = threading.Timer(chance.uniform(0, 0.05), getattr(proxy, break_off))
            timer.start()
            try:
                while reading.step(20_000) is not None or reading.loading or not reading.whole:
                    pass
            except RaypipeError as error:
                directives.append(error.directive)
            finally:
                timer.join()
            for _ in range(50):
                with suppress(RaypipeError):
                    reading.open()
                    break
        assert set(directives) == {Directive.RETRY}
        reading.until_loaded().agree()


@pytest.mark.parametrize("database", ["postgres18"], indirect=True)
def test_a_reader_behind_a_way_that_hangs_makes_way_for_one_that_is_well(database):
    """Its connection is half open: the server has not noticed, and the slot is still held."""
    database.write("CREATE TABLE a(id int PRIMARY KEY)")
    with through_proxy(database, "a") as (proxy, stuck):
        stuck.open().until_loaded()
        proxy.hangs.set()
        try:
            successor = Reading(database, ("a",))
            successor.position, successor.held = stuck.position, stuck.held
            database.write("INSERT INTO a VALUES (1)")
            successor.open().drain()
            assert successor.ops("a")
            successor.agree()
            successor.close()
        finally:
            proxy.hangs.clear()
