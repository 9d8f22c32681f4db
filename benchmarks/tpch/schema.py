"""The eight tables."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from raypipe.model import Column, TableName, TableSchema

MONEY = pa.decimal128(15, 2)
_TYPES = {"int": pa.int32(), "key": pa.int64(), "money": MONEY, "text": pa.string(), "date": pa.date32()}


def _table(name: str, key: Sequence[str], **columns: str) -> TableSchema:
    return TableSchema(
        table=TableName("tpch", "main", name),
        columns=tuple(Column(name=column, type=_TYPES[kind]) for column, kind in columns.items()),
        key=tuple(key),
    )


TABLES = (
    _table("region", ["r_regionkey"], r_regionkey="int", r_name="text", r_comment="text"),
    _table("nation", ["n_nationkey"], n_nationkey="int", n_name="text", n_regionkey="int", n_comment="text"),
    _table(
        "supplier",
        ["s_suppkey"],
        s_suppkey="key",
        s_name="text",
        s_address="text",
        s_nationkey="int",
        s_phone="text",
        s_acctbal="money",
        s_comment="text",
    ),
    _table(
        "customer",
        ["c_custkey"],
        c_custkey="key",
        c_name="text",
        c_address="text",
        c_nationkey="int",
        c_phone="text",
        c_acctbal="money",
        c_mktsegment="text",
        c_comment="text",
    ),
    _table(
        "part",
        ["p_partkey"],
        p_partkey="key",
        p_name="text",
        p_mfgr="text",
        p_brand="text",
        p_type="text",
        p_size="int",
        p_container="text",
        p_retailprice="money",
        p_comment="text",
    ),
    _table(
        "partsupp",
        ["ps_partkey", "ps_suppkey"],
        ps_partkey="key",
        ps_suppkey="key",
        ps_availqty="int",
        ps_supplycost="money",
        ps_comment="text",
    ),
    _table(
        "orders",
        ["o_orderkey"],
        o_orderkey="key",
        o_custkey="key",
        o_orderstatus="text",
        o_totalprice="money",
        o_orderdate="date",
        o_orderpriority="text",
        o_clerk="text",
        o_shippriority="int",
        o_comment="text",
    ),
    _table(
        "lineitem",
        ["l_orderkey", "l_linenumber"],
        l_orderkey="key",
        l_partkey="key",
        l_suppkey="key",
        l_linenumber="int",
        l_quantity="money",
        l_extendedprice="money",
        l_discount="money",
        l_tax="money",
        l_returnflag="text",
        l_linestatus="text",
        l_shipdate="date",
        l_commitdate="date",
        l_receiptdate="date",
        l_shipinstruct="text",
        l_shipmode="text",
        l_comment="text",
    ),
)
SCHEMAS = {schema.table.table: schema for schema in TABLES}
