"""Exit codes: what a script or a supervisor can tell from the end of a command."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from raypipe.errors import Kind


class Exit(IntEnum):
    """Closed set of exit codes; 128 + n is what shells use for a process that signal n ended."""

    OK = 0
    FAILED = 1
    USAGE = 2  # also what the command-line parser itself exits with
    FENCED = 3
    SOURCE_GAP = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130
    TERMINATED = 143


MEANING: Mapping[Exit, str] = {
    Exit.OK: "Done. For `verify`: every sink is right. For `run --until forever`: ended cleanly by a signal.",
    Exit.FAILED: "`verify` found differences, or a run failed in a way that a person must look at.",
    Exit.USAGE: "The command line or the pipeline file is wrong, or an optional dependency is not installed.",
    Exit.FENCED: "A later run of the same pipeline has taken over; this one wrote nothing more.",
    Exit.SOURCE_GAP: "The source can no longer serve what follows our position; a person must decide what to do.",
    Exit.UNAVAILABLE: "A source, the log or a sink did not answer for too long. Nothing is lost: run again.",
    Exit.INTERRUPTED: "Interrupted (Ctrl-C) before it was done. Nothing is lost.",
    Exit.TERMINATED: "Terminated (SIGTERM) before it was done. Nothing is lost.",
}

BY_KIND: Mapping[Kind, Exit] = {
    Kind.PIPELINE_FILE: Exit.USAGE,
    Kind.SQL: Exit.FAILED,
    Kind.SCHEMA: Exit.FAILED,
    Kind.SOURCE_GAP: Exit.SOURCE_GAP,
    Kind.FENCED: Exit.FENCED,
    Kind.UNAVAILABLE: Exit.UNAVAILABLE,
    Kind.OUTCOME_UNKNOWN: Exit.UNAVAILABLE,
    Kind.CONFLICT: Exit.UNAVAILABLE,
    Kind.CORRUPT: Exit.FAILED,
    Kind.LIMIT: Exit.FAILED,
    Kind.MISSING_EXTRA: Exit.USAGE,
    Kind.INTERNAL: Exit.FAILED,
}
