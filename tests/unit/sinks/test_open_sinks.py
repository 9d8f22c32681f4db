"""From a planned sink to its units of commit."""

import sys

import pytest

from raypipe.errors import Kind, RaypipeError
from raypipe.plan.model import SinkPlan
from raypipe.sinks import open_sinks


def units(url, **options):
    return open_sinks(SinkPlan(name="w", url=url, tables=(), options=options), "p")


def test_each_scheme_has_its_sink_and_nothing_is_touched_yet(tmp_path):
    assert [unit.name for unit in units(f"duckdb:///{tmp_path}/w.duckdb")] == ["w"]
    assert [unit.name for unit in units(f"sqlite:///{tmp_path}/w.db")] == ["w"]
    assert list(tmp_path.iterdir()) == []


def test_urls_make_one_unit_for_each_shard(tmp_path):
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("a", "b", "c")]
    assert [unit.name for unit in units("", urls=urls)] == ["w.0", "w.1", "w.2"]


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("mongo://secret@host", {}, "scheme"),
        ("duckdb:///", {}, "no DuckDB file"),
        ("duckdb:///:memory:", {}, "no DuckDB file"),
        ("sqlite://", {}, "no SQLite file"),
        ("sqlite:///:memory:", {}, "no SQLite file"),
        ("", {"urls": ["sqlite:///a.db", "sqlite:///a.db"]}, "twice"),
    ],
)
def test_a_url_that_names_no_store_is_refused_without_being_printed(url, options, says):
    with pytest.raises(RaypipeError, match=says) as caught:
        units(url, **options)
    assert caught.value.kind is Kind.PIPELINE_FILE
    assert "secret" not in str(caught.value)


def test_a_missing_extra_answers_with_the_command(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith("raypipe.sinks.delta")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(RaypipeError, match=r"pip install 'raypipe\[delta\]'") as caught:
        units(f"delta:///{tmp_path}/lake")
    assert caught.value.kind is Kind.MISSING_EXTRA
