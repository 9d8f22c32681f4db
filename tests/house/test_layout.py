"""The house keeps its own rules: sizes, imports, first lines."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 600
MODULES = sorted(path for package in ("raypipe", "actors", "benchmarks") for path in (ROOT / package).rglob("*.py"))

# What takes long to import and is not needed to answer `raypipe --help`.
HEAVY = ("ray", "duckdb", "pyarrow", "numpy", "sqlalchemy", "sqlglot", "deltalake", "pydantic")


def test_no_module_is_longer_than_one_idea() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST}


def test_every_module_says_in_its_first_line_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if (text := path.read_text()).strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert not silent


def test_no_module_is_called_by_what_it_is_not() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert not [str(path.relative_to(ROOT)) for path in MODULES if path.stem in vague or path.parent.name in vague]


def test_only_actors_call_remote() -> None:
    assert not [
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.is_relative_to(ROOT / "raypipe") and ".remote(" in path.read_text()
    ]


def test_importing_raypipe_pulls_in_nothing_heavy() -> None:
    code = "import json, sys, raypipe; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(HEAVY) & set(json.loads(told))


@pytest.mark.timeout(120)
def test_imports_follow_the_house_from_top_to_bottom() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert lint.returncode == 0, lint.stdout
