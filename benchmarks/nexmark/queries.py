"""The questions, as steps that DuckDB itself can run: windows are columns, and joins say what meets what.

Left out of the published set: q6, which its own SQL cannot say, q10, which writes files, and q21, which is like q14.
"""

from __future__ import annotations

from collections.abc import Mapping

_TEN = "INTERVAL 10 SECOND"
_WINDOW = f"time_bucket({_TEN}, date_time)"

# A hopping window: each bid belongs to the five windows of ten seconds, one begun every two, that it lies in.
_HOPS = """
    SELECT auction, unnest(generate_series(
        time_bucket(INTERVAL 2 SECOND, date_time) - INTERVAL 8 SECOND,
        time_bucket(INTERVAL 2 SECOND, date_time), INTERVAL 2 SECOND)) AS begins
    FROM nexmark.bid"""

QUERIES: Mapping[str, str] = {
    "q0": "SELECT auction, bidder, price, date_time, extra FROM nexmark.bid",
    "q1": "SELECT auction, bidder, 0.908 * price AS price, date_time, extra FROM nexmark.bid",
    "q2": "SELECT auction, price FROM nexmark.bid WHERE auction % 123 = 0",
    "q3": """
        SELECT p.name, p.city, p.state, a.id FROM nexmark.auction a JOIN nexmark.person p ON a.seller = p.id
        WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')""",
    "q4": """
        SELECT category, avg(final) AS average
        FROM (
            SELECT max(b.price) AS final, a.category FROM nexmark.auction a, nexmark.bid b
            WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
            GROUP BY a.id, a.category) q
        GROUP BY category""",
    "q5": f"""
        WITH counted AS (SELECT auction, begins, count(*) AS num FROM ({_HOPS}) GROUP BY auction, begins)
        SELECT c.auction, c.num, c.begins
        FROM counted c JOIN (SELECT max(num) AS most, begins FROM counted GROUP BY begins) m
            ON c.begins = m.begins AND c.num >= m.most""",
    "q7": f"""
        SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
        FROM nexmark.bid b
        JOIN (SELECT max(price) AS most, {_WINDOW} AS begins FROM nexmark.bid GROUP BY 2) m
            ON b.price = m.most AND b.date_time BETWEEN m.begins AND m.begins + {_TEN}""",
    "q8": f"""
        SELECT p.id, p.name, p.begins
        FROM (SELECT id, name, {_WINDOW} AS begins FROM nexmark.person GROUP BY ALL) p
        JOIN (SELECT seller, {_WINDOW} AS begins FROM nexmark.auction GROUP BY ALL) a
            ON p.id = a.seller AND p.begins = a.begins""",
    "q9": """
        SELECT a.id, a.item, a.initial_bid, a.reserve, a.date_time, a.expires, a.seller, a.category,
            b.bidder, b.price, b.date_time AS bid_at
        FROM nexmark.auction a JOIN nexmark.bid b
            ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
        QUALIFY row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) = 1""",
    "q11": f"""
        WITH marked AS (
            SELECT bidder, date_time,
                CASE WHEN date_time - lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) < {_TEN}
                    THEN 0 ELSE 1 END AS starts
            FROM nexmark.bid),
        numbered AS (
            SELECT bidder, date_time, sum(starts) OVER (PARTITION BY bidder ORDER BY date_time) AS session FROM marked)
        SELECT bidder, session, count(*) AS bids, min(date_time) AS begins, max(date_time) + {_TEN} AS ends
        FROM numbered GROUP BY bidder, session""",
    # By processing time in the published set, which has no one answer; here by event time.
    "q12": f"SELECT bidder, count(*) AS bids, {_WINDOW} AS begins FROM nexmark.bid GROUP BY bidder, begins",
    # Its side input is a file; here it is the table of people.
    "q13": """
        SELECT b.auction, b.bidder, b.price, b.date_time, p.name FROM nexmark.bid b
        JOIN nexmark.person p ON b.bidder = p.id""",
    "q14": """
        SELECT auction, bidder, 0.908 * price AS price,
            CASE WHEN hour(date_time) BETWEEN 8 AND 18 THEN 'day'
                WHEN hour(date_time) <= 6 OR hour(date_time) >= 20 THEN 'night' ELSE 'other' END AS bid_time,
            date_time, extra, len(extra) - len(replace(extra, 'c', '')) AS c_counts
        FROM nexmark.bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000""",
    "q15": """
        SELECT strftime(date_time, '%Y-%m-%d') AS day, count(*) AS total_bids,
            count(*) FILTER (WHERE price < 10000) AS rank1_bids,
            count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
            count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
            count(DISTINCT bidder) AS total_bidders,
            count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders,
            count(DISTINCT auction) AS total_auctions,
            count(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions
        FROM nexmark.bid GROUP BY day""",
    "q16": """
        SELECT channel, strftime(date_time, '%Y-%m-%d') AS day, max(strftime(date_time, '%H:%M')) AS minute,
            count(*) AS total_bids, count(*) FILTER (WHERE price < 10000) AS rank1_bids,
            count(DISTINCT bidder) AS total_bidders,
            count(DISTINCT bidder) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bidders,
            count(DISTINCT auction) AS total_auctions
        FROM nexmark.bid GROUP BY channel, day""",
    "q17": """
        SELECT auction, strftime(date_time, '%Y-%m-%d') AS day, count(*) AS total_bids,
            count(*) FILTER (WHERE price < 10000) AS rank1_bids,
            count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
            count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
            min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price
        FROM nexmark.bid GROUP BY auction, day""",
    "q18": """
        SELECT auction, bidder, price, channel, url, date_time, extra FROM nexmark.bid
        QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) <= 1""",
    "q19": """
        SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS rank_number FROM nexmark.bid
        QUALIFY rank_number <= 10""",
    "q20": """
        SELECT b.auction, b.bidder, b.price, b.channel, b.url, b.date_time, b.extra, a.item, a.initial_bid, a.reserve,
            a.date_time AS opened_at, a.expires, a.seller, a.category
        FROM nexmark.bid b JOIN nexmark.auction a ON b.auction = a.id WHERE a.category = 10""",
    "q22": """
        SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2,
            split_part(url, '/', 6) AS dir3
        FROM nexmark.bid""",
}
