"""A bank whose every transaction is known: the oracle of the chaos tests, independent of raypipe's own.

One writer moves money between accounts, opens and closes them, renumbers them, and rolls back now and then. After each
commit it notes the source's change number and what the transaction did, so the exact state at any cut can be told from
the cut's position alone, and a cut that tears a transaction has no state at all.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# The capture's clock stands here before its first change; the journal calls everything before that 0.
CLOCK_START = 1
DEADLINE_S = 60.0
OWNERS = ("ada", "grace", "édith", "小林", None)
Rows = dict[int, tuple[object, ...]]


@dataclass
class State:
    """Rows by primary key."""

    accounts: Rows = field(default_factory=dict)
    transfers: Rows = field(default_factory=dict)

    def copy(self) -> State:
        return State(dict(self.accounts), dict(self.transfers))


class Torn(AssertionError):
    """A cut lies inside a transaction."""


class Bank:
    """The database, its journal and its writer."""

    def __init__(self, path: Path, seed: int, accounts: int = 40) -> None:
        self.path = path
        self.total = 1000 * accounts
        self._chance = random.Random(seed)
        self._state = State()
        self._journal: list[tuple[int, State]] = []
        self._lock = threading.Lock()
        self._next = accounts + 1
        with self._connect() as connection:
            connection.executescript(
                """
                PRAGMA journal_mode = WAL;
                CREATE TABLE accounts (id INTEGER PRIMARY KEY, owner TEXT, balance INTEGER NOT NULL, note TEXT);
                CREATE TABLE transfers (id INTEGER PRIMARY KEY, source INT, target INT, amount INTEGER NOT NULL);
                """
            )
            for number in range(1, accounts + 1):
                row = (number, OWNERS[number % len(OWNERS)], 1000, None)
                connection.execute("INSERT INTO accounts VALUES (?, ?, ?, ?)", row)
                self._state.accounts[number] = row
            connection.commit()
        self._journal.append((0, self._state.copy()))

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=DEADLINE_S)
        try:
            yield connection
        finally:
            connection.close()

    def transact(self, connection: sqlite3.Connection, moves: int | None = None) -> None:
        """One transaction of several statements; one in ten is rolled back."""
        after = self._state.copy()
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(moves or self._chance.randint(1, 4)):
            self._move(connection, after)
        if self._chance.random() < 0.3:
            self._open_or_close(connection, after)
        if self._chance.random() < 0.2:
            self._renumber(connection, after)
        if self._chance.random() < 0.1:
            connection.rollback()
            return
        seq = self._seq(connection)
        connection.commit()
        with self._lock:
            self._state = after
            self._journal.append((seq, after))

    def _seq(self, connection: sqlite3.Connection) -> int:
        try:
            return int(connection.execute("SELECT seq FROM _raypipe_clock").fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # the capture is not installed yet

    def _move(self, connection: sqlite3.Connection, state: State) -> None:
        source, target = self._chance.sample(sorted(state.accounts), 2)
        amount = self._chance.randint(1, 90)
        number = self._next = self._next + 1
        for account, change in ((source, -amount), (target, amount)):
            old = state.accounts[account]
            note = self._chance.choice([None, "x" * self._chance.randint(0, 200)])
            state.accounts[account] = (account, old[1], int(str(old[2])) + change, note)
            connection.execute(
                "UPDATE accounts SET balance = balance + ?, note = ? WHERE id = ?", (change, note, account)
            )
        state.transfers[number] = (number, source, target, amount)
        connection.execute("INSERT INTO transfers VALUES (?, ?, ?, ?)", state.transfers[number])
        if len(state.transfers) > 200:
            oldest = min(state.transfers)
            del state.transfers[oldest]
            connection.execute("DELETE FROM transfers WHERE id = ?", (oldest,))

    def _open_or_close(self, connection: sqlite3.Connection, state: State) -> None:
        if len(state.accounts) > 30 and self._chance.random() < 0.5:
            closing, heir = self._chance.sample(sorted(state.accounts), 2)
            old, new = state.accounts.pop(closing), state.accounts[heir]
            state.accounts[heir] = (heir, new[1], int(str(new[2])) + int(str(old[2])), new[3])
            connection.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (old[2], heir))
            connection.execute("DELETE FROM accounts WHERE id = ?", (closing,))
        else:
            number = self._next = self._next + 1
            state.accounts[number] = (number, self._chance.choice(OWNERS), 0, None)
            connection.execute("INSERT INTO accounts VALUES (?, ?, ?, ?)", state.accounts[number])

    def _renumber(self, connection: sqlite3.Connection, state: State) -> None:
        old = self._chance.choice(sorted(state.accounts))
        number = self._next = self._next + 1
        row = state.accounts.pop(old)
        state.accounts[number] = (number, *row[1:])
        connection.execute("UPDATE accounts SET id = ? WHERE id = ?", (number, old))

    def state_at(self, seq: int) -> State:
        """The state at a change number.

        Raises:
            Torn: no transaction ended there.
        """
        with self._lock:
            found = [state for at, state in self._journal if at == seq or (at == 0 and seq <= CLOCK_START)]
        if not found:
            raise Torn(f"no transaction ended at change {seq}")
        return found[-1]

    def last_seq(self) -> int:
        """Change number of the newest transaction."""
        with self._lock:
            return self._journal[-1][0]

    def wait_for_capture(self, deadline_s: float = DEADLINE_S) -> None:
        """Returns once raypipe's triggers are in place: from then on the journal and the clock agree."""
        deadline = time.monotonic() + deadline_s
        with self._connect() as connection:
            while time.monotonic() < deadline:
                found = connection.execute(
                    "SELECT count(*) FROM sqlite_schema"
                    " WHERE type = 'trigger' AND tbl_name IN ('accounts', 'transfers')"
                ).fetchone()[0]
                if found >= 6:
                    return
                threading.Event().wait(0.01)
        raise AssertionError("the capture was not installed in time")

    @contextmanager
    def busy(self, per_second: float = 200.0) -> Iterator[None]:
        """Transactions from a thread for as long as the block runs."""
        ending = threading.Event()
        trouble: list[BaseException] = []

        def work() -> None:
            try:
                with self._connect() as connection:
                    while not ending.wait(1 / per_second):
                        self.transact(connection)
            except BaseException as error:
                trouble.append(error)

        thread = threading.Thread(target=work, name="bank", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()
            if trouble:
                raise trouble[0]

    def burst(self, transactions: int, moves: int | None = None) -> None:
        """That many transactions, at once."""
        with self._connect() as connection:
            for _ in range(transactions):
                self.transact(connection, moves)


def expected(relation: str, state: State) -> dict[object, tuple[object, ...]]:
    """Rows of a relation of the pipeline file, computed by hand."""
    if relation == "bank.accounts":
        return dict(state.accounts)
    if relation == "bank.transfers":
        return dict(state.transfers)
    if relation == "rich":
        return {
            row[0]: (row[0], str(row[1]).upper() if row[1] is not None else None, int(str(row[2])) * 2)
            for row in state.accounts.values()
            if int(str(row[2])) >= 1000
        }
    if relation == "events":
        accounts = {(0, row[0]): (0, row[0], "account", row[2]) for row in state.accounts.values()}
        transfers = {(1, row[0]): (1, row[0], "transfer", row[3]) for row in state.transfers.values()}
        return {**accounts, **transfers}
    if relation in ("received", "standing"):
        sums: dict[int, list[int]] = {}
        for row in state.transfers.values():
            sums.setdefault(int(str(row[2])), []).append(int(str(row[3])))
        if relation == "received":
            return {id_: (id_, len(each), sum(each)) for id_, each in sums.items()}
        largest = {id_: max(each) for id_, each in sums.items()}
        return {row[0]: (row[0], row[1], largest.get(int(str(row[0])))) for row in state.accounts.values()}
    raise AssertionError(relation)


PIPELINE = """\
pipeline: bank
log: sqlite:///log.db
sources:
  bank: {url: "sqlite:///bank.db", tables: [accounts, transfers]}
steps:
  rich:
    sql: |
      SELECT id, upper(owner) AS owner, balance * 2 AS twice FROM bank.accounts WHERE balance >= 1000
  events:
    sql: |
      SELECT id, 'account' AS kind, balance AS amount FROM bank.accounts
      UNION ALL
      SELECT id, 'transfer' AS kind, amount FROM bank.transfers
"""

LAKE = """\
  lake:
    url: "delta:///lake"
    tables:
      history: {from: bank.accounts, mode: history}
      rich: {from: rich}
"""
# Stateful steps, and a store for them beside the others.
VIEWS = """\
  received:
    sql: SELECT target AS id, count(*) AS n, sum(amount)::BIGINT AS amount FROM bank.transfers GROUP BY target
  standing:
    sql: |
      SELECT a.id, a.owner, max(t.amount) AS largest
      FROM bank.accounts a LEFT JOIN bank.transfers t ON t.target = a.id GROUP BY a.id, a.owner
"""
VIEW_SINK = """\
  views:
    url: "duckdb:///views.duckdb"
    tables:
      received: {from: received}
      standing: {from: standing}
"""
ALL_SINKS = (
    """\
  warehouse:
    url: "duckdb:///warehouse.duckdb"
    tables:
      accounts: {from: bank.accounts}
      rich: {from: rich}
      events: {from: events}
  shards:
    urls: ["sqlite:///shard-0.db", "sqlite:///shard-1.db"]
    tables:
      accounts: {from: bank.accounts}
      transfers: {from: bank.transfers}
"""
    + LAKE
)


def write_pipeline(
    folder: Path,
    limits: Mapping[str, object] | None = None,
    sinks: str = ALL_SINKS,
    log: str = "sqlite:///log.db",
    name: str = "bank",
    steps: str = "",
) -> Path:
    """Writes the pipeline file; the bank's database lies beside it."""
    path = folder / "pipeline.yaml"
    lines = "".join(f"  {name}: {value}\n" for name, value in (limits or {}).items())
    path.write_text(
        PIPELINE.replace("sqlite:///log.db", log).replace("pipeline: bank", f"pipeline: {name}")
        + steps
        + "sinks:\n"
        + sinks
        + (f"limits:\n{lines}" if lines else "")
    )
    return path
