"""What goes on in the books: kinds of transaction of the PostgreSQL side, weighted by how often they occur.

Each function runs inside a transaction that its caller began and will end.
"""

from __future__ import annotations

from typing import Any

from raypipe.demo import books
from raypipe.demo.invention import Invention
from raypipe.demo.trade import Deal


def issue_invoice(connection: Any, invention: Invention) -> None:
    """Two tables in one transaction."""
    number = _next(connection, "invoice_ids")
    books.insert(connection, "invoices", books.INVOICE, books.invoice(invention, number))
    if invention.chance.random() < 0.4:
        books.insert(connection, "reminders", books.REMINDER, books.reminder(invention, number))


def receive_payment(connection: Any, invention: Invention) -> None:
    """An invoice leaves the view of open ones by an update that does not touch its long terms."""
    invoice_id = _any_invoice(connection, invention)
    if invoice_id is None:
        return
    number = _next(connection, "payment_ids")
    books.insert(connection, "payments", books.PAYMENT, books.payment(invention, number, invoice_id))
    connection.run("UPDATE invoices SET status = 'paid' WHERE invoice_id = :id", id=invoice_id)


def reopen(connection: Any, invention: Invention) -> None:
    """Several invoices come back into it."""
    connection.run(
        "UPDATE invoices SET status = 'open', due = due + 14 WHERE invoice_id BETWEEN :id AND :id + 3",
        id=_any_invoice(connection, invention),
    )


def void_with_second_thoughts(connection: Any, invention: Invention) -> None:
    """What happens after the savepoint is undone, what happened before it is not."""
    invoice_id = _any_invoice(connection, invention)
    connection.run("UPDATE invoices SET status = 'void' WHERE invoice_id = :id", id=invoice_id)
    connection.run("SAVEPOINT second_thoughts")
    connection.run("DELETE FROM payments WHERE invoice_id = :id", id=invoice_id)
    connection.run("UPDATE invoices SET terms = NULL WHERE invoice_id = :id", id=invoice_id)
    connection.run("ROLLBACK TO SAVEPOINT second_thoughts")


def new_terms(connection: Any, invention: Invention) -> None:
    """The long text itself changes."""
    invoice_id = _any_invoice(connection, invention)
    connection.run("UPDATE invoices SET terms = :terms WHERE invoice_id = :id", terms=invention.terms(), id=invoice_id)


def renumber_invoice(connection: Any, invention: Invention) -> None:
    """A primary key update, which the foreign key carries into the payments."""
    invoice_id = _any_invoice(connection, invention)
    number = _next(connection, "invoice_ids")
    connection.run("UPDATE invoices SET invoice_id = :to WHERE invoice_id = :id", to=number, id=invoice_id)


def delete_invoice(connection: Any, invention: Invention) -> None:
    """The foreign key deletes the payments."""
    connection.run("DELETE FROM invoices WHERE invoice_id = :id", id=_any_invoice(connection, invention))


def send_reminder(connection: Any, invention: Invention) -> None:
    """A row of a table without a key, which others may be equal to."""
    row = books.reminder(invention, invention.chance.randrange(1, 1000))
    books.insert(connection, "reminders", books.REMINDER, row)


def withdraw_reminder(connection: Any, invention: Invention) -> None:
    """One of several equal rows goes."""
    del invention
    connection.run("DELETE FROM reminders WHERE ctid = (SELECT min(ctid) FROM reminders)")


def forget_reminders(connection: Any, invention: Invention) -> None:
    """TRUNCATE, in one transaction with a row that stays."""
    connection.run("TRUNCATE reminders")
    send_reminder(connection, invention)


DEALS = (
    Deal("issue_invoice", 25, issue_invoice),
    Deal("receive_payment", 25, receive_payment),
    Deal("reopen", 8, reopen),
    Deal("void_with_second_thoughts", 8, void_with_second_thoughts),
    Deal("new_terms", 5, new_terms),
    Deal("renumber_invoice", 4, renumber_invoice),
    Deal("delete_invoice", 6, delete_invoice),
    Deal("send_reminder", 12, send_reminder),
    Deal("withdraw_reminder", 6, withdraw_reminder),
    Deal("forget_reminders", 1, forget_reminders),
)


def _next(connection: Any, sequence: str) -> int:
    return int(connection.run("SELECT nextval(:name)", name=sequence)[0][0])


def _any_invoice(connection: Any, invention: Invention) -> int | None:
    """Some invoice's number, found by the index; None if there are none."""
    near = invention.chance.random()
    found = connection.run(
        "SELECT invoice_id FROM invoices WHERE invoice_id >="
        " (SELECT min(invoice_id) + CAST(:near AS float8) * (max(invoice_id) - min(invoice_id)) FROM invoices)"
        " ORDER BY invoice_id LIMIT 1",
        near=near,
    )
    return int(found[0][0]) if found else None
