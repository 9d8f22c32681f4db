"""Hard values of PostgreSQL's types, and what each must be in Arrow: by hand, not by the code under test."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import pyarrow as pa

NAN, INF = float("nan"), float("inf")
MISFIT = object()  # the row is parked

SECOND_US, DAY_US = 1_000_000, 86_400_000_000
NOON_2026 = 1_795_437_296_123_456  # 2026-11-23 12:34:56.123456
YEAR_1_BC_DAYS = -719_528  # 0001-01-01 BC
LAST_US = 9_223_371_244_799_999_999  # 294246-12-31 23:59:59.999999

DEFINITIONS = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy, really')",
    "CREATE TYPE pair AS (x int, y text)",
    "CREATE DOMAIN positive AS int CHECK (value > 0)",
    "CREATE DOMAIN price AS numeric(10,2)",
    "CREATE DOMAIN ints AS int[]",
)


@dataclass(frozen=True)
class Case:
    """A declared type, its Arrow type, and literals with what they become (integers for dates and times)."""

    declared: str
    arrow: pa.DataType
    values: list[tuple[str, object]] = field(default_factory=list)


def texts(declared: str, *literals: str) -> Case:
    """A type carried as its text: what the server itself writes is what must come."""
    return Case(declared, pa.string(), [(literal, ...) for literal in literals])


D = Decimal
UTC = pa.timestamp("us", tz="UTC")
CASES = (
    Case("boolean", pa.bool_(), [("true", True), ("false", False)]),
    Case("smallint", pa.int16(), [("-32768", -32768), ("32767", 32767)]),
    Case("integer", pa.int32(), [("-2147483648", -(2**31)), ("2147483647", 2**31 - 1)]),
    Case("bigint", pa.int64(), [("-9223372036854775808", -(2**63)), ("9223372036854775807", 2**63 - 1)]),
    Case("oid", pa.int64(), [("4294967295", 2**32 - 1)]),
    Case(
        "real",
        pa.float32(),
        [
            ("'NaN'", NAN),
            ("'Infinity'", INF),
            ("'-Infinity'", -INF),
            ("'-0'", -0.0),
            ("1e-45", 1.401298464324817e-45),
            ("0.1", 0.10000000149011612),
        ],
    ),
    Case(
        "double precision",
        pa.float64(),
        [
            ("'NaN'", NAN),
            ("'Infinity'", INF),
            ("'-Infinity'", -INF),
            ("'-0'", -0.0),
            ("5e-324", 5e-324),
            ("1.7976931348623157e308", 1.7976931348623157e308),
            ("0.1", 0.1),
        ],
    ),
    texts("numeric", "'NaN'", "'-Infinity'", "1e-30", "1e30", "123456789012345678901234567890.123456789", "-0.00"),
    Case(
        "numeric(12,2)",
        pa.decimal128(12, 2),
        [
            ("0", D("0.00")),
            ("-0.01", D("-0.01")),
            ("9999999999.99", D("9999999999.99")),
            ("10000.5", D("10000.50")),
            ("100000000", D("100000000.00")),
            ("'NaN'", MISFIT),
        ],
    ),
    Case("numeric(5,0)", pa.decimal128(5, 0), [("99999", D(99999)), ("-1", D(-1))]),
    Case("numeric(18,18)", pa.decimal128(18, 18), [("0.123456789012345678", D("0.123456789012345678"))]),
    Case("numeric(18,4)", pa.decimal128(18, 4), [("-99999999999999.9999", D("-99999999999999.9999"))]),
    Case(
        "numeric(20,2)",
        pa.decimal128(20, 2),
        [("999999999999999999.99", D("999999999999999999.99")), ("0.05", D("0.05")), ("'NaN'", MISFIT)],
    ),
    Case(
        "numeric(38,10)",
        pa.decimal128(38, 10),
        [("9999999999999999999999999999.9999999999", D("9" * 28 + ".9999999999")), ("-0.0000000001", D("-1E-10"))],
    ),
    Case("numeric(38,38)", pa.decimal128(38, 38), [("1e-38", D("1E-38"))]),
    Case("numeric(76,6)", pa.decimal256(76, 6), [("9" * 70 + ".123456", D("9" * 70 + ".123456"))]),
    texts("numeric(100,2)", "1.5", "'NaN'"),
    Case("numeric(3,-2)", pa.decimal128(5, 0), [("12345", D(12300)), ("-99900", D(-99900))]),
    Case("numeric(3,5)", pa.decimal128(5, 5), [("0.00123", D("0.00123"))]),
    Case(
        "text",
        pa.string(),
        [("''", ""), ("'héllo ☃ 𝄞'", "héllo ☃ 𝄞"), ("'NULL'", "NULL"), ("repeat('x',9000)", "x" * 9000)],
    ),
    Case("character varying(10)", pa.string(), [("'abc'", "abc")]),
    Case("character(5)", pa.string(), [("'ab'", "ab   ")]),
    Case("name", pa.string(), [("'nm'", "nm")]),
    texts('"char"', "'x'"),
    Case("json", pa.string(), [("'{\"a\" :  1}'", '{"a" :  1}')]),
    Case("jsonb", pa.string(), [('\'{"b": [1, 2.50], "a": "é"}\'', '{"a": "é", "b": [1, 2.50]}')]),
    Case(
        "bytea",
        pa.binary(),
        [("''", b""), ("'\\x00ff10'", b"\0\xff\x10"), ("decode(repeat('ab',3000),'hex')", b"\xab" * 3000)],
    ),
    Case("uuid", pa.string(), [("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")]),
    Case(
        "date",
        pa.date32(),
        [
            ("'2026-11-23'", 20_780),
            ("'0001-01-01'", YEAR_1_BC_DAYS + 366),
            ("'0001-01-01 BC'", YEAR_1_BC_DAYS),
            ("'4713-01-01 BC'", -2_440_550),
            ("'5874897-12-31'", 2_145_042_905),
            ("'infinity'", MISFIT),
            ("'-infinity'", MISFIT),
        ],
    ),
    Case(
        "timestamp without time zone",
        pa.timestamp("us"),
        [
            ("'2026-11-23 12:34:56.123456'", NOON_2026),
            ("'2026-11-23 12:34:56'", NOON_2026 - 123_456),
            ("'1969-12-31 23:59:59.9'", -100_000),
            ("'0001-01-01 00:00:01.5 BC'", YEAR_1_BC_DAYS * DAY_US + 1_500_000),
            ("'294246-12-31 23:59:59.999999'", LAST_US),
            ("'infinity'", MISFIT),
            ("'-infinity'", MISFIT),
        ],
    ),
    Case(
        "timestamp with time zone",
        UTC,
        [
            ("'2026-11-23 18:04:56.123456+05:30'", NOON_2026),
            ("'0001-01-01 00:00:00+00 BC'", YEAR_1_BC_DAYS * DAY_US),
            ("'294246-12-31 23:59:59.999999+00'", LAST_US),
            ("'infinity'", MISFIT),
            ("'-infinity'", MISFIT),
        ],
    ),
    Case(
        "time without time zone",
        pa.time64("us"),
        [("'00:00'", 0), ("'23:59:59.999999'", DAY_US - 1), ("'12:00:00.5'", 43_200_500_000), ("'24:00:00'", MISFIT)],
    ),
    texts("time with time zone", "'12:34:56.789+05:30'"),
    texts("interval", "'1 year 2 mons -3 days 04:05:06.789'", "'-00:00:01'"),
    texts("money", "12345.67"),
    texts("inet", "'192.168.1.1'", "'192.168.1.0/24'", "'::1'"),
    texts("cidr", "'10.0.0.0/8'"),
    texts("macaddr", "'08:00:2b:01:02:03'"),
    texts("macaddr8", "'08:00:2b:01:02:03:04:05'"),
    texts("bit(3)", "B'101'"),
    texts("bit varying", "B'1'", "B''"),
    texts("point", "'(1.5,-2)'"),
    texts("line", "'{1,2,3}'"),
    texts("box", "'(1,1),(0,0)'"),
    texts("path", "'[(0,0),(1,1)]'"),
    texts("polygon", "'((0,0),(1,1),(1,0))'"),
    texts("circle", "'<(0,0),1>'"),
    texts("int4range", "'[1,5)'", "'empty'"),
    texts("tstzrange", "'[2026-01-01 00:00:00+00,)'"),
    texts("int4multirange", "'{[1,2),[5,7)}'"),
    texts("tsvector", "'a:1 b:2'"),
    texts("tsquery", "'a & b'"),
    texts("pg_lsn", "'16/B374D848'"),
    texts("txid_snapshot", "'10:20:10,14'"),
    texts("jsonpath", "'$.a'"),
    texts("xid", "'5'"),
    texts("tid", "'(0,1)'"),
    texts("regclass", "'pg_class'"),
    texts("int2vector", "'1 2'"),
    Case("mood", pa.string(), [("'sad'", "sad"), ("'happy, really'", "happy, really")]),
    texts("pair", "'(1,\"a b\")'", "'(,)'"),
    Case("positive", pa.int32(), [("5", 5)]),
    Case("price", pa.decimal128(10, 2), [("1.5", D("1.50")), ("'NaN'", MISFIT)]),
    Case("ints", pa.list_(pa.int32()), [("'{1,2}'", [1, 2])]),
    Case(
        "integer[]",
        pa.list_(pa.int32()),
        [("'{}'", []), ("'{1,NULL,3}'", [1, None, 3]), ("'{{1,2},{3,4}}'", MISFIT), ("'[0:1]={1,2}'", MISFIT)],
    ),
    Case(
        "bigint[][]",
        pa.list_(pa.list_(pa.int64())),
        [("'{{1,2},{3,NULL}}'", [[1, 2], [3, None]]), ("'{}'", []), ("'{1}'", MISFIT)],
    ),
    Case(
        "text[]",
        pa.list_(pa.string()),
        [
            (
                r"ARRAY['a', 'b,c', 'd\"e', NULL, 'NULL', '', 'back\\slash', '{x}', 'e\']",
                ["a", "b,c", 'd\\"e', None, "NULL", "", "back\\\\slash", "{x}", "e\\"],
            ),
            (
                r"ARRAY['\', 'a\b', '\"', '\\\\\"', 'é', ' ', 'null']",
                ["\\", "a\\b", '\\"', '\\\\\\\\\\"', "é", " ", "null"],
            ),
        ],
    ),
    Case(
        "text[][][]",
        pa.list_(pa.list_(pa.list_(pa.string()))),
        [("'{{{a,b},{c,d}},{{e,f},{g,\"h }\"}}}'", [[["a", "b"], ["c", "d"]], [["e", "f"], ["g", "h }"]]])],
    ),
    Case(
        "numeric(10,2)[]", pa.list_(pa.decimal128(10, 2)), [("'{1.5,NULL}'", [D("1.50"), None]), ("'{1,NaN}'", MISFIT)]
    ),
    texts("numeric[]", "'{1.5,NaN}'"),
    Case(
        "timestamp with time zone[]",
        pa.list_(UTC),
        [("'{2026-11-23 12:34:56.123456+00,NULL}'", [NOON_2026, None]), ("'{infinity}'", MISFIT)],
    ),
    Case("date[]", pa.list_(pa.date32()), [("'{2026-11-23,0001-01-01 BC}'", [20_780, YEAR_1_BC_DAYS])]),
    Case("bytea[]", pa.list_(pa.binary()), [("ARRAY['\\x00ff'::bytea, NULL, '']", [b"\0\xff", None, b""])]),
    Case("boolean[]", pa.list_(pa.bool_()), [("'{t,f,NULL}'", [True, False, None])]),
    Case("double precision[]", pa.list_(pa.float64()), [("'{1.5,-Infinity}'", [1.5, -INF])]),
    Case(
        "uuid[]",
        pa.list_(pa.string()),
        [("'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"])],
    ),
    Case("mood[]", pa.list_(pa.string()), [("'{sad,\"happy, really\"}'", ["sad", "happy, really"])]),
    Case("jsonb[]", pa.list_(pa.string()), [('ARRAY[\'{"a": "x\\"y"}\'::jsonb]', ['{"a": "x\\"y"}'])]),
    texts("inet[]", "'{1.2.3.4}'"),
    texts("pair[]", "ARRAY[ROW(1,'a')::pair]"),
)
