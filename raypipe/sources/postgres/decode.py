"""From runs of rows to change batches: images paired, unchanged values completed, columns converted, all by column.

What an image holds (``raypipe.model.Image``):

| REPLICA IDENTITY | DELETE and UPDATE_BEFORE | UPDATE_AFTER |
|---|---|---|
| FULL | FULL | FULL: values stored apart that did not change are taken from the old row |
| DEFAULT, INDEX | KEY | FULL, or PARTIAL where such values were not sent |

An UPDATE without an old tuple kept its key, so its before image is the key in its new tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.errors import Corrupt, InvariantBroken
from raypipe.model import ChangeBatch, Image, Op, TableSchema
from raypipe.sources.postgres.columns import UNCHANGED, Cells, Mask, check_ends, walk, walk_copied
from raypipe.sources.postgres.events import DELETE, INSERT, UPDATE, Rows
from raypipe.sources.postgres.frames import Bytes, Places
from raypipe.sources.postgres.misfits import Misfits
from raypipe.sources.postgres.types import Catalog, PgKind
from raypipe.sources.postgres.values import Values
from raypipe.sources.postgres.wire import Gulp

_OLD_KEY, _OLD_ROW, _NEW = b"KON"
_COPY_HEADER_BYTES = 19  # signature, flags, length of an extension, which no server sends
_COPY_END = 0xFFFF  # instead of a number of columns


@dataclass(frozen=True, kw_only=True)
class SentColumn:
    """A column as the server sends it.

    Attributes:
        name: Of it.
        type_oid: Its type.
        typmod: Its modifier, -1 for none.
        dimensions: Declared of an array.
        as_text: To be carried as text whatever its type.
    """

    name: str
    type_oid: int
    typmod: int = -1
    dimensions: int = 0
    as_text: bool = False

    def kind(self, catalog: Catalog) -> PgKind:
        """What it becomes."""
        if self.as_text:
            return catalog.text_kind(self.type_oid, self.typmod)
        return catalog.kind_of(self.type_oid, self.typmod, self.dimensions)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How tuples of a table become rows of its schema.

    Attributes:
        schema: Of the table.
        kinds: Of each column of the schema.
        places: Of each column of the schema in the tuples.
        sent: How many columns a tuple has.
    """

    schema: TableSchema
    kinds: tuple[PgKind, ...]
    places: tuple[int, ...]
    sent: int


