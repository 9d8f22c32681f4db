"""Which names a pipeline file may give to things."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

# Letters, digits and underscores are identifiers everywhere a name ends up: SQL, log topics, actor names, metrics.
NAME_PATTERN = r"[A-Za-z][A-Za-z0-9_]*"
# PostgreSQL cuts longer identifiers off, silently.
NAME_LENGTH = 63
# What raypipe itself makes in stores begins with one of these.
RESERVED_PREFIXES = ("_raypipe_", "raypipe_")
# A source is a schema in a step's SQL, and these are schemas or catalogs of DuckDB.
RESERVED_SOURCE_NAMES = frozenset({"main", "temp", "memory", "system", "information_schema", "pg_catalog"})


def _checked_name(name: str) -> str:
    if len(name) > NAME_LENGTH:
        raise PydanticCustomError("name", "a name has at most {length} characters", {"length": NAME_LENGTH})
    if name.lower().startswith(RESERVED_PREFIXES):
        raise PydanticCustomError("name", "names that begin with raypipe_ or _raypipe_ are raypipe's own")
    if not re.fullmatch(NAME_PATTERN, name):
        raise PydanticCustomError("name", "a name is letters, digits and underscores, and begins with a letter")
    return name


def _checked_source_name(name: str) -> str:
    if name.lower() in RESERVED_SOURCE_NAMES:
        raise PydanticCustomError(
            "name", "a source cannot have the name of a schema of DuckDB: {names}", {"names": _reserved_source_names()}
        )
    return _checked_name(name)


def _reserved_source_names() -> str:
    return ", ".join(sorted(RESERVED_SOURCE_NAMES))


def _checked_database_name(name: str) -> str:
    if not name.strip() or "\0" in name:
        raise PydanticCustomError("name", "a name cannot be empty")
    if name.lower().startswith("_raypipe_"):
        raise PydanticCustomError("name", "names that begin with _raypipe_ are raypipe's own")
    return name


_JSON_SCHEMA = {"type": "string", "pattern": f"^{NAME_PATTERN}$", "maxLength": NAME_LENGTH}

# A name that the file gives: pipeline, step, sink, sink table.
Name = Annotated[str, AfterValidator(_checked_name), WithJsonSchema(_JSON_SCHEMA)]
# A name that the file gives to a source.
SourceName = Annotated[str, AfterValidator(_checked_source_name), WithJsonSchema(_JSON_SCHEMA)]
# A table or column as its database calls it, which may need quoting there.
DatabaseName = Annotated[
    str, AfterValidator(_checked_database_name), WithJsonSchema({"type": "string", "minLength": 1})
]
