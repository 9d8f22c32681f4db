"""The first load, and the refresh functions: new orders (RF1), old ones gone (RF2), and updates besides."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmarks.kept import Tables
from benchmarks.tpch.invent import Inventor, order_keys
from benchmarks.tpch.schema import TABLES


class Refreshed:
    """The tables of one scale, loaded and then refreshed.

    Args:
        inventor: Of all rows.
    """

    def __init__(self, inventor: Inventor) -> None:
        self.tables = Tables(TABLES)
        self._inventor = inventor
        self._scale = inventor.scale
        self._inserted = self._deleted = 0

    def load(self) -> int:
        """Fills all tables; returns how many rows there are."""
        invent, scale = self._inventor, self._scale
        parts = np.arange(1, scale.parts + 1)
        orders, items = invent.orders(order_keys(np.arange(scale.orders), 0))
        rows = {
            "region": invent.region(),
            "nation": invent.nation(),
            "supplier": invent.supplier(),
            "customer": invent.customers(np.arange(1, scale.customers + 1)),
            "part": invent.parts(parts),
            "partsupp": invent.partsupp(parts),
            "orders": orders,
            "lineitem": items,
        }
        for name, each in rows.items():
            self.tables.load(f"tpch.{name}", each)
        return sum(each.num_rows for each in rows.values())

    def insert(self, count: int) -> int:
        """RF1: new orders with their line items; returns how many rows came."""
        numbers = np.arange(self._inserted, self._inserted + count)
        self._inserted += count
        orders, items = self._inventor.orders(order_keys(numbers, 1))
        self.tables.insert("tpch.orders", orders)
        self.tables.insert("tpch.lineitem", items)
        return int(orders.num_rows + items.num_rows)

    def delete(self, count: int) -> int:
        """RF2: the oldest orders and their line items go; returns how many rows went."""
        keys = order_keys(np.arange(self._deleted, self._deleted + count), 0)
        self._deleted += count
        chosen = ", ".join(map(str, keys))
        orders = self.tables.rows(f"SELECT * FROM tpch.orders WHERE o_orderkey IN ({chosen})")
        items = self.tables.rows(f"SELECT * FROM tpch.lineitem WHERE l_orderkey IN ({chosen})")
        self.tables.delete("tpch.orders", orders)
        self.tables.delete("tpch.lineitem", items)
        return int(orders.num_rows + items.num_rows)

    def update(self, count: int) -> int:
        """Some rows of every large table become others; returns how many."""
        random, invent, scale = self._inventor.random, self._inventor, self._scale
        few = max(1, count // 10)
        changed = [
            ("customer", invent.customers(random.choice(scale.customers, few, replace=False) + 1)),
            ("part", invent.parts(random.choice(scale.parts, few, replace=False) + 1)),
            ("partsupp", invent.partsupp(random.choice(scale.parts, few, replace=False) + 1)),
            ("supplier", self._moved(few)),
            ("orders", self._some("orders", "o_orderkey", "o_custkey, o_orderstatus, o_orderdate, o_comment", count)),
            (
                "lineitem",
                self._some("lineitem", "l_orderkey", "l_quantity, l_shipdate, l_receiptdate, l_shipmode", count),
            ),
        ]
        for name, rows in changed:
            self.tables.update(f"tpch.{name}", rows)
        return sum(int(rows.num_rows) for _, rows in changed)

    def _moved(self, count: int) -> pa.Table:
        """Suppliers that are in another nation from now on."""
        keys = ", ".join(map(str, self._inventor.random.choice(self._scale.suppliers, count, replace=False) + 1))
        return self.tables.rows(
            f"SELECT * REPLACE (((s_nationkey + 7) % 25)::INTEGER AS s_nationkey) FROM tpch.supplier "
            f"WHERE s_suppkey IN ({keys})"
        )

    def _some(self, name: str, key: str, columns: str, count: int) -> pa.Table:
        """Rows of some keys that have taken over some columns from other rows."""
        table = f"tpch.{name}"
        keys = self.tables.rows(f"SELECT DISTINCT {key} FROM {table} ORDER BY 1").column(0).to_numpy()
        random = self._inventor.random
        chosen = ", ".join(map(str, random.choice(keys, count, replace=False)))
        rows = self.tables.rows(f"SELECT * FROM {table} WHERE {key} IN ({chosen}) ORDER BY ALL")
        others = rows.take(pa.array(random.permutation(rows.num_rows)))
        for column in columns.split(", "):
            rows = rows.set_column(rows.column_names.index(column), rows.field(column), others.column(column))
        return rows
