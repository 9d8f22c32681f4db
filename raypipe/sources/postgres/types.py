"""PostgreSQL's types and what becomes of them: the one place, with the rule for values that do not fit.

What Arrow has a type for is carried in it; every other type, of extensions too, is carried as its text, which its own
output function makes and its input function takes back. **A value that its Arrow type cannot hold** (``NaN`` in a
``numeric(12,2)``, ``infinity`` in a date, 24:00:00, an array of other dimensions than declared) **does not fit: the
pipeline treats its row as absent and parks it in quarantine**, as for any source. Nothing is coerced, and nothing is
fatal. A column of which such values are to be expected can be carried as text as a whole (``as_text``).

A value comes in one of two formats, text (the stream) or binary (COPY, where it pays), and both give the same Arrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from raypipe.errors import Corrupt, InvariantBroken
from raypipe.sources.postgres import from_binary, from_text
from raypipe.sources.postgres.columns import BINARY, Cells
from raypipe.sources.postgres.lists import list_from_text
from raypipe.sources.postgres.server_text import misfit_text
from raypipe.sources.postgres.values import Convert, Values

# Of every session that values come through, so that one value always has one text.
SETTINGS: Mapping[str, str] = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "quote_all_identifiers": "off",
}

# Rows of it make a Catalog. Types of tables' rows are left out unless something is declared with them: arrays and
# domains over them are found by their own category.
TYPES_SQL = """
    SELECT t.oid::text, n.nspname::text, t.typname::text, t.typtype::text, t.typelem::text, t.typbasetype::text,
           t.typtypmod::text, t.typndims::text, (t.typcategory = 'A')::text, pg_catalog.format_type(t.oid, NULL)
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"""

_MOST_DIGITS = 76  # of decimal256
_DIGITS_128 = 38
_VARLENA_HEADER = 4  # that a typmod counts
_AS_TEXT_SQL = "CASE WHEN {0} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {0}) END"
_AS_IT_IS_SQL = "{0}"


@dataclass(frozen=True, kw_only=True)
class PgType:
    """A row of ``pg_type``."""

    oid: int
    schema: str
    name: str
    sort: str
    element: int
    base: int
    base_typmod: int
    dimensions: int
    is_array: bool
    declared: str


@dataclass(frozen=True, kw_only=True)
class PgKind:
    """What a type becomes.

    Attributes:
        type: In Arrow.
        declared: As PostgreSQL writes the type.
        carried: Values that fit, in words for the documentation.
        from_text: Converts cells in text format.
        from_binary: In binary format; None if the type is never asked for in it.
    """

    type: pa.DataType
    declared: str
    carried: str
    from_text: Convert
    from_binary: Convert | None

    @property
    def copy_sql(self) -> str:
        """What to select in a COPY (FORMAT binary), ``{0}`` standing for the quoted column.

        Not a cast to text: that of some types (inet, boolean, character) is not their output function.
        """
        return _AS_IT_IS_SQL if self.from_binary is not None else _AS_TEXT_SQL

    def convert(self, cells: Cells) -> Values:
        """A column of the stream in whatever format it was sent.

        Raises:
            Corrupt: bytes that are no value of the type.
            InvariantBroken: the stream was started in binary format although this type is not read in it.
        """
        if cells.format != BINARY:
            return self._converted(self.from_text, cells)
        if self.from_binary is None:
            raise InvariantBroken(f"A column of type {self.declared} was sent in binary format.", type=self.declared)
        return self._converted(self.from_binary, cells)

    def convert_copied(self, cells: Cells) -> Values:
        """A column of a COPY that selected ``copy_sql``.

        Raises:
            Corrupt: bytes that are no value of the type.
        """
        return self._converted(self.from_text if self.from_binary is None else self.from_binary, cells)

    def sent_text(self, cells: Cells) -> pa.Array:
        """Values of the stream that do not fit, as the server writes them."""
        return misfit_text(cells, self.type, as_output=False)

    def copied_text(self, cells: Cells) -> pa.Array:
        """Likewise of a COPY that selected ``copy_sql``."""
        return misfit_text(cells, self.type, as_output=self.from_binary is None)

    def _converted(self, convert: Convert, cells: Cells) -> Values:
        try:
            return convert(cells)
        except (pa.ArrowInvalid, ValueError):
            # Arrow's own words quote the value, so it must not be the cause either.
            raise Corrupt(
                f"PostgreSQL sent a value of type {self.declared} that cannot be read.",
                remedy="Report this with the server's version; the column can be left out of the pipeline until then.",
                type=self.declared,
            ) from None


_ANY_TEXT = "every value that is valid UTF-8, as its text"
_TEXT = PgKind(
    type=pa.string(),
    declared="text",
    carried="every value that is valid UTF-8",
    from_text=from_text.text,
    from_binary=from_binary.text,
)
_OTHER = PgKind(type=pa.string(), declared="", carried=_ANY_TEXT, from_text=from_text.text, from_binary=None)


def _plain(kind: pa.DataType, carried: str, text: Convert, binary: Convert) -> PgKind:
    return PgKind(type=kind, declared="", carried=carried, from_text=text, from_binary=binary)


def _integer(kind: pa.DataType, sent: str) -> PgKind:
    return _plain(kind, "every value", from_text.number(kind), from_binary.number(sent, kind))


def _floating(kind: pa.DataType, sent: str) -> PgKind:
    return _plain(kind, "every value; NaNs are one NaN", from_text.floating(kind), from_binary.floating(sent, kind))


# By name in pg_catalog; enums, domains and arrays come from these.
_BUILT_IN: Mapping[str, PgKind] = {
    "bool": _plain(pa.bool_(), "every value", from_text.boolean, from_binary.boolean),
    "int2": _integer(pa.int16(), ">i2"),
    "int4": _integer(pa.int32(), ">i4"),
    "int8": _integer(pa.int64(), ">i8"),
    "oid": _integer(pa.int64(), ">u4"),
    "float4": _floating(pa.float32(), ">f4"),
    "float8": _floating(pa.float64(), ">f8"),
    "text": _TEXT,
    "varchar": _TEXT,
    "bpchar": replace(_TEXT, carried="every value that is valid UTF-8, blanks at the end included"),
    "name": _TEXT,
    "json": replace(_TEXT, carried="every value that is valid UTF-8, byte for byte"),
    "jsonb": _plain(pa.string(), "every value, as PostgreSQL writes it", from_text.text, from_binary.jsonb),
    "bytea": _plain(pa.binary(), "every value", from_text.binary, from_binary.binary),
    "uuid": _plain(pa.string(), "every value, as its 36 characters", from_text.text, from_binary.uuid),
    "date": _plain(pa.date32(), "from 4713 BC to 5874897; not ±infinity", from_text.date, from_binary.date),
    "time": _plain(pa.time64("us"), "00:00:00 to 23:59:59.999999; not 24:00:00", from_text.time, from_binary.time),
    "timestamp": _plain(
        pa.timestamp("us"),
        "from 4713 BC to the end of 294246; not ±infinity",
        from_text.timestamp,
        from_binary.timestamp(pa.timestamp("us")),
    ),
    "timestamptz": _plain(
        pa.timestamp("us", tz="UTC"),
        "from 4713 BC to the end of 294246; not ±infinity",
        from_text.timestamptz,
        from_binary.timestamp(pa.timestamp("us", tz="UTC")),
    ),
}


class Catalog:
    """The types of a database at one time.

    Args:
        rows: Of ``TYPES_SQL``.
    """

    def __init__(self, rows: Iterable[Sequence[Any]]) -> None:
        self._types = {found.oid: found for found in map(_type_of, rows)}

    def knows(self, oid: int) -> bool:
        """Whether the type existed then."""
        return oid in self._types

    def kind_of(self, oid: int, typmod: int = -1, dimensions: int = 0) -> PgKind:
        """The kind of a column; every type is some kind, an unknown one text.

        Args:
            oid: Of the type.
            typmod: As the column has it, -1 for none.
            dimensions: Declared of an array (``attndims``); 0 counts as 1.
        """
        found = self._types.get(oid)
        if found is None:
            return replace(_OTHER, declared=f"type {oid}")
        if found.sort == "d":
            base = self.kind_of(
                found.base,
                found.base_typmod if found.base_typmod != -1 else typmod,
                found.dimensions or dimensions,
            )
            return replace(base, declared=found.declared)
        if found.is_array and found.element:
            return self._array(found, typmod, max(dimensions, 1))
        declared = _declared(found, typmod)
        if found.sort == "e":
            return replace(_TEXT, declared=declared, carried="every label, also those added later")
        if found.schema != "pg_catalog":
            return replace(_OTHER, declared=declared)
        if found.name == "numeric" and typmod != -1:
            return _numeric(typmod, declared)
        return replace(_BUILT_IN.get(found.name, _OTHER), declared=declared)

    def text_kind(self, oid: int, typmod: int = -1) -> PgKind:
        """The kind of a column that is to be carried as text although Arrow has a type for it."""
        found = self._types.get(oid)
        return replace(_OTHER, declared=_declared(found, typmod) if found else f"type {oid}")

    def _array(self, found: PgType, typmod: int, dimensions: int) -> PgKind:
        element = self.kind_of(found.element, typmod)
        declared = element.declared + "[]" * dimensions
        # int2vector and oidvector have another text, and a list of lists would need two declarations.
        if found.declared.endswith("vector") or pa.types.is_list(element.type) or element.from_binary is None:
            return replace(_OTHER, declared=found.declared if found.declared.endswith("vector") else declared)
        kind = element.type
        for _ in range(dimensions):
            kind = pa.list_(kind)
        return PgKind(
            type=kind,
            declared=declared,
            carried=f"arrays of {dimensions} dimension{'s' * (dimensions > 1)} counted from 1, and empty ones; "
            "their elements as above",
            from_text=list_from_text(element.from_text, dimensions),
            from_binary=None,
        )


def _type_of(row: Sequence[Any]) -> PgType:
    oid, schema, name, sort, element, base, base_typmod, dimensions, is_array, declared = row
    return PgType(
        oid=int(oid),
        schema=schema,
        name=name,
        sort=sort,
        element=int(element),
        base=int(base),
        base_typmod=int(base_typmod),
        dimensions=int(dimensions),
        is_array=str(is_array).lower() in ("true", "t"),
        declared=declared,
    )


def _declared(found: PgType, typmod: int) -> str:
    """The type as ``format_type`` writes it with its modifier."""
    if typmod == -1 or found.schema != "pg_catalog":
        return found.declared
    if found.name == "numeric":
        precision, scale = _precision_and_scale(typmod)
        return f"numeric({precision},{scale})"
    if found.name in ("varchar", "bpchar"):
        return f"{found.declared}({typmod - _VARLENA_HEADER})"
    if found.name in ("bit", "varbit"):
        return f"{found.declared}({typmod})"
    if found.name in ("time", "timetz", "timestamp", "timestamptz"):
        word, _, rest = found.declared.partition(" ")
        return f"{word}({typmod}) {rest}"
    return found.declared


def _precision_and_scale(typmod: int) -> tuple[int, int]:
    """Of a numeric: 16 bits of precision, 11 of signed scale (https://git.postgresql.org, numeric.c)."""
    packed = typmod - _VARLENA_HEADER
    return packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024


def _numeric(typmod: int, declared: str) -> PgKind:
    precision, scale = _precision_and_scale(typmod)
    # numeric(3,-2) holds 12300, and numeric(3,5) holds 0.00123.
    digits, places = (precision - scale, 0) if scale < 0 else (max(precision, scale), scale)
    if digits > _MOST_DIGITS:
        return replace(_OTHER, declared=declared)
    kind = pa.decimal128(digits, places) if digits <= _DIGITS_128 else pa.decimal256(digits, places)
    return PgKind(
        type=kind,
        declared=declared,
        carried="every number; not NaN, not ±Infinity",
        from_text=from_text.decimal(kind),
        from_binary=from_binary.decimal(kind),
    )
