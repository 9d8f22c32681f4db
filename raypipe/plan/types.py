"""Arrow types as DuckDB gives them, without what other stores would stumble over."""

from __future__ import annotations

import pyarrow as pa


def plain(type_: pa.DataType) -> pa.DataType:
    """The type without dictionary encoding (ENUM) and extension names (JSON), inside lists and structs as well."""
    if isinstance(type_, pa.BaseExtensionType):
        return plain(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return plain(type_.value_type)
    if pa.types.is_list(type_):
        return pa.list_(plain(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([pa.field(field.name, plain(field.type)) for field in type_])
    return type_


def has_null(type_: pa.DataType) -> bool:
    """Tells whether a type is that of a bare NULL, or holds one."""
    return pa.types.is_null(type_) or any(
        has_null(type_.field(index).type) for index in range(type_.num_fields) if pa.types.is_nested(type_)
    )
