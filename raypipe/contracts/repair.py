"""What a source offers to a repair: a way over a gap, and comparison without handing out rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol, runtime_checkable

import pyarrow as pa

# Columns of what a view tells to compare with. A row's chunk is KEY_MARK modulo the number of chunks, a power of two.
CHUNK = "chunk"
ROWS = "rows"
CHECKSUM = "checksum"
BYTES = "bytes"
KEY_MARK = "key_mark"
ROW_MARK = "row_mark"
# Marks are whole numbers below 2^60; a checksum is the sum of the row marks of a chunk modulo this.
CHECKSUM_MODULUS = 2**63 - 1


@runtime_checkable
class CanBeRepaired(Protocol):
    """A source that can go on behind a gap, if somebody finds out what was missed."""

    def over_gap(self, position: str, anew: Collection[str], *, in_order: bool) -> str | None:
        """Makes the source able to serve everything from now on, if it cannot go on from a position; need not be open.

        Args:
            position: Last committed in the log.
            anew: Tables (``instance.table``) that nobody can compare: they are loaded from the start.
            in_order: Places in the order of changes must go on growing, because a history keeps them.

        Returns:
            The position to go on from; until they are read again (``ReadAgain.last``) all other tables are unsure in
            it, which the source tells like tables that load. None if there is no gap.

        Raises:
            SourceGap: this is another database altogether, or its places lie before those that were read.
            Unavailable: it is away.
        """
        ...


@runtime_checkable
class ComparesTables(Protocol):
    """A ``SourceView`` that can be compared with rows held elsewhere, most of which then need not be sent.

    Two rows that have the same marks are the same, up to the chance of 2^-60 that a hash is wrong. Rows with different
    marks may be the same still, as far as a type has several texts for one value: reading them is never wrong.
    """

    def checksums(self, table: str, chunks: int) -> Iterator[pa.RecordBatch]:
        """CHUNK, ROWS, CHECKSUM and BYTES (of the rows' text) of each chunk that has rows; all int64."""
        ...

    def marks(self, table: str, chunks: int, chosen: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """KEY_MARK and ROW_MARK of every row in the chosen chunks, then its key columns as ``ReadAgain.keys`` has them.

        Columns of the key are called ``k0``, ``k1`` and so on.
        """
        ...

    def marks_of(self, table: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The same of rows with the table's columns that are held elsewhere."""
        ...
