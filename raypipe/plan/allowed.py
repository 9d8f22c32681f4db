"""What the tree of a view may consist of: an allow-list of node classes and calls, over DuckDB's own tree."""

from __future__ import annotations

from collections.abc import Collection

from raypipe.plan.functions import CLOCK_WORDS, Nature, catalogue, nature_of
from raypipe.plan.text import StepText, did_you_mean
from raypipe.plan.tree import Node, byte_offset, walk

UNSTABLE = (
    "{{step}} calls {name}{{where}}, which may answer differently every time; a step must give the same result "
    "for the same row whenever it runs, so use a column of the row."
)
TABLE_FUNCTION = (
    "{{step}} calls the table function {name}(){{where}}; "
    "a step reads tables of the pipeline's sources and other steps, nothing else."
)
_EXPRESSIONS = frozenset(
    (
        *("BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT"),
        *("FUNCTION", "LAMBDA", "OPERATOR", "STAR", "SUBQUERY", "TYPE", "WINDOW"),
    )
)
# Expressions that are none of the above, in words.
_REFUSED = {
    "PARAMETER": "a parameter",
    "POSITIONAL_REFERENCE": "a column by number",
    "DEFAULT": "DEFAULT",
}


def refusals(text: StepText, tree: Node) -> list[tuple[int, str]]:
    """What no view may hold, as (offset in characters, sentence)."""
    found: list[tuple[int, str]] = []
    place = 0
    for node in walk(tree):
        # Some nodes have no place of their own; the one around them was walked before.
        own_place = byte_offset(node)
        place = place if own_place is None else own_place
        sentence = _refusal(node)
        if sentence:
            found.append((text.offset(place), sentence))
    return found


def _refusal(node: Node) -> str | None:
    kind = node.get("class")
    if kind == "FUNCTION":
        return _refused_call(str(node["function_name"]), len(node["arguments"]))
    if kind is None or kind in _EXPRESSIONS:
        return None
    what = _REFUSED.get(kind, f"an expression of the kind {kind}")
    return f"{{step}} uses {what}{{where}}, which is not possible in a step."


def stateful(tree: Node, names: Collection[str]) -> bool:
    """Whether a tree has an expression that needs other rows than the one at hand, or the time.

    Args:
        tree: Of the SQL.
        names: Of the inputs' columns, in lower case: what they are called means no function.
    """
    words = CLOCK_WORDS.difference(names)
    return any(
        node.get("class") in ("WINDOW", "SUBQUERY")
        or (node.get("class") == "COLUMN_REF" and {name.lower() for name in node["column_names"]} <= words)
        or (
            node.get("class") == "FUNCTION"
            and nature_of(str(node["function_name"]), len(node["arguments"])) in (Nature.STATEFUL, Nature.CLOCK)
        )
        for node in walk(tree)
    )


def _refused_call(name: str, arguments: int) -> str | None:
    match nature_of(name, arguments):
        case Nature.ROW_WISE | Nature.STATEFUL | Nature.CLOCK:
            return None
        case Nature.UNSTABLE:
            return UNSTABLE.format(name=f"{name}()")
        case Nature.TABLE:
            return TABLE_FUNCTION.format(name=name)
        case Nature.OUTSIDE:
            return f"{{step}} calls {name}(){{where}}, which looks beyond the row; a step may depend on its row only."
    usable = (known for known, nature in catalogue().items() if nature is Nature.ROW_WISE)
    return f"{{step}} calls {name}(){{where}}, which DuckDB does not know.{did_you_mean(name, usable)}"
