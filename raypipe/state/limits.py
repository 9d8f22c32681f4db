"""The bounds that a store of state keeps."""

from __future__ import annotations

from dataclasses import dataclass

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of disk, memory and files.

    Attributes:
        state_bytes: On disk, all kept versions together. What would be more is refused.
        block_bytes: About how much of a run is written, checked and mapped as one piece. A merge holds two in memory.
        slice_bytes: About how much of a trace is read at a time when all of it is, over all of its runs.
        spill_bytes: Rows that one epoch adds to a trace go to disk once they are so many.
        tier: So many runs of about one size become one; the next size is so many times larger.
        small_rows: Runs up to this size count as one size.
        most_runs: A trace with so many runs is merged before the commit goes on: it bounds open files and probes.
    """

    state_bytes: int = 16 * GIB
    block_bytes: int = 64 * MIB
    slice_bytes: int = 8 * MIB
    spill_bytes: int = 64 * MIB
    tier: int = 4
    small_rows: int = 4096
    most_runs: int = 48
