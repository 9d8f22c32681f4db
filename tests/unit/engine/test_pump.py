"""A pump has the log let its writer in while the source is opened, and tells of what went wrong there."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pytest

from raypipe.contracts import Piece
from raypipe.engine.pump import Pump
from raypipe.errors import Fenced
from raypipe.model import ChangeBatch, Claim, Column, TableName, TableSchema
from raypipe.sources.postgres.captured import read_batch

WITHIN_S = 60.0
CLAIM = Claim(pipeline="p", run=1, generation=1)
SCHEMA = TableSchema(
    table=TableName("shop", "public", "orders"),
    columns=(Column(name="id", type=pa.int64(), declared="bigint"),),
    key=("id",),
    version=1,
)


class Shop:
    """A source of one piece, which the log may have to wait for."""

    instance = "shop"

    def __init__(self, pieces: int) -> None:
        self.left = pieces
        self.acknowledged: list[str] = []
        self.opened = threading.Event()

    def open(self, position: str | None, reload: Collection[str] = ()) -> None:
        self.opened.set()

    def poll(self, max_bytes: int, upto: str | None = None) -> Piece | None:
        if not self.left:
            return None
        self.left -= 1
        batch = read_batch(SCHEMA, [pa.array([1, 2, 3])], 1, 0)
        return Piece(batches=(batch,), position="there", boundary=True, loading=(), parked=0)

    def wait(self, timeout_s: float) -> bool:
        return bool(self.left)

    def acknowledge(self, position: str) -> None:
        self.acknowledged.append(position)


class Log:
    """A log that takes its time to let a writer in."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.calls: list[str] = []
        self.may_go_on = threading.Event()

    def position(self, instance: str) -> str | None:
        return None

    def size(self) -> int:
        self.calls.append("size")
        return 17

    def prepare(self, instance: str, claim: Claim) -> None:
        assert self.may_go_on.wait(WITHIN_S)
        self.calls.append("prepare")
        if self.refusal is not None:
            raise self.refusal

    def last_cut(self) -> None:
        self.calls.append("last_cut")

    def begin(self, instance: str, claim: Claim) -> Log:
        self.calls.append("begin")
        return self

    def append(self, topic: str, batch: ChangeBatch) -> None:
        self.calls.append("append")

    def commit(self, position: str, *, boundary: bool, loading: Collection[str] = ()) -> None:
        self.calls.append("commit")

    def abort(self) -> None:
        self.calls.append("abort")


def pump_of(source: Any, log: Any) -> Pump:
    return Pump(source, log, "p", CLAIM, 1 << 20)


def test_the_source_is_opened_and_read_while_the_log_lets_the_writer_in() -> None:
    source, log = Shop(1), Log()
    pump = pump_of(source, log)
    pump.open()
    assert source.opened.is_set()
    assert pump.at_work
    assert pump.log_bytes == 17
    log.may_go_on.set()
    moved = pump.advance()
    assert moved is not None
    assert pump.figures.rows == 3
    assert source.acknowledged == ["there"]
    assert [call for call in log.calls if call != "size"] == ["prepare", "begin", "append", "commit"]
    assert not pump.at_work


def test_what_a_log_refuses_a_writer_comes_out_of_its_first_piece() -> None:
    source, log = Shop(1), Log(Fenced("A later run has begun."))
    pump = pump_of(source, log)
    pump.open()
    log.may_go_on.set()
    with pytest.raises(Fenced):
        pump.advance()
    assert source.acknowledged == []
    assert "begin" not in log.calls
    pump.close()


def test_a_refused_writer_without_changes_hears_of_it_too() -> None:
    source, log = Shop(0), Log(Fenced("A later run has begun."))
    pump = pump_of(source, log)
    pump.open()
    assert pump.advance() is None  # the log has not answered yet
    log.may_go_on.set()
    with pytest.raises(Fenced):
        pump.finish()
    pump.close()


def test_a_pump_that_stands_still_asks_the_log_only_after_the_writer_is_in() -> None:
    log = Log()
    pump = pump_of(Shop(0), log)
    pump.open()
    assert pump.advance() is None
    log.may_go_on.set()
    assert not pump.stand_still()
    assert [call for call in log.calls if call != "size"] == ["prepare", "last_cut"]
    pump.close()
