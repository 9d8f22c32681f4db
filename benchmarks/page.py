"""The page of the docs that shows the figures, and beside it the data that it is made from.

A full run takes the better part of an hour, so a run of some benchmarks renews their sections and leaves the others as
they were measured, if that was on the same machine and with the same amount of work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from benchmarks.harness import Report, Size
from benchmarks.report import HEAD, cells

# What makes two machines the same; versions of libraries are those of the latest run.
SAME_MACHINE = ("processor", "cores", "memory")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One benchmark on the page.

    Attributes:
        name: Of the benchmark.
        about: What it measures.
        results: Of each figure, as ``--json`` writes it.
        beside: Of each figure, what its limit is.
        repetitions: How many the medians are of.
        notes: What explains the figures.
        measured: The day, and the load of the machine before the run.
    """

    name: str
    about: str
    results: Sequence[Mapping[str, object]]
    beside: Mapping[str, str]
    repetitions: int
    notes: Sequence[str]
    measured: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the page shows.

    Attributes:
        machine: Of the latest run.
        size: Of every run on it: a `Size`'s value.
        sections: In the order of the benchmarks.
    """

    machine: Mapping[str, str]
    size: str
    sections: Sequence[Section]


def section_of(report: Report, machine: Mapping[str, str]) -> Section:
    """What a run found, today."""
    return Section(
        name=report.benchmark.name,
        about=report.benchmark.about,
        results=[result.to_dict() for result in report.results],
        beside={result.figure.name: result.figure.beside for result in report.results},
        repetitions=report.results[0].repetitions,
        notes=report.notes,
        measured=f"{date.today().isoformat()}, load {machine['load']}",
    )


def renew(
    path: Path, sections: Sequence[Section], machine: Mapping[str, str], size: Size, order: Sequence[str]
) -> None:
    """Writes the page with these sections, and its data beside it as JSON.

    Args:
        path: Of the page; its data has the same name and ends with ``.json``.
        sections: That were measured now.
        machine: Where.
        size: With how much work.
        order: Names of all benchmarks.
    """
    data = path.with_suffix(".json")
    by_name = {each.name: each for each in _kept(data, machine, size)}
    by_name |= {each.name: joined(by_name[each.name], each) if each.name in by_name else each for each in sections}
    about = {name: value for name, value in machine.items() if name != "load"}
    page = Page(machine=about, size=size.value, sections=[by_name[name] for name in order if name in by_name])
    data.write_text(json.dumps(asdict(page), indent=1) + "\n")
    path.write_text(as_markdown(page, [name for name in order if name not in by_name]))


def joined(older: Section, newer: Section) -> Section:
    """A section in which some figures are new; just the newer one if it has all of them.

    A note says whose it is by what stands before its first comma.
    """
    renewed = {str(result["name"]): result for result in newer.results}
    names = [str(result["name"]) for result in older.results]
    if set(names) <= set(renewed) or not set(names) & set(renewed):
        return newer
    whose = {_subject(note) for note in newer.notes}
    results = [renewed.pop(name, result) for name, result in zip(names, older.results, strict=True)]
    return Section(
        name=newer.name,
        about=newer.about,
        results=[*results, *renewed.values()],
        beside={**older.beside, **newer.beside},
        repetitions=min(older.repetitions, newer.repetitions),
        notes=[*newer.notes, *(note for note in older.notes if _subject(note) not in whose)],
        measured=f"{newer.measured}; of what the last notes tell, on {older.measured}",
    )


def _subject(note: str) -> str:
    return note.partition(",")[0]


def _kept(data: Path, machine: Mapping[str, str], size: Size) -> Sequence[Section]:
    """Sections of earlier runs that may stand beside new ones."""
    if not data.exists():
        return ()
    page = json.loads(data.read_text())
    same = page["size"] == size.value and all(page["machine"].get(name) == machine[name] for name in SAME_MACHINE)
    return [Section(**section) for section in page["sections"]] if same else ()


def as_markdown(page: Page, left_out: Sequence[str] = ()) -> str:
    """The page; says which benchmarks are not on it."""
    figures = [
        "| " + " | ".join(HEAD) + " |",
        "|" + "---|" * len(HEAD),
        *("| " + " | ".join(cells(result)) + " |" for section in page.sections for result in section.results),
    ]
    explained = []
    for section in page.sections:
        beside = "; ".join(f"`{name}`: {limit}" for name, limit in section.beside.items())
        explained += [
            f"## {section.name}",
            "",
            section.about,
            "",
            f"Beside it, in the same run: {beside}. Medians of {section.repetitions}. Measured on {section.measured}.",
            "",
            *(f"* {note}" for note in section.notes),
            *([""] if section.notes else []),
        ]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "<!-- Made by `python -m benchmarks --markdown docs/benchmarks.md`; do not edit. -->",
            "",
            "Each figure stands beside a limit or a peer that was measured in the same run, and the ratio between the",
            "two lasts longer than either number. Goals that are missed are listed like the others. `make bench` runs",
            "them again; a run of some of them renews those and leaves the others.",
            f"These are from {page.size} runs on:",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in page.machine.items()),
            "",
            *figures,
            "",
            *([f"Not measured here: {', '.join(f'`{name}`' for name in left_out)}.", ""] if left_out else []),
            *explained,
        ]
    )
