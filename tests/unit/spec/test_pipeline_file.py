"""A pipeline file that is right: what it becomes, and that Python can say the same."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from raypipe.spec import Limits, Location, Pipeline, Sink, SinkTable, Source, Step, Url, json_schema, load, parse

SHOP = """\
pipeline: shop
log: sqlite:///var/log.db
sources:
  shop: {url: "sqlite:///shop.db", tables: [customers, orders, order_items]}
steps:
  paid_orders:
    sql: |
      SELECT order_id, customer_id, amount, placed_at::DATE AS day
      FROM shop.orders WHERE status = 'paid'
sinks:
  lake:
    url: "delta:///var/lake"
    tables:
      orders_history: {from: shop.orders, mode: history}
      paid_orders:    {from: paid_orders, mode: current, partition_by: [day]}
  warehouse:
    url: "duckdb:///var/warehouse.duckdb"
    tables: {paid_orders: {from: paid_orders}}
"""


def shop() -> Pipeline:
    return parse(SHOP, file="shop.yaml", folder=Path("/data"))


def test_the_file_of_the_readme_is_read(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(SHOP)
    pipeline = load(tmp_path / "pipeline.yaml")
    assert pipeline.pipeline == "shop"
    assert pipeline.folder == tmp_path
    assert pipeline.sources["shop"].tables == ("customers", "orders", "order_items")
    assert pipeline.sinks["lake"].tables["orders_history"].from_ == "shop.orders"
    assert pipeline.sinks["lake"].tables["orders_history"].mode == "history"
    assert pipeline.sinks["warehouse"].tables["paid_orders"].mode == "current"
    assert pipeline.limits == Limits()
    assert pipeline.warnings == ()


def test_python_says_the_same_as_the_file() -> None:
    built = Pipeline(
        pipeline="shop",
        log=Url("sqlite:///var/log.db"),
        sources={"shop": Source(url=Url("sqlite:///shop.db"), tables=("customers", "orders", "order_items"))},
        steps={
            "paid_orders": Step(
                sql="SELECT order_id, customer_id, amount, placed_at::DATE AS day\n"
                "FROM shop.orders WHERE status = 'paid'\n"
            )
        },
        sinks={
            "lake": Sink(
                url=Url("delta:///var/lake"),
                tables={
                    "orders_history": SinkTable(from_="shop.orders", mode="history"),
                    "paid_orders": SinkTable(from_="paid_orders", partition_by=("day",)),
                },
            ),
            "warehouse": Sink(
                url=Url("duckdb:///var/warehouse.duckdb"), tables={"paid_orders": SinkTable(from_="paid_orders")}
            ),
        },
    )
    assert built == shop()
    assert built.to_document() == shop().to_document()
    assert built.location_of("steps") is None


def test_plain_dictionaries_say_the_same_too() -> None:
    assert Pipeline.model_validate(shop().to_document()) == shop()


def test_a_mistake_made_in_python_is_told_by_pydantic_with_its_path() -> None:
    with pytest.raises(ValidationError, match=r"sinks\.lake\.tables\.paid_orders\.from .*did you mean paid_orders"):
        Pipeline.model_validate(
            {
                **shop().to_document(),
                "sinks": {"lake": {"url": "delta:///lake", "tables": {"paid_orders": {"from": "paid_order"}}}},
            }
        )


def test_a_pipeline_does_not_change_once_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        shop().pipeline = "other"  # type: ignore[misc]


def test_a_pipeline_survives_pickling_with_its_places() -> None:
    copy = pickle.loads(pickle.dumps(shop()))
    assert copy == shop()
    assert copy.location_in_sql("paid_orders", 2) == Location(file="shop.yaml", line=9, column=7)


def test_a_line_of_a_steps_sql_is_found_in_the_file() -> None:
    assert shop().location_in_sql("paid_orders", 2, 6) == Location(file="shop.yaml", line=9, column=12)
    assert SHOP.splitlines()[8][11:].startswith("shop.orders")


@pytest.mark.parametrize(
    ("sql", "line", "place"),
    [
        ("sql: SELECT 1", 1, (3, 10)),
        ('sql: "SELECT 1"', 1, (3, 11)),
        ("sql: |\n\n        SELECT\n          1\n", 3, (6, 9)),
        ("sql: |2\n        SELECT 1\n", 1, (4, 7)),
        ("sql: >\n      SELECT\n      1\n", 1, (3, 10)),
        ('sql: "SELECT\n      1"', 1, (3, 10)),
    ],
    ids=["plain", "quoted", "block after an empty line", "stated indent", "folded", "quoted over two lines"],
)
def test_the_place_of_sql_is_known_for_every_style_of_yaml(sql: str, line: int, place: tuple[int, int]) -> None:
    steps = f"steps:\n  one:\n    {sql}\n"
    rest = SHOP.replace(SHOP[SHOP.index("steps:") : SHOP.index("sinks:")], "").replace("paid_orders}", "one}")
    rest = rest.replace("from: paid_orders", "from: one")
    pipeline = parse(steps + rest, file="p.yaml", folder=Path("/"))
    assert pipeline.location_in_sql("one", line) == Location(file="p.yaml", line=place[0], column=place[1])


def test_a_step_that_nothing_reads_is_warned_of() -> None:
    text = SHOP.replace(
        "steps:\n",
        "steps:\n  idle: {sql: SELECT 1}\n  base: {sql: SELECT * FROM shop.orders}\n"
        "  orders: {sql: SELECT * FROM shop.orders}\n",
    ).replace("FROM shop.orders WHERE", "FROM base WHERE")
    warnings = parse(text, file="p.yaml", folder=Path("/")).warnings
    assert [warning.path for warning in warnings] == [("steps", "idle"), ("steps", "orders")]
    assert str(warnings[0]).startswith("p.yaml:6:3  steps.idle  warning:  No sink table")


def test_rows_may_be_spread_over_several_databases() -> None:
    text = SHOP.replace('url: "duckdb:///var/warehouse.duckdb"', "urls: [sqlite:///a.db, sqlite:///b.db]")
    sink = parse(text, file="p.yaml", folder=Path("/")).sinks["warehouse"]
    assert [str(url) for url in sink.locations] == ["sqlite:///a.db", "sqlite:///b.db"]


@pytest.mark.parametrize(
    ("written", "size"), [("1048576", 1 << 20), ("64MiB", 64 << 20), ("1.5 GiB", 3 << 29), ("20mb", 20_000_000)]
)
def test_sizes_are_bytes_or_have_a_unit(written: str, size: int) -> None:
    text = SHOP + f"limits: {{epoch_bytes: {written}}}\n"
    assert parse(text, file="p.yaml", folder=Path("/")).limits.epoch_bytes == size


def test_words_that_old_yaml_takes_for_booleans_and_dates_are_text() -> None:
    text = SHOP.replace("[customers, orders, order_items]", "[no, on, 2026-01-01, orders]")
    assert parse(text, file="p.yaml", folder=Path("/")).sources["shop"].tables == ("no", "on", "2026-01-01", "orders")


def test_an_anchor_may_be_used_again() -> None:
    text = SHOP.replace("{from: paid_orders}", "&paid {from: paid_orders}, again: *paid")
    tables = parse(text, file="p.yaml", folder=Path("/")).sinks["warehouse"].tables
    assert tables["paid_orders"] == tables["again"]


def test_a_file_from_windows_reads_the_same(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"\xef\xbb\xbf" + SHOP.replace("\n", "\r\n").encode())
    pipeline = load(tmp_path / "p.yaml")
    assert pipeline == shop()
    place = pipeline.location_in_sql("paid_orders", 2)
    assert place is not None
    assert (place.line, place.column) == (9, 7)


def test_the_json_schema_names_every_key_with_a_description() -> None:
    schema = json_schema()
    assert schema["required"] == ["pipeline", "log", "sources", "sinks"]
    for section in (schema, *schema["$defs"].values()):
        assert section["additionalProperties"] is False
        assert all(field.get("description") for field in section["properties"].values())
    assert "from" in schema["$defs"]["SinkTable"]["properties"]


def test_reading_a_pipeline_file_needs_neither_arrow_nor_a_database() -> None:
    code = (
        "import raypipe.spec, sys; print([m for m in ('pyarrow', 'duckdb', 'ray', 'sqlalchemy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
