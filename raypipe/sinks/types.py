"""Which type a store gives to an Arrow type, and which type holds both of two: the one table that all sinks follow.

Every type on the way has one *stored* form (``stored_type``); a store names it (``StoredType``).
``docs/reference/types.md`` is written from this table by the test that sends every type through every sink.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raypipe.errors import SchemaMismatch
from raypipe.model import TableSchema
from raypipe.sinks.nested import is_list_like, is_nested, outline

UTC = "UTC"
DECIMAL_DIGITS = 38  # of decimal128, the widest that Arrow, DuckDB and Delta all hold


@dataclass(frozen=True, kw_only=True)
class StoredType:
    """One row of the table.

    Attributes:
        arrow: The stored form.
        duckdb: DuckDB's name of it.
        sqlite: The type declared in SQLite. SQLite derives an affinity from the name: INT makes INTEGER, then TEXT
            makes TEXT, then FLOA and DOUB make REAL, then anything else NUMERIC, which leaves dates and times alone.
        sqlite_form: How a value looks there.
    """

    arrow: pa.DataType
    duckdb: str
    sqlite: str
    sqlite_form: str


def decimal_stored_type(precision: int, scale: int) -> StoredType:
    """The row of a decimal. SQLite has no exact decimals, so it keeps the digits as text."""
    return StoredType(
        arrow=pa.decimal128(precision, scale),
        duckdb=f"DECIMAL({precision},{scale})",
        sqlite=f"DECIMAL_TEXT({precision},{scale})",
        sqlite_form="digits as text, always with all decimal places",
    )


def nested_stored_type(arrow: pa.DataType) -> StoredType:
    """The row of a list or a struct of stored types. SQLite has neither, so it keeps them as JSON text."""
    # A string as a part of a type's name is SQLite's own grammar; what it says is not looked at.
    form = json.dumps(outline(arrow, sqlite_type), ensure_ascii=False).replace("'", "''")
    if pa.types.is_list(arrow):
        return StoredType(
            arrow=arrow,
            duckdb=f"{duckdb_type(arrow.value_type)}[]",
            sqlite=f"JSON_TEXT '{form}'",
            sqlite_form="JSON array",
        )
    fields = ", ".join(f"{_quoted(field.name)} {duckdb_type(field.type)}" for field in arrow)
    return StoredType(arrow=arrow, duckdb=f"STRUCT({fields})", sqlite=f"JSON_TEXT '{form}'", sqlite_form="JSON object")


STORED_TYPES: tuple[StoredType, ...] = (
    StoredType(arrow=pa.bool_(), duckdb="BOOLEAN", sqlite="BOOLEAN", sqlite_form="0 or 1"),
    StoredType(arrow=pa.int8(), duckdb="TINYINT", sqlite="TINYINT", sqlite_form="integer"),
    StoredType(arrow=pa.int16(), duckdb="SMALLINT", sqlite="SMALLINT", sqlite_form="integer"),
    StoredType(arrow=pa.int32(), duckdb="INTEGER", sqlite="INTEGER", sqlite_form="integer"),
    StoredType(arrow=pa.int64(), duckdb="BIGINT", sqlite="BIGINT", sqlite_form="integer"),
    StoredType(arrow=pa.uint8(), duckdb="UTINYINT", sqlite="UTINYINT", sqlite_form="integer"),
    StoredType(arrow=pa.uint16(), duckdb="USMALLINT", sqlite="USMALLINT", sqlite_form="integer"),
    StoredType(arrow=pa.uint32(), duckdb="UINTEGER", sqlite="UINTEGER", sqlite_form="integer"),
    # Above 2^63 - 1 SQLite would turn an integer into a float, so it is kept as a decimal of 20 digits.
    StoredType(arrow=pa.uint64(), duckdb="UBIGINT", sqlite="DECIMAL_TEXT(20,0)", sqlite_form="digits as text"),
    StoredType(arrow=pa.float32(), duckdb="FLOAT", sqlite="FLOAT", sqlite_form="real; NaN is refused"),
    StoredType(arrow=pa.float64(), duckdb="DOUBLE", sqlite="DOUBLE", sqlite_form="real; NaN is refused"),
    decimal_stored_type(18, 2),
    StoredType(arrow=pa.string(), duckdb="VARCHAR", sqlite="TEXT", sqlite_form="text"),
    StoredType(arrow=pa.binary(), duckdb="BLOB", sqlite="BLOB", sqlite_form="blob"),
    StoredType(arrow=pa.date32(), duckdb="DATE", sqlite="DATE", sqlite_form="`2026-11-23`"),
    StoredType(arrow=pa.time64("us"), duckdb="TIME", sqlite="TIME", sqlite_form="`12:34:56.123456`"),
    StoredType(
        arrow=pa.timestamp("us"), duckdb="TIMESTAMP", sqlite="DATETIME", sqlite_form="`2026-11-23 12:34:56.123456`"
    ),
    StoredType(
        arrow=pa.timestamp("us", tz=UTC),
        duckdb="TIMESTAMP WITH TIME ZONE",
        sqlite="DATETIME_UTC",
        sqlite_form="`2026-11-23 12:34:56.123456Z`",
    ),
    StoredType(
        arrow=pa.timestamp("ns"),
        duckdb="TIMESTAMP_NS",
        sqlite="DATETIME_NS",
        sqlite_form="`2026-11-23 12:34:56.123456789`",
    ),
)
_BY_ARROW = {row.arrow: row for row in STORED_TYPES}
_BY_SQLITE = {row.sqlite: row.arrow for row in STORED_TYPES if not row.sqlite.startswith("DECIMAL_TEXT")}
_INTEGERS = (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64())
_DECIMAL_NAME = re.compile(r"DECIMAL_TEXT\((\d+),(\d+)\)")
_NESTED_NAME = re.compile(r"JSON_TEXT '(.*)'", re.DOTALL)


def stored_type(arrow: pa.DataType) -> pa.DataType | None:
    """The one form in which stores keep an Arrow type; None if no store holds it.

    Layouts (dictionary, large, view) and units that a wider one holds exactly disappear; a time zone becomes UTC,
    which is what Arrow's values are in anyway. The same goes for what lists and structs hold.
    """
    types = pa.types
    if is_list_like(arrow):
        element = stored_type(arrow.value_type)
        return None if element is None else pa.list_(element)
    if types.is_struct(arrow):
        return _stored_struct(arrow)
    if types.is_dictionary(arrow):
        return stored_type(arrow.value_type)
    if types.is_decimal(arrow) and arrow.precision <= DECIMAL_DIGITS and 0 <= arrow.scale <= arrow.precision:
        return pa.decimal128(arrow.precision, arrow.scale)
    if types.is_large_string(arrow) or types.is_string_view(arrow):
        return pa.string()
    if types.is_large_binary(arrow) or types.is_fixed_size_binary(arrow) or types.is_binary_view(arrow):
        return pa.binary()
    if types.is_float16(arrow):
        return pa.float32()
    if types.is_time32(arrow):
        return pa.time64("us")
    if types.is_timestamp(arrow):
        unit = "ns" if arrow.unit == "ns" and arrow.tz is None else "us"
        return None if arrow.unit == "ns" and arrow.tz else pa.timestamp(unit, tz=UTC if arrow.tz else None)
    return arrow if arrow in _BY_ARROW else None


def stored_schema(arrow: pa.Schema, table: str, store: str) -> pa.Schema:
    """The stored form of every field.

    Raises:
        SchemaMismatch: a type that no store holds.
    """
    return pa.schema([pa.field(field.name, _held(field, table, store)) for field in arrow])


def row_of(stored: pa.DataType) -> StoredType:
    """The row of a stored type."""
    if is_nested(stored):
        return nested_stored_type(stored)
    if pa.types.is_decimal(stored):
        return decimal_stored_type(stored.precision, stored.scale)
    return _BY_ARROW[stored]


def duckdb_type(stored: pa.DataType) -> str:
    """DuckDB's name of a stored type."""
    return row_of(stored).duckdb


