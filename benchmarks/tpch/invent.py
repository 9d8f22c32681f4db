"""Rows after the specification's rules, from a seed: what the queries look at is distributed as it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.tpch import words
from benchmarks.tpch.schema import MONEY, SCHEMAS

Ints = npt.NDArray[np.int64]

# Days since 1970.
_FIRST = int(np.datetime64("1992-01-01").astype(np.int64))
_LAST = int(np.datetime64("1998-08-02").astype(np.int64))
_TODAY = int(np.datetime64("1995-06-17").astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How many rows there are.

    Attributes:
        factor: 1 is the specification's smallest: 6 million line items.
    """

    factor: float

    def _of(self, rows: int, least: int) -> int:
        return max(least, round(rows * self.factor))

    @property
    def suppliers(self) -> int:
        """Rows of supplier; at least so many that every part has four."""
        return self._of(10_000, 20)

    @property
    def customers(self) -> int:
        """Rows of customer."""
        return self._of(150_000, 60)

    @property
    def parts(self) -> int:
        """Rows of part; partsupp has four for each."""
        return self._of(200_000, 80)

    @property
    def orders(self) -> int:
        """Rows of orders; each has one to seven line items."""
        return self._of(1_500_000, 200)


class Inventor:
    """Makes rows.

    Args:
        scale: How many.
        seed: Of the random numbers.
    """

    def __init__(self, scale: Scale, seed: int) -> None:
        self.scale = scale
        self.random = np.random.default_rng(seed)

    def region(self) -> pa.Table:
        """All regions."""
        return _rows("region", np.arange(5), list(words.REGIONS), self._text(5))

    def nation(self) -> pa.Table:
        """All nations."""
        names, regions = zip(*words.NATIONS, strict=True)
        return _rows("nation", np.arange(25), list(names), np.array(regions, np.int64), self._text(25))

    def supplier(self) -> pa.Table:
        """All suppliers; a few have complaints."""
        keys = np.arange(1, self.scale.suppliers + 1)
        nations = self._upto(25, len(keys))
        comments = pc.if_else(
            pa.array(self._upto(20, len(keys)) == 0),
            pc.binary_join_element_wise(self._text(len(keys)), "Customer slow Complaints", " "),
            self._text(len(keys)),
        )
        money = self._between(-99_999, 999_999, len(keys))
        return _rows("supplier", keys, _named("Supplier#", keys), self._text(len(keys)), nations, self._phones(nations),
                     _money(money), comments)  # fmt: skip

    def customers(self, keys: Ints) -> pa.Table:
        """Customers of these keys, each time others."""
        nations = self._upto(25, len(keys))
        return _rows(
            "customer",
            keys,
            _named("Customer#", keys),
            self._text(len(keys)),
            nations,
            self._phones(nations),
            _money(self._between(-99_999, 999_999, len(keys))),
            self._of(words.SEGMENTS, len(keys)),
            self._text(len(keys)),
        )

    def parts(self, keys: Ints) -> pa.Table:
        """Parts of these keys, each time others."""
        count = len(keys)
        makers = self._between(1, 5, count)
        brands = makers * 10 + self._between(1, 5, count)
        name = pc.binary_join_element_wise(*(self._of(words.COLORS, count) for _ in range(5)), " ")
        return _rows(
            "part",
            keys,
            name,
            _named("Manufacturer#", makers, 1),
            _named("Brand#", brands, 2),
            pc.binary_join_element_wise(*(self._of(each, count) for each in words.TYPES), " "),
            self._between(1, 50, count),
            pc.binary_join_element_wise(*(self._of(each, count) for each in words.CONTAINERS), " "),
            _money(_retail_price(keys)),
            self._text(count),
        )

    def partsupp(self, parts: Ints) -> pa.Table:
        """The four suppliers of each of these parts, each time in other quantities and at other costs."""
        keys = np.repeat(parts, 4)
        suppliers = self._supplier_of(keys, np.tile(np.arange(4), len(parts)))
        count = len(keys)
        return _rows("partsupp", keys, suppliers, self._between(1, 9_999, count),
                     _money(self._between(100, 100_000, count)), self._text(count))  # fmt: skip

    def orders(self, keys: Ints) -> tuple[pa.Table, pa.Table]:
        """Orders of these keys, and their line items."""
        count = len(keys)
        ordered = self._between(_FIRST, _LAST - 151, count)
        lines = self._between(1, 7, count)
        of = np.repeat(np.arange(count), lines)
        number = np.arange(len(of)) - np.repeat(np.cumsum(lines) - lines, lines) + 1
        total = len(of)
        part = self._between(1, self.scale.parts, total)
        supplier = self._supplier_of(part, self._upto(4, total))
        quantity = self._between(1, 50, total)
        price = quantity * _retail_price(part)
        discount, tax = self._between(0, 10, total), self._between(0, 8, total)
        shipped = ordered[of] + self._between(1, 121, total)
        promised = ordered[of] + self._between(30, 90, total)
        received = shipped + self._between(1, 30, total)
        open_ = shipped > _TODAY
        flags = np.where(received <= _TODAY, np.where(self._upto(2, total) == 0, "R", "A"), "N")
        items = _rows(
            "lineitem",
            keys[of],
            part,
            supplier,
            number,
            _money(quantity * 100),
            _money(price),
            _money(discount),
            _money(tax),
            pa.array(flags.tolist()),
            pa.array(np.where(open_, "O", "F").tolist()),
            _dates(shipped),
            _dates(promised),
            _dates(received),
            self._of(words.INSTRUCTIONS, total),
            self._of(words.MODES, total),
            self._text(total),
        )
        opened = np.bincount(of, open_, count)
        status = np.where(opened == lines, "O", np.where(opened == 0, "F", "P"))
        charged = np.bincount(of, price * (100 + tax) * (100 - discount) / 10_000, count).astype(np.int64)
        customers = self._between(1, self.scale.customers, count)
        customers -= customers % 3 == 0  # a third of all customers never orders anything
        orders = _rows(
            "orders",
            keys,
            np.maximum(customers, 1),
            pa.array(status.tolist()),
            _money(charged),
            _dates(ordered),
            self._of(words.PRIORITIES, count),
            _named("Clerk#", self._between(1, max(1, self.scale.orders // 1500), count)),
            np.zeros(count, np.int64),
            self._text(count),
        )
        return orders, items

    def _supplier_of(self, part: Ints, which: Ints) -> Ints:
        suppliers = self.scale.suppliers
        # Where suppliers are few the step must not grow to a third of them, or a part would have one of them twice.
        step = suppliers // 4 + (part - 1) // suppliers % max(1, suppliers // 12)
        return (part + which * step) % suppliers + 1

    def _phones(self, nations: Ints) -> pa.Array:
        digits = [self._between(low, high, len(nations)) for low, high in ((100, 999), (100, 999), (1000, 9999))]
        return pc.binary_join_element_wise(*(pa.array(each).cast("string") for each in (nations + 10, *digits)), "-")

    def _text(self, count: int) -> pa.Array:
        return pc.binary_join_element_wise(*(self._of(words.WORDS, count) for _ in range(4)), " ")

    def _of(self, choices: Sequence[str], count: int) -> pa.Array:
        return pa.array(choices).take(pa.array(self._upto(len(choices), count)))

    def _upto(self, below: int, count: int) -> Ints:
        return self.random.integers(0, below, count)

    def _between(self, low: int, high: int, count: int) -> Ints:
        return self.random.integers(low, high + 1, count)


def order_keys(numbers: Ints, lot: int) -> Ints:
    """Keys of the orders with these numbers: 8 of every 32 are used by each lot, 0 being the first load."""
    return numbers // 8 * 32 + numbers % 8 + 8 * lot + 1


def _rows(name: str, *columns: pa.Array | Ints | list[str]) -> pa.Table:
    schema = SCHEMAS[name].arrow()
    arrays = [pa.array(column) if not isinstance(column, pa.Array) else column for column in columns]
    return pa.table([array.cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema)


def _retail_price(part: Ints) -> Ints:
    """In cents."""
    return 90_000 + (part // 10) % 20_001 + 100 * (part % 1_000)


def _money(cents: Ints) -> pa.Array:
    """Decimals of two places: Arrow has their integers in 16 bytes each."""
    halves = np.stack([cents, cents >> 63], axis=1).astype("<i8")
    return pa.Array.from_buffers(MONEY, len(cents), [None, pa.py_buffer(halves.tobytes())])


def _dates(days: Ints) -> pa.Array:
    return pa.array(days.astype(np.int32)).cast(pa.date32())


def _named(prefix: str, keys: Ints, width: int = 9) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(pa.array(keys).cast("string"), width, "0"), "")
