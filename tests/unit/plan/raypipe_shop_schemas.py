"""Tables of a shop, for tests of plans."""

from __future__ import annotations

import pyarrow as pa

from raypipe.model import Column, TableName, TableSchema


def table(name: str, columns: dict[str, pa.DataType], key: tuple[str, ...], branches: int = 1) -> TableSchema:
    instance, _, local = name.rpartition(".")
    return TableSchema(
        table=TableName(instance, "main" if instance else "", local),
        columns=tuple(Column(name=name, type=type_) for name, type_ in columns.items()),
        key=key,
        branches=branches,
    )


ORDERS = table(
    "shop.orders",
    {
        "id": pa.int64(),
        "status": pa.string(),
        "amount": pa.decimal128(10, 2),
        "placed_at": pa.timestamp("us"),
        "tags": pa.list_(pa.string()),
        "details": pa.string(),
    },
    ("id",),
)
PEOPLE = table(
    "shop.people", {"id": pa.int32(), "user": pa.string(), "current_date": pa.date32(), "status": pa.string()}, ("id",)
)
LINES = table("shop.order lines", {"order": pa.int64(), "line": pa.int64(), "sku": pa.string()}, ("order", "line"))
LOG = table("shop.log", {"text": pa.string()}, ())
EVERYBODY = table("everybody", {"id": pa.int64(), "name": pa.string()}, ("id",), branches=2)
INPUTS = {
    "shop.orders": ORDERS,
    "shop.people": PEOPLE,
    "shop.order lines": LINES,
    "shop.log": LOG,
    "everybody": EVERYBODY,
}
