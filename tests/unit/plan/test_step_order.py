"""Steps in an order in which inputs come first; what has no such order is told."""

from __future__ import annotations

import pytest

from raypipe.errors import SchemaMismatch, SqlError
from raypipe.plan import order_steps

SOURCES = ["shop.orders", "shop.people"]


def test_inputs_come_first_and_otherwise_the_files_order_stays() -> None:
    steps = {
        "b": "SELECT * FROM c WHERE id > 1",
        "a": "SELECT * FROM shop.orders",
        "c": "WITH a AS (SELECT id FROM shop.people) SELECT id FROM a",
        "d": "SELECT id FROM a UNION ALL SELECT id FROM B",
    }
    assert order_steps(steps, SOURCES) == ("c", "b", "a", "d")


def test_a_cte_hides_a_step_of_its_name_except_inside_itself() -> None:
    steps = {"a": "WITH b AS (SELECT * FROM b) SELECT * FROM b", "b": "SELECT * FROM shop.orders"}
    assert order_steps(steps, SOURCES) == ("b", "a")


def test_a_step_that_reads_itself_is_told_so() -> None:
    with pytest.raises(SqlError, match=r"^Step a reads itself \(line 2, column 6\);") as caught:
        order_steps({"a": "SELECT *\nFROM a"}, SOURCES)
    assert (caught.value.fields["step"], caught.value.fields["line"], caught.value.fields["column"]) == ("a", 2, 6)


def test_a_cycle_is_told_once_with_all_its_steps() -> None:
    steps = {"a": "SELECT * FROM b", "b": "SELECT * FROM c", "c": "SELECT * FROM a"}
    with pytest.raises(SqlError, match=r"Step c closes a cycle \(line 1, column 15\): a reads b reads c reads a;"):
        order_steps(steps, SOURCES)


def test_an_unknown_table_is_told_with_the_nearest_choice() -> None:
    with pytest.raises(SchemaMismatch, match=r"reads shop\.order .*there are: .*Did you mean shop\.orders\?"):
        order_steps({"a": "SELECT * FROM shop.order"}, SOURCES)


def test_a_syntax_error_is_told_with_its_step() -> None:
    with pytest.raises(SqlError, match=r"^Step b has a syntax error"):
        order_steps({"a": "SELECT * FROM shop.orders", "b": "SELECT FROM"}, SOURCES)
