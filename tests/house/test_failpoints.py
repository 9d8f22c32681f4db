"""The list of failpoints and the code agree."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from raypipe import faults

ROOT = Path(__file__).parents[2]
NAMES = {"point": faults.POINTS, "armed": faults.MUTANTS}


def places() -> dict[str, dict[str, list[str]]]:
    """Where the code calls ``point`` and ``armed``: function, then name (source text if not a literal), then places."""
    found: dict[str, dict[str, list[str]]] = {"point": defaultdict(list), "armed": defaultdict(list)}
    for package in ("raypipe", "actors"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path == ROOT / "raypipe" / "faults.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in found:
                    argument = node.args[0]
                    name = argument.value if isinstance(argument, ast.Constant) else ast.unparse(argument)
                    found[called][name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


@pytest.mark.parametrize("function", ["point", "armed"])
def test_every_name_in_the_code_is_a_literal_from_the_list(function: str) -> None:
    unknown = {name: where for name, where in places()[function].items() if name not in NAMES[function]}
    assert not unknown


@pytest.mark.parametrize("function", ["point", "armed"])
def test_every_name_in_the_list_stands_in_the_code(function: str) -> None:
    missing = sorted(set(NAMES[function]) - set(places()[function]))
    assert not missing


def test_a_name_is_listed_once() -> None:
    names = faults.POINTS + faults.MUTANTS
    assert len(names) == len(set(names))
