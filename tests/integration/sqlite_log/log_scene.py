"""What the tests of the SQLite log share: small batches, commits, and what a log holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from raypipe.contracts import Log, LogBatch
from raypipe.log import open_log
from raypipe.log.sqlite import SqliteLog
from raypipe.model import ChangeBatch, Claim, Column, Cut, Op, TableName, TableSchema

TOPIC = "p.shop.main.t"
DEADLINE_S = 60.0

_SCHEMA = TableSchema(
    table=TableName("shop", "main", "t"),
    columns=(Column(name="id", type=pa.int64()), Column(name="body", type=pa.binary())),
    key=("id",),
)


def changes(*ids: int, body: bytes = b"", op: Op = Op.INSERT) -> ChangeBatch:
    """A batch of one row for each id."""
    count = len(ids)
    columns = [[int(op)] * count, [0] * count, list(ids), [0] * count, [None] * count, list(ids), [body] * count]
    arrow = ChangeBatch.arrow_schema(_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, arrow, strict=True)]
    return ChangeBatch(schema=_SCHEMA, rows=pa.record_batch(arrays, schema=arrow))


def opened(path: Path) -> SqliteLog:
    """The log at a path."""
    return open_log(f"sqlite:///{path}", pipeline="p")


def put(log: Log, claim: Claim, position: str, *ids: int, body: bytes = b"") -> Cut:
    """Commits one batch as one transaction of instance ``shop``."""
    transaction = log.begin("shop", claim)
    transaction.append(TOPIC, changes(*ids, body=body))
    cut = transaction.commit(position, boundary=True)
    assert cut is not None
    return cut


def stored(log: Log, after: Cut | None = None) -> list[LogBatch]:
    """Everything the last cut covers after another one."""
    upto = log.last_cut()
    if upto is None:
        return []
    return [batch for part in log.slices(after, upto, tuple(upto.offsets), 1 << 20) for batch in log.read(part)]


def ids(batches: list[LogBatch]) -> list[int]:
    """The ids in the batches, in order."""
    return [number for batch in batches for number in batch.batch.rows.column("id").to_pylist()]


def start_writer(path: Path, *arguments: object, faults: str = "", fired: Path | None = None) -> subprocess.Popen[str]:
    """Starts ``writer_process.py`` on a log."""
    environment = os.environ | {"RAYPIPE_FAULTS": faults} | ({"RAYPIPE_FAULTS_FIRED": str(fired)} if fired else {})
    script = Path(__file__).with_name("writer_process.py")
    return subprocess.Popen(
        [sys.executable, str(script), str(path), *map(str, arguments)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
