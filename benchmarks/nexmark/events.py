"""The three streams: of 50 events one is a person, three are auctions and 46 are bids, at an even pace."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.model import Column, TableName, TableSchema

Ints = npt.NDArray[np.int64]

_TIME = pa.timestamp("us")
_TYPES = {"id": pa.int64(), "text": pa.string(), "time": _TIME}


def _table(named: str, key: tuple[str, ...], /, **columns: str) -> TableSchema:
    return TableSchema(
        table=TableName("nexmark", "main", named),
        columns=tuple(Column(name=column, type=_TYPES[kind]) for column, kind in columns.items()),
        key=key,
    )


TABLES = (
    _table("person", ("id",), id="id", name="text", email="text", city="text", state="text", date_time="time"),
    _table(
        "auction",
        ("id",),
        id="id",
        item="text",
        initial_bid="id",
        reserve="id",
        date_time="time",
        expires="time",
        seller="id",
        category="id",
    ),
    _table(
        "bid", (), auction="id", bidder="id", price="id", channel="text", url="text", date_time="time", extra="text"
    ),
)
SCHEMAS = {schema.table.table: schema for schema in TABLES}

_PERSONS, _AUCTIONS, _CYCLE = 1, 3, 50
_FIRST_ID, _FIRST_CATEGORY, _CATEGORIES = 1000, 10, 5
_ACTIVE_PEOPLE = 1_000  # who may sell or bid: the newest so many
_OPEN_AUCTIONS = 100  # that may be bid on: the newest so many
_HOT = 100  # every so many an auction, a seller, a bidder is hot
_BEGIN = int(np.datetime64("2026-01-01T00:00:00", "us").astype(np.int64))
_STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
_CITIES = ("Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent")
_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
_NAMES = (("Peter", "Paul", "Luke", "John", "Saul", "Vicky"), ("Shultz", "Abrams", "Spencer", "White", "Jones"))


class House:
    """Invents events by their numbers.

    Args:
        seed: Of the random numbers.
        events_per_second: Of event time.
    """

    def __init__(self, seed: int, events_per_second: int = 10_000) -> None:
        self._random = np.random.default_rng(seed)
        self._step_us = 1_000_000 // events_per_second
        self._told = 0

    def next(self, events: int) -> dict[str, pa.Table]:
        """The next so many events, by table."""
        numbers = np.arange(self._told, self._told + events)
        self._told += events
        place = numbers % _CYCLE
        return {
            "person": self._persons(numbers[place < _PERSONS]),
            "auction": self._auctions(numbers[(place >= _PERSONS) & (place < _PERSONS + _AUCTIONS)]),
            "bid": self._bids(numbers[place >= _PERSONS + _AUCTIONS]),
        }

    def _persons(self, numbers: Ints) -> pa.Table:
        count = len(numbers)
        name = pc.binary_join_element_wise(*(self._of(each, count) for each in _NAMES), " ")
        email = pc.binary_join_element_wise(pc.replace_substring(name, " ", "."), "example.com", "@")
        return _rows(
            "person",
            _FIRST_ID + numbers // _CYCLE,
            name,
            email,
            self._of(_CITIES, count),
            self._of(_STATES, count),
            self._time(numbers),
        )

    def _auctions(self, numbers: Ints) -> pa.Table:
        count = len(numbers)
        initial = self._price(count)
        last = numbers // _CYCLE
        hot = self._random.random(count) < 0.75
        seller = np.where(hot, last // _HOT * _HOT, last - self._upto(np.minimum(last, _ACTIVE_PEOPLE) + 1))
        moment = self._moment(numbers)
        # As long as it takes about so many auctions to be opened as may be bid on at a time.
        length = _OPEN_AUCTIONS * _CYCLE // _AUCTIONS * self._step_us
        expires = moment + 1 + self._upto(np.full(count, 2 * length))
        return _rows(
            "auction",
            _auction_id(numbers),
            pc.binary_join_element_wise("item", pa.array(numbers).cast("string"), " "),
            initial,
            initial + self._price(count),
            pa.array(moment).cast(_TIME),
            pa.array(expires).cast(_TIME),
            _FIRST_ID + seller,
            _FIRST_CATEGORY + self._upto(np.full(count, _CATEGORIES)),
        )

    def _bids(self, numbers: Ints) -> pa.Table:
        count = len(numbers)
        auctions = numbers // _CYCLE * _AUCTIONS + _AUCTIONS - 1
        hot = self._random.random(count) < 0.5
        auction = np.where(
            hot, auctions // _HOT * _HOT, auctions - self._upto(np.minimum(auctions, _OPEN_AUCTIONS) + 1)
        )
        people = numbers // _CYCLE
        eager = self._random.random(count) < 0.75
        bidder = np.where(eager, people // _HOT * _HOT + 1, people - self._upto(np.minimum(people, _ACTIVE_PEOPLE) + 1))
        address = pa.array(self._upto(np.full(count, 10_000))).cast("string")
        return _rows(
            "bid",
            _FIRST_ID + auction,
            _FIRST_ID + bidder,
            self._price(count),
            self._of(_CHANNELS, count),
            pc.binary_join_element_wise("https://www.nexmark.com/item.htm?query=1&channel_id=", address, ""),
            self._time(numbers),
            pc.binary_join_element_wise("extra", address, ""),
        )

    def _moment(self, numbers: Ints) -> Ints:
        return _BEGIN + numbers * self._step_us

    def _time(self, numbers: Ints) -> pa.Array:
        return pa.array(self._moment(numbers)).cast(_TIME)

    def _price(self, count: int) -> Ints:
        """In cents; each size from a cent-and-a-bit to ten thousand is as frequent."""
        return np.round(10 ** (self._random.random(count) * 6) * 100).astype(np.int64)

    def _upto(self, below: Ints) -> Ints:
        return self._random.integers(0, below)

    def _of(self, choices: tuple[str, ...], count: int) -> pa.Array:
        return pa.array(choices).take(pa.array(self._random.integers(0, len(choices), count)))


def _auction_id(numbers: Ints) -> Ints:
    return _FIRST_ID + numbers // _CYCLE * _AUCTIONS + numbers % _CYCLE - _PERSONS


def _rows(name: str, *columns: pa.Array | Ints) -> pa.Table:
    schema = SCHEMAS[name].arrow()
    arrays = [column if isinstance(column, pa.Array) else pa.array(column) for column in columns]
    return pa.table([array.cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema)
