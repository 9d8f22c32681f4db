"""The files that both read: changes of orders and customers as Debezium's JSON, Nexmark's streams as CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.nexmark.events import SCHEMAS, House
from raypipe.model import Column, TableName, TableSchema

Ints = npt.NDArray[np.int64]


def _table(name: str, columns: Mapping[str, pa.DataType]) -> TableSchema:
    return TableSchema(
        table=TableName("shop", "main", name),
        columns=tuple(Column(name=column, type=type_) for column, type_ in columns.items()),
        key=(next(iter(columns)),),
    )


ORDERS = _table(
    "orders",
    {
        "order_id": pa.int64(),
        "customer_id": pa.int64(),
        "amount": pa.decimal128(12, 2),
        "status": pa.string(),
        "updated_at": pa.timestamp("us"),
    },
)
CUSTOMERS = _table("customers", {"customer_id": pa.int64(), "name": pa.string(), "region": pa.string()})
TABLES: Mapping[str, TableSchema] = {"orders": ORDERS, "customers": CUSTOMERS, **SCHEMAS}
# Those whose files tell changes; the others only grow.
CHANGING = ("orders", "customers")

SEED = 7
STATUSES, _SHARES = ("new", "paid", "shipped", "returned", "cancelled"), (0.3, 0.3, 0.2, 0.1, 0.1)
REGIONS = 50
# Of fifty changes of orders there are two of customers: one inserted, one updated later.
ORDERS_OF_A_CUSTOMER = 50
_BEGIN = int(np.datetime64("2026-01-01T00:00:00", "us").astype(np.int64))
# Changes that are invented together: none of them touches a row that another one does.
_TOGETHER = 1_000
_EVENTS_TOGETHER = 500_000
_WRITE_JSON = "(FORMAT json, TIMESTAMPFORMAT '%Y-%m-%d %H:%M:%S.%g')"
_WRITE_CSV = "(FORMAT csv, HEADER false, TIMESTAMPFORMAT '%Y-%m-%d %H:%M:%S.%g')"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Files in a folder.

    Attributes:
        folder: With a folder for each table, in which its files are: Flink reads folders.
        lines: Of each table.
    """

    folder: Path
    lines: Mapping[str, int]

    def file(self, table: str) -> Path:
        """Of a table."""
        return self.folder / table / ("0.json" if table in CHANGING else "0.csv")


def open_inputs(folder: Path) -> Inputs:
    """Files that were made before."""
    return Inputs(folder=folder, lines=json.loads((folder / "lines.json").read_text()))


def make_inputs(folder: Path, tables: tuple[str, ...], rows: int) -> Inputs:
    """Writes the files of some tables.

    Args:
        folder: Made.
        tables: Of orders and customers, or of Nexmark.
        rows: Changes of orders, or events of Nexmark of all three kinds.
    """
    folder.mkdir(parents=True)
    for table in tables:
        (folder / table).mkdir()
    inputs = Inputs(folder=folder, lines={})
    lines: dict[str, int] = dict.fromkeys(tables, 0)
    with duckdb.connect(config={"threads": 1}) as database:
        for place, parts in enumerate(_parts(tables, rows)):
            for table, part in parts.items():
                lines[table] += part.num_rows
                path = inputs.file(table)
                written = path if not place else path.with_name("more")
                database.register("part", part)
                how = _WRITE_JSON if table in CHANGING else _WRITE_CSV
                database.execute(f"COPY part TO '{written}' {how}")
                if place:
                    _append(path, written)
    (folder / "lines.json").write_text(json.dumps(lines))
    return open_inputs(folder)


def _append(path: Path, more: Path) -> None:
    with path.open("ab") as whole:
        whole.write(more.read_bytes())
    more.unlink()


def _parts(tables: tuple[str, ...], rows: int) -> Iterator[dict[str, pa.Table]]:
    if not set(tables) & set(CHANGING):
        house = House(SEED)
        for begin in range(0, rows, _EVENTS_TOGETHER):
            events = house.next(min(_EVENTS_TOGETHER, rows - begin))
            yield {name: _milliseconds(events[name]) for name in tables}
        return
    made = {"orders": _orders, "customers": _customers}
    yield {table: made[table](rows) for table in tables}