def shape_of(schema: TableSchema, sent: Sequence[SentColumn], catalog: Catalog) -> Shape:
    """The shape of tuples with these columns.

    Raises:
        InvariantBroken: a column of the schema is not sent, or is of another type.
    """
    places = {column.name: place for place, column in enumerate(sent)}
    kinds = []
    for column in schema.columns:
        if column.name not in places:
            raise InvariantBroken(f"Column {column.name} of {schema.table} is not sent.", column=column.name)
        kind = sent[places[column.name]].kind(catalog)
        if kind.type != column.type:
            raise InvariantBroken(
                f"Column {column.name} of {schema.table} is sent as {kind.type}, its schema says {column.type}.",
                column=column.name,
            )
        kinds.append(kind)
    return Shape(schema=schema, kinds=tuple(kinds), places=tuple(places[name] for name in schema.names), sent=len(sent))


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Changes of one table, in order.

    Attributes:
        schema: Of the table.
        rows: As ``ChangeBatch`` wants them; COMMIT is the final LSN of the transaction.
        row: For each image the number of its row in the run.
        absent: For each image and column of the schema, whether the value was not sent (Image.PARTIAL, and NULL
            here); None if none is absent.
        misfits: Values that do not fit their column's type (and are NULL here); None if all do.
    """

    schema: TableSchema
    rows: pa.RecordBatch
    row: Places
    absent: Mask | None
    misfits: Misfits | None


def decode(rows: Rows, shapes: Mapping[int, Shape]) -> list[Decoded]:
    """The changes of every table that has a shape, one batch each.

    Args:
        rows: Of any relations.
        shapes: By the relation's oid; rows of other relations are left out.

    Raises:
        Corrupt: tuples that cannot be read, or an old row that lacks values.
    """
    return [_decode(rows, numbers, shapes[oid]) for oid, numbers in _by_relation(rows.oid) if oid in shapes]


def copied_rows(gulp: Gulp, *, first: bool) -> Places:
    """Where the rows of a gulp of COPY (FORMAT binary) begin: header and trailer left out.

    Args:
        gulp: Of the copy.
        first: Whether it is the first with any message, which has the header.
    """
    at, size = gulp.at, gulp.size
    if first and len(at):
        at, size = at.copy(), size.copy()
        at[0] += _COPY_HEADER_BYTES
        size[0] -= _COPY_HEADER_BYTES
    rows: Places = at[size > 2]  # the trailer is two bytes; a header may come alone
    return rows


def decode_copied(buffer: Bytes, at: Places, shape: Shape) -> tuple[list[pa.Array], Misfits | None]:
    """The columns of copied rows, and the values that do not fit (as ``Decoded.misfits``).

    Args:
        buffer: That holds them.
        at: Where each begins, ascending.
        shape: Of the SELECT; every column was selected by its kind's ``copy_sql``.

    Raises:
        Corrupt: rows that cannot be read.
    """
    walked, _ = walk_copied(buffer, at, shape.sent)
    cells = [walked[place] for place in shape.places]
    values = [kind.convert_copied(column) for kind, column in zip(shape.kinds, cells, strict=True)]
    return [value.array for value in values], _misfits(shape, cells, values, PgKind.copied_text)


def _by_relation(oids: npt.NDArray[np.generic]) -> Iterator[tuple[int, Places]]:
    """Each relation and the numbers of its rows, ascending."""
    if not len(oids):
        return
    if (oids == oids[0]).all():
        yield int(oids[0]), np.arange(len(oids))
        return
    order = np.argsort(oids, kind="stable")
    grouped = oids[order]
    begins = np.flatnonzero(np.append(True, grouped[1:] != grouped[:-1]))
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(order)], strict=True):
        yield int(grouped[begin]), order[begin:end]


def _decode(rows: Rows, numbers: Places, shape: Shape) -> Decoded:
    whole = len(numbers) == len(rows)
    op, at, end = (rows.op, rows.at, rows.end) if whole else (rows.op[numbers], rows.at[numbers], rows.end[numbers])
    images = _images(rows.buffer, op, at, end, shape)
    cells = [images.cells[place] for place in shape.places]
    values = [kind.convert(column) for kind, column in zip(shape.kinds, cells, strict=True)]
    row = numbers[images.row]
    transaction = rows.transaction[row]
    system = [
        pa.array(images.op),
        pa.array(images.image),
        pa.array(rows.transactions.final_lsn[transaction]),
        pa.array(rows.ordinal[row]),
        pa.array(rows.transactions.time_us[transaction]).view(pa.timestamp("us", tz="UTC")),
    ]
    return Decoded(
        schema=shape.schema,
        rows=pa.RecordBatch.from_arrays(
            [*system, *(value.array for value in values)], schema=ChangeBatch.arrow_schema(shape.schema)
        ),
        row=row,
        absent=images.absent,
        misfits=_misfits(shape, cells, values, PgKind.sent_text),
    )


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Images of rows: which row each is of, what it is, and its cells by column of the tuples."""

    row: Places
    op: npt.NDArray[np.int8]
    image: npt.NDArray[np.int8]
    cells: list[Cells]
    absent: Mask | None


def _images(buffer: Bytes, op: npt.NDArray[np.uint8], at: Places, end: Places, shape: Shape) -> _Images:
    letter = buffer[at]
    has_old = (letter == _OLD_KEY) | (letter == _OLD_ROW)
    if (np.where(op == DELETE, ~has_old, ~has_old & (letter != _NEW)) | ((op == INSERT) & has_old)).any():
        raise _broken("lacks the tuple that its kind of change has")
    if not has_old.any() and not (op == UPDATE).any():
        cells, cursor = walk(buffer, at + 1, shape.sent)
        check_ends(cursor, end)
        _no_gaps(cells)
        count = len(at)
        return _Images(
            row=np.arange(count),
            op=np.full(count, Op.INSERT, np.int8),
            image=np.full(count, Image.FULL, np.int8),
            cells=cells,
            absent=None,
        )
    old_rows = np.flatnonzero(has_old)
    old_cells, old_end = walk(buffer, at[old_rows] + 1, shape.sent)
    deleted = op[old_rows] == DELETE
    check_ends(old_end[deleted], end[old_rows[deleted]])
    _no_gaps(old_cells)
    new_rows = np.flatnonzero(op != DELETE)
    new_at = at.copy()
    new_at[old_rows] = old_end
    new_at = new_at[new_rows]
    if (new_at >= end[new_rows]).any() or (buffer[new_at] != _NEW).any():
        raise _broken("lacks the tuple that its kind of change has")
    new_cells, new_end = walk(buffer, new_at + 1, shape.sent)
    check_ends(new_end, end[new_rows])
    return _paired(op, letter, (old_rows, old_cells), (new_rows, new_cells), shape)


