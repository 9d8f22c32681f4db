"""Which tables and steps a step's SQL reads."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from raypipe.errors import SchemaMismatch
from raypipe.plan.scope import EVERYTHING, Scope
from raypipe.plan.text import StepText, did_you_mean
from raypipe.plan.tree import Node, byte_offset


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A source table or step that SQL reads, and where (in characters; None if unknown)."""

    relation: str
    offset: int | None


def resolve(text: StepText, tree: Node, relations: Collection[str]) -> list[Reference]:
    """Everything a step reads, by the names that its inputs have; CTEs of its own are left out.

    Args:
        text: The step.
        tree: Of its SQL.
        relations: Everything it may read, as users write it: ``shop.orders``, ``paid_orders``.

    Raises:
        SchemaMismatch: it reads something else.
    """
    known = {relation.lower(): relation for relation in relations}
    found = []
    for name, place in _tables(tree, EVERYTHING):
        offset = None if place is None else text.offset(place)
        if name.lower() not in known:
            others = [relation for relation in relations if relation != text.step]
            raise text.problem(
                f"{{step}} reads {name}{{where}}, which is no table of a source and no step (files cannot be read); "
                f"there are: {', '.join(others) or 'none'}.{did_you_mean(name, others)}",
                offset,
                error=SchemaMismatch,
            )
        found.append(Reference(relation=known[name.lower()], offset=offset))
    return found


def table_name(node: Node) -> str:
    """The name in a node that stands for a table, as users write it."""
    return ".".join(part for part in (node["catalog_name"], node["schema_name"], node["table_name"]) if part)


def _tables(node: object, scope: Scope) -> list[tuple[str, int | None]]:
    """Names of tables and their places in bytes."""
    if isinstance(node, list):
        return [found for part in node for found in _tables(part, scope)]
    if not isinstance(node, dict):
        return []
    if node.get("type") == "BASE_TABLE":
        name = table_name(node)
        hidden = not node["schema_name"] and scope.definition(name) is not None
        return [] if hidden else [(name, byte_offset(node))]
    found = []
    for entry in node.get("cte_map", {}).get("map", ()):
        query = entry["value"]["query_node"]
        recursive = query.get("type") == "RECURSIVE_CTE_NODE"
        found += _tables(query, scope.defining(entry) if recursive else scope)
        scope = scope.defining(entry)
    return found + [table for key, part in node.items() if key != "cte_map" for table in _tables(part, scope)]
