"""Where a reader stands in a server's stream of changes, as the text that the log keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raypipe.errors import InvariantBroken


def lsn_text(lsn: int) -> str:
    """A place in the write-ahead log as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_of(text: str) -> int:
    """Reads what ``lsn_text`` or PostgreSQL wrote."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Which transactions a read transaction saw (``pg_current_snapshot``).

    Attributes:
        xmin: Every transaction below had ended.
        xmax: None from here on had begun.
        running: Those between that had not ended.
    """

    xmin: int
    xmax: int
    running: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Moment:
        """Reads PostgreSQL's ``xmin:xmax:xip,…``."""
        xmin, xmax, running = text.split(":")
        return cls(xmin=int(xmin), xmax=int(xmax), running=tuple(int(xid) for xid in running.split(",") if xid))

    def to_text(self) -> str:
        """As PostgreSQL writes it."""
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A part of a table that was copied at a moment, while the stream has not yet passed that moment.

    Attributes:
        low: Identity of the last row before the part; empty at the table's beginning.
        seen: What the copy saw: of the part's rows, changes by these transactions are in it already.
        until: LSN that lies behind all of them: from there on the part equals the stream.
        last: The part reaches to the table's end.
    """

    low: tuple[str, ...]
    seen: Moment
    until: int
    last: bool


@dataclass(frozen=True, kw_only=True)
class Load:
    """How far a table's snapshot is.

    Attributes:
        cursor: Identity of the last row loaded, as text that the server reads back; empty at the start.
        rows: Loaded so far.
        since: Copies may be made only when every transaction below this number has ended: older ones do not know
            that the table is published.
        chunk: Copied and not yet passed by the stream.
    """

    cursor: tuple[str, ...] = ()
    rows: int = 0
    since: int = 0
    chunk: Chunk | None = None


@dataclass(frozen=True, kw_only=True)
class Backfill:
    """A table, or a part of one, whose rows are read again where they stand: nothing is emptied before.

    Attributes:
        cursor: Identity of the last row that was read again, as text that the server reads back; empty at the start.
        rows: Read again so far.
        since: Chunks may be read only when every transaction below this number has ended: what was read from the
            stream before must be visible to them.
        part: OID of the partition that alone is read; 0 for all rows.
    """

    cursor: tuple[str, ...] = ()
    rows: int = 0
    since: int = 0
    part: int = 0


@dataclass(frozen=True, kw_only=True)
class Form:
    """What tells a table and its columns from what they were; see ``forms``.

    Attributes:
        oid: Of the table: one that was made anew has another.
        columns: Ten digits for each attribute number from 1 on: of name and type six, of the modifier four; zeros for
            one that was dropped.
        key: Digits of the key's columns.
        file: Number of the file with the rows, of all files for a partitioned table; 0 where it is not known,
            the number of a transaction below 0 where its TRUNCATE made another one (``forms.refiled``).
        partitions: OIDs of the partitions that hold rows.
        missing: Numbers of columns whose default is not in the rows that were there before; not kept in a position.
    """

    oid: int
    columns: str
    key: str
    file: int
    partitions: tuple[int, ...] = ()
    missing: frozenset[int] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, kw_only=True)
class Reread:
    """How far a part of a whole table is read again.

    Attributes:
        id: Of the wish.
        where: Condition that chooses the rows; empty if they were named by key, and then all were read at once.
        cursor: Identity of the last row that was looked at, as text that the server reads back; empty at the start.
        rows: Looked at so far, whether they were chosen or not.
        since: As in ``Load``.
        until: LSN that lies behind what the last look saw; 0 before the first.
        last: It was read to its end, and is over where the stream passes ``until``.
        sure: With its end the table is sure again.
    """

    id: str
    where: str = ""
    cursor: tuple[str, ...] = ()
    rows: int = 0
    since: int = 0
    until: int = 0
    last: bool = False
    sure: bool = False


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a reader knows of a captured table, where it stands in the stream.

    Attributes:
        version: Of its schema.
        print: Fingerprint of its columns and key under that version.
        form: To compare the next one with; None in a position of an earlier release.
    """

    version: int
    print: str
    form: Form | None = None


