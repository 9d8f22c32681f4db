"""Made-up values for the shop, of every kind that is apt to be changed on its way through a pipeline."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeVar

T = TypeVar("T")

# Accents, an apostrophe, right to left, beyond the basic plane, a combining mark, a space that is none.
NAMES = (
    "Ada King",
    "Édith Ó Núñez",
    "小林 さくら",
    "Siobhan O'Brien",
    "Љиљана Ђорђевић",
    "نور الهدى",
    "Zoë 🚀 Köhler",
    "e\u0301tienne\u00a0Legrand",
)
COUNTRIES = ("DE", "FR", "IE", "JP", "RS", "EG", None)
STATUSES = ("new", "paid", "shipped")
NOTES = (None, "", "leave at the door", 'say "hello"', "naïve; -- DROP TABLE\torders", "two\nlines", "🎁")
SKUS = tuple(f"SKU-{number:03d}" for number in range(60))
TONGUES = ("de", "fr", "ja", "sr", None)

# The shop has one week: enough days to partition by, few enough to look at. Fixed, so that a seed repeats itself.
MONDAY = datetime(2026, 3, 2)
WEEK_S = 7 * 24 * 3600


def as_price(cents: int) -> str:
    """Cents as the text of a DECIMAL(10,2): no float comes near it on our side."""
    return f"{cents // 100}.{cents % 100:02d}"


class Invention:
    """Values from one random generator; each method returns the columns of a row after its key.

    Args:
        chance: Seeded; used by nobody else while values shall repeat.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def one_of(self, choices: Sequence[T]) -> T:
        """One of them."""
        return self.chance.choice(choices)

    def moment(self) -> str:
        """A moment of the week; to the microsecond, or to the second as many programs write it."""
        moment = MONDAY + timedelta(seconds=self.chance.randrange(WEEK_S))
        if self.chance.random() < 0.7:
            moment += timedelta(microseconds=self.chance.randrange(1_000_000))
        return moment.isoformat(sep=" ")

    def name(self) -> str:
        """A person's name."""
        return self.one_of(NAMES)

    def price(self) -> str:
        """A price, as the text of a DECIMAL(10,2)."""
        return as_price(self.chance.randrange(1, 200_000))

    def terms(self) -> str:
        """A long text, beyond what PostgreSQL keeps in a row of a table."""
        return f"§ {self.chance.getrandbits(64):016x}\n" + "naïve terms & conditions apply; " * self.chance.randint(
            80, 160
        )

    def email(self) -> str:
        """An address nobody has yet, very likely."""
        return f"{self.chance.randrange(16**12):012x}@example.org"

    def customer(self) -> tuple[object, ...]:
        """Columns of customers."""
        chance = self.chance
        birthday = None if chance.random() < 0.2 else (MONDAY - timedelta(days=chance.randrange(7000, 30000))).date()
        preferences = {"language": self.one_of(TONGUES), "sizes": [chance.randrange(36, 46)], "näh": chance.random()}
        return (
            self.email(),
            self.name(),
            self.one_of(COUNTRIES),
            birthday.isoformat() if birthday else None,
            chance.random() < 0.1,
            None if chance.random() < 0.3 else as_price(chance.randrange(100_000)),
            None if chance.random() < 0.2 else json.dumps(preferences, ensure_ascii=False),
            None if chance.random() < 0.5 else chance.randbytes(chance.randrange(48)),
            self.moment(),
        )

    def order(self, cents: int) -> tuple[object, ...]:
        """Columns of orders after the customer's, for items worth so much."""
        return (self.one_of(STATUSES), as_price(cents), self.moment(), self.one_of(NOTES))

    def item(self) -> tuple[str, int, str, float | None]:
        """Columns of order_items after the key: sku, quantity, price, weight."""
        chance = self.chance
        weight_kg = None if chance.random() < 0.3 else chance.random() * 10
        return (self.one_of(SKUS), chance.randint(1, 5), as_price(chance.randrange(1, 20_000)), weight_kg)

    def session(self, customers: int) -> tuple[object, ...]:
        """Columns of sessions, of one of so many customers or of nobody."""
        chance = self.chance
        customer_id = chance.randint(1, customers) if customers and chance.random() < 0.8 else None
        return (customer_id, self.moment(), chance.gauss(0, 1), chance.randbytes(chance.randrange(32)))

    def audit(self, event: str) -> tuple[object, ...]:
        """Columns of audit; few enough different ones that equal rows occur."""
        moment = MONDAY + timedelta(hours=self.chance.randrange(7 * 24))
        detail = None if self.chance.random() < 0.5 else json.dumps({"event": event, "till": self.chance.randint(1, 3)})
        return (moment.isoformat(sep=" "), f"clerk {self.chance.randint(1, 3)}", event, detail)
