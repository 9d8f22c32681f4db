"""Turns a URL as written into the one to connect with: secrets filled in, a relative path made absolute.

Done as late as possible, where the plan is made: what this returns must not be printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from pydantic_core import PydanticCustomError

from raypipe.errors import Kind, RaypipeError
from raypipe.spec.url import FILE_SCHEMES, REFERENCE, Url, check_shape


def resolve_url(url: Url, folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """The URL to connect with.

    A reference in the ``user:password@`` part is percent-encoded, so that any password works; elsewhere it stands as it
    is. The end of a secret file's last line is not part of the secret.

    Args:
        url: As written.
        folder: That relative paths, also those of ``${file:PATH}``, start from.
        environment: Of ``${env:NAME}`` and ``${env:NAME:-default}``.

    Raises:
        RaypipeError: a secret does not exist, or what it holds is not a URL; of kind ``pipeline_file``.
    """
    authority = re.match(r"[^:/]+://(?P<user>.*)@", url.written)

    def secret(found: re.Match[str]) -> str:
        value = _secret(found["kind"], found["name"], folder, environment)
        in_user = authority is not None and found.end() <= authority.end("user")
        return quote(value, safe="") if in_user else value

    return _absolute(REFERENCE.sub(secret, url.written), folder)


def resolve_folder(written: str, folder: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """A folder as a pipeline file names it: references filled in, a relative path made absolute.

    Args:
        written: In the file.
        folder: That relative paths, also those of ``${file:PATH}``, start from.
        environment: Of ``${env:NAME}`` and ``${env:NAME:-default}``.

    Raises:
        RaypipeError: something that it refers to does not exist; of kind ``pipeline_file``.
    """
    filled = REFERENCE.sub(lambda found: _secret(found["kind"], found["name"], folder, environment), written)
    if "://" in filled:
        raise _unresolved("A folder on a local disk is wanted here, not a URL.")
    return Path(os.path.normpath(folder.absolute() / filled))


def resolve_place(written: str, folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """A URL of any scheme, which stays as it is, or a folder, which becomes absolute; with references filled in.

    Args and errors are those of ``resolve_folder``.
    """
    filled = REFERENCE.sub(lambda found: _secret(found["kind"], found["name"], folder, environment), written)
    return filled if "://" in filled else os.path.normpath(folder.absolute() / filled)


def _secret(kind: str, name: str, folder: Path, environment: Mapping[str, str]) -> str:
    if kind == "env":
        variable, has_default, default = name.partition(":-")
        if has_default:
            return environment.get(variable) or default  # an empty variable counts as unset, as in a shell
        if variable not in environment:
            raise _unresolved(f"The environment variable {variable} is not set.")
        return environment[variable]
    path = folder / name
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or "cannot be read") if isinstance(error, OSError) else "is not UTF-8 text"
        raise _unresolved(f"The secret file {path} cannot be used: {reason}.") from None


def _absolute(text: str, folder: Path) -> str:
    try:
        check_shape(text)
    except PydanticCustomError as error:
        raise _unresolved(f"The secret does not hold a usable URL: {error.message()}.") from None
    scheme, _, rest = text.partition("://")
    if scheme.partition("+")[0] not in FILE_SCHEMES or rest.startswith("//"):
        return text
    path, question_mark, arguments = rest[1:].partition("?")
    # The path is plain text, as in SQLAlchemy's URLs of files: nothing in it is percent-encoded.
    return f"{scheme}:///{os.path.normpath(folder.absolute() / path)}{question_mark}{arguments}"


def _unresolved(message: str) -> RaypipeError:
    return RaypipeError(message, kind=Kind.PIPELINE_FILE)
