"""``log_roundtrip``: what the log's promises cost over a plain file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa

from benchmarks.changes import ORDERS, updates
from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from raypipe.codec import Compression, encode
from raypipe.log import open_log
from raypipe.model import ChangeBatch

# As the reader works: polls of this many batches become one transaction (16 MiB in memory with these rows).
CHANGES_PER_BATCH = 16_384
BATCHES_PER_TRANSACTION = 4


class LogRoundtrip:
    """Append and read of change batches: encoded, compressed, checked, fenced, with cuts, all of it durable."""

    name = "log_roundtrip"
    about = (
        "Megabytes of Arrow change batches per second that are appended to the SQLite log, committed and read again."
    )
    figures = (
        Figure(
            name="log_roundtrip",
            unit="MB/s",
            beside="the same bytes, as Arrow lays them out, written to a plain file, synced as often, and read again",
            goal=Goal(text="ratio >= 0.3", of="ratio", at_least=0.3),
        ),
        Figure(
            name="log_roundtrip_packed",
            unit="MB/s",
            beside="a plain file given the bytes compressed already, which the log still has to do",
        ),
    )
    repetitions = Repetitions(full=5, quick=3)

    def run(self, folder: Path, size: Size) -> Samples:
        """Measures the files around the log."""
        batches = list(updates(64 if size is Size.FULL else 8, CHANGES_PER_BATCH))
        transactions = [
            batches[at : at + BATCHES_PER_TRANSACTION] for at in range(0, len(batches), BATCHES_PER_TRANSACTION)
        ]
        plain = [[encode(batch, Compression.NONE) for batch in transaction] for transaction in transactions]
        packed = [[encode(batch) for batch in transaction] for transaction in transactions]
        megabytes = _bytes(plain) / 1e6
        # Before and after, and the better counts: the first to write meets memory that nobody has touched yet.
        before_s = _file_seconds(folder / "before", plain), _file_seconds(folder / "before_packed", packed)
        appended_s, read_s = _log_seconds(folder / "log.db", transactions)
        after_s = _file_seconds(folder / "after", plain), _file_seconds(folder / "after_packed", packed)
        plain_s, packed_s = map(min, before_s, after_s)
        speed = megabytes / (appended_s + read_s)
        return Samples(
            by_figure={
                "log_roundtrip": Sample(value=speed, limit=megabytes / plain_s),
                "log_roundtrip_packed": Sample(value=speed, limit=megabytes / packed_s),
            },
            notes=(
                f"{megabytes:,.0f} MB of changes, {_bytes(packed) / 1e6:,.0f} MB stored (LZ4)",
                f"{len(transactions)} transactions, each durable before the next",
                f"append {megabytes / appended_s:,.0f} MB/s, read {megabytes / read_s:,.0f} MB/s, of Arrow data",
            ),
        )


def _bytes(payloads: list[list[pa.Buffer]]) -> int:
    return sum(payload.size for transaction in payloads for payload in transaction)


def _log_seconds(path: Path, transactions: list[list[ChangeBatch]]) -> tuple[float, float]:
    """Seconds to append everything, and to read everything."""
    topic = ORDERS.table.topic("bench")
    log = open_log(f"sqlite:///{path}", pipeline="bench")
    claim = log.claim("bench")
    began = time.perf_counter()
    for number, transaction in enumerate(transactions):
        writing = log.begin("shop", claim)
        for batch in transaction:
            writing.append(topic, batch)
        writing.commit(str(number), boundary=True)
    appended = time.perf_counter()
    upto = log.last_cut()
    assert upto is not None
    rows = sum(found.batch.num_rows for part in log.slices(None, upto, (topic,), 16 << 20) for found in log.read(part))
    read = time.perf_counter()
    log.close()
    assert rows == sum(batch.num_rows for transaction in transactions for batch in transaction)
    return appended - began, read - appended


def _file_seconds(path: Path, payloads: list[list[pa.Buffer]]) -> float:
    """Seconds to write everything to one file and to read it again, in pieces of the same sizes."""
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for transaction in payloads:
            for payload in transaction:
                file.write(payload)
            os.fsync(file.fileno())
    with path.open("rb", buffering=0) as file:
        for transaction in payloads:
            for payload in transaction:
                if len(file.read(payload.size)) != payload.size:
                    raise OSError("the plain file is short")
    return time.perf_counter() - began
