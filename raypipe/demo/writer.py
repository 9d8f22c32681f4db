"""One writer of the demo, a process of its own: `python -m raypipe.demo.writer --database shop.db --seed 1`.

Knows nothing of raypipe. Ends at its bound, on SIGTERM or SIGINT, or when the process that started it is gone; then
prints one line of JSON with what it did.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

from raypipe.demo.desk import BooksDesk, Busy, Desk, Refused, ShopDesk
from raypipe.demo.invention import Invention
from raypipe.demo.trade import Deal

# So many transactions of a hundred are rolled back after all their work was done.
ROLLBACK_PERCENT = 5
# The environment variable that says where the books are; the pipeline file of the demo refers to it too.
BOOKS = "RAYPIPE_BOOKS"
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
        busy: Times others were in the way and it tried again.
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
        desk: Where; owned by this object.
        seed: Of what it does; one writer alone on a database repeats itself exactly.
    """

    def __init__(self, desk: Desk, seed: int) -> None:
        self._desk = desk
        self._chance = random.Random(seed)
        self.tally = Tally(seed)

    def close(self) -> None:
        """Lets the database go."""
        self._desk.close()

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
        """One transaction; tried again, exactly the same, as long as others are in the way."""
        deals = self._desk.deals
        (deal,) = self._chance.choices(deals, weights=[deal.weight for deal in deals])
        shall_commit = self._chance.randrange(100) >= ROLLBACK_PERCENT
        state = self._chance.getstate()
        deadline = time.monotonic() + LOCKED_S
        while not stop.is_set():
            self._chance.setstate(state)
            try:
                self._attempt(deal, shall_commit)
                return
            except Exception as error:
                self._desk.roll_back()
                meaning = self._desk.meaning(error)
                if isinstance(meaning, Refused):
                    self.tally.refused += 1
                    return
                if not isinstance(meaning, Busy) or time.monotonic() > deadline:
                    raise
                self.tally.busy += 1

    def _attempt(self, deal: Deal, shall_commit: bool) -> None:
        self._desk.begin()
        deal.act(self._desk.connection, Invention(self._chance))
        if not shall_commit:
            self._desk.roll_back()
            self.tally.rolled_back += 1
            return
        self._desk.commit()
        self.tally.committed += 1
        self.tally.deals[deal.name] = self.tally.deals.get(deal.name, 0) + 1


def _pass_on(asked: SimpleQueue[int], stop: Event) -> None:
    asked.get()
    stop.set()


def main(arguments: list[str] | None = None) -> int:
    """Runs one writer to its end."""
    parser = argparse.ArgumentParser(prog="python -m raypipe.demo.writer", description="One writer of the demo.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--database", type=Path, help="the shop, made by raypipe.demo.shop.create")
    where.add_argument("--books", action="store_true", help=f"the books, at the URL in ${BOOKS} (it has a password)")
    parser.add_argument("--seed", type=int, required=True, help="of what the writer does")
    parser.add_argument("--transactions", type=int, help="stop after so many")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--rate", type=float, default=0.0, help="transactions a second; 0, the default: flat out")
    given = parser.parse_args(arguments)
    stop, asked = Event(), SimpleQueue[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not the event itself: a handler that interrupts a wait for it would wait for the lock that the wait holds.
        signal.signal(number, lambda number, _: asked.put(number))
    Thread(target=_pass_on, args=(asked, stop), daemon=True).start()
    writer = Writer(BooksDesk(os.environ[BOOKS]) if given.books else ShopDesk(given.database), given.seed)
    try:
        tally = writer.work(transactions=given.transactions, seconds=given.seconds, rate=given.rate, stop=stop)
    finally:
        writer.close()
    print(json.dumps(asdict(tally)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