def _paired(
    op: npt.NDArray[np.uint8],
    letter: npt.NDArray[np.uint8],
    old: tuple[Places, list[Cells]],
    new: tuple[Places, list[Cells]],
    shape: Shape,
) -> _Images:
    """Images in order, each with the tuple that it is read from: old tuples first, then new ones."""
    old_rows, new_rows = old[0], new[0]
    old_of_row = np.full(len(op), -1)
    old_of_row[old_rows] = np.arange(len(old_rows))
    new_of_row = np.full(len(op), -1)
    new_of_row[new_rows] = np.arange(len(new_rows))
    update = op == UPDATE
    row = np.repeat(np.arange(len(op)), 1 + update)
    last = np.cumsum(1 + update) - 1  # image of each row that is the new row, or the only one
    before = last[update] - 1
    kinds = np.select([op == INSERT, update], [np.int8(Op.INSERT), np.int8(Op.UPDATE_AFTER)], np.int8(Op.DELETE))[row]
    kinds[before] = Op.UPDATE_BEFORE
    image = np.zeros(len(row), np.int8)
    first = last - update  # image that is the old row, if there is one
    goes = op != INSERT
    image[first[goes]] = np.where(letter[goes] == _OLD_ROW, np.int8(Image.FULL), np.int8(Image.KEY))
    # An update without an old tuple: its before image is read from the new tuple, and only its key is.
    borrowed = np.flatnonzero(update[new_rows] & (old_of_row[new_rows] < 0))
    borrowing = first[new_rows[borrowed]]
    key_places = {shape.places[shape.schema.names.index(name)] for name in shape.schema.key}
    whole_old_rows = bool((letter[old_rows] == _OLD_ROW).any())
    cells, absent = [], {}
    for place in range(shape.sent):
        new_column = _completed(old[1][place], new[1][place], old_of_row[new_rows], letter[new_rows])
        code = np.zeros(len(row), np.int64)
        code[last[new_rows]] = new_column.code
        gaps = new_column.is_kind(UNCHANGED)
        if gaps.any():
            if gaps[op[new_rows] == INSERT].any():
                raise _broken("leaves out a value where there is no other row to have it from")
            absent[place] = np.zeros(len(row), np.bool_)
            absent[place][last[new_rows]] = gaps
        if place in key_places:
            code[first[old_rows]] = old[1][place].code
            code[borrowing] = new_column.code[borrowed]
            if gaps[borrowed].any():
                raise _broken("does not tell the key of a row that it changes")
        elif whole_old_rows:
            code[first[old_rows]] = np.where(letter[old_rows] == _OLD_ROW, old[1][place].code, 0)
        cells.append(Cells(new_column.buffer, code))
    return _Images(row=row, op=kinds, image=_partial(image, absent), cells=cells, absent=_absent(absent, shape, row))


def _completed(old: Cells, new: Cells, old_of_new: Places, letter: npt.NDArray[np.uint8]) -> Cells:
    """New values that were left out as unchanged, taken from the old tuple where it has them."""
    gaps = new.is_kind(UNCHANGED)
    if not gaps.any() or not len(old):
        return new
    codes = old.code[np.maximum(old_of_new, 0)]
    # An old row has every column; an old key has the others as NULL, which they need not be.
    known = gaps & (old_of_new >= 0) & ((letter == _OLD_ROW) | (codes != 0))
    return Cells(new.buffer, np.where(known, codes, new.code))


def _partial(image: npt.NDArray[np.int8], absent: Mapping[int, Mask]) -> npt.NDArray[np.int8]:
    for gaps in absent.values():
        image = np.where(gaps, np.int8(Image.PARTIAL), image)
    return image


def _absent(absent: Mapping[int, Mask], shape: Shape, row: Places) -> Mask | None:
    found = np.zeros((len(row), len(shape.places)), np.bool_)
    for column, place in enumerate(shape.places):
        if place in absent:
            found[:, column] = absent[place]
    return found if found.any() else None


def _no_gaps(cells: Sequence[Cells]) -> None:
    for column in cells:
        if column.is_kind(UNCHANGED).any():
            raise _broken("leaves out a value where there is no other row to have it from")


def _misfits(
    shape: Shape, cells: Sequence[Cells], values: Sequence[Values], text: Callable[[PgKind, Cells], pa.Array]
) -> Misfits | None:
    if all(value.fits is None for value in values):
        return None
    count = len(values[0].array)
    places, texts = np.full(count, -1, np.int32), {}
    for place, (name, kind, value) in enumerate(zip(shape.schema.names, shape.kinds, values, strict=True)):
        if value.fits is None:
            continue
        places[~value.fits & (places < 0)] = place
        rows = np.flatnonzero(~value.fits)
        numbers = np.full(count, -1)
        numbers[rows] = np.arange(len(rows))
        texts[name] = text(kind, cells[place].at(rows)).take(pa.array(numbers, mask=numbers < 0))
    return Misfits(places=places, texts=texts)


def _broken(how: str) -> Corrupt:
    return Corrupt(
        f"A change in PostgreSQL's stream {how}.",
        remedy="Look for a proxy between raypipe and the server, and report this with the server's version.",
    )
