"""The shop's books: a PostgreSQL database of invoices, payments and reminders, beside the shop's own in SQLite."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from contextlib import closing
from io import StringIO
from typing import Any
from urllib.parse import unquote, urlsplit

from raypipe.demo.invention import Invention
from raypipe.errors import MissingExtra

# Every table holds a trap for a naive capture. invoices: terms so long that they are stored out of line: an update that
# leaves them alone does not carry them; an enum; a key that changes. payments: foreign keys that cascade.
# reminders: no key at all, so it needs REPLICA IDENTITY FULL, and it is truncated now and then.
SCHEMA = """
CREATE TYPE invoice_status AS ENUM ('open', 'paid', 'void');
CREATE TABLE invoices (
    invoice_id bigint PRIMARY KEY,
    order_id   bigint,
    customer   text NOT NULL,
    status     invoice_status NOT NULL DEFAULT 'open',
    amount     numeric(12,2) NOT NULL,
    tax_rate   numeric(5,3),
    issued_at  timestamptz NOT NULL,
    due        date,
    reference  uuid NOT NULL,
    tags       text[],
    terms      text
);
ALTER TABLE invoices ALTER COLUMN terms SET STORAGE EXTERNAL;
CREATE TABLE payments (
    payment_id bigint PRIMARY KEY,
    invoice_id bigint NOT NULL REFERENCES invoices ON UPDATE CASCADE ON DELETE CASCADE,
    amount     numeric(12,2) NOT NULL,
    paid_at    timestamptz NOT NULL,
    method     text NOT NULL,
    details    jsonb
);
CREATE INDEX payments_by_invoice ON payments (invoice_id);
CREATE TABLE reminders (
    invoice_id bigint NOT NULL,
    sent_at    timestamp NOT NULL,
    body       text
);
ALTER TABLE reminders REPLICA IDENTITY FULL;
CREATE SEQUENCE invoice_ids;
CREATE SEQUENCE payment_ids;
"""

TABLES = ("invoices", "payments", "reminders")
INVOICE = "invoice_id, order_id, customer, status, amount, tax_rate, issued_at, due, reference, tags, terms"
REMINDER = "invoice_id, sent_at, body"
PAYMENT = "payment_id, invoice_id, amount, paid_at, method, details"

# Parts of a hundred of the first rows; payments take what is left.
SHARES = {"invoices": 50, "reminders": 10}


def connect(url: str) -> Any:
    """A connection as the bookkeepers use it (``pg8000.native``), in UTC.

    Args:
        url: ``postgresql://user:password@host:port/database``.

    Raises:
        MissingExtra: pg8000 is not installed.
    """
    try:
        import pg8000.native
    except ImportError as error:
        raise MissingExtra.of("postgres", "The shop's books, a PostgreSQL database,") from error
    parts = urlsplit(url)
    connection = pg8000.native.Connection(
        unquote(parts.username or ""),
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 5432,
        database=parts.path.removeprefix("/"),
        password=unquote(parts.password or ""),
        timeout=60,
    )
    connection.run("SET timezone = 'UTC'")
    # A commit survives the death of any process; a power cut is not what the demo is about.
    connection.run("SET synchronous_commit = off")
    return connection


def create(url: str, *, rows: int, seed: int) -> Mapping[str, int]:
    """Makes the tables and their first rows.

    Args:
        url: Of an empty database.
        rows: Altogether, over all tables.
        seed: Of the values: the same seed gives the same rows.

    Returns:
        Rows by table.
    """
    counts = {table: rows * share // 100 for table, share in SHARES.items()}
    counts["payments"] = rows - sum(counts.values())
    invention = Invention(random.Random(seed))
    with closing(connect(url)) as connection:
        for statement in SCHEMA.split(";\n"):
            if statement.strip():
                connection.run(statement)
        connection.run("BEGIN")
        invoices = range(1, counts["invoices"] + 1)
        _fill(connection, "invoices", INVOICE, (invoice(invention, number) for number in invoices))
        numbers = range(1, counts["payments"] + 1) if invoices else ()
        payments = (payment(invention, number, invention.one_of(invoices)) for number in numbers)
        _fill(connection, "payments", PAYMENT, payments)
        reminders = (reminder(invention, number) for number in range(counts["reminders"]))
        _fill(connection, "reminders", REMINDER, reminders)
        connection.run("SELECT setval('invoice_ids', :at)", at=counts["invoices"] + 1)
        connection.run("SELECT setval('payment_ids', :at)", at=counts["payments"] + 1)
        connection.run("COMMIT")
    return counts


def insert(connection: Any, table: str, columns: str, row: tuple[object, ...]) -> None:
    """Inserts one row."""
    names = [f"c{place}" for place in range(len(row))]
    values = ", ".join(f":{name}" for name in names)
    connection.run(f"INSERT INTO {table} ({columns}) VALUES ({values})", **dict(zip(names, row, strict=True)))


def _fill(connection: Any, table: str, columns: str, rows: Iterable[tuple[object, ...]]) -> None:
    """Inserts many rows by COPY, in PostgreSQL's text format."""
    lines = ("\t".join(map(_as_text, row)) + "\n" for row in rows)
    connection.run(f"COPY {table} ({columns}) FROM STDIN", stream=StringIO("".join(lines)))


def _as_text(value: object) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, list):
        value = "{" + ",".join(json.dumps(each, ensure_ascii=False) for each in value) + "}"
    return str(value).replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def invoice(invention: Invention, number: int) -> tuple[object, ...]:
    """A row of invoices under a number."""
    chance = invention.chance
    return (
        number,
        None if chance.random() < 0.1 else chance.randrange(1, 10_000),
        invention.name(),
        "open" if chance.random() < 0.7 else "paid",
        invention.price(),
        None if chance.random() < 0.2 else invention.one_of(("0.070", "0.190", "0.200")),
        f"{invention.moment()}+00",
        None if chance.random() < 0.3 else invention.moment()[:10],
        f"{chance.getrandbits(128):032x}",
        None if chance.random() < 0.5 else [invention.one_of(("rush", "näh", 'say "hi"', "a,b")) for _ in range(2)],
        None if chance.random() < 0.2 else invention.terms(),
    )


def payment(invention: Invention, number: int, invoice_id: int) -> tuple[object, ...]:
    """A row of payments under a number."""
    chance = invention.chance
    details = None if chance.random() < 0.5 else f'{{"card": "{chance.randrange(10_000):04d}", "3ds": true}}'
    method = invention.one_of(("card", "transfer", "cash"))
    return (number, invoice_id, invention.price(), f"{invention.moment()}+00", method, details)


def reminder(invention: Invention, invoice_id: int) -> tuple[object, ...]:
    """A row of reminders; few enough different ones that equal rows occur."""
    return (invoice_id % 7, invention.moment()[:10], invention.one_of((None, "", "please pay", "last call 🎈")))
