"""Private servers behind ways that can be broken, and an arena on them: writers, readers, followers, one history."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from anomalies import Anomaly, Kind, Outcome, Poll, Write, anomalies
from followers import CutFollower, Follower, RecordFollower, Row
from journal_process import SCHEMA, TABLES
from postgres_database import run
from ways import Way, Ways

from cluster.services.home import Home
from cluster.services.kafka import KafkaCluster
from cluster.services.postgres import PostgresServer
from cluster.services.servers import private_kafka, private_postgres

HERE = Path(__file__).parent
PARTITIONS = 3
BROKERS = 3
DEADLINE_S = 120.0
FENCED, STOPPED = 3, 4
# A broker that was killed is let in again when its session has ended.
BROKER_SETTINGS = {
    "broker.session.timeout.ms": "3000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
}
POSTGRES_SETTINGS = {"wal_sender_timeout": "5s"}


def wait_until(holds, what: str, deadline_s: float = DEADLINE_S) -> None:
    """Polls a condition."""
    deadline, pause = time.monotonic() + deadline_s, threading.Event()
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {deadline_s:.0f} s"
        pause.wait(0.02)


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Servers, and the ways to them that readers and followers take."""

    postgres: PostgresServer
    kafka: KafkaCluster
    to_postgres: Way
    to_brokers: tuple[Way, ...]

    @property
    def kafka_servers(self) -> str:
        return ",".join(f"127.0.0.1:{way.port}" for way in self.to_brokers)

    def log_url(self) -> str:
        user = f"{self.kafka.user}:{quote(self.kafka.password, safe='')}"
        options = f"partitions={PARTITIONS}&replication_factor={BROKERS}&debezium=shop.public.notes"
        return f"kafka+sasl://{user}@{self.kafka_servers}?mechanism=SCRAM-SHA-512&{options}"

    def consumer_settings(self) -> dict[str, object]:
        return {
            "bootstrap.servers": self.kafka_servers,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": self.kafka.user,
            "sasl.password": self.kafka.password,
        }


@contextmanager
def opened_lab(home: Home) -> Iterator[Lab]:
    """Starts everything. Raises ``NotInstalled``."""
    ways, found = Ways(), []

    def lead(cluster: KafkaCluster) -> None:
        """Has clients of the SASL ports come by our ways; brokers talk to each other by their own."""
        for broker in cluster.brokers:
            way, ports = ways.to(broker.ports.sasl), broker.ports
            found.append(way)
            broker.settings["advertised.listeners"] = (
                f"PLAINTEXT://127.0.0.1:{ports.plain},SSL://127.0.0.1:{ports.tls},"
                f"SASL_PLAINTEXT://127.0.0.1:{way.port},SASL_SSL://127.0.0.1:{ports.sasl_tls}"
            )

    try:
        with (
            private_postgres(home, 18, POSTGRES_SETTINGS) as postgres,
            private_kafka(home, brokers=BROKERS, settings=BROKER_SETTINGS, before_start=lead) as kafka,
        ):
            yield Lab(postgres=postgres, kafka=kafka, to_postgres=ways.to(postgres.port), to_brokers=tuple(found))
    finally:
        ways.close()


