"""A pipeline file that is wrong: every problem at once, each with place, path and the nearest valid choice."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import Kind
from raypipe.spec import PipelineFileError, Problem, Url, load, parse
from raypipe.spec.problems import dotted

RIGHT = """\
pipeline: shop
log: sqlite:///log.db
sources:
  shop: {url: "sqlite:///shop.db", tables: [customers, orders]}
steps:
  paid:
    sql: SELECT * FROM shop.orders
sinks:
  lake:
    url: delta:///lake
    tables:
      paid: {from: paid}
"""


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(PipelineFileError) as caught:
        parse(text, file="p.yaml", folder=Path("/"))
    return caught.value.problems


def only(text: str) -> Problem:
    (problem,) = problems(text)
    return problem


def place(problem: Problem) -> tuple[int, int]:
    assert problem.location is not None
    return problem.location.line, problem.location.column


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        RIGHT.replace("pipeline: shop", "pipeline: 1shop")
        .replace("tables: [customers", "tabels: [customers")
        .replace("{from: paid}", "{from: piad, mode: histroy}")
    )
    assert [(place(p), dotted(p.path), p.did_you_mean) for p in found] == [
        ((1, 11), "pipeline", ""),
        ((4, 36), "sources.shop.tabels", "tables"),
        ((12, 20), "sinks.lake.tables.paid.from", "paid"),
        ((12, 32), "sinks.lake.tables.paid.mode", "history"),
    ]


def test_a_problem_reads_as_file_place_path_sentence_and_choice() -> None:
    assert str(only(RIGHT.replace("from: paid", "from: orders"))) == (
        "p.yaml:12:20  sinks.lake.tables.paid.from  There is no step or source table orders; "
        "there are: paid, shop.customers, shop.orders.  (did you mean shop.orders?)"
    )


def test_the_error_has_its_kind_and_survives_pickling() -> None:
    with pytest.raises(PipelineFileError) as caught:
        parse("a: 1", file="p.yaml", folder=Path("/"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.kind is Kind.PIPELINE_FILE
    assert copy.problems == caught.value.problems
    assert str(copy) == str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        ("log: sqlite:///log.db\n", "", "log", "missing"),
        ("pipeline: shop", "pipeline: 12", "pipeline", "text, not a number: put it in quotes"),
        ("pipeline: shop", "pipeline: true", "pipeline", "text, not true or false: put it in quotes"),
        ("pipeline: shop", "pipeline: my-shop", "pipeline", "letters, digits and underscores"),
        ("pipeline: shop", "pipeline: raypipe_shop", "pipeline", "raypipe's own"),
        ("pipeline: shop", f"pipeline: {'a' * 64}", "pipeline", "at most 63 characters"),
        ("[customers, orders]", "[customers, orders, _raypipe_x]", "sources.shop.tables[2]", "raypipe's own"),
        ("[customers, orders]", "[customers, orders, 7]", "sources.shop.tables[2]", "put it in quotes"),
        ("[customers, orders]", "[customers, orders, orders]", "sources.shop.tables[2]", "given twice"),
        ("[customers, orders]", "orders", "sources.shop.tables", "a list, as in [a, b], not text"),
        ("[customers, orders]", "[]", "sources.shop.tables", "not be empty"),
        ("  shop: {url", "  main: {url", "sources.main", "a schema of DuckDB"),
        ("  paid:\n", "  Shop: {sql: x}\n  paid:\n", "steps.Shop", "a source shop already"),
        ("sql: SELECT * FROM shop.orders", "sql: ''", "steps.paid.sql", "not be empty"),
        ("sql: SELECT * FROM shop.orders", "sql:", "steps.paid.sql", "text, not nothing"),
        ("    sql: SELECT * FROM shop.orders\n", "", "steps.paid", "with the keys sql, recompute_rows, not nothing"),
        ("log: sqlite:///log.db", "log: log.db", "log", "begins with a scheme"),
        ("log: sqlite:///log.db", "log: sqlite://log.db", "log", "sqlite:////path for an absolute one"),
        ("log: sqlite:///log.db", "log: 'sqlite:///'", "log", "The path is missing"),
        (
            "log: sqlite:///log.db",
            "log: pulsar://localhost",
            "log",
            "no log for pulsar:// URLs; there are: sqlite, kafka",
        ),
        ("log: sqlite:///log.db", "log: sqlite:///shop.db", "sources.shop.url", "the log needs a database of its own"),
        ("url: delta:///lake", "url: detla:///lake", "sinks.lake.url", "no sink for detla:// URLs"),
        ("url: delta:///lake", "url: [delta:///lake]", "sinks.lake.url", "a URL, as in sqlite:///shop.db, not a list"),
        ("url: delta:///lake", "url: '${evn:LAKE}'", "sinks.lake.url", "${env:NAME} or ${file:PATH}"),
        ("    url: delta:///lake\n", "", "sinks.lake", "either url (one store) or urls"),
        ("    url: delta:///lake\n", "    url:\n", "sinks.lake", "either url (one store) or urls"),
        ("url: delta:///lake", "urls: [delta:///a, delta:///b]", "sinks.lake.urls", "these kinds only: sqlite"),
        ("url: delta:///lake", "urls: [sqlite:///a.db, sqlite:///a.db]", "sinks.lake.urls[1]", "the URL of sinks.lake"),
        ("{from: paid}", "{}", "sinks.lake.tables.paid.from", "missing"),
        ("{from: paid}", "", "sinks.lake.tables.paid", "a mapping with the keys from, mode"),
        ("{from: paid}", "{from: paid}\n      PAID: {from: paid}", "sinks.lake.tables.PAID", "in more than case"),
        ("{from: paid}", "{from: paid, key: [a, a]}", "sinks.lake.tables.paid.key[1]", "given twice"),
        ("{from: paid}", "{from: paid, partition_by: day}", "sinks.lake.tables.paid.partition_by", "a list"),
    ],
)
def test_each_mistake_is_told_in_one_sentence_at_its_path(old: str, new: str, path: str, says: str) -> None:
    assert old in RIGHT
    problem = only(RIGHT.replace(old, new, 1))
    assert dotted(problem.path) == path
    assert says in problem.sentence


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ("{epoch_bytes: 3 apples}", "a size such as 64MiB"),
        ("{poll_bytes: 1}", "at least 65536"),
        ("{step_seconds: 0}", "more than 0"),
        ("{step_seconds: soon}", "a number, not text"),
        ("{epoch_byte: 1}", "Unknown key"),
        ("[1]", "a mapping with the keys"),
    ],
)
def test_a_wrong_limit_is_told(limits: str, says: str) -> None:
    assert says in only(RIGHT + f"limits: {limits}\n").sentence


def test_partitions_are_refused_where_the_store_has_none() -> None:
    text = RIGHT.replace("delta:///lake", "duckdb:///lake.duckdb").replace(
        "{from: paid}", "{from: paid, partition_by: [a]}"
    )
    assert "duckdb does not partition tables; these do: delta" in only(text).sentence


def test_two_sinks_for_one_store_are_refused() -> None:
    text = RIGHT + "  again:\n    url: delta:///lake\n    tables: {other: {from: paid}}\n"
    assert "the URL of sinks.lake too: one sink keeps all tables" in only(text).sentence


def test_a_mistyped_key_is_one_mistake_and_not_also_a_missing_one() -> None:
    assert only(RIGHT.replace("log:", "lgo:")).did_you_mean == "log"


def test_a_key_given_twice_is_told_with_the_line_of_the_first() -> None:
    problem = only(RIGHT + "log: sqlite:///other.db\n")
    assert place(problem) == (13, 1)
    assert problem.sentence == "This key is given twice; the first one is at line 2."


@pytest.mark.parametrize(
    ("text", "at", "says"),
    [
        ("", (1, 1), "The file is empty"),
        ("# only a comment\n", (1, 1), "The file is empty"),
        ("pipeline: shop\nsources:\n\tshop: 1\n", (3, 1), "no tabs"),
        ("pipeline: [shop\nlog: x\n", (2, 4), "not valid YAML"),
        ("pipeline: 'shop\n", (2, 1), "not valid YAML"),
        ("pipeline: shop\n  log: x\n", (2, 6), "not valid YAML"),
        ("pipeline: *shop\n", (1, 11), "not valid YAML"),
        ("pipeline: shop\n---\npipeline: shop\n", (2, 1), "more than one YAML document"),
        ("pipeline: a\nlog: b\x07\n", (2, 7), "control character"),
        ("a: &a [*a]\n", (1, 4), "endless"),
        ("[" * 5000, (1, 1), "nested too deeply"),
        ("just text", (1, 1), "a mapping with the keys pipeline, log"),
        ("- a\n- b\n", (1, 1), "a mapping with the keys pipeline, log"),
        ("null", (1, 1), "not nothing"),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, str) else None,
)
def test_what_is_no_yaml_mapping_is_told_with_its_place(text: str, at: tuple[int, int], says: str) -> None:
    problem = only(text)
    assert says in problem.sentence
    assert place(problem) == at


def test_tags_and_keys_that_are_no_text_are_told() -> None:
    tagged = problems("pipeline: !!python/name:os.system shop\nlog: !!binary x\n? [a]\n: 1\n")
    assert {dotted(p.path) for p in tagged if "The tag" in p.sentence} == {"pipeline", "log"}
    assert any(p.sentence == "A key must be plain text." for p in tagged)


def test_many_aliases_do_not_make_a_small_file_endless() -> None:
    bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    assert "endless" in only(bomb).sentence


def test_a_missing_file_names_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").touch()
    with pytest.raises(PipelineFileError, match=r"no such file; beside it there is: pipeline\.yaml"):
        load(tmp_path / "pipelin.yaml")


def test_a_folder_and_a_file_of_another_encoding_are_told(tmp_path: Path) -> None:
    with pytest.raises(PipelineFileError, match="This is a folder"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("pipeline: shop\nlog: café".encode("latin-1"))
    with pytest.raises(PipelineFileError, match=r"latin\.yaml:2:9  The file is not UTF-8 text"):
        load(tmp_path / "latin.yaml")


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.sampled_from(["", "paid", "${"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["pipeline", "url", "urls", "tables", "sql", "from", "shop", "1", "raypipe_x"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(
    document=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("pipeline", "log", "sources", "steps", "sinks", "limits", "other"), _VALUES),
    )
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_shape_of_a_document_only_problems_come_out(document: dict[str, object]) -> None:
    # No source is complete here, so nothing that comes out of these shapes can be right. JSON is YAML.
    found = problems(json.dumps(document))
    assert all(problem.location is not None for problem in found)


def test_tables_of_two_schemas_need_two_names() -> None:
    text = RIGHT.replace("sqlite:///shop.db", "postgresql://db/shop").replace(
        "[customers, orders]", "[a.orders, b.orders]"
    )
    problem = only(text)
    assert dotted(problem.path) == "sources.shop.tables[1]"
    assert problem.sentence == "b.orders and a.orders would both be shop.orders in SQL."


def test_a_schema_is_no_part_of_the_relation_but_a_dot_in_a_sqlite_table_is() -> None:
    assert Url("postgresql://db/shop").relation("shop", "sales.orders") == "shop.orders"
    assert Url("sqlite:///shop.db").relation("shop", "sales.orders") == "shop.sales.orders"
