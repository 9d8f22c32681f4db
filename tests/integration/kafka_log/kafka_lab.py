"""Small pieces that the tests of the Kafka log share: batches, transactions, and what a log holds."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import pyarrow as pa

from raypipe.contracts import LogBatch
from raypipe.log.kafka import KafkaLog
from raypipe.model import ChangeBatch, Claim, Column, Cut, Op, TableName, TableSchema

DEADLINE_S = 60.0

SCHEMA = TableSchema(
    table=TableName("shop", "main", "t"),
    columns=(Column(name="id", type=pa.int64(), declared="INTEGER"), Column(name="body", type=pa.binary())),
    key=("id",),
)


def new_pipeline() -> str:
    """A name no other test has: its topics are this test's own."""
    return f"t{uuid.uuid4().hex[:10]}"


def topic(pipeline: str, table: str = "t") -> str:
    return f"{pipeline}.shop.main.{table}"


def changes(*ids: int, op: Op = Op.INSERT, body: bytes = b"") -> ChangeBatch:
    arrow = ChangeBatch.arrow_schema(SCHEMA)
    count = len(ids)
    columns = [[int(op)] * count, [0] * count, list(ids), [0] * count, [None] * count, list(ids), [body] * count]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, arrow, strict=True)]
    return ChangeBatch(schema=SCHEMA, rows=pa.record_batch(arrays, schema=arrow))


def put(log: KafkaLog, claim: Claim, position: str, *ids: int, boundary: bool = True, body: bytes = b"") -> Cut:
    transaction = log.begin("shop", claim)
    transaction.append(topic(claim.pipeline), changes(*ids, body=body))
    transaction.commit(position, boundary=boundary)
    cut = log.last_cut()
    assert cut is not None or not boundary
    return cut or Cut(number=0, log=log.identity, offsets={}, positions={})


def stored(
    log: KafkaLog, after: Cut | None = None, upto: Cut | None = None, max_bytes: int = 1 << 20
) -> list[LogBatch]:
    upto = upto or log.last_cut()
    if upto is None:
        return []
    topics = sorted({key.partition("/")[0] for key in upto.offsets})
    return [batch for part in log.slices(after, upto, topics, max_bytes) for batch in log.read(part)]


def ids(batches: list[LogBatch]) -> list[int]:
    return [number for batch in batches for number in batch.batch.rows.column("id").to_pylist()]


def wait_until(holds: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Polls a condition."""
    deadline = time.monotonic() + deadline_s
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {deadline_s:.0f} s"
        pause.wait(0.02)
