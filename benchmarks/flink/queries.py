"""The questions, as a step of raypipe and in Flink's SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.nexmark.queries import QUERIES as NEXMARK


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question.

    Attributes:
        name: Short.
        tables: That it reads, by their names without an instance.
        step: As raypipe and DuckDB run it.
        flink: As Flink runs it; its columns are named as the step's.
        compared: Columns that the answers must agree in; the others are left open by the question (which of equal
            rows comes first) or only the step has them. Empty: all.
        goal: How many times Flink's rows per CPU-second, at least; one means ahead at all.
        events: Flink drives its windows by the time in the rows.
        upserts: Column by which each row that Flink tells replaces the one before, which it does not take back.
    """

    name: str
    tables: tuple[str, ...]
    step: str
    flink: str
    compared: tuple[str, ...] = ()
    goal: float = 1.0
    events: bool = False
    upserts: str = ""


def _tumble(table: str) -> str:
    return f"TABLE(TUMBLE(TABLE {table}, DESCRIPTOR(date_time), INTERVAL '10' SECOND))"


_TOTALS = """
    SELECT customer_id, count(*) AS orders, sum(amount) AS total, max(amount) AS most FROM {orders}
    WHERE status <> 'cancelled' GROUP BY customer_id"""
_WITHOUT_MAX = _TOTALS.replace(", max(amount) AS most", "")
_REGIONS = """
    SELECT c.region, count(*) AS orders, sum(o.amount) AS total FROM {orders} o
    JOIN {customers} c ON o.customer_id = c.customer_id WHERE o.status <> 'cancelled' GROUP BY c.region"""
_CHANGES = {
    "A": (("orders",), _TOTALS),
    "A-nomax": (("orders",), _WITHOUT_MAX),
    "B": (("orders", "customers"), _REGIONS),
}
_HOPS = """
    SELECT auction, count(*) AS num, window_start AS begins
    FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
    GROUP BY auction, window_start, window_end"""
