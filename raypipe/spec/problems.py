"""What is wrong with a pipeline file: every problem with its place, its path and the nearest valid choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum

from raypipe.errors import Kind, RaypipeError

# Keys and list indexes from the top of the document to a value.
DocumentPath = tuple[str | int, ...]


class Severity(Enum):
    """Whether a problem keeps the pipeline from running."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True, order=True)
class Location:
    """A place in a file; lines and columns count from 1, as editors do."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        """``file:line:column``, which editors and terminals turn into a link."""
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing to mend, in words.

    Attributes:
        sentence: What is wrong and what would be right; never a row value or a secret.
        path: Of the value in the document; empty for the document as a whole.
        location: In the file; None when the pipeline was built in Python.
        did_you_mean: The nearest valid choice, empty if none is near.
        severity: Error or warning.
        excerpt: The line that is meant with a caret below its place, for SQL; empty otherwise.
    """

    sentence: str
    path: DocumentPath = ()
    location: Location | None = None
    did_you_mean: str = ""
    severity: Severity = Severity.ERROR
    excerpt: str = ""

    def __str__(self) -> str:
        """``file:line:column  path.in.document  sentence  (did you mean …?)``, the parts that there are."""
        line = "  ".join(
            part
            for part in (
                str(self.location) if self.location else "",
                dotted(self.path),
                "warning:" if self.severity is Severity.WARNING else "",
                self.sentence,
                f"(did you mean {self.did_you_mean}?)" if self.did_you_mean else "",
            )
            if part
        )
        return "\n".join([line, *(f"    {excerpt}" for excerpt in self.excerpt.splitlines())])

    def to_dict(self) -> dict[str, str | int | None]:
        """Plain values, for ``--json``."""
        return {
            "file": self.location.file if self.location else None,
            "line": self.location.line if self.location else None,
            "column": self.location.column if self.location else None,
            "path": dotted(self.path),
            "severity": self.severity.value,
            "sentence": self.sentence,
            "did_you_mean": self.did_you_mean or None,
            "excerpt": self.excerpt or None,
        }


class PipelineFileError(RaypipeError):
    """The pipeline file is wrong; all its problems at once, in the order of the file."""

    kind = Kind.PIPELINE_FILE

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = in_file_order(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems), problems=len(self.problems))


def in_file_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The problems from the top of the file to its end, each once; those without a place come first."""
    unplaced = Location(file="", line=0, column=0)
    return tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.location or unplaced))


def dotted(path: DocumentPath) -> str:
    """A path as people write it: ``sources.shop.tables[1]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def nearest(word: str, choices: Iterable[str]) -> str:
    """The valid choice that a mistyped word most likely meant, empty if none is near."""
    known = list(choices)
    by_lower = {choice.lower(): choice for choice in reversed(known)}
    # The part after the dot counts too: who writes "orders" means "shop.orders".
    by_tail = {choice.rpartition(".")[2].lower(): choice for choice in reversed(known)}
    for spellings in (by_lower, by_tail):
        found = get_close_matches(word.lower(), spellings, n=1, cutoff=0.6)
        if found:
            return spellings[found[0]]
    return ""


def listed(choices: Sequence[str], most: int = 12) -> str:
    """Choices for a sentence: ``a, b, c``, the rest counted."""
    shown = ", ".join(choices[:most])
    rest = len(choices) - most
    return f"{shown} and {rest} more" if rest > 0 else shown
