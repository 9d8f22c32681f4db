"""Reads the rare messages of pgoutput, one at a time."""

from __future__ import annotations

import struct
from typing import Any

from raypipe.sources.postgres.events import (
    BeginPrepare,
    CommitPrepared,
    Message,
    Prepare,
    Relation,
    RelationColumn,
    RollbackPrepared,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    TypeName,
)

Rare = (
    Relation
    | TypeName
    | Truncate
    | Message
    | StreamStart
    | StreamStop
    | StreamCommit
    | StreamAbort
    | BeginPrepare
    | Prepare
    | CommitPrepared
    | RollbackPrepared
)

_POSTGRES_EPOCH_US = 946_684_800_000_000


class CutOff(Exception):
    """A message ends before what it must hold."""


class _Reader:
    """A message, read from front to back."""

    def __init__(self, message: bytes, at: int) -> None:
        self._message, self._at = message, at

    def numbers(self, layout: str) -> tuple[Any, ...]:
        """Numbers by ``struct`` letters, big-endian."""
        try:
            found = struct.unpack_from(f"!{layout}", self._message, self._at)
        except struct.error:
            raise CutOff from None
        self._at += struct.calcsize(f"!{layout}")
        return found

    def number(self, letter: str) -> int:
        return int(self.numbers(letter)[0])

    def time_us(self) -> int:
        return self.number("q") + _POSTGRES_EPOCH_US

    def text(self) -> str:
        end = self._message.index(b"\0", self._at)
        found = self._message[self._at : end].decode("utf-8")
        self._at = end + 1
        return found

    def bytes(self, size: int) -> bytes:
        found = self._message[self._at : self._at + size]
        if len(found) != size:
            raise CutOff
        self._at += size
        return found

    def has_more(self) -> bool:
        return self._at < len(self._message)


def read(tag: int, message: bytes, *, in_stream: bool) -> Rare:
    """The event of a rare message.

    Args:
        tag: Its first byte.
        message: With that byte.
        in_stream: Whether it stands inside a block of a transaction in progress, where some messages name their xid.

    Raises:
        CutOff, ValueError: it cannot be read.
    """
    reader = _Reader(message, 1)
    match chr(tag):
        case "R" | "Y" | "T" | "M" as kind:
            xid = reader.number("I") if in_stream else None
            return _in_transaction(kind, reader, xid)
        case "S":
            xid, first = reader.numbers("IB")
            return StreamStart(xid=xid, first=bool(first))
        case "E":
            return StreamStop()
        case "c":
            xid, _, commit_lsn, end_lsn = reader.numbers("IBqq")
            return StreamCommit(xid=xid, commit_lsn=commit_lsn, end_lsn=end_lsn, time_us=reader.time_us())
        case "A":
            xid, subxid = reader.numbers("II")
            # Version 4 says where and when, if the transaction may be applied in parallel.
            lsn, time_us = (reader.number("q"), reader.time_us()) if reader.has_more() else (0, 0)
            return StreamAbort(xid=xid, subxid=subxid, abort_lsn=lsn, time_us=time_us)
        case "b":
            return BeginPrepare(**_prepared(reader))
        case "P" | "p" as kind:
            reader.number("B")
            return Prepare(**_prepared(reader), streamed=kind == "p")
        case "K":
            _, commit_lsn, end_lsn = reader.numbers("Bqq")
            return CommitPrepared(
                commit_lsn=commit_lsn,
                end_lsn=end_lsn,
                time_us=reader.time_us(),
                xid=reader.number("I"),
                gid=reader.text(),
            )
        case "r":
            _, prepare_end_lsn, rollback_end_lsn = reader.numbers("Bqq")
            return RollbackPrepared(
                prepare_end_lsn=prepare_end_lsn,
                rollback_end_lsn=rollback_end_lsn,
                prepare_time_us=reader.time_us(),
                time_us=reader.time_us(),
                xid=reader.number("I"),
                gid=reader.text(),
            )
    raise ValueError("no message of pgoutput begins so")


def origin(message: bytes) -> str:
    """The name in an Origin message.

    Raises:
        CutOff, ValueError: it cannot be read.
    """
    reader = _Reader(message, 1)
    reader.number("q")
    return reader.text()


def _prepared(reader: _Reader) -> dict[str, Any]:
    prepare_lsn, end_lsn = reader.numbers("qq")
    return {
        "prepare_lsn": prepare_lsn,
        "end_lsn": end_lsn,
        "time_us": reader.time_us(),
        "xid": reader.number("I"),
        "gid": reader.text(),
    }


def _in_transaction(kind: str, reader: _Reader, xid: int | None) -> Rare:
    if kind == "R":
        return _relation(reader, xid)
    if kind == "Y":
        oid = reader.number("I")
        return TypeName(oid=oid, schema=reader.text() or "pg_catalog", name=reader.text())
    if kind == "T":
        count, options = reader.numbers("IB")
        return Truncate(
            oids=reader.numbers(f"{count}I"),
            cascade=bool(options & 1),
            restart_identity=bool(options & 2),
            ordinal=0,
            final_lsn=0,
            time_us=0,
            xid=xid or 0,
        )
    flags, lsn = reader.numbers("Bq")
    prefix = reader.text()
    content = reader.bytes(reader.number("I"))
    return Message(transactional=bool(flags & 1), lsn=lsn, prefix=prefix, content=content, xid=xid)


def _relation(reader: _Reader, xid: int | None) -> Relation:
    oid = reader.number("I")
    # The system's own schema is sent as an empty name.
    schema, table = reader.text() or "pg_catalog", reader.text()
    identity = chr(reader.number("B"))
    columns = []
    for _ in range(reader.number("H")):
        flags = reader.number("B")
        name = reader.text()
        type_oid, typmod = reader.numbers("Ii")
        columns.append(RelationColumn(name=name, type_oid=type_oid, typmod=typmod, in_identity=bool(flags & 1)))
    return Relation(oid=oid, schema=schema, table=table, identity=identity, columns=tuple(columns), xid=xid)
