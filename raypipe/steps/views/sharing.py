"""What the steps of a plan have in common: traces that are one, and with which step the last use of each ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raypipe.plan.views import Scan
from raypipe.steps.views.feed import Feed
from raypipe.steps.views.view import View


def last_uses(views: Sequence[View]) -> dict[str, tuple[list[str], list[str]]]:
    """By step, the traces and the identities of relations that no later step has."""
    last: dict[str, tuple[list[str], list[str]]] = {}
    seen: set[str] = set()
    for view in reversed(views):
        traces, identities = set(view.traces) - seen, set(view.plan.identities.values()) - seen
        last[view.name] = sorted(traces), sorted(identities)
        seen |= traces | identities
    return last


def owners(views: Sequence[View]) -> dict[str, str]:
    """By trace of an operator, the steps that have it, with commas between."""
    found: dict[str, list[str]] = {}
    for view in views:
        for trace in view.traces:
            found.setdefault(trace, []).append(view.name)
    return {trace: ", ".join(names) for trace, names in found.items()}


def held_by_inputs(views: Sequence[View], feeds: Mapping[tuple[str, str], Feed]) -> dict[str, str]:
    """Traces of operators that are not kept, because the trace of an input is the same: its name by theirs.

    An input is held by its own key, with all columns that a step reads. Where an operator wants just that (a join with
    a table by its key, most often), it reads the input's trace as it stood before the epoch.

    Args:
        views: All that run.
        feeds: By step and relation.
    """
    found: dict[str, set[str]] = {}
    for view in views:
        for (relation, key), schema in view.by_relation.items():
            scan = view.makers.get(relation)
            feed = feeds[view.name, scan.relation].trace if isinstance(scan, Scan) else None
            same = feed is not None and feed.key == key and feed.columns.equals(schema.columns)
            found.setdefault(schema.name, set()).add(feed.name if feed is not None and same else "")
    # Steps that read other columns besides have other inputs: what they share is then kept beside these.
    return {trace: next(iter(names)) for trace, names in found.items() if len(names) == 1 and "" not in names}
