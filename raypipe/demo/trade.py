"""What goes on in the shop: kinds of transaction, each over one or several tables, weighted by how often they occur.

Each function runs inside a transaction that its caller began and will end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raypipe.demo.invention import Invention, as_price


@dataclass(frozen=True)
class Deal:
    """A kind of transaction.

    Attributes:
        name: For counts.
        weight: How often, relative to the others.
        act: Does it, on a connection of the database it is made for.
    """

    name: str
    weight: int
    act: Callable[[Any, Invention], None]


def place_order(connection: sqlite3.Connection, invention: Invention) -> None:
    """Three tables in one transaction."""
    items = [invention.item() for _ in range(invention.chance.randint(1, 5))]
    cents = sum(quantity * _cents(price) for _, quantity, price, _ in items)
    customer_id = _any_key(connection, invention, "customers", "customer_id")
    order_id = connection.execute(
        "INSERT INTO orders (customer_id, status, amount, placed_at, note) VALUES (?, ?, ?, ?, ?)",
        (customer_id, *invention.order(cents)),
    ).lastrowid
    connection.executemany(
        "INSERT INTO order_items VALUES (?, ?, ?, ?, ?, ?)",
        [(order_id, line, *item) for line, item in enumerate(items, start=1)],
    )
    _note(connection, invention, "order placed")


def pay(connection: sqlite3.Connection, invention: Invention) -> None:
    """Orders come into a view of paid orders."""
    _set_status(connection, invention, "paid")


def ship(connection: sqlite3.Connection, invention: Invention) -> None:
    """Orders leave a view of paid orders by an update."""
    _set_status(connection, invention, invention.one_of(("shipped", "returned", "cancelled")))


def change_item(connection: sqlite3.Connection, invention: Invention) -> None:
    """An item and its order's amount change together."""
    order_id = _any_key(connection, invention, "orders", "order_id")
    connection.execute(
        "UPDATE order_items SET quantity = quantity % 9 + 1 WHERE order_id = ? AND line = 1", (order_id,)
    )
    items = connection.execute("SELECT quantity, price FROM order_items WHERE order_id = ?", (order_id,)).fetchall()
    cents = sum(quantity * _cents(price) for quantity, price in items)
    connection.execute("UPDATE orders SET amount = ? WHERE order_id = ?", (as_price(cents), order_id))


def delete_order(connection: sqlite3.Connection, invention: Invention) -> None:
    """The foreign key deletes the items."""
    order_id = _any_key(connection, invention, "orders", "order_id")
    connection.execute("DELETE FROM orders WHERE order_id = ?", (order_id,))
    _note(connection, invention, "order deleted")


def renumber_order(connection: sqlite3.Connection, invention: Invention) -> None:
    """A primary key update, which the foreign key carries into another table's composite key."""
    order_id = _any_key(connection, invention, "orders", "order_id")
    highest = connection.execute("SELECT max(order_id) FROM orders").fetchone()[0] or 0
    connection.execute("UPDATE orders SET order_id = ? WHERE order_id = ?", (highest + 1, order_id))


def swap_lines(connection: sqlite3.Connection, invention: Invention) -> None:
    """Two rows exchange their keys by way of a third, all in one transaction."""
    order_id = _any_key(connection, invention, "orders", "order_id")
    for before, after in ((1, -1), (2, 1), (-1, 2)):
        connection.execute("UPDATE order_items SET line = ? WHERE order_id = ? AND line = ?", (after, order_id, before))


def register(connection: sqlite3.Connection, invention: Invention) -> None:
    """An upsert that inserts, or changes a customer with the same address."""
    columns = list(invention.customer())
    if invention.chance.random() < 0.5:
        columns[0] = _any_email(connection, invention) or columns[0]
    connection.execute(
        f"INSERT INTO customers ({CUSTOMER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (email) DO UPDATE SET name = excluded.name, preferences = excluded.preferences, credit = NULL",
        columns,
    )
    _note(connection, invention, "customer registered")


def replace_customer(connection: sqlite3.Connection, invention: Invention) -> None:
    """INSERT OR REPLACE that removes *another* row, the one with the same address: no delete trigger fires for it."""
    columns = list(invention.customer())
    columns[0] = _any_email(connection, invention) or columns[0]
    connection.execute(f"INSERT OR REPLACE INTO customers ({CUSTOMER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", columns)