@dataclass(frozen=True, kw_only=True)
class Partial:
    """How much of the transaction that follows was read already.

    Attributes:
        commit: LSN of its commit record.
        ordinal: Of its first change that was not read.
    """

    commit: int
    ordinal: int


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in a server's order of commits.

    Attributes:
        system: Identifier of the database cluster.
        database: OID of the database.
        slot: Replication slot that the reader uses.
        timeline: Of the cluster's history.
        lsn: All transactions whose commit record begins before it were read.
        partial: Of the transaction that follows, None if nothing of it was read.
        until: LSN before which there is no boundary: rows were completed with what stands there; 0 for none.
        snapshot: Of a view: name by which another connection sees what it sees.
        loads: How many times at this LSN tables were emptied for a load: each stands behind the one before.
        tables: Captured by this reader, by ``schema.table``; one that is not among them has yet to be loaded.
        loading: Tables whose snapshot is unfinished.
        due: Tables to be emptied, and loaded if they exist, at the next boundary; each with the number of a
            transaction: copies may be made only when every one below it has ended.
        backfills: Tables whose rows are read again where they stand, and are not all read yet.
        parked: Tables that have had rows in quarantine since they were last loaded, and how many are known to be there.
        rereads: Whole tables of which some rows are being read again.
        unsure: Tables of which changes were missed, until their repair is complete.
    """

    system: str
    database: int
    slot: str
    timeline: int
    lsn: int
    partial: Partial | None = None
    until: int = 0
    snapshot: str = ""
    loads: int = 0
    tables: Mapping[str, Known] = field(default_factory=dict)
    loading: Mapping[str, Load] = field(default_factory=dict)
    due: Mapping[str, int] = field(default_factory=dict)
    backfills: Mapping[str, Backfill] = field(default_factory=dict)
    parked: Mapping[str, int] = field(default_factory=dict)
    rereads: Mapping[str, Reread] = field(default_factory=dict)
    unsure: tuple[str, ...] = ()

    @property
    def boundary(self) -> bool:
        """Whether the tables stand as one moment of the source's history has them."""
        settled = self.partial is None and self.lsn >= self.until
        settled &= all(reread.until <= self.lsn for reread in self.rereads.values())
        return settled and all(load.chunk is None for load in self.loading.values())

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Tables that do not stand for what the source has: loading, read again, about to be, or unsure."""
        return tuple(sorted({*self.loading, *self.backfills, *self.due, *self.rereads, *self.unsure}))

    @property
    def load_commit(self) -> int:
        """COMMIT of what a load tells here: behind every commit that was read, before every one that follows."""
        return self.lsn - 1

    @property
    def load_ordinal(self) -> int:
        """ORDINAL of the TRUNCATE that begins a load here; its rows have the next."""
        return 2 * self.loads

    def to_text(self) -> str:
        """Compact JSON; ``parse`` reads it back."""
        parts: dict[str, Any] = {
            "system": self.system,
            "database": self.database,
            "slot": self.slot,
            "timeline": self.timeline,
            "lsn": lsn_text(self.lsn),
            "tables": {name: _known_parts(known) for name, known in self.tables.items()},
        }
        if self.partial is not None:
            parts["partial"] = [lsn_text(self.partial.commit), self.partial.ordinal]
        if self.until > self.lsn:
            parts["until"] = lsn_text(self.until)
        if self.snapshot:
            parts["snapshot"] = self.snapshot
        if self.loads:
            parts["loads"] = self.loads
        if self.parked:
            parts["parked"] = dict(self.parked)
        if self.loading:
            parts["loading"] = {name: _load_parts(load) for name, load in self.loading.items()}
        if self.due:
            parts["due"] = dict(self.due)
        if self.backfills:
            parts["backfills"] = {name: _backfill_parts(backfill) for name, backfill in self.backfills.items()}
        if self.rereads:
            parts["rereads"] = {name: _reread_parts(reread) for name, reread in self.rereads.items()}
        if self.unsure:
            parts["unsure"] = list(self.unsure)
        return json.dumps(parts, sort_keys=True, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Position:
        """Reads what ``to_text`` wrote.

        Raises:
            InvariantBroken: it is no position of a PostgreSQL source.
        """
        try:
            parts = json.loads(text)
            parts["lsn"] = lsn_of(parts["lsn"])
            parts["until"] = lsn_of(parts.get("until", "0/0"))
            parts["tables"] = {name: _known_of(*known) for name, known in parts["tables"].items()}
            if "partial" in parts:
                commit, ordinal = parts["partial"]
                parts["partial"] = Partial(commit=lsn_of(commit), ordinal=ordinal)
            parts["loading"] = {name: _load_of(load) for name, load in parts.get("loading", {}).items()}
            parts["backfills"] = {name: _backfill_of(backfill) for name, backfill in parts.get("backfills", {}).items()}
            parts["rereads"] = {name: _reread_of(reread) for name, reread in parts.get("rereads", {}).items()}
            parts["unsure"] = tuple(parts.get("unsure", ()))
            return cls(**parts)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvariantBroken("The log's position is not one of a PostgreSQL source.", cause=error) from error


def _known_parts(known: Known) -> list[Any]:
    form = known.form
    if form is None:
        return [known.version, known.print]
    parts = [known.version, known.print, form.oid, form.columns, form.key, form.file]
    return [*parts, list(form.partitions)] if form.partitions else parts


def _known_of(version: int, fingerprint: str, *form: Any) -> Known:
    if not form:
        return Known(version=version, print=fingerprint)
    oid, columns, key, file, *partitions = form
    stood = Form(oid=oid, columns=columns, key=key, file=file, partitions=tuple(*partitions))
    return Known(version=version, print=fingerprint, form=stood)


def _load_parts(load: Load) -> dict[str, Any]:
    parts: dict[str, Any] = {"cursor": list(load.cursor), "rows": load.rows}
    if load.since:
        parts["since"] = load.since
    if load.chunk is not None:
        chunk = load.chunk
        parts["chunk"] = [list(chunk.low), chunk.seen.to_text(), lsn_text(chunk.until), chunk.last]
    return parts


def _reread_parts(reread: Reread) -> dict[str, Any]:
    parts = {name: value for name, value in asdict(reread).items() if value}
    return parts | {"until": lsn_text(reread.until)}


def _reread_of(parts: dict[str, Any]) -> Reread:
    return Reread(**(parts | {"cursor": tuple(parts.get("cursor", ())), "until": lsn_of(parts["until"])}))


def _load_of(parts: dict[str, Any]) -> Load:
    chunk = None
    if "chunk" in parts:
        low, seen, until, last = parts["chunk"]
        chunk = Chunk(low=tuple(low), seen=Moment.parse(seen), until=lsn_of(until), last=last)
    return Load(cursor=tuple(parts["cursor"]), rows=parts["rows"], since=parts.get("since", 0), chunk=chunk)


def _backfill_parts(backfill: Backfill) -> dict[str, Any]:
    parts: dict[str, Any] = {"cursor": list(backfill.cursor), "rows": backfill.rows, "since": backfill.since}
    if backfill.part:
        parts["part"] = backfill.part
    return parts


def _backfill_of(parts: dict[str, Any]) -> Backfill:
    return Backfill(**{**parts, "cursor": tuple(parts["cursor"])})
