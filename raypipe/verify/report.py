"""What a verification found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """One sink table beside its oracle.

    Attributes:
        sink: Unit of commit, or the sink whose shards share the table.
        table: In the sink.
        relation: It is fed from.
        rows: The oracle returns.
        missing: Rows of the oracle that the sink lacks.
        extra: Rows of the sink that the oracle does not return.
        different: Keys both have, with other values.
        misplaced: Rows, or changes of a history, that lie in another shard than the one their key belongs into.
        examples: Up to five keys of each of the four; whole rows only if values were asked for.
    """

    sink: str
    table: str
    relation: str
    rows: int
    missing: int = 0
    extra: int = 0
    different: int = 0
    misplaced: int = 0
    examples: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing is missing, extra, different or misplaced."""
        return self.missing == self.extra == self.different == self.misplaced == 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole verification.

    Attributes:
        pipeline: Its name.
        cut: Number of the cut that was compared.
        positions: Source positions at that cut, by instance.
        tables: One report for each sink table.
        parked: Rows in quarantine by source table; they count as absent on both sides.
        seconds: It took.
    """

    pipeline: str
    cut: int
    positions: Mapping[str, str]
    tables: tuple[TableReport, ...]
    parked: Mapping[str, int]
    seconds: float

    @property
    def ok(self) -> bool:
        """Every sink table holds exactly what its SQL returns."""
        return all(table.ok for table in self.tables)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        fields = asdict(self)
        for table, plain in zip(self.tables, fields["tables"], strict=True):
            plain["ok"] = table.ok
        return fields | {"ok": self.ok}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), default=str)