def merge_customers(connection: sqlite3.Connection, invention: Invention) -> None:
    """UPDATE OR REPLACE that gives one customer another's address, and so removes the other."""
    email = _any_email(connection, invention)
    customer_id = _any_key(connection, invention, "customers", "customer_id")
    connection.execute("UPDATE OR REPLACE customers SET email = ? WHERE customer_id = ?", (email, customer_id))
    _note(connection, invention, "customers merged")


def promote_country(connection: sqlite3.Connection, invention: Invention) -> None:
    """One statement over many rows."""
    connection.execute(
        "UPDATE customers SET vip = NOT vip WHERE country IS ? AND customer_id % 20 = ?",
        (invention.one_of(("DE", "FR", None)), invention.chance.randrange(20)),
    )


def open_session(connection: sqlite3.Connection, invention: Invention) -> None:
    """Under a new number, or in place of an old session."""
    highest = connection.execute("SELECT max(session_id) FROM sessions").fetchone()[0] or 0
    session_id = invention.chance.randint(1, highest) if highest and invention.chance.random() < 0.3 else highest + 1
    customers = connection.execute("SELECT max(customer_id) FROM customers").fetchone()[0] or 0
    connection.execute(
        "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?)", (session_id, *invention.session(customers))
    )


def expire_sessions(connection: sqlite3.Connection, invention: Invention) -> None:
    """Deletes a range."""
    first = _any_key(connection, invention, "sessions", "session_id")
    connection.execute("DELETE FROM sessions WHERE session_id BETWEEN ? AND ? + 3", (first, first))


def forget_audit(connection: sqlite3.Connection, invention: Invention) -> None:
    """Deletes one of several equal rows of a table without a key."""
    connection.execute("DELETE FROM audit WHERE rowid = (SELECT min(rowid) FROM audit)")
    _note(connection, invention, "audit trimmed")


DEALS = (
    Deal("place_order", 30, place_order),
    Deal("pay", 15, pay),
    Deal("ship", 12, ship),
    Deal("change_item", 10, change_item),
    Deal("delete_order", 8, delete_order),
    Deal("renumber_order", 4, renumber_order),
    Deal("swap_lines", 3, swap_lines),
    Deal("register", 8, register),
    Deal("replace_customer", 3, replace_customer),
    Deal("merge_customers", 2, merge_customers),
    Deal("promote_country", 1, promote_country),
    Deal("open_session", 10, open_session),
    Deal("expire_sessions", 2, expire_sessions),
    Deal("forget_audit", 4, forget_audit),
)

CUSTOMER = "email, name, country, birthday, vip, credit, preferences, avatar, joined_at"


def _set_status(connection: sqlite3.Connection, invention: Invention, status: str) -> None:
    first = _any_key(connection, invention, "orders", "order_id")
    connection.execute("UPDATE orders SET status = ? WHERE order_id BETWEEN ? AND ? + 2", (status, first, first))
    _note(connection, invention, f"orders {status}")


def _note(connection: sqlite3.Connection, invention: Invention, event: str) -> None:
    connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?)", invention.audit(event))


def _any_key(connection: sqlite3.Connection, invention: Invention, table: str, key: str) -> int | None:
    """Some row's key, found by the index; None if the table is empty."""
    lowest, highest = connection.execute(
        f"SELECT (SELECT min({key}) FROM {table}), (SELECT max({key}) FROM {table})"
    ).fetchone()
    if lowest is None:
        return None
    near = invention.chance.randint(lowest, highest)
    found = connection.execute(f"SELECT {key} FROM {table} WHERE {key} >= ? ORDER BY {key} LIMIT 1", (near,))
    return int(found.fetchone()[0])


def _any_email(connection: sqlite3.Connection, invention: Invention) -> str | None:
    near = f"{invention.chance.randrange(16**12):012x}"
    found = connection.execute("SELECT email FROM customers WHERE email >= ? ORDER BY email LIMIT 1", (near,))
    row = found.fetchone()
    return str(row[0]) if row else None


def _cents(price: str | float) -> int:
    return round(float(price) * 100)
