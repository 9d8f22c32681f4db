"""Where the rows of an epoch wait for its commit: in memory while they are few, in files beside the table when not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# Beside the table and not in a temporary folder, which may be memory. Delta's readers and VACUUM pass over names that
# begin with an underscore.
STAGE_FOLDER = "_raypipe_stage"
MEMORY_BYTES = 64 << 20  # below this an epoch costs no file
BUCKETS = 32  # an epoch of 10 GB is then reduced in pieces of about 320 MB

Spread = Callable[[pa.Table, int], npt.NDArray[np.int64]]
"""Puts rows into buckets, numbered from 0: those of one identity into one bucket, -1 for a row that is in all."""


class Spool:
    """Rows in the order they came, readable any number of times; beyond ``memory_bytes`` they go to a file."""

    def __init__(self, path: Path, memory_bytes: int) -> None:
        self._path = path
        self._memory_bytes = memory_bytes
        self._held: list[pa.Table] = []
        self._held_bytes = 0
        self._files: list[Path] = []
        self.num_rows = 0

    def add(self, rows: pa.Table) -> None:
        """Takes rows; their schema may differ from that of the rows before."""
        if not rows.num_rows:
            return
        self._held.append(rows)
        self._held_bytes += rows.nbytes
        self.num_rows += rows.num_rows
        if self._held_bytes > self._memory_bytes:
            self._spill()

    def tables(self) -> Iterator[pa.Table]:
        """The rows again, in pieces of one schema each."""
        for path in self._files:
            with pa.ipc.open_stream(path) as stream:
                for batch in stream:
                    yield pa.Table.from_batches([batch])
        yield from self._held

    def _spill(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for schema, run in groupby(self._held, key=attrgetter("schema")):
            path = self._path.with_name(f"{self._path.name}-{len(self._files)}.arrow")
            with pa.ipc.new_stream(path, schema) as stream:
                for rows in run:
                    stream.write_table(rows)
            self._files.append(path)
        self._held, self._held_bytes = [], 0


class Stage:
    """The rows of one epoch, in parts that can be reduced one by one."""

    def __init__(self, folder: Path, spread: Spread | None) -> None:
        """Takes the folder for files, made when one is needed, and how rows are spread; None keeps them in one part."""
        self._folder = folder
        self._spread = spread
        self._whole = Spool(folder / "whole", MEMORY_BYTES)
        self._whole_bytes = 0
        self._buckets: list[Spool] = []

    @property
    def num_rows(self) -> int:
        """Rows staged; one that is in all buckets counts once for each."""
        return self._whole.num_rows + sum(bucket.num_rows for bucket in self._buckets)

    def add(self, rows: pa.Table) -> None:
        """Takes rows."""
        if self._buckets:
            self._distribute(rows)
            return
        self._whole_bytes += rows.nbytes
        if self._spread is not None and self._whole_bytes > MEMORY_BYTES:
            self._split()
            self._distribute(rows)
        else:
            self._whole.add(rows)

    def parts(self) -> Iterator[list[pa.Table]]:
        """The rows of each part, in order; rows of one identity are in one part."""
        for spool in self._buckets or [self._whole]:
            tables = list(spool.tables())
            if tables:
                yield tables

    def tables(self) -> Iterator[pa.Table]:
        """All rows of a stage that does not spread them, in order."""
        return self._whole.tables()

    def spool(self, name: str) -> Spool:
        """A place for what the rows are reduced to."""
        return Spool(self._folder / name, MEMORY_BYTES)

    def discard(self) -> None:
        """Forgets the rows and removes the files."""
        remove(self._folder)

    def _split(self) -> None:
        memory_bytes = MEMORY_BYTES // BUCKETS
        self._buckets = [Spool(self._folder / f"bucket-{number}", memory_bytes) for number in range(BUCKETS)]
        for rows in self._whole.tables():
            self._distribute(rows)
        self._whole = Spool(self._folder / "whole", MEMORY_BYTES)

    def _distribute(self, rows: pa.Table) -> None:
        assert self._spread is not None
        numbers = self._spread(rows, BUCKETS)
        for number, bucket in enumerate(self._buckets):
            mine: npt.NDArray[Any] = np.flatnonzero((numbers == number) | (numbers < 0))
            if mine.size:
                bucket.add(rows.take(pa.array(mine)))


def remove(folder: Path) -> None:
    """Removes a folder of staged files, if it is there; what cannot be removed is left to the next opening."""
    shutil.rmtree(folder, ignore_errors=True)