class Lines:
    """What a process says, line by line, read by a thread of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    def join(self) -> None:
        self._thread.join(timeout=DEADLINE_S)


class ReaderProcess:
    """A reader of the arena's database."""

    def __init__(self, arena: Arena, faults: str = "", mutant: str = "") -> None:
        self.fired = arena.folder / f"fired-{uuid.uuid4().hex[:8]}"
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(HERE / "reader_process.py"), arena.source_url, arena.log_url),
                *(arena.pipeline, ",".join(TABLES), *([mutant] if mutant else [])),
            ],
            env=os.environ | {"RAYPIPE_FAULTS": faults, "RAYPIPE_FAULTS_FIRED": str(self.fired)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines = Lines(self.process)

    @property
    def said(self) -> list[str]:
        return self._lines.lines

    def await_fault(self, name: str) -> None:
        wait_until(lambda: self.fired.exists() and name in self.fired.read_text(), name)

    def await_state(self, state: str) -> None:
        wait_until(lambda: self._stands(state), f"a reader that is {state}")

    def _stands(self, state: str) -> bool:
        assert self.process.poll() is None, f"the reader ended with {self.process.returncode}: {self.said[-5:]}"
        return any(line.startswith(state) for line in self.said)

    def await_end(self) -> int:
        wait_until(lambda: self.process.poll() is not None, f"the end of a reader that said {self.said[-5:]}")
        self._lines.join()
        return self.process.returncode

    def signal(self, which: signal.Signals) -> None:
        self.process.send_signal(which)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._lines.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Journal:
    """The writers, and what they say of each transaction."""

    def __init__(self, url: str, seed: int, writers: int, per_second: float) -> None:
        self.writes: list[Write] = []
        self._held: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "journal_process.py"), url, str(seed), str(writers), str(per_second)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == "held\n":
                self._held.put("held")
                continue
            fields = json.loads(line)
            self.writes.append(
                Write(
                    writer=fields["writer"],
                    number=fields["number"],
                    outcome=Outcome(fields["outcome"]),
                    values=tuple(map(tuple, fields["values"])),
                )
            )

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No transaction is under way meanwhile."""
        self._say("hold")
        self._held.get(timeout=DEADLINE_S)
        try:
            yield
        finally:
            self._say("go")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._thread.join()
        self._process.stdin.close()
        self._process.stdout.close()


class Arena:
    """A database, a pipeline and everybody who works on them."""

    def __init__(self, lab: Lab, folder: Path, seed: int, *, writers: int = 3, per_second: float = 25.0) -> None:
        self.lab = lab
        self.folder = folder
        name = f"n{uuid.uuid4().hex[:10]}"
        self.pipeline = self.database = name
        run(lab.postgres.url, f"CREATE DATABASE {name}")
        self.direct_url = urlunsplit(urlsplit(lab.postgres.url)._replace(path=f"/{name}"))
        for statement in SCHEMA:
            run(self.direct_url, statement)
        parts = urlsplit(self.direct_url)
        way = parts.netloc.replace(f":{lab.postgres.port}", f":{lab.to_postgres.port}")
        self.source_url = urlunsplit(parts._replace(netloc=way, query=f"slot=s_{name}"))
        self.log_url = lab.log_url()
        self.readers: list[ReaderProcess] = []
        self.reader = self.start_reader()
        self.reader.await_state("settled")
        self.records = RecordFollower(lab.consumer_settings(), self.pipeline, list(TABLES), PARTITIONS)
        self.followers: tuple[Follower, ...] = (
            self.records,
            CutFollower(self.log_url, self.pipeline, list(TABLES)),
        )
        for follower in self.followers:
            follower.start()
        self.journal = Journal(self.direct_url, seed, writers, per_second)
        self._episode = [0] * (1 + len(self.followers))  # where each list stood at the last check

    def start_reader(self, faults: str = "", mutant: str = "") -> ReaderProcess:
        """One more; whoever was the reader is fenced by it."""
        self.reader = ReaderProcess(self, faults, mutant)
        self.readers.append(self.reader)
        return self.reader

    def await_progress(self) -> None:
        """Until every follower has polled something more."""
        polls = [len(follower.polls) for follower in self.followers]
        wait_until(
            lambda: (
                all(len(follower.polls) > before for follower, before in zip(self.followers, polls, strict=True))
                or any(follower.failure for follower in self.followers)
            ),
            "progress",
        )

    def told(self) -> list[str]:
        """What the reader said, and which errors the followers met."""
        said = [line for line in self.reader.said if line.strip() not in ("streaming", "settled")]
        return [*said, *(f"{each.name}: {error}" for each in self.followers for error in each.again[-3:])]

    def source(self) -> Counter[tuple[str, Row]]:
        """The rows of the tables now."""
        found: Counter[tuple[str, Row]] = Counter()
        for table in TABLES:
            for row in run(self.direct_url, f"SELECT id, token, pad FROM {table}"):
                found[table, tuple(row)] += 1
        return found

    def check(self, deadline_s: float = DEADLINE_S, wanted: Collection[Kind] = ()) -> list[Anomaly]:
        """Lets everything come to rest and tells what is wrong with what happened since the last check.

        The writers hold, the followers get what the journal says was committed (or not, in time); then the histories
        are compared, and the fold of all records with the tables.

        Args:
            deadline_s: What has not come by then is missing.
            wanted: These kinds are waited for beyond that: a reader that does wrong may be slow to do it.
        """
        with self.journal.held():
            source = self.source()

            def at_rest() -> bool:
                if any(follower.failure for follower in self.followers) or not self._reads():
                    return True
                return self.records.rows() == source and not self._unseen()

            def found() -> list[Anomaly]:
                return [*anomalies(*self._since_last_check()), *_differences(self.records.rows(), source)]

            with suppress(AssertionError):  # what did not come in time is told below
                wait_until(at_rest, "rest", deadline_s)
            with suppress(AssertionError):
                wait_until(lambda: {anomaly.kind for anomaly in found()}.issuperset(wanted), "what is wrong")
            told = found()
            self._episode = [len(self.journal.writes), *(len(follower.polls) for follower in self.followers)]
        return told

    def _reads(self) -> bool:
        return self.reader.process.poll() is None

    def _since_last_check(self) -> tuple[list[Write], list[Poll]]:
        at, *polled = self._episode
        polls = [
            poll for follower, before in zip(self.followers, polled, strict=True) for poll in follower.polls[before:]
        ]
        return self.journal.writes[at:], polls

    def _unseen(self) -> bool:
        at, *polled = self._episode
        committed = {
            value for write in self.journal.writes[at:] if write.outcome is Outcome.COMMITTED for value in write.values
        }
        return any(
            committed - {record.value for poll in follower.polls[before:] for record in poll.records}
            for follower, before in zip(self.followers, polled, strict=True)
        )

    def whole_history(self) -> list[Anomaly]:
        """What is wrong with everything up to the last check."""
        at, *polled = self._episode
        polls = [poll for follower, upto in zip(self.followers, polled, strict=True) for poll in follower.polls[:upto]]
        return anomalies(self.journal.writes[:at], polls)

    def close(self) -> None:
        self.journal.close()
        for reader in self.readers:
            reader.kill()
        for follower in self.followers:
            follower.close()


def _differences(log: Counter[tuple[str, Row]], source: Counter[tuple[str, Row]]) -> list[Anomaly]:
    """Where the fold of the log is not what the source holds."""
    found = []
    for kind, rows in ((Kind.LOST_ROW, source - log), (Kind.FALSE_ROW, log - source), (Kind.FALSE_ROW, -log)):
        if rows:
            found.append(Anomaly(kind, f"{len(rows)} rows, such as {next(iter(rows))}"))
    return found


def wrong(found: Sequence[Anomaly]) -> dict[str, tuple[int, str]]:
    """How often each anomaly was found, with an example."""
    counts = Counter(anomaly.kind for anomaly in found)
    return {
        kind.value: (count, next(anomaly.example for anomaly in found if anomaly.kind is kind))
        for kind, count in counts.items()
    }
