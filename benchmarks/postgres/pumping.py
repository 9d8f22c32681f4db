"""raypipe's side: a reader's real way from PostgreSQL into committed Kafka transactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from benchmarks.harness import CannotRun
from benchmarks.postgres.lab import Lab
from raypipe.contracts import Piece, Source
from raypipe.engine.pump import Pump, PumpFigures
from raypipe.errors import MissingExtra
from raypipe.log import open_log
from raypipe.model import TableName
from raypipe.sources import open_source
from raypipe.spec.limits import Limits

PIPELINE = "bench"
INSTANCE = "shop"
# Nothing here takes that long; what does has stopped.
WITHIN_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Raypipe:
    """A pipeline's reader, as the pipeline file would describe it: all settings are the defaults.

    Attributes:
        lab: Whose PostgreSQL it reads, into whose Kafka.
        tables: To capture, in schema public.
        pipeline: Name; two pipelines of one lab do not know of each other.
    """

    lab: Lab
    tables: tuple[str, ...]
    pipeline: str = PIPELINE

    @property
    def log(self) -> str:
        """The log's URL."""
        return f"kafka://{self.lab.kafka.bootstrap}"

    def topic(self, table: str) -> str:
        """Where a table's batches go."""
        return TableName(INSTANCE, "public", table).topic(self.pipeline)

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """A reader with a claim of its own, which has not begun to read."""
        try:
            log = open_log(self.log, pipeline=self.pipeline)
        except MissingExtra as missing:
            raise CannotRun(str(missing)) from None
        with closing(log):
            claim = log.claim(self.pipeline)
            with closing(open_source(INSTANCE, self.lab.postgres.url, self.tables, pipeline=self.pipeline)) as source:
                yield Reading(source=source, pump=Pump(source, log, self.pipeline, claim, Limits().poll_bytes))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A reader at work.

    Attributes:
        source: Of the pump.
        pump: Moves pieces from the source to the log.
    """

    source: Source
    pump: Pump

    def load(self) -> None:
        """Begins where the log stands, and moves pieces until no table is loading."""
        self.pump.open()
        self._advance(lambda piece: not piece.loading)

    def catch_up(self, images: int) -> None:
        """Begins where the log stands, and moves pieces until the log has so many more row images, committed."""
        self.pump.open()
        self._advance(lambda piece: piece.boundary and self.pump.figures.rows >= images)
        if self.pump.figures.rows != images:
            raise RuntimeError(f"the log has {self.pump.figures.rows:,} row images instead of {images:,}")

    def _advance(self, done: Callable[[Piece], bool]) -> None:
        deadline = time.monotonic() + WITHIN_S
        while True:
            piece = self.pump.advance()
            if piece is not None and done(piece):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"raypipe stopped after {self.pump.figures.rows:,} row images")


def shares(figures: PumpFigures) -> str:
    """How long a pump's stages were at work, for a note."""
    return ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in figures.seconds.items())


def raypipe(lab: Lab, tables: Sequence[str], pipeline: str = PIPELINE) -> Raypipe:
    """A reader of some tables, which are read as they stand; later changes wait for it."""
    reader = Raypipe(lab=lab, tables=tuple(tables), pipeline=pipeline)
    with reader.reading() as reading:
        reading.load()
    return reader
