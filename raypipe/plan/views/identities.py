"""Which relations of different steps are one: names that say what a relation is made of, and nothing of who makes it.

Two relations have one identity if the same fragments make them of the same inputs, as sqlglot writes those, with the
same columns in the same order. What operators remember is named by it, so steps that need the same find the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from raypipe.plan.views.model import Algebraic, Bilinear, Clock, Keyed, Linear, Operator, Relation, Scan, leaf_names

# A collision would mix up the state of two operators: with 96 bits no pipeline will see one.
_DIGITS = 24
# As many leaves as a fragment of an algebraic operator reads; those of the others are counted.
_ALGEBRAIC_LEAVES = 3


def identities(operators: Sequence[Operator], input_views: Mapping[str, str]) -> dict[str, str]:
    """The identity of each relation that operators make or remember, by its name.

    Args:
        operators: Of a step, inputs first.
        input_views: Fingerprints of the inputs that have one: a step that means something else is another input.
    """
    made: dict[str, str] = {}
    scans: dict[str, Scan] = {}
    for operator in operators:
        name = operator.out.name
        if isinstance(operator, Scan):
            scans[name] = operator
            made[name] = _columns_of(operator, operator.out, input_views)
        elif isinstance(operator, Linear) and operator.input in scans:
            made[name] = _of_scan(operator, scans[operator.input], input_views)
        else:
            made[name] = _digest(
                type(operator).__name__,
                _described(operator.out),
                [made[each] for each in operator.inputs],
                *_meaning(operator),
            )
        if isinstance(operator, Algebraic):
            made[operator.sums.name] = _digest("sums", made[name])
    return made


def _of_scan(operator: Linear, scan: Scan, input_views: Mapping[str, str]) -> str:
    """Columns that the step reads besides, for something else, do not matter here."""
    if operator.renames == tuple(operator.out.columns.names):
        return _columns_of(scan, operator.out, input_views)
    text = "".join(_meaning(operator)).lower()
    used = [name for name in scan.out.columns.names if operator.renames or name.lower() in text]
    types = sorted((name, scan.out.type_of(name)) for name in used)
    view = input_views.get(scan.relation, "")
    return _digest("Linear of a scan", _described(operator.out), scan.relation, view, types, *_meaning(operator))


def _columns_of(scan: Scan, made: Relation, input_views: Mapping[str, str]) -> str:
    return _digest("Scan", _described(made), scan.relation, input_views.get(scan.relation, ""))


def _described(relation: Relation) -> object:
    return [_fields(relation.columns), list(relation.types), sorted(sorted(each) for each in relation.unique)]


def _fields(columns: pa.Schema) -> list[list[str]]:
    return [[field.name, str(field.type)] for field in columns]


def _meaning(operator: Operator) -> list[str]:
    """What an operator does with its inputs, without the names that its step gives relations."""
    out = operator.out.name
    match operator:
        case Linear():
            return [_anonymous(operator.sql, out, 1), *operator.renames]
        case Bilinear():
            keys = [json.dumps([operator.left_key, operator.right_key, operator.between])]
            return [_anonymous(operator.sql, out, 2), *keys]
        case Keyed():
            keys = [json.dumps([operator.key, [read.key for read in operator.reads], operator.most_rows])]
            return [_anonymous(operator.sql, out, len(operator.reads)), *keys]
        case Algebraic():
            sums = json.dumps([operator.key, _fields(operator.sums.columns), operator.sums.types, operator.extremes])
            texts = (operator.sql, operator.again, operator.first, operator.whole)
            return [sums, *(_anonymous(text, out, _ALGEBRAIC_LEAVES) for text in texts)]
        case Scan() | Clock():
            return []
        case _:
            return ["all rows"]


def _anonymous(sql: str, out: str, leaves: int) -> str:
    for place, name in enumerate(leaf_names(out, leaves)):
        sql = sql.replace(f'"{name}"', f'"_{place}"')
    return sql


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_DIGITS]
