"""Rows between two operators while a SELECT is taken apart: a relation, and what the user's columns are in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlglot import exp

from raypipe.plan.views.graph import Graph
from raypipe.plan.views.model import Relation
from raypipe.plan.views.trees import Address, substituted


def column(name: str) -> exp.Column:
    """A column of the relation at hand, which fragments of one input call ``t``."""
    return exp.column(name, table="t", quoted=True)


def leaf(place: int, alias: str) -> exp.Expr:
    """The input of a fragment at a place, under an alias."""
    return exp.alias_(exp.to_table(f"_{place}"), alias, table=True)


def each_once(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of equal columns without those that name a column again: a key has each column once.

    What is left out still stands in the join's condition; the key is only coarser.
    """
    found: list[tuple[str, str]] = []
    for left, right in pairs:
        if all(left != mine and right != other for mine, other in found):
            found.append((left, right))
    return found


@dataclass(frozen=True)
class Table:
    """What a query makes: its relation, and its columns in order as (name in lower case, column of the relation)."""

    relation: Relation
    names: tuple[tuple[str, str], ...]


# CTEs that a query can see, by name in lower case.
Environment = Mapping[str, Table]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows that some of the SELECT's work is already done for.

    Attributes:
        relation: That holds them.
        terms: The user's columns, as expressions over the relation.
        where: Conditions not applied yet, over the relation.
    """

    relation: Relation
    terms: Mapping[Address, exp.Expr]
    where: tuple[exp.Expr, ...] = ()

    def filtered(self, conditions: Sequence[exp.Expr]) -> Rows:
        """With more conditions, in the user's columns."""
        return replace(self, where=(*self.where, *(self.in_terms(each) for each in conditions)))

    def in_terms(self, part: exp.Expr) -> exp.Expr:
        """An expression over the relation instead of the user's columns."""
        return substituted(part, self.terms)


@dataclass(frozen=True, kw_only=True)
class Flat:
    """Rows with everything applied.

    Attributes:
        relation: That holds them.
        addresses: The user's columns, by name in the relation.
        more: Names of further expressions asked for, in their order.
    """

    relation: Relation
    addresses: Mapping[Address, str]
    more: list[str] = field(default_factory=list)


def flushed(
    graph: Graph,
    rows: Rows,
    needed: Collection[Address],
    more: Sequence[exp.Expr] = (),
    *,
    only: bool = False,
) -> Flat:
    """Applies what is pending and computes further expressions, in the user's columns.

    Args:
        graph: Takes the operator, if one is needed.
        rows: At hand.
        needed: Columns to keep; those that raypipe made are kept in any case, unless ``only``.
        more: Expressions to compute.
        only: Keep nothing but ``needed``.
    """
    items: dict[str, exp.Expr] = {}
    addresses: dict[Address, str] = {}
    for address, term in rows.terms.items():
        if address in needed or (address[0].startswith("_") and not only):
            name = term.name if isinstance(term, exp.Column) else ".".join(address)
            if name in items and items[name] != term:
                name = ".".join(address)
            addresses[address] = name
            items[name] = term
    by_text = {term.sql("duckdb"): name for name, term in items.items()}
    names: list[str] = []
    for each in more:
        term = rows.in_terms(each)
        text = term.sql("duckdb")
        if text not in by_text:
            by_text[text] = f"_key.{len(items)}"
            if isinstance(term, exp.Column) and term.name not in items:
                by_text[text] = term.name
            items[by_text[text]] = term
        names.append(by_text[text])
    if not items:  # a relation has at least one column: count(*) needs none
        first = rows.relation.columns.names[0]
        items[first] = column(first)
    relation = graph.linear(rows.relation, list(items.items()), list(rows.where))
    return Flat(relation=relation, addresses=addresses, more=list(dict.fromkeys(names)) if only else names)
