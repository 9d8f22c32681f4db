"""One clerk of the shop, a process of its own: `python -m raypipe.demo.writer --database shop.db --seed 1`.

Knows nothing of raypipe. Ends at its bound, on SIGTERM or SIGINT, or when the process that started it is gone; then
prints one line of JSON with what it did.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event

from raypipe.demo.invention import Invention
from raypipe.demo.shop import connect
from raypipe.demo.trade import DEALS, Deal

# So many transactions of a hundred are rolled back after all their work was done.
ROLLBACK_PERCENT = 5
# A database that stays locked for so long is more than a busy one.
LOCKED_S = 120.0


@dataclass
class Tally:
    """What a writer did.

    Attributes:
        seed: Of the writer.
        committed: Transactions.
        rolled_back: Transactions it changed its mind about.
        refused: Transactions that a constraint forbade.
        busy: Times it found the database locked and tried again.
        deals: Committed transactions by kind.
        seconds: It took.
    """

    seed: int
    committed: int = 0
    rolled_back: int = 0
    refused: int = 0
    busy: int = 0
    deals: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class Writer:
    """Makes transactions.

    Args:
        path: Of the database, made by ``shop.create``.
        seed: Of what it does; one writer alone on a database repeats itself exactly.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self._connection = connect(path)
        self._chance = random.Random(seed)
        self.tally = Tally(seed)

    def close(self) -> None:
        """Lets the database go."""
        self._connection.close()

    def work(self, *, transactions: int | None = None, seconds: float | None = None, rate: float, stop: Event) -> Tally:
        """Makes transactions until a bound or ``stop``.

        Args:
            transactions: At most so many.
            seconds: For at most so long.
            rate: Transactions a second; 0 for as many as can be.
            stop: Ends the work after the transaction in hand.
        """
        began, parent, done = time.monotonic(), os.getppid(), 0
        while not stop.is_set() and os.getppid() == parent:
            elapsed = time.monotonic() - began
            if (transactions is not None and done >= transactions) or (seconds is not None and elapsed >= seconds):
                break
            if rate and stop.wait(max(0.0, done / rate - elapsed)):
                break
            self.transact(stop)
            done += 1
        self.tally.seconds = round(time.monotonic() - began, 3)
        return self.tally

    def transact(self, stop: Event) -> None:
        """One transaction; tried again, exactly the same, as long as another writer holds the database."""
        (deal,) = self._chance.choices(DEALS, weights=[deal.weight for deal in DEALS])
        shall_commit = self._chance.randrange(100) >= ROLLBACK_PERCENT
        state = self._chance.getstate()
        deadline = time.monotonic() + LOCKED_S
        while not stop.is_set():
            self._chance.setstate(state)
            try:
                self._attempt(deal, shall_commit)
                return
            except sqlite3.IntegrityError:
                self._roll_back()
                self.tally.refused += 1
                return
            except sqlite3.OperationalError as error:
                self._roll_back()
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                self.tally.busy += 1

    def _attempt(self, deal: Deal, shall_commit: bool) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        deal.act(self._connection, Invention(self._chance))
        if not shall_commit:
            self._roll_back()
            self.tally.rolled_back += 1
            return
        self._connection.execute("COMMIT")
        self.tally.committed += 1
        self.tally.deals[deal.name] = self.tally.deals.get(deal.name, 0) + 1

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _is_busy(error: sqlite3.OperationalError) -> bool:
    # The low byte is the primary code: SQLITE_BUSY_SNAPSHOT and its kind count as busy too.
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def main(arguments: list[str] | None = None) -> int:
    """Runs one writer to its end."""
    parser = argparse.ArgumentParser(prog="python -m raypipe.demo.writer", description="One clerk of the demo's shop.")
    parser.add_argument("--database", type=Path, required=True, help="made by raypipe.demo.shop.create")
    parser.add_argument("--seed", type=int, required=True, help="of what the writer does")
    parser.add_argument("--transactions", type=int, help="stop after so many")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--rate", type=float, default=0.0, help="transactions a second; 0, the default: flat out")
    given = parser.parse_args(arguments)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    writer = Writer(given.database, given.seed)
    try:
        tally = writer.work(transactions=given.transactions, seconds=given.seconds, rate=given.rate, stop=stop)
    finally:
        writer.close()
    print(json.dumps(asdict(tally)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
