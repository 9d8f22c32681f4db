"""How a command ends when something goes wrong: one sentence, one exit code, a traceback only when asked for."""

from __future__ import annotations

import os
import sys
import traceback

from raypipe.cli.exits import BY_KIND, Exit
from raypipe.cli.terminal import complain, say_json
from raypipe.errors import Kind, RaypipeError

DEBUG_VARIABLE = "RAYPIPE_DEBUG"


def report(error: Exception) -> Exit:
    """Tells people what failed, on stderr; returns the exit code."""
    _trace(error)
    if isinstance(error, RaypipeError):
        complain(f"raypipe: {error}" if error.kind is not Kind.PIPELINE_FILE else str(error))
        return BY_KIND[error.kind]
    complain(f"raypipe: {_unexpected(error)} Run again with {DEBUG_VARIABLE}=1 to see where.")
    return Exit.FAILED


def report_json(error: Exception) -> Exit:
    """Tells machines what failed, as JSON on stdout; returns the exit code."""
    from raypipe.spec.problems import PipelineFileError
    from raypipe.spec.url import redact

    _trace(error)
    code = BY_KIND[error.kind] if isinstance(error, RaypipeError) else Exit.FAILED
    document: dict[str, object] = {"ok": False, "exit_code": int(code)}
    if isinstance(error, PipelineFileError):
        document["problems"] = [problem.to_dict() for problem in error.problems]
    if isinstance(error, RaypipeError):
        document["error"] = {
            "kind": error.kind.value,
            "message": redact(error.message),
            "remedy": error.remedy,
            "fields": dict(error.fields),
        }
    else:
        document["error"] = {"kind": Kind.INTERNAL.value, "message": redact(_unexpected(error)), "remedy": ""}
    say_json(document)
    return code


def _unexpected(error: Exception) -> str:
    return f"This should not have happened: {type(error).__name__}: {error}."


def _trace(error: Exception) -> None:
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error, file=sys.stderr)
        if isinstance(error, RaypipeError) and error.cause:
            print(f"Cause, maybe in another process: {error.cause}", file=sys.stderr)
