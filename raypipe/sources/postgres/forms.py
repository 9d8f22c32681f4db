"""What a reader keeps of a table's form, and whether a change of it needs the table's rows again.

| change | rows again? |
|---|---|
| column dropped, added without a default, given another default, length or precision without a rewrite | no |
| column added with a default, renamed, of another type; rows rewritten | yes, where they stand |
| emptied by TRUNCATE | no, if nothing else was done to it since (`refiled`) |
| partition attached | its rows, where they stand |
| partition gone, or emptied alone | yes, after a TRUNCATE: nothing says which rows were in it |
| another key, or a key of another type | yes, after a TRUNCATE: rows have other identities |
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

from raypipe.sources.postgres.position import Form
from raypipe.sources.postgres.schema import Table

# Digits of a column in ``Form.columns``: six for name and type, four for the modifier.
_TYPE_DIGITS, _DIGITS = 6, 10
_DROPPED = "0" * _DIGITS


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a change of a table's form asks for.

    Attributes:
        load: The table is to be emptied and loaded.
        backfill: All rows are to be read again.
        parts: OIDs of partitions whose rows are to be read again.
    """

    load: bool = False
    backfill: bool = False
    parts: tuple[int, ...] = ()


def form(
    oid: int,
    columns: Sequence[tuple[int, str, int, int]],
    key: Sequence[str],
    files: Sequence[tuple[int, int]],
    missing: Collection[int],
    *,
    partitioned: bool,
) -> Form:
    """The form of a table.

    Args:
        oid: Of it.
        columns: Number, name, type and modifier of each.
        key: Names of its columns.
        files: OID and file of the table, or of each of its partitions.
        missing: Numbers of columns whose default is not in the rows that were there before them.
        partitioned: Whether it has partitions.
    """
    parts = {number: _digits(name, type_oid, typmod) for number, name, type_oid, typmod in columns}
    told = "".join(parts.get(number, _DROPPED) for number in range(1, max(parts, default=0) + 1))
    of_key = [(name, type_oid, typmod) for given in key for _, name, type_oid, typmod in columns if name == given]
    ordered = sorted(files)
    return Form(
        oid=oid,
        columns=told,
        key=f"{crc32(repr(of_key).encode()):08x}" if key else "",
        file=_file_of(ordered) if partitioned else ordered[0][1],
        partitions=tuple(oid for oid, _ in ordered) if partitioned else (),
        missing=frozenset(missing),
    )


def form_of(table: Table) -> Form:
    """The form of a table as the catalog has it."""
    return form(
        table.oid,
        [(field.number, field.name, field.type_oid, field.typmod) for field in table.fields],
        table.key,
        table.partitions if table.partitioned else ((table.oid, table.file),),
        [field.number for field in table.fields if field.missing],
        partitioned=table.partitioned,
    )


def emptied(old: Form, xid: int) -> Form:
    """The form behind a TRUNCATE by this transaction: what comes from here on is in another file, not told which."""
    return replace(old, file=-xid)


def refiled(old: Form, table: Table) -> Form:
    """A form with the file that its TRUNCATE made, known now that the catalog was looked at; with none if in doubt.

    It is the file that the table has if the TRUNCATE's transaction was the last to write the table's entry, and none of
    its columns' with it. Then no rows that came since were rewritten to other values, which takes an ALTER of a column;
    and no partition was emptied alone since, except by that transaction itself.
    """
    if old.file >= 0:
        return old
    alone = table.filed_by == {-old.file} and -old.file not in table.shaped_by
    file = _file_of(_staying(old, table.partitions)) if table.partitioned else table.file
    return replace(old, file=file if alone else 0)


def retold(old: Form, files: Sequence[tuple[int, int, int]]) -> Form:
    """The same by what an event trigger tells of partitions: OID, file, and the transaction that wrote the entry."""
    if old.file >= 0 or not old.partitions:
        return old
    stay = [each for each in files if each[0] in old.partitions]
    alone = {filed_by for _, _, filed_by in stay} == {-old.file}
    return replace(old, file=_file_of([(oid, file) for oid, file, _ in stay]) if alone else 0)


def moved(old: Form, files: Sequence[tuple[int, int]]) -> bool:
    """Whether partitions that stay have their rows in other files than before: one was emptied alone, or rewritten.

    Args:
        old: Form of the root until now, ``refiled`` or ``retold``.
        files: OID and file of each partition.
    """
    return bool(old.partitions) and old.file != _file_of(_staying(old, files))


def needs(old: Form, new: Form, *, rewritten: bool, empty: int = 0, elsewhere: bool = False) -> Needs:
    """What a change of a table's form asks for.

    Args:
        old: Form that the stream had until now, ``refiled``.
        new: Form that it has from here on.
        rewritten: Whether a change of the file may mean that rows were rewritten; not where rewrites are told.
        empty: OID of a partition that was made, not attached, 0 for none: its rows all come by.
        elsewhere: Partitions that stay have moved (``moved``): a TRUNCATE of a single one is not in the stream.
    """
    gone = set(old.partitions) - set(new.partitions)
    if old.key != new.key or gone or elsewhere:
        return Needs(load=True)
    other_file = old.file != new.file
    came = tuple(sorted(set(new.partitions) - set(old.partitions) - {empty}))
    return Needs(backfill=_columns_need_rows(old, new, rewritten=rewritten and other_file), parts=came)


def _staying(old: Form, files: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(oid, file) for oid, file in files if oid in old.partitions]


def _file_of(files: Sequence[tuple[int, int]]) -> int:
    return crc32(repr(sorted(files)).encode())


def _columns_need_rows(old: Form, new: Form, *, rewritten: bool) -> bool:
    if rewritten and not new.partitions:
        return True
    before, after = _columns(old), _columns(new)
    for number, column in enumerate(after, start=1):
        if column == _DROPPED:
            continue
        if number > len(before):
            if number in new.missing:
                return True
        elif column[:_TYPE_DIGITS] != before[number - 1][:_TYPE_DIGITS]:
            return True
    return False


def _columns(of: Form) -> list[str]:
    return [of.columns[at : at + _DIGITS] for at in range(0, len(of.columns), _DIGITS)]


def _digits(name: str, type_oid: int, typmod: int) -> str:
    of_type = crc32(repr((name, type_oid)).encode()) & 0xFFFFFF
    return f"{of_type or 1:06x}{typmod & 0xFFFF ^ typmod >> 16 & 0xFFFF:04x}"