def sqlite_type(stored: pa.DataType) -> str:
    """The type to declare in SQLite."""
    return row_of(stored).sqlite


def arrow_of_sqlite(declared: str) -> pa.DataType | None:
    """The stored type behind a type declared in SQLite; None if raypipe declares no such type."""
    decimal = _DECIMAL_NAME.fullmatch(declared)
    if decimal:
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    nested = _NESTED_NAME.fullmatch(declared)
    if nested:
        try:
            return _of_outline(json.loads(nested[1].replace("''", "'")))
        except ValueError:
            return None
    return _BY_SQLITE.get(declared)


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The narrowest stored type that holds every value of two stored types exactly; None if there is none.

    Text is no way out: a number that becomes text compares and sorts differently.
    """
    if one == other:
        return one
    types = pa.types
    if is_nested(one) or is_nested(other):
        return _common_nested(one, other)
    if not all(types.is_integer(part) or types.is_decimal(part) or types.is_floating(part) for part in (one, other)):
        return None
    if types.is_floating(one) or types.is_floating(other):
        return None if types.is_decimal(one) or types.is_decimal(other) else _common_float(one, other)
    if types.is_integer(one) and types.is_integer(other):
        for candidate in _INTEGERS:
            low, high = _range(candidate)
            if all(low <= _range(part)[0] and _range(part)[1] <= high for part in (one, other)):
                return candidate
    scale = max(_scale(one), _scale(other))
    precision = max(_whole_digits(one), _whole_digits(other)) + scale
    return pa.decimal128(precision, scale) if precision <= DECIMAL_DIGITS else None


def fit(rows: pa.Table, stored: pa.Schema) -> pa.Table:
    """The rows with the store's columns in the store's order and types; a column they lack is NULL.

    ``stored`` must hold the rows' types exactly (see ``widened``).
    """
    columns = [
        rows.column(field.name).cast(field.type) if field.name in rows.column_names else _nulls(rows, field.type)
        for field in stored
    ]
    return pa.table(columns, schema=stored)


def widened(stored: pa.Schema, incoming: pa.Schema, table: str, store: str) -> pa.Schema:
    """The store's schema after it has made room for incoming columns: added at the end, or widened in place.

    Raises:
        SchemaMismatch: a type that no store holds, or a change of type that would lose values.
    """
    merged = {field.name: field.type for field in stored}
    for field in stored_schema(incoming, table, store):
        before = merged.get(field.name, field.type)
        wide = common_type(before, field.type)
        if wide is None:
            raise SchemaMismatch(
                f"Column {field.name} of {table} in {store} is {before} and cannot become {field.type} without loss.",
                remedy="Cast it in the step's SQL to the type the table has, or feed a table of another name.",
                table=table,
                column=field.name,
            )
        merged[field.name] = wide
    return pa.schema(list(merged.items()))


def check_key(schema: TableSchema, table: str, store: str) -> None:
    """Refuses a key that no store finds rows by.

    Raises:
        SchemaMismatch: a list or a struct is part of the key.
    """
    for column in schema.columns:
        if column.name in schema.key and is_nested(column.type):
            raise SchemaMismatch(
                f"Column {column.name} is part of the key of {table} and has the type {column.type}; "
                f"{store} finds no rows by a list or a struct.",
                remedy="Make a text of it in the step's SQL, for example with to_json(), and name that as the key.",
                table=table,
                column=column.name,
            )


def check_names(schema: TableSchema, table: str, store: str) -> None:
    """Refuses column names that the store, whose names ignore case, cannot tell apart.

    Raises:
        SchemaMismatch: two names differ in case only.
    """
    seen: dict[str, str] = {}
    for name in schema.names:
        twin = seen.setdefault(name.lower(), name)
        if twin != name:
            raise SchemaMismatch(
                f"Columns {twin} and {name} of {table} are one name in {store}.", remedy="Rename one in the step's SQL."
            )


def _stored_struct(arrow: pa.DataType) -> pa.DataType | None:
    """DuckDB's names of fields ignore case; a struct without fields is held nowhere."""
    fields = [(field.name, stored_type(field.type)) for field in arrow]
    names = {name.lower() for name, _ in fields}
    if not fields or len(names) < len(fields) or any(stored is None for _, stored in fields):
        return None
    return pa.struct(fields)


