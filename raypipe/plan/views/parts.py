"""What a SELECT still has to compute once FROM and WHERE are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from raypipe.plan.views.trees import conjuncts, replaced


@dataclass
class Parts:
    """What a SELECT still has to compute, in terms of the rows at hand."""

    items: list[tuple[str, exp.Expr]]
    having: list[exp.Expr] = field(default_factory=list)
    qualify: list[exp.Expr] = field(default_factory=list)
    order: list[exp.Ordered] = field(default_factory=list)
    on: list[exp.Expr] = field(default_factory=list)

    def expressions(self) -> list[exp.Expr]:
        """All of them."""
        return [*(item for _, item in self.items), *self.having, *self.qualify, *self.order, *self.on]

    def replaced(self, columns: Mapping[str, exp.Expr]) -> Parts:
        """The same with whole expressions replaced."""
        return Parts(
            items=[(name, replaced(item, columns)) for name, item in self.items],
            having=[replaced(each, columns) for each in self.having],
            qualify=[replaced(each, columns) for each in self.qualify],
            order=[ordered_by(each, replaced(each.this, columns)) for each in self.order],
            on=[replaced(each, columns) for each in self.on],
        )


def parts_of(node: exp.Select) -> Parts:
    """All parts of a SELECT."""
    order = node.args.get("order")
    distinct = node.args.get("distinct")
    on = distinct.args.get("on") if distinct is not None else None
    keys = (
        []
        if on is None
        else on.expressions
        if isinstance(on, exp.Tuple)
        else [on.this if isinstance(on, exp.Paren) else on]
    )
    return Parts(
        items=[(item.alias_or_name, item.this if isinstance(item, exp.Alias) else item) for item in node.expressions],
        having=conjuncts(node.args.get("having")),
        qualify=conjuncts(node.args.get("qualify")),
        order=list(order.expressions) if order is not None else [],
        on=list(keys),
    )


def ordered_by(given: exp.Ordered, value: exp.Expr) -> exp.Ordered:
    """The same order by another value."""
    made = given.copy()
    made.set("this", value.copy())
    assert isinstance(made, exp.Ordered)
    return made


def aliased(value: exp.Expr, items: Sequence[tuple[str, exp.Expr]]) -> exp.Expr:
    """An expression of ORDER BY, where an alias of the select list may stand for its expression."""
    if isinstance(value, exp.Column) and not value.table:
        return next((item for name, item in items if name.lower() == value.name.lower()), value)
    return value
