"""How commands begin and end: quickly, with one sentence and a documented exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from storefront import Command

from raypipe import __version__
from raypipe.cli import check, failures
from raypipe.cli.exits import BY_KIND, MEANING, Exit
from raypipe.errors import Fenced, Kind, RaypipeError, SourceGap, Unavailable
from raypipe.spec import PipelineFileError, Problem

ROOT = Path(__file__).parents[2]


def test_every_kind_of_error_has_an_exit_code_and_every_code_a_meaning() -> None:
    assert set(BY_KIND) == set(Kind)
    assert set(MEANING) == set(Exit)


def test_the_version_is_told(raypipe: Command) -> None:
    assert raypipe("--version").out == f"raypipe {__version__}\n"


def test_help_lists_the_commands_and_the_exit_codes(raypipe: Command) -> None:
    ended = raypipe("--help")
    assert ended.code == Exit.OK
    for word in ("init", "check", "plan", "run", "status", "verify", "source", "schema", "Exit codes"):
        assert word in ended.out


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from raypipe.cli.app import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"ray", "duckdb", "pyarrow", "numpy", "sqlalchemy", "sqlglot", "deltalake", "pydantic", "yaml"}
    assert not heavy & set(json.loads(told.splitlines()[-1]))


def test_python_m_raypipe_is_the_same_command() -> None:
    told = subprocess.run([sys.executable, "-m", "raypipe", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"raypipe {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",),
        ("run", "--until", "soon"),
        ("run", "--until", "3 weeks"),
        ("run", "--local", "--address", "auto"),
        ("check", "--no-such-option"),
        ("init", "nowhere.db"),
        ("init", "mysql://db/shop"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_why(raypipe: Command, words: tuple[str, ...]) -> None:
    ended = raypipe(*words)
    assert ended.code == Exit.USAGE
    assert "Error" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Fenced("A later run owns shop."), Exit.FENCED),
        (SourceGap("The source was replaced."), Exit.SOURCE_GAP),
        (Unavailable("The disk is full."), Exit.UNAVAILABLE),
        (RaypipeError("Broken.", kind=Kind.CORRUPT), Exit.FAILED),
        (ValueError("a surprise"), Exit.FAILED),
    ],
)
def test_an_error_is_one_sentence_and_its_exit_code(
    raypipe: Command, monkeypatch: pytest.MonkeyPatch, error: Exception, code: Exit
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("raypipe.spec.load", fail)
    ended = raypipe("check", "p.yaml")
    assert ended.code == code
    assert len(ended.err.splitlines()) == 1
    assert str(error) in ended.err

    machine = raypipe("check", "p.yaml", "--json")
    assert machine.code == code
    assert machine.json["ok"] is False
    assert machine.json["exit_code"] == code
    assert str(error) in machine.json["error"]["message"]


def test_the_traceback_is_shown_only_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = _raised(Unavailable("The disk is full."))
    failures.report(error)
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv(failures.DEBUG_VARIABLE, "1")
    failures.report(error)
    assert "Traceback" in capsys.readouterr().err


def test_a_password_in_an_error_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for report in (failures.report, failures.report_json):
        report(Unavailable("Cannot reach postgresql://ann:hunter2@db/shop."))
    told = capsys.readouterr()
    assert "hunter2" not in told.out + told.err
    assert "ann:***@db" in told.err


def test_problems_of_the_file_are_given_to_machines_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    failures.report_json(PipelineFileError([Problem(sentence="Wrong.", path=("sinks", "a"), did_you_mean="b")]))
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["path"] == "sinks.a"
    assert problem["did_you_mean"] == "b"


def test_ctrl_c_before_a_run_has_begun_exits_with_130(raypipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("raypipe.spec.load", interrupt)
    assert raypipe(check.__name__.rpartition(".")[2], "p.yaml").code == Exit.INTERRUPTED


def test_the_reference_in_the_docs_is_current() -> None:
    told = subprocess.run([sys.executable, ROOT / "docs" / "reference.py", "--check"], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_the_schema_command_prints_json(raypipe: Command) -> None:
    assert raypipe("schema").json["title"] == "raypipe pipeline file"


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught
