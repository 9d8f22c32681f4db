"""URLs as a pipeline file writes them: scheme, relative path, references to secrets; printed without passwords."""

from __future__ import annotations

import re
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from raypipe.spec.problems import nearest

# Stores that live in files: their URLs have no host, and their paths may be relative to the pipeline file.
FILE_SCHEMES = ("sqlite", "duckdb", "delta")

REFERENCE = re.compile(r"\$\{(?P<kind>[^}:]*)(?P<colon>:?)(?P<name>[^}]*)\}")
REFERENCE_KINDS = ("env", "file")

# Sources whose tables have a schema: the pipeline file may write ``schema.table``.
SCHEMA_SCHEMES = ("postgresql", "kafka")

# Greedy on purpose: a password that was not percent-encoded may hold "@", ":" and "/" itself.
_USER_AND_PASSWORD = re.compile(r"(?P<before>://[^:/@\s]*:)[^\s]*@")
_SECRET_ARGUMENT = re.compile(r"(?i)(?P<before>[?&;][^=&;\s]*(password|passwd|pwd|secret|token|key)[^=&;\s]*=)[^&;\s]*")
_ONLY_REFERENCES = re.compile(r"(\$\{[^}]*\})+")


def redact(text: str) -> str:
    """The text with the passwords of all URLs in it replaced by ``***``."""
    text = _USER_AND_PASSWORD.sub(lambda found: f"{found['before']}***@", text)
    return _SECRET_ARGUMENT.sub(lambda found: f"{found['before']}***", text)


class Url:
    """A URL as written, references unresolved. Its text is for ``raypipe.spec.resolve`` only; ``str`` hides passwords.

    ``sqlite:///shop.db`` is a path relative to the pipeline file's folder and ``sqlite:////data/shop.db`` an absolute
    one, as SQLAlchemy has it; so for every scheme in ``FILE_SCHEMES``.
    """

    __slots__ = ("written",)
    written: str

    def __init__(self, written: str) -> None:
        object.__setattr__(self, "written", _checked(written))

    @property
    def scheme(self) -> str:
        """What stands before ``://``, without a driver (``sqlite`` for ``sqlite+pysqlite``); empty if unknown yet."""
        scheme, separator, _ = self.written.partition("://")
        return scheme.partition("+")[0] if separator else ""

    def relation(self, source: str, table: str) -> str:
        """What a table that the file writes under a source of this URL is called in SQL and in ``from``.

        ``<source>.<table>``; a schema written before the table (``sales.orders``) is left out. Where the whole URL is a
        secret, a dot is taken for that of a schema: SQLite's tables hardly ever have one in their name.
        """
        return f"{source}.{table.rpartition('.')[2] if self.scheme in (*SCHEMA_SCHEMES, '') else table}"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Url does not change")

    def __str__(self) -> str:
        return redact(self.written)

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and other.written == self.written

    def __hash__(self) -> int:
        return hash(self.written)

    def __reduce__(self) -> tuple[type[Url], tuple[str]]:
        return Url, (self.written,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Takes text or a ``Url``; dumps the redacted text."""
        return core_schema.no_info_plain_validator_function(
            _validated, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        """Text, for editors."""
        return {"type": "string", "examples": ["sqlite:///shop.db", "postgresql://raypipe:${env:PASSWORD}@db/shop"]}


def _validated(value: object) -> Url:
    if isinstance(value, Url):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("url_type", "should be text")
    return Url(value)


def _checked(written: str) -> str:
    check_references(written)
    if _ONLY_REFERENCES.match(written):
        return written  # the scheme is inside the secret: checked when it is resolved
    return check_shape(written)


def check_references(written: str) -> str:
    """Returns the text if all references in it can be resolved, once what they name is there.

    Raises:
        PydanticCustomError: with a sentence that shows no secret.
    """
    for found in REFERENCE.finditer(written):
        if found["kind"] not in REFERENCE_KINDS or not found["colon"] or not found["name"]:
            meant = nearest(found["kind"], REFERENCE_KINDS)
            raise PydanticCustomError(
                "url",
                "a reference is ${env:NAME} or ${file:PATH}, not {written}",
                {"written": found[0] if not found["colon"] else f"${{{found['kind']}:…}}", "did_you_mean": meant},
            )
    return written


def check_shape(text: str) -> str:
    """Returns the URL if it has the shape of one.

    Raises:
        PydanticCustomError: with a sentence that shows no secret.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9.+-]*", scheme):
        raise PydanticCustomError("url", "a URL begins with a scheme, as in sqlite:///shop.db")
    if scheme.partition("+")[0] in FILE_SCHEMES and not rest.startswith("${"):
        if not rest.startswith("/"):
            raise PydanticCustomError(
                "url",
                "write {scheme}:///path for a path relative to this file and {scheme}:////path for an absolute one: "
                "after two slashes comes a host, which {scheme} has not",
                {"scheme": scheme},
            )
        if not rest.partition("?")[0].strip("/"):
            raise PydanticCustomError("url", "the path is missing, as in {scheme}:///path", {"scheme": scheme})
    return text
