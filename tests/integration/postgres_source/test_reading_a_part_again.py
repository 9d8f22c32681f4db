"""Rows that meet a condition, or that are named by key, are read again beside the stream, and nothing else is."""

from __future__ import annotations

import random
from contextlib import closing

import pytest
from reading import Reading, writers
from test_postgres_pipeline import PIPELINE, SCHEMA, wrong

from raypipe.cli.app import main
from raypipe.cli.exits import Exit
from raypipe.contracts import CanReadAgain, ReadAgain
from raypipe.errors import Kind, RaypipeError
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.log import open_existing_log
from raypipe.model import Op
from raypipe.spec import load
from raypipe.verify import verify

ORDERS = (
    "CREATE TABLE orders(id int PRIMARY KEY, state text, amount numeric(12,2))",
    "INSERT INTO orders SELECT g, CASE WHEN g % 3 = 0 THEN 'paid' ELSE 'new' END, g FROM generate_series(1, 9000) g",
)


@pytest.fixture
def orders(database, read) -> Reading:
    database.write(*ORDERS)
    return read("orders").open().until_loaded()


def spoil(reading: Reading, *keys: int) -> None:
    """The sink loses some rows and has others that are wrong."""
    held = reading.held["orders"].keyed
    for number, key in enumerate(keys):
        if number % 2:
            held[(key,)] = {"id": key, "state": "spoilt", "amount": None}
        else:
            held.pop((key,))


def again(reading: Reading, max_bytes: int = 1 << 24, **wish: object) -> list:
    assert isinstance(reading.source, CanReadAgain)
    reading.source.read_again(ReadAgain(id="1", table="shop.orders", **wish))
    reading.changes = []
    pieces = []
    while (piece := reading.step(max_bytes)) is not None or reading.loading or not reading.whole:
        pieces.append(piece)
    return pieces


def test_rows_that_meet_a_condition_are_read_again_and_no_others(orders):
    spoil(orders, 3, 6, 9, 10)
    pieces = again(orders, where="state = 'paid'")
    assert [each for piece in pieces if piece for each in piece.answered] == ["1"]
    assert orders.ops("orders").count(Op.UPDATE_AFTER) == 3000
    assert Op.TRUNCATE not in orders.ops("orders")
    held = orders.held["orders"].keyed
    assert {key: held[(key,)]["state"] for key in (3, 6, 9, 10)} == {3: "paid", 6: "paid", 9: "paid", 10: "spoilt"}


def test_a_condition_is_followed_in_windows_that_fit_a_piece(orders):
    spoil(orders, *range(1, 9000, 7))
    pieces = again(orders, 20_000, where="true")
    assert len([piece for piece in pieces if piece is not None and piece.batches]) > 10
    orders.agree()


def test_named_keys_are_read_and_those_without_a_row_are_deleted(orders):
    spoil(orders, 5, 8)
    orders.held["orders"].keyed[(77777,)] = {"id": 77777, "state": "ghost", "amount": None}
    again(orders, keys=(("5",), ("8",), ("77777",)))
    assert orders.ops("orders").count(Op.DELETE) == 1
    assert orders.ops("orders").count(Op.UPDATE_AFTER) == 2
    orders.agree()


@pytest.mark.parametrize("keys", [(("5", "6"),), (("five",),)])
def test_keys_that_are_none_of_the_table_are_given_up(orders, database, keys):
    pieces = again(orders, keys=keys, last=True)
    assert [each for piece in pieces if piece for each in piece.answered] == ["1"]
    database.write("INSERT INTO orders VALUES (10001, 'new', 1)")
    orders.agree()


def test_a_reader_that_starts_again_goes_on_where_it_was(orders):
    spoil(orders, *range(1, 9000, 3))
    orders.source.read_again(ReadAgain(id="1", table="shop.orders", where="id % 3 = 1"))
    for _ in range(60):
        orders.step(10_000)
        orders.open()
    while orders.step(10_000) is not None or orders.loading or not orders.whole:
        pass
    assert sum(op is Op.UPDATE_AFTER for op in orders.ops("orders")) < 6000, "it began anew each time"
    orders.agree()


