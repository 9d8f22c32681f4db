"""What PostgreSQL itself answers when it refuses: ErrorResponse messages as errors, without row values."""

from __future__ import annotations

from raypipe.errors import Kind, RaypipeError


class PostgresError(RaypipeError):
    """The server refused or ended something.

    Attributes:
        sqlstate: Its five characters (https://www.postgresql.org/docs/current/errcodes-appendix.html).
        server_message: Its own sentence, without detail, which may quote rows.
    """

    kind = Kind.UNAVAILABLE

    def __init__(self, *, sqlstate: str, server_message: str, severity: str = "ERROR") -> None:
        super().__init__(f"PostgreSQL answered {severity} {sqlstate}: {server_message.rstrip('.')}.", sqlstate=sqlstate)
        self.sqlstate = sqlstate
        self.server_message = server_message


def error_of(payload: bytes) -> PostgresError:
    """From the payload of an ErrorResponse: fields of one letter and text up to a zero byte."""
    fields = {part[:1]: part[1:].decode("utf-8", "replace") for part in payload.split(b"\0") if part}
    return PostgresError(
        sqlstate=fields.get(b"C", "XX000"),
        server_message=fields.get(b"M", "no message"),
        severity=fields.get(b"V", fields.get(b"S", "ERROR")),
    )