def _milliseconds(rows: pa.Table) -> pa.Table:
    """Times as exact as the times of Flink's windows."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type):
            rows = rows.set_column(place, field, pc.floor_temporal(rows.column(place), unit="millisecond"))
    return rows


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Columns of orders as numbers, a place for each change."""

    customer: Ints
    cents: Ints
    status: Ints
    at: Ints

    def told(self, order: Ints, there: npt.NDArray[np.bool_]) -> pa.Array:
        """As the JSON has them."""
        words = np.zeros((len(order), 2), np.int64)
        words[:, 0] = self.cents
        amount = pa.Array.from_buffers(pa.decimal128(12, 2), len(order), [None, pa.py_buffer(words)])
        columns = [
            pa.array(order),
            pa.array(self.customer),
            amount,
            pa.array(STATUSES).take(pa.array(self.status)),
            pa.array(_BEGIN + 1_000 * self.at).cast(pa.timestamp("us")),
        ]
        return pa.StructArray.from_arrays(columns, list(ORDERS.names), mask=pa.array(~there))


def _orders(changes: int) -> pa.Table:
    """Six tenths are inserts, three are updates (of the status, and half of them of the amount), one is a delete."""
    random = np.random.default_rng(SEED)
    kind = random.choice(3, changes, p=(0.6, 0.3, 0.1))
    kind[:_TOGETHER] = 0
    customers = max(1, changes // ORDERS_OF_A_CUSTOMER)
    after = {
        "customer": random.integers(0, customers, changes),
        "cents": random.integers(100, 100_000, changes),
        "status": random.choice(len(STATUSES), changes, p=_SHARES),
        "at": np.arange(changes),
    }
    before = {name: values.copy() for name, values in after.items()}
    order = np.zeros(changes, np.int64)
    # Of each order: where it was last told. Of the live ones: their numbers.
    last = np.zeros(changes, np.int64)
    live, living, made = np.zeros(changes, np.int64), 0, 0
    for begin in range(0, changes, _TOGETHER):
        here = np.arange(begin, min(begin + _TOGETHER, changes))
        touching = here[kind[here] > 0]
        places = np.unique(random.integers(0, max(1, living), len(touching)))
        # Of changes that chose an order that another one has chosen, an insert is made.
        kind[touching[len(places) :]] = 0
        touching = touching[: len(places)]
        order[touching] = live[places]
        told = last[order[touching]]
        for name, values in before.items():
            values[touching] = after[name][told]
        deleted = kind[touching] == 2
        kept = touching[~deleted]
        after["customer"][touching] = before["customer"][touching]
        kept_amount = kept[kept % 2 == 0]
        after["cents"][kept_amount] = before["cents"][kept_amount]
        last[order[kept]] = kept
        inserted = here[kind[here] == 0]
        order[inserted] = np.arange(made, made + len(inserted))
        last[order[inserted]] = inserted
        made += len(inserted)
        rest = np.delete(live[:living], places[deleted])
        live[: len(rest)] = rest
        live[len(rest) : len(rest) + len(inserted)] = order[inserted]
        living = len(rest) + len(inserted)
    return _told(kind, _Images(**before).told(order, kind > 0), _Images(**after).told(order, kind < 2))


def _told(kind: Ints, before: pa.Array, after: pa.Array) -> pa.Table:
    letters = pa.array(["c", "u", "d"]).take(pa.array(kind))
    return pa.table({"before": before, "after": after, "op": letters})


def _customers(orders: int) -> pa.Table:
    """All are inserted; then as many updates, each of a customer at random, who moves to another region."""
    count = max(1, orders // ORDERS_OF_A_CUSTOMER)
    random = np.random.default_rng(SEED + 1)
    customer = np.concatenate((np.arange(count), random.integers(0, count, count)))
    region = random.integers(0, REGIONS, 2 * count)
    was = np.zeros(2 * count, np.int64)
    # The one told before: customers in order, and each one's changes in theirs.
    order = np.argsort(customer, kind="stable")
    follows = customer[order][1:] == customer[order][:-1]
    was[order[1:][follows]] = region[order[:-1][follows]]
    updated = np.arange(2 * count) >= count
    regions = pa.array([f"region-{number:02d}" for number in range(REGIONS)])
    name = pc.binary_join_element_wise("customer", pa.array(customer).cast("string"), " ")

    def image(of: Ints, there: npt.NDArray[np.bool_]) -> pa.Array:
        columns = [pa.array(customer), name, regions.take(pa.array(of))]
        return pa.StructArray.from_arrays(columns, list(CUSTOMERS.names), mask=pa.array(~there))

    return _told(updated.astype(np.int64), image(was, updated), image(region, np.ones(2 * count, bool)))
