"""Where a reader stands in a source, as the text that the log keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from raypipe.errors import InvariantBroken


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in a source's order of changes; two that mean the same have the same text.

    Attributes:
        identity: Of the capture, a UUID made with it.
        seq: Number of the last change read.
        mark: When that change was made, in milliseconds since 1970 by the source's clock: tells it from a change of
            the same number in a copy of the database that went its own way. 0 where there is none.
        tables: Captured by this reader; one that is not among them has yet to be loaded.
        upto: Transaction boundary that the reader is on its way to, None at a boundary.
        loading: Tables whose snapshot is unfinished: how far it is loaded, as SQL literals of the row's identity,
            empty at the start.
        cookie: ``PRAGMA schema_version`` while tables are loading or rows are parked: it changes with a VACUUM, after
            which rowids may mean other rows.
        parked: Rows in quarantine, by table, tables with none left out.
    """

    identity: str
    seq: int
    mark: int
    tables: tuple[str, ...]
    upto: int | None = None
    loading: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cookie: int | None = None
    parked: Mapping[str, int] = field(default_factory=dict)

    def to_text(self) -> str:
        """Compact JSON; ``parse`` reads it back."""
        parts = {
            "identity": self.identity,
            "seq": self.seq,
            "mark": self.mark,
            "tables": list(self.tables),
            "upto": self.upto,
            "loading": {table: list(cursor) for table, cursor in self.loading.items()},
            "cookie": self.cookie,
            "parked": {table: rows for table, rows in self.parked.items() if rows},
        }
        kept = {name: part for name, part in parts.items() if part not in (None, {})}
        return json.dumps(kept, sort_keys=True, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Position:
        """Reads what ``to_text`` wrote.

        Raises:
            InvariantBroken: it is no position of a SQLite source.
        """
        try:
            parts = json.loads(text)
            parts["tables"] = tuple(parts["tables"])
            parts["loading"] = {table: tuple(cursor) for table, cursor in parts.get("loading", {}).items()}
            return cls(**parts)
        except (ValueError, TypeError, KeyError) as error:
            raise InvariantBroken("The log's position is not one of a SQLite source.", cause=error) from error
