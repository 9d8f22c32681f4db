"""What a repair found and did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """One source table beside what the sinks hold of it.

    Attributes:
        table: ``instance.table``.
        copies: Sink tables that it was compared with, as ``sink.table``.
        chunks: Compared by their checksums.
        differing: Of them, those whose rows were compared one by one.
        rows: Of the table.
        inserted: Rows that a copy lacked; read again.
        changed: Rows that a copy had otherwise; read again.
        deleted: Keys that a copy had and the source has not; told as deletes.
        compared_bytes: Sent by the server to compare.
        reread_bytes: Of the rows that were read again, by the table's average row.
        table_bytes: That a load of the table would read.
    """

    table: str
    copies: tuple[str, ...] = ()
    chunks: int = 0
    differing: int = 0
    rows: int = 0
    inserted: int = 0
    changed: int = 0
    deleted: int = 0
    compared_bytes: int = 0
    reread_bytes: int = 0
    table_bytes: int = 0

    @property
    def reread(self) -> int:
        """Rows that were read again."""
        return self.inserted + self.changed


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole repair.

    Attributes:
        pipeline: Its name.
        cut: At which the sinks were compared.
        repaired_at: Cut at which they are right; the same if nothing differed.
        tables: That were compared.
        left: Tables that were not, and why.
        bridged: Instances whose stream was made to go on behind a gap.
        seconds: It took.
    """

    pipeline: str
    cut: int
    repaired_at: int
    tables: tuple[TableReport, ...]
    left: Mapping[str, str] = field(default_factory=dict)
    bridged: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))