_BY_DAY = "DATE_FORMAT(date_time, 'yyyy-MM-dd')"
_BID = "b.auction, b.bidder, b.price, b.channel, b.url, b.date_time, b.extra"
_WINDOWED: Mapping[str, str] = {
    "q5": f"""
        SELECT c.auction, c.num, c.begins FROM ({_HOPS}) c
        JOIN (SELECT max(num) AS most, begins FROM ({_HOPS}) GROUP BY begins) m
            ON c.begins = m.begins AND c.num >= m.most""",
    "q7": f"""
        SELECT b.auction, b.price, b.bidder, b.date_time, b.extra FROM bid b
        JOIN (SELECT max(price) AS most, window_start AS begins FROM {_tumble("bid")}
            GROUP BY window_start, window_end) m
            ON b.price = m.most
        WHERE b.date_time BETWEEN m.begins AND m.begins + INTERVAL '10' SECOND""",
    "q8": f"""
        SELECT p.id, p.name, p.begins
        FROM (SELECT id, name, window_start AS begins, window_end AS ends FROM {_tumble("person")}
            GROUP BY id, name, window_start, window_end) p
        JOIN (SELECT seller, window_start AS begins, window_end AS ends FROM {_tumble("auction")}
            GROUP BY seller, window_start, window_end) a
            ON p.id = a.seller AND p.begins = a.begins AND p.ends = a.ends""",
    # Two sessions that touch are one to Flink: a gap of ten seconds exactly is to part them, as it does in the step.
    "q11": """
        SELECT bidder, count(*) AS bids, window_start AS begins
        FROM TABLE(SESSION(TABLE bid PARTITION BY bidder, DESCRIPTOR(date_time), INTERVAL '9.999' SECOND(1, 3)))
        GROUP BY bidder, window_start, window_end""",
}
_OTHERS: Mapping[str, str] = {
    "q0": "SELECT auction, bidder, price, date_time, extra FROM bid",
    "q1": "SELECT auction, bidder, 0.908 * price AS price, date_time, extra FROM bid",
    "q2": "SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0",
    "q3": """
        SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id
        WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')""",
    "q4": """
        SELECT category, avg(CAST(final AS DOUBLE)) AS average
        FROM (
            SELECT max(b.price) AS final, a.category FROM auction a, bid b
            WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
            GROUP BY a.id, a.category) q
        GROUP BY category""",
    "q9": """
        SELECT id, item, initial_bid, reserve, date_time, expires, seller, category, bidder, price, bid_at
        FROM (
            SELECT a.*, b.bidder, b.price, b.date_time AS bid_at,
                ROW_NUMBER() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS place
            FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires)
        WHERE place <= 1""",
    "q12": f"""
        SELECT bidder, count(*) AS bids, window_start AS begins FROM {_tumble("bid")}
        GROUP BY bidder, window_start, window_end""",
    "q13": """
        SELECT b.auction, b.bidder, b.price, b.date_time, p.name FROM bid b JOIN person p ON b.bidder = p.id""",
    "q14": """
        SELECT auction, bidder, 0.908 * price AS price,
            CASE WHEN HOUR(date_time) BETWEEN 8 AND 18 THEN 'day'
                WHEN HOUR(date_time) <= 6 OR HOUR(date_time) >= 20 THEN 'night' ELSE 'other' END AS bid_time,
            date_time, extra, CHAR_LENGTH(extra) - CHAR_LENGTH(REPLACE(extra, 'c', '')) AS c_counts
        FROM bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000""",
    "q15": f"""
        SELECT {_BY_DAY} AS `day`, count(*) AS total_bids,
            count(*) FILTER (WHERE price < 10000) AS rank1_bids,
            count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
            count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
            count(DISTINCT bidder) AS total_bidders,
            count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders,
            count(DISTINCT auction) AS total_auctions,
            count(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions
        FROM bid GROUP BY {_BY_DAY}""",
    "q16": f"""
        SELECT channel, {_BY_DAY} AS `day`, max(DATE_FORMAT(date_time, 'HH:mm')) AS `minute`,
            count(*) AS total_bids, count(*) FILTER (WHERE price < 10000) AS rank1_bids,
            count(DISTINCT bidder) AS total_bidders,
            count(DISTINCT bidder) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bidders,
            count(DISTINCT auction) AS total_auctions
        FROM bid GROUP BY channel, {_BY_DAY}""",
    "q17": f"""
        SELECT auction, {_BY_DAY} AS `day`, count(*) AS total_bids,
            count(*) FILTER (WHERE price < 10000) AS rank1_bids,
            count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
            count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
            min(price) AS min_price, max(price) AS max_price, avg(CAST(price AS DOUBLE)) AS avg_price,
            sum(price) AS sum_price
        FROM bid GROUP BY auction, {_BY_DAY}""",
    "q18": """
        SELECT auction, bidder, price, channel, url, date_time, extra
        FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS place FROM bid)
        WHERE place <= 1""",
    "q19": """
        SELECT auction, bidder, price, channel, url, date_time, extra, rank_number
        FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC) AS rank_number FROM bid)
        WHERE rank_number <= 10""",
    "q20": f"""
        SELECT {_BID}, a.item, a.initial_bid, a.reserve, a.date_time AS opened_at, a.expires, a.seller, a.category
        FROM bid b JOIN auction a ON b.auction = a.id WHERE a.category = 10""",
    "q22": """
        SELECT auction, bidder, price, channel, COALESCE(SPLIT_INDEX(url, '/', 3), '') AS dir1,
            COALESCE(SPLIT_INDEX(url, '/', 4), '') AS dir2, COALESCE(SPLIT_INDEX(url, '/', 5), '') AS dir3
        FROM bid""",
}
_READ = {
    "q3": ("auction", "person"),
    "q4": ("auction", "bid"),
    "q8": ("person", "auction"),
    "q9": ("auction", "bid"),
    "q13": ("bid", "person"),
    "q20": ("bid", "auction"),
}
# Milliseconds are shared by ten events, and prices by some bids: which of them is meant is left open by the question.
_COMPARED = {
    "q9": ("id", "item", "expires", "price", "bid_at"),
    "q11": ("bidder", "bids", "begins"),
    "q18": ("auction", "bidder", "date_time"),
    "q19": ("auction", "price", "rank_number"),
}


def _nexmark(name: str, flink: str) -> Query:
    return Query(
        name=name,
        tables=_READ.get(name, ("bid",)),
        step=NEXMARK[name],
        flink=flink,
        compared=_COMPARED.get(name, ()),
        goal=2.0 if name in _WINDOWED else 1.0,
        events=name in _WINDOWED or name == "q12",
        upserts="id" if name == "q9" else "",
    )


QUERIES: Mapping[str, Query] = {
    **{
        name: Query(
            name=name,
            tables=tables,
            step=sql.format(orders="shop.orders", customers="shop.customers"),
            flink=sql.format(orders="orders", customers="customers"),
            goal=3.0,
        )
        for name, (tables, sql) in _CHANGES.items()
    },
    **{name: _nexmark(name, sql) for name, sql in {**_WINDOWED, **_OTHERS}.items()},
}
# Those that are also measured with Flink's state in RocksDB.
NAMED = (*_CHANGES, *_WINDOWED)
