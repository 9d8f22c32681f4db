"""Which tables a repair can compare: those with a key of which some sink holds a copy as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raypipe.contracts import CanBeRepaired, CanReadAgain
from raypipe.errors import Kind, RaypipeError
from raypipe.model import Mode
from raypipe.plan.model import Plan
from raypipe.plan.replacing import require_replaceable
from raypipe.sources import open_instance


@dataclass(frozen=True, kw_only=True)
class Target:
    """A table to compare.

    Attributes:
        instance: It belongs to.
        table: ``instance.table``.
        copies: Sink and table of each copy.
    """

    instance: str
    table: str
    copies: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a repair is about.

    Attributes:
        targets: To compare.
        left: Other tables, each with the reason in words.
    """

    targets: tuple[Target, ...]
    left: Mapping[str, str]


def choose(plan: Plan, tables: Sequence[str]) -> Choice:
    """The tables that were named, or all that can be compared.

    Raises:
        RaypipeError: of kind PIPELINE_FILE: one that was named cannot be, or there is none.
    """
    targets: list[Target] = []
    left: dict[str, str] = {}
    known: list[str] = []
    for instance in plan.instances:
        source = open_instance(plan, instance.name)
        able = isinstance(source, CanReadAgain) and isinstance(source, CanBeRepaired)
        for schema in instance.tables:
            name = str(schema.table)
            known.append(name)
            if tables and name not in tables:
                continue
            try:
                if not able:
                    raise _refused(name, f"Source {instance.name} cannot be compared with what was read from it.", "")
                require_replaceable(plan, name)
                targets.append(Target(instance=instance.name, table=name, copies=_copies(plan, name)))
            except RaypipeError as error:
                if tables:
                    raise
                left[name] = error.message
    unknown = [name for name in tables if name not in known]
    if unknown:
        raise RaypipeError(
            f"There is no table {unknown[0]}.", kind=Kind.PIPELINE_FILE, remedy=f"There are: {', '.join(known)}."
        )
    if not targets:
        raise RaypipeError(
            f"No table of pipeline {plan.pipeline} can be repaired: {' '.join(left.values())}",
            kind=Kind.PIPELINE_FILE,
            remedy="Load them as a whole: raypipe snapshot start, or behind a gap run with a new log.",
        )
    return Choice(targets=tuple(targets), left=left)


def _copies(plan: Plan, table: str) -> tuple[tuple[str, str], ...]:
    copies = tuple(
        (sink.name, each.name)
        for sink in plan.sinks
        for each in sink.tables
        if each.relation == table and each.mode is Mode.CURRENT
    )
    if not copies:
        raise _refused(
            table,
            f"No sink holds a copy of {table} to compare with.",
            f"Add a table with 'from: {table}' to a sink, or load it whole: raypipe snapshot start --table {table}",
        )
    return copies


def _refused(table: str, message: str, remedy: str) -> RaypipeError:
    return RaypipeError(message, kind=Kind.PIPELINE_FILE, remedy=remedy, table=table)
