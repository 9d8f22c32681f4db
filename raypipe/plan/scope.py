"""What names mean inside one SELECT: the CTEs it can see, and the columns of the one relation it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from raypipe.plan.tree import Node


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A CTE: its query, its column aliases, and what its own query can see."""

    node: Node
    columns: tuple[str, ...]
    scope: Scope


@dataclass(frozen=True)
class Scope:
    """CTEs that a query can see, in the order of their definition; names in lower case, as SQL compares them."""

    definitions: tuple[tuple[str, Definition], ...] = ()
    entries: tuple[Node, ...] = field(default=(), compare=False)

    def within(self, node: Node) -> Scope:
        """The scope inside a query that may define CTEs of its own; each sees those before it."""
        scope = self
        for entry in node["cte_map"]["map"]:
            scope = scope.defining(entry)
        return scope

    def defining(self, entry: Node) -> Scope:
        """This scope and one more CTE, which hides one of the same name."""
        name, value = entry["key"].lower(), entry["value"]
        definition = Definition(node=value["query_node"], columns=tuple(value["aliases"]), scope=self)
        return Scope(
            (*((known, other) for known, other in self.definitions if known != name), (name, definition)),
            (*(other for other in self.entries if other["key"].lower() != name), entry),
        )

    def definition(self, name: str) -> Definition | None:
        """The CTE of that name, if there is one."""
        return dict(self.definitions).get(name.lower())

    def cte_map(self) -> Node:
        """All CTEs, for a query that is looked at by itself."""
        return {"map": list(self.entries)}


# At the top of a query no CTE hides an input.
EVERYTHING = Scope()


@dataclass(frozen=True, kw_only=True)
class Source:
    """The one relation that a SELECT reads, on one path.

    Attributes:
        reference: Its node in FROM.
        relation: The input at the end of the path.
        alias: By which columns may be qualified.
        path: The table's whole name, by which columns may be qualified as well if it has no alias.
        names: Of its columns, as the SELECT sees them.
        origins: For each of them, the input column that it is an unchanged copy of.
        needs: Columns of the input that may be needed.
        needs_all: All of them are needed, whatever the SELECT uses.
        one_to_one: A row of the input is at most one row of the source.
    """

    reference: Node
    relation: str
    alias: str
    names: tuple[str, ...]
    origins: Sequence[str | None]
    needs: tuple[str, ...]
    path: tuple[str, ...] = ()
    needs_all: bool = False
    one_to_one: bool = True

    def column(self, parts: Sequence[str]) -> str | None:
        """The column that a reference begins with; None if it is an alias, a lambda's parameter or nothing."""
        first = self._unqualified(parts)[0].lower()
        return next((name for name in self.names if name.lower() == first), None)

    def origin(self, parts: Sequence[str]) -> str | None:
        """The input column that a reference is an unchanged copy of; None if it is less (a field) or more."""
        column = self.column(parts) if len(self._unqualified(parts)) == 1 else None
        return self.origins[self.names.index(column)] if column else None

    def shortened(self, parts: Sequence[str]) -> list[str]:
        """``shop.orders.amount`` as ``orders.amount``: where it runs, there is no ``shop``."""
        depth = len(self.path)
        whole = depth > 1 and [part.lower() for part in parts[:depth]] == [part.lower() for part in self.path]
        return list(parts[depth - 1 :]) if whole and len(parts) > depth else list(parts)

    def _unqualified(self, parts: Sequence[str]) -> Sequence[str]:
        parts = self.shortened(parts)
        return parts[1:] if len(parts) > 1 and parts[0].lower() == self.alias.lower() else parts


def quote(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