def test_a_part_read_again_beside_writers_never_takes_a_change_back(orders, database, seed):
    def change(chance: random.Random) -> list[str]:
        some = chance.randint(1, 9000)
        return [
            f"UPDATE orders SET amount = amount + 1 WHERE id = {some}",
            f"UPDATE orders SET state = 'paid' WHERE id = {some + 1}",
            f"DELETE FROM orders WHERE id = {some + 2}",
            f"INSERT INTO orders VALUES ({some + 3}, 'new', 0) ON CONFLICT DO NOTHING",
            "COMMIT",
        ]

    with writers(database, 3, seed, change):
        for turn in range(6):
            keys = tuple((str(key),) for key in range(1, 9000, 5 + turn))
            orders.source.read_again(ReadAgain(id=f"{turn}a", table="shop.orders", where=f"id % 4 = {turn % 4}"))
            orders.source.read_again(ReadAgain(id=f"{turn}b", table="shop.orders", keys=keys))
            orders.until_loaded(30_000)
            orders.agree()
    orders.agree()


def test_a_condition_that_fails_on_a_row_is_given_up_and_the_stream_goes_on(orders, database):
    again(orders, where="1 / (id - 500) > 0")
    database.write("INSERT INTO orders VALUES (10001, 'new', 1)")
    orders.agree()


def test_a_column_of_the_condition_that_is_dropped_ends_it(orders, database):
    orders.source.read_again(ReadAgain(id="1", table="shop.orders", where="amount > 0"))
    orders.step(5_000)
    database.write("ALTER TABLE orders DROP COLUMN amount")
    orders.until_loaded(5_000)
    assert not orders.loading


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("stat = 'paid'", 'column "stat" does not exist'),
        ("state", "must be type boolean"),
        ("state = ", "syntax error"),
        ("true; DELETE FROM orders", "syntax error"),
        ("true) OR (true", "syntax error"),
        ("true] [1", "syntax error"),
        ("true) UNION SELECT 1 FROM orders WHERE (true", "syntax error"),
        ("true, false", "boolean"),
        ("true /* ", "unterminated"),
        ("id = $1", "has a parameter"),
        ("count(*) > 1", "aggregate"),
        ("id = 'x'::int", "invalid input syntax"),
        ("id[1:1]", "subscript"),
    ],
)
def test_what_is_no_condition_is_refused_before_anybody_is_asked(orders, database, condition, words):
    with pytest.raises(RaypipeError, match=words) as refused:
        orders.source.check_condition("shop.orders", condition)
    assert refused.value.kind is Kind.PIPELINE_FILE
    assert database.rows("SELECT count(*) FROM orders") == [[9000]]


@pytest.mark.parametrize("condition", ["state = 'paid' -- and a remark", "id IN (3, 4) AND state LIKE '%a%'"])
def test_what_is_a_condition_is_taken(orders, condition):
    orders.source.check_condition("shop.orders", condition)
    again(orders, where=condition)


def test_a_table_without_a_key_is_refused(database, read):
    database.write("CREATE TABLE n(a int)", "ALTER TABLE n REPLICA IDENTITY FULL")
    with pytest.raises(RaypipeError, match="has no key"):
        read("n").source.check_condition("shop.n", "true")


def test_the_command_reads_a_part_again_and_leaves_every_view_right(database, tmp_path, capsys):
    database.write(*SCHEMA)
    file = tmp_path / "pipeline.yaml"
    file.write_text(PIPELINE.format(url=database.url))
    plan = assemble(load(file))
    run_local(plan, until="idle")

    def command(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["snapshot", words[0], str(file), *words[1:]])
        told = capsys.readouterr()
        return int(str(ended.value.code)), told.out + told.err

    assert command("start", "--where", "true")[0] == Exit.USAGE
    code, told = command("start", "--table", "shop.orders", "--where", "stat = 1")
    assert (code, "stat" in told) == (Exit.USAGE, True)
    code, told = command("start", "--table", "shop.events", "--where", "true")
    assert (code, "no key" in told) == (Exit.USAGE, True)
    with closing(open_existing_log(plan.log, pipeline=plan.pipeline)) as log:
        rows = log.last_cut().rows
        assert command("start", "--table", "shop.orders", "--where", "id <= 30")[0] == 0
        assert "a part of it waits" in command("status")[1]
        database.write("UPDATE orders SET state = 'new' WHERE id = 30", "DELETE FROM orders WHERE id = 29")
        run_local(plan, until="idle")
        assert log.last_cut().rows - rows < 100
        assert "Every table is loaded" in command("status")[1]
    assert wrong(verify(plan)) == {}
