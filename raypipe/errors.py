"""Every error raypipe raises on purpose: one root, a closed set of kinds, one table of what to do about each."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any


class Directive(Enum):
    """What a runner does after an error."""

    STOP = "stop"  # a person must act first; retrying cannot help
    RETRY = "retry"  # the other side may recover: reopen after a back-off
    REOPEN = "reopen"  # the outcome is unknown or stale: reopen at once and read back what is committed


class Kind(Enum):
    """Closed set of error kinds; the value is the stable name shown to users and machines."""

    PIPELINE_FILE = "pipeline_file"  # the user's document is wrong
    SQL = "sql"  # a step's SQL is wrong, refused, or failed on the data
    SCHEMA = "schema"  # a table or column is not what the plan needs
    SOURCE_GAP = "source_gap"  # the source can no longer serve our position
    FENCED = "fenced"  # a later generation owns this pipeline
    UNAVAILABLE = "unavailable"  # a store does not answer: locked, full, read-only, away
    OUTCOME_UNKNOWN = "outcome_unknown"  # a commit's reply was lost
    CONFLICT = "conflict"  # another writer changed the store between our read and our commit
    CORRUPT = "corrupt"  # stored bytes are not what was written
    LIMIT = "limit"  # a stated bound would be passed
    MISSING_EXTRA = "missing_extra"  # an optional dependency is not installed
    INTERNAL = "internal"  # a broken invariant of raypipe itself


DIRECTIVES: Mapping[Kind, Directive] = {
    Kind.PIPELINE_FILE: Directive.STOP,
    Kind.SQL: Directive.STOP,
    Kind.SCHEMA: Directive.STOP,
    Kind.SOURCE_GAP: Directive.STOP,
    Kind.FENCED: Directive.STOP,
    Kind.UNAVAILABLE: Directive.RETRY,
    Kind.OUTCOME_UNKNOWN: Directive.REOPEN,
    Kind.CONFLICT: Directive.REOPEN,
    Kind.CORRUPT: Directive.STOP,
    Kind.LIMIT: Directive.STOP,
    Kind.MISSING_EXTRA: Directive.STOP,
    Kind.INTERNAL: Directive.STOP,
}


def _rebuild(cls: type[RaypipeError], state: dict[str, Any]) -> RaypipeError:
    error = cls.__new__(cls)
    Exception.__init__(error, state["message"])
    error.__dict__.update(state)
    return error


class RaypipeError(Exception):
    """What failed, where, the valid choices and the next step, in words a person on call can act on.

    The message never holds a row value or a secret. Instances survive pickling (Ray rebuilds exceptions in
    another process and drops ``__cause__``), so the cause is kept as text in ``cause``.

    Attributes:
        kind: What went wrong, from the closed set.
        message: What failed and where.
        remedy: The next step, empty when the message says it all.
        fields: Names and counts for logs and ``--json``; plain values only.
        cause: Type and text of the exception below, empty if none.
    """

    kind: Kind = Kind.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        kind: Kind | None = None,
        remedy: str = "",
        cause: BaseException | None = None,
        **fields: str | int | float | bool | None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if kind is not None:
            self.kind = kind
        self.remedy = remedy
        self.fields = fields
        self.cause = f"{type(cause).__name__}: {cause}" if cause is not None else ""

    @property
    def directive(self) -> Directive:
        """What a runner does next."""
        return DIRECTIVES[self.kind]

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.__dict__.copy())


class Fenced(RaypipeError):
    """A later generation owns the pipeline; this process must write nothing more and exit."""

    kind = Kind.FENCED


class SourceGap(RaypipeError):
    """The source cannot serve what follows our position: resuming would lose changes."""

    kind = Kind.SOURCE_GAP


class Unavailable(RaypipeError):
    """A store does not answer now (locked, full, read-only, away); nothing was lost, and a retry may work."""

    kind = Kind.UNAVAILABLE


class OutcomeUnknown(RaypipeError):
    """A commit was sent and its reply lost: read back, never repeat blindly."""

    kind = Kind.OUTCOME_UNKNOWN


class Conflict(RaypipeError):
    """Somebody committed to the store between our read and our commit; ours was provably rejected."""

    kind = Kind.CONFLICT


class Corrupt(RaypipeError):
    """Stored bytes are not what was written."""

    kind = Kind.CORRUPT


class StateLost(Corrupt):
    """The state of stateful steps cannot be read or is not kept for the version asked for: it must be rebuilt."""


class SchemaMismatch(RaypipeError):
    """A table or column is not what the plan needs."""

    kind = Kind.SCHEMA


class SqlError(RaypipeError):
    """A step's SQL is wrong, refused, or failed on the data."""

    kind = Kind.SQL


class LimitExceeded(RaypipeError):
    """A stated bound would be passed."""

    kind = Kind.LIMIT


class MissingExtra(RaypipeError):
    """An optional dependency is not installed."""

    kind = Kind.MISSING_EXTRA

    @classmethod
    def of(cls, extra: str, used_for: str) -> MissingExtra:
        """The one sentence for a missing extra, with the exact command."""
        return cls(f"{used_for} needs an optional dependency.", remedy=f"Run: pip install 'raypipe[{extra}]'")


class InvariantBroken(RaypipeError):
    """raypipe itself did something its design rules out; a defect to report."""

    kind = Kind.INTERNAL
