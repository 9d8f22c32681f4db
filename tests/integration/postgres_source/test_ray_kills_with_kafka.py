"""The production path on Ray: PostgreSQL, a log in Kafka, steps, stores; reader and sink actors die under load."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from postgres_database import Database
from reading import writers
from test_postgres_pipeline import PIPELINE, SCHEMA, trade, wrong

from cluster.services.kafka import KafkaCluster
from raypipe.engine.status import STATUS_NOTE, Status
from raypipe.local.assemble import assemble
from raypipe.log import open_existing_log
from raypipe.plan.model import Plan
from raypipe.spec import load
from raypipe.verify import verify

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]

DEADLINE_S = 180.0


class RayRun:
    """The pipeline on a Ray of its own, and what it says of itself in the log."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.plan: Plan = assemble(load(file))
        self.process = self._raypipe("--until", "forever")

    def _raypipe(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "raypipe", "run", str(self.file), *options],
            env=os.environ | {"RAYPIPE_FAULTS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def actors(self, kind: str) -> set[int]:
        """Processes that host an actor of a kind."""
        found = set()
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if f"ray::{kind}" in " ".join(process.cmdline()):
                    found.add(process.pid)
            except psutil.Error:
                continue
        return found

    def cuts(self) -> list[int]:
        """Of each sink, 0 if it holds none; empty before the run has told of itself."""
        with closing(open_existing_log(self.plan.log, pipeline=self.plan.pipeline)) as log:
            text = log.notes(STATUS_NOTE).get(STATUS_NOTE)
        return [sink.cut or 0 for sink in Status.from_json(text).sinks] if text is not None else []

    def await_progress(self) -> None:
        """Until every sink holds a later cut than any held before."""
        before = max(self.cuts(), default=0)
        self.wait_until(lambda: bool(cuts := self.cuts()) and min(cuts) > before, f"progress beyond cut {before}")

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
        while not holds():
            assert self.process.poll() is None, f"the run ended: {self.process.communicate()[0]}"
            assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S:.0f} s"
            pause.wait(0.1)

    def stop(self) -> None:
        self.process.terminate()
        output, _ = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode in (0, 143), output

    def settle(self) -> None:
        """Goes on where the run ended, in one process, until there is nothing left to do."""
        process = self._raypipe("--local", "--until", "idle")
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, output

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def file(database: Database, kafka: KafkaCluster, tmp_path: Path) -> Path:
    database.write(*SCHEMA)
    name = f"rayshop{uuid.uuid4().hex[:8]}"
    log = f"kafka://{kafka.bootstrap}?partitions=2&debezium=shop.events"
    path = tmp_path / "pipeline.yaml"
    text = PIPELINE.format(url=database.url)
    path.write_text(text.replace("sqlite:///log.db", log).replace("pipeline: postgres_shop", f"pipeline: {name}"))
    return path


@pytest.fixture
def run(file: Path) -> Iterator[RayRun]:
    started = RayRun(file)
    yield started
    started.close()


@pytest.mark.parametrize("database", ["postgres18"], indirect=True)
def test_postgres_to_kafka_to_stores_on_ray_survives_the_death_of_its_reader_and_of_a_sink(
    database: Database, run: RayRun, seed: int
) -> None:
    pause = threading.Event()

    def unhurried(chance: random.Random) -> list[str]:
        pause.wait(0.02)
        return trade(chance)

    run.wait_until(lambda: len(run.actors("SinkActor")) >= 2 and bool(run.actors("ReaderActor")), "the actors")
    with writers(database, 2, seed, unhurried):
        run.await_progress()
        for kind in ("ReaderActor", "SinkActor"):
            victim = min(run.actors(kind))
            psutil.Process(victim).kill()
            run.wait_until(
                lambda kind=kind, victim=victim: victim not in run.actors(kind) and bool(run.actors(kind)),
                f"a new {kind}",
            )
            run.await_progress()
        run.stop()
    run.settle()
    report = verify(run.plan)
    assert wrong(report) == {}
    assert len(report.tables) == 5