def _of_outline(form: Any) -> pa.DataType | None:
    """The type behind what ``outline`` made of it; None if there is none."""
    if isinstance(form, str):
        return arrow_of_sqlite(form)
    if isinstance(form, list) and len(form) == 1:
        element = _of_outline(form[0])
        return None if element is None else pa.list_(element)
    if not isinstance(form, dict):
        return None
    fields = [(name, _of_outline(field)) for name, field in form.items()]
    return pa.struct(fields) if fields and all(stored is not None for _, stored in fields) else None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _held(field: pa.Field, table: str, store: str) -> pa.DataType:
    stored = stored_type(field.type)
    if stored is None:
        choices = ", ".join(str(row.arrow) for row in STORED_TYPES)
        raise SchemaMismatch(
            f"Column {field.name} of {table} has the type {field.type}, which {store} cannot hold.",
            remedy=f"Cast it in the step's SQL, for example with to_json(); types that fit: {choices}, "
            "and lists and structs of these.",
            table=table,
            column=field.name,
        )
    return stored


def _common_nested(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """A list of the common element, a struct of the common fields; a struct keeps its fields and their order."""
    if pa.types.is_list(one) and pa.types.is_list(other):
        element = common_type(one.value_type, other.value_type)
        return None if element is None else pa.list_(element)
    if not (pa.types.is_struct(one) and pa.types.is_struct(other)) or _names(one) != _names(other):
        return None
    fields = [(mine.name, common_type(mine.type, theirs.type)) for mine, theirs in zip(one, other, strict=True)]
    return pa.struct(fields) if all(wide is not None for _, wide in fields) else None


def _names(struct: pa.DataType) -> list[str]:
    return [field.name for field in struct]


def _nulls(rows: pa.Table, stored: pa.DataType) -> pa.Array:
    return pa.nulls(rows.num_rows, stored)


def _range(integer: pa.DataType) -> tuple[int, int]:
    bits = integer.bit_width
    return (0, 2**bits - 1) if pa.types.is_unsigned_integer(integer) else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _whole_digits(number: pa.DataType) -> int:
    """Digits before the decimal point of an integer or a decimal."""
    return len(str(_range(number)[1])) if pa.types.is_integer(number) else int(number.precision - number.scale)


def _scale(number: pa.DataType) -> int:
    return int(number.scale) if pa.types.is_decimal(number) else 0


def _common_float(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """A float holds an integer type exactly if its mantissa has room for all bits; a double holds every float."""
    for candidate, mantissa_bits in ((pa.float32(), 24), (pa.float64(), 53)):
        if all(
            part.bit_width <= (candidate.bit_width if pa.types.is_floating(part) else mantissa_bits)
            for part in (one, other)
        ):
            return candidate
    return None
