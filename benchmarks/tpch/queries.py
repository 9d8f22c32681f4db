"""The 22 queries, in the words of the specification, with its substitution parameters in braces."""

from __future__ import annotations

from collections.abc import Mapping

# The specification's own choice, for which it prints answers.
VALIDATION: Mapping[str, str] = {
    "q1_days": "90",
    "q2_size": "15",
    "q2_type": "BRASS",
    "q2_region": "EUROPE",
    "q3_segment": "BUILDING",
    "q5_region": "ASIA",
    "q7_one": "FRANCE",
    "q7_other": "GERMANY",
    "q8_nation": "BRAZIL",
    "q8_region": "AMERICA",
    "q8_type": "ECONOMY ANODIZED STEEL",
    "q9_color": "green",
    "q11_nation": "GERMANY",
    "q11_fraction": "0.0001",
    "q12_modes": "'MAIL', 'SHIP'",
    "q13_word": "special",
    "q16_brand": "Brand#45",
    "q16_type": "MEDIUM POLISHED",
    "q16_sizes": "49, 14, 23, 45, 19, 3, 36, 9",
    "q17_brand": "Brand#23",
    "q17_container": "MED BOX",
    "q18_quantity": "300",
    "q19_one": "Brand#12",
    "q19_two": "Brand#23",
    "q19_three": "Brand#34",
    "q20_color": "forest",
    "q20_nation": "CANADA",
    "q21_nation": "SAUDI ARABIA",
    "q22_codes": "'13', '31', '23', '29', '30', '18', '17'",
}

# For tables of a few thousand rows, of which the queries would otherwise choose none.
TINY: Mapping[str, str] = {
    **VALIDATION,
    "q2_size": "15 OR p_size < 25",
    "q7_one": "JAPAN",
    "q7_other": "VIETNAM",
    "q8_nation": "EGYPT",
    "q8_type": "%STEEL",
    "q11_nation": "JAPAN",
    "q11_fraction": "0.03",
    "q16_sizes": ", ".join(str(size) for size in range(1, 50, 2)),
    "q17_brand": "Brand#2%",
    "q17_container": "%BOX",
    "q18_quantity": "150",
    "q19_one": "Brand#%",
    "q19_two": "Brand#%",
    "q19_three": "Brand#%",
    "q20_color": "",
    "q20_nation": "EGYPT",
    "q21_nation": "EGYPT",
}

QUERIES: Mapping[str, str] = {
    "q1": """
        SELECT l_returnflag, l_linestatus, sum(l_quantity) AS sum_qty, sum(l_extendedprice) AS sum_base_price,
            sum(l_extendedprice * (1 - l_discount)) AS sum_disc_price,
            sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge, avg(l_quantity) AS avg_qty,
            avg(l_extendedprice) AS avg_price, avg(l_discount) AS avg_disc, count(*) AS count_order
        FROM tpch.lineitem WHERE l_shipdate <= DATE '1998-12-01' - INTERVAL {q1_days} DAY
        GROUP BY l_returnflag, l_linestatus ORDER BY l_returnflag, l_linestatus""",
    "q2": """
        SELECT s_acctbal, s_name, n_name, p_partkey, p_mfgr, s_address, s_phone, s_comment
        FROM tpch.part, tpch.supplier, tpch.partsupp, tpch.nation, tpch.region
        WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND (p_size = {q2_size}) AND p_type LIKE '%{q2_type}'
            AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = '{q2_region}'
            AND ps_supplycost = (
                SELECT min(ps_supplycost) FROM tpch.partsupp, tpch.supplier, tpch.nation, tpch.region
                WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND s_nationkey = n_nationkey
                    AND n_regionkey = r_regionkey AND r_name = '{q2_region}')
        ORDER BY s_acctbal DESC, n_name, s_name, p_partkey LIMIT 100""",
    "q3": """
        SELECT l_orderkey, sum(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate, o_shippriority
        FROM tpch.customer, tpch.orders, tpch.lineitem
        WHERE c_mktsegment = '{q3_segment}' AND c_custkey = o_custkey AND l_orderkey = o_orderkey
            AND o_orderdate < DATE '1995-03-15' AND l_shipdate > DATE '1995-03-15'
        GROUP BY l_orderkey, o_orderdate, o_shippriority ORDER BY revenue DESC, o_orderdate LIMIT 10""",
    "q4": """
        SELECT o_orderpriority, count(*) AS order_count FROM tpch.orders
        WHERE o_orderdate >= DATE '1993-07-01' AND o_orderdate < DATE '1993-07-01' + INTERVAL 3 MONTH
            AND EXISTS (SELECT * FROM tpch.lineitem WHERE l_orderkey = o_orderkey AND l_commitdate < l_receiptdate)
        GROUP BY o_orderpriority ORDER BY o_orderpriority""",
    "q5": """
        SELECT n_name, sum(l_extendedprice * (1 - l_discount)) AS revenue
        FROM tpch.customer, tpch.orders, tpch.lineitem, tpch.supplier, tpch.nation, tpch.region
        WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND l_suppkey = s_suppkey
            AND c_nationkey = s_nationkey AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey
            AND r_name = '{q5_region}' AND o_orderdate >= DATE '1994-01-01'
            AND o_orderdate < DATE '1994-01-01' + INTERVAL 1 YEAR
        GROUP BY n_name ORDER BY revenue DESC""",
    "q6": """
        SELECT sum(l_extendedprice * l_discount) AS revenue FROM tpch.lineitem
        WHERE l_shipdate >= DATE '1994-01-01' AND l_shipdate < DATE '1994-01-01' + INTERVAL 1 YEAR
            AND l_discount BETWEEN 0.06 - 0.01 AND 0.06 + 0.01 AND l_quantity < 24""",
    "q7": """
        SELECT supp_nation, cust_nation, l_year, sum(volume) AS revenue
        FROM (
            SELECT n1.n_name AS supp_nation, n2.n_name AS cust_nation, extract(year FROM l_shipdate) AS l_year,
                l_extendedprice * (1 - l_discount) AS volume
            FROM tpch.supplier, tpch.lineitem, tpch.orders, tpch.customer, tpch.nation n1, tpch.nation n2
            WHERE s_suppkey = l_suppkey AND o_orderkey = l_orderkey AND c_custkey = o_custkey
                AND s_nationkey = n1.n_nationkey AND c_nationkey = n2.n_nationkey
                AND ((n1.n_name = '{q7_one}' AND n2.n_name = '{q7_other}')
                    OR (n1.n_name = '{q7_other}' AND n2.n_name = '{q7_one}'))
                AND l_shipdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31') AS shipping
        GROUP BY supp_nation, cust_nation, l_year ORDER BY supp_nation, cust_nation, l_year""",
    "q8": """
        SELECT o_year, sum(CASE WHEN nation = '{q8_nation}' THEN volume ELSE 0 END) / sum(volume) AS mkt_share
        FROM (
            SELECT extract(year FROM o_orderdate) AS o_year, l_extendedprice * (1 - l_discount) AS volume,
                n2.n_name AS nation
            FROM tpch.part, tpch.supplier, tpch.lineitem, tpch.orders, tpch.customer, tpch.nation n1, tpch.nation n2,
                tpch.region
            WHERE p_partkey = l_partkey AND s_suppkey = l_suppkey AND l_orderkey = o_orderkey AND o_custkey = c_custkey
                AND c_nationkey = n1.n_nationkey AND n1.n_regionkey = r_regionkey AND r_name = '{q8_region}'
                AND s_nationkey = n2.n_nationkey AND o_orderdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31'
                AND p_type LIKE '{q8_type}') AS all_nations
        GROUP BY o_year ORDER BY o_year""",
    "q9": """
        SELECT nation, o_year, sum(amount) AS sum_profit
        FROM (
            SELECT n_name AS nation, extract(year FROM o_orderdate) AS o_year,
                l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity AS amount
            FROM tpch.part, tpch.supplier, tpch.lineitem, tpch.partsupp, tpch.orders, tpch.nation
            WHERE s_suppkey = l_suppkey AND ps_suppkey = l_suppkey AND ps_partkey = l_partkey
                AND p_partkey = l_partkey AND o_orderkey = l_orderkey AND s_nationkey = n_nationkey
                AND p_name LIKE '%{q9_color}%') AS profit
        GROUP BY nation, o_year ORDER BY nation, o_year DESC""",
    "q10": """
        SELECT c_custkey, c_name, sum(l_extendedprice * (1 - l_discount)) AS revenue, c_acctbal, n_name, c_address,
            c_phone, c_comment
        FROM tpch.customer, tpch.orders, tpch.lineitem, tpch.nation
        WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND o_orderdate >= DATE '1993-10-01'
            AND o_orderdate < DATE '1993-10-01' + INTERVAL 3 MONTH AND l_returnflag = 'R'
            AND c_nationkey = n_nationkey
        GROUP BY c_custkey, c_name, c_acctbal, c_phone, n_name, c_address, c_comment
        ORDER BY revenue DESC LIMIT 20""",
    "q11": """
        SELECT ps_partkey, sum(ps_supplycost * ps_availqty) AS value FROM tpch.partsupp, tpch.supplier, tpch.nation
        WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey AND n_name = '{q11_nation}'
        GROUP BY ps_partkey
        HAVING sum(ps_supplycost * ps_availqty) > (
            SELECT sum(ps_supplycost * ps_availqty) * {q11_fraction} FROM tpch.partsupp, tpch.supplier, tpch.nation
            WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey AND n_name = '{q11_nation}')
        ORDER BY value DESC""",
    "q12": """
        SELECT l_shipmode,
            sum(CASE WHEN o_orderpriority IN ('1-URGENT', '2-HIGH') THEN 1 ELSE 0 END) AS high_line_count,
            sum(CASE WHEN o_orderpriority NOT IN ('1-URGENT', '2-HIGH') THEN 1 ELSE 0 END) AS low_line_count
        FROM tpch.orders, tpch.lineitem
        WHERE o_orderkey = l_orderkey AND l_shipmode IN ({q12_modes}) AND l_commitdate < l_receiptdate
            AND l_shipdate < l_commitdate AND l_receiptdate >= DATE '1994-01-01'
            AND l_receiptdate < DATE '1994-01-01' + INTERVAL 1 YEAR
        GROUP BY l_shipmode ORDER BY l_shipmode""",
    "q13": """
        SELECT c_count, count(*) AS custdist
        FROM (
            SELECT c_custkey, count(o_orderkey) FROM tpch.customer LEFT OUTER JOIN tpch.orders
                ON c_custkey = o_custkey AND o_comment NOT LIKE '%{q13_word}%requests%'
            GROUP BY c_custkey) AS c_orders (c_custkey, c_count)
        GROUP BY c_count ORDER BY custdist DESC, c_count DESC""",
    "q14": """
        SELECT 100.00 * sum(CASE WHEN p_type LIKE 'PROMO%' THEN l_extendedprice * (1 - l_discount) ELSE 0 END)
            / sum(l_extendedprice * (1 - l_discount)) AS promo_revenue
        FROM tpch.lineitem, tpch.part
        WHERE l_partkey = p_partkey AND l_shipdate >= DATE '1995-09-01'
            AND l_shipdate < DATE '1995-09-01' + INTERVAL 1 MONTH""",
    "q15": """
        WITH revenue (supplier_no, total_revenue) AS (
            SELECT l_suppkey, sum(l_extendedprice * (1 - l_discount)) FROM tpch.lineitem
            WHERE l_shipdate >= DATE '1996-01-01' AND l_shipdate < DATE '1996-01-01' + INTERVAL 3 MONTH
            GROUP BY l_suppkey)
        SELECT s_suppkey, s_name, s_address, s_phone, total_revenue FROM tpch.supplier, revenue
        WHERE s_suppkey = supplier_no AND total_revenue = (SELECT max(total_revenue) FROM revenue)
        ORDER BY s_suppkey""",
    "q16": """
        SELECT p_brand, p_type, p_size, count(DISTINCT ps_suppkey) AS supplier_cnt FROM tpch.partsupp, tpch.part
        WHERE p_partkey = ps_partkey AND p_brand <> '{q16_brand}' AND p_type NOT LIKE '{q16_type}%'
            AND p_size IN ({q16_sizes})
            AND ps_suppkey NOT IN (SELECT s_suppkey FROM tpch.supplier WHERE s_comment LIKE '%Customer%Complaints%')
        GROUP BY p_brand, p_type, p_size ORDER BY supplier_cnt DESC, p_brand, p_type, p_size""",
    "q17": """
        SELECT sum(l_extendedprice) / 7.0 AS avg_yearly FROM tpch.lineitem, tpch.part
        WHERE p_partkey = l_partkey AND p_brand LIKE '{q17_brand}' AND p_container LIKE '{q17_container}'
            AND l_quantity < (SELECT 0.2 * avg(l_quantity) FROM tpch.lineitem WHERE l_partkey = p_partkey)""",
    "q18": """
        SELECT c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice, sum(l_quantity) AS quantity
        FROM tpch.customer, tpch.orders, tpch.lineitem
        WHERE o_orderkey IN (
                SELECT l_orderkey FROM tpch.lineitem GROUP BY l_orderkey HAVING sum(l_quantity) > {q18_quantity})
            AND c_custkey = o_custkey AND o_orderkey = l_orderkey
        GROUP BY c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice
        ORDER BY o_totalprice DESC, o_orderdate LIMIT 100""",
    "q19": """
        SELECT sum(l_extendedprice * (1 - l_discount)) AS revenue FROM tpch.lineitem, tpch.part
        WHERE (p_partkey = l_partkey AND p_brand LIKE '{q19_one}'
                AND p_container IN ('SM CASE', 'SM BOX', 'SM PACK', 'SM PKG') AND l_quantity >= 1
                AND l_quantity <= 1 + 10 AND p_size BETWEEN 1 AND 5 AND l_shipmode IN ('AIR', 'REG AIR')
                AND l_shipinstruct = 'DELIVER IN PERSON')
            OR (p_partkey = l_partkey AND p_brand LIKE '{q19_two}'
                AND p_container IN ('MED BAG', 'MED BOX', 'MED PKG', 'MED PACK') AND l_quantity >= 10
                AND l_quantity <= 10 + 10 AND p_size BETWEEN 1 AND 10 AND l_shipmode IN ('AIR', 'REG AIR')
                AND l_shipinstruct = 'DELIVER IN PERSON')
            OR (p_partkey = l_partkey AND p_brand LIKE '{q19_three}'
                AND p_container IN ('LG CASE', 'LG BOX', 'LG PACK', 'LG PKG') AND l_quantity >= 20
                AND l_quantity <= 20 + 10 AND p_size BETWEEN 1 AND 15 AND l_shipmode IN ('AIR', 'REG AIR')
                AND l_shipinstruct = 'DELIVER IN PERSON')""",
    "q20": """
        SELECT s_name, s_address FROM tpch.supplier, tpch.nation
        WHERE s_suppkey IN (
                SELECT ps_suppkey FROM tpch.partsupp
                WHERE ps_partkey IN (SELECT p_partkey FROM tpch.part WHERE p_name LIKE '{q20_color}%')
                    AND ps_availqty > (
                        SELECT 0.5 * sum(l_quantity) FROM tpch.lineitem
                        WHERE l_partkey = ps_partkey AND l_suppkey = ps_suppkey AND l_shipdate >= DATE '1994-01-01'
                            AND l_shipdate < DATE '1994-01-01' + INTERVAL 1 YEAR))
            AND s_nationkey = n_nationkey AND n_name = '{q20_nation}'
        ORDER BY s_name""",
    "q21": """
        SELECT s_name, count(*) AS numwait FROM tpch.supplier, tpch.lineitem l1, tpch.orders, tpch.nation
        WHERE s_suppkey = l1.l_suppkey AND o_orderkey = l1.l_orderkey AND o_orderstatus = 'F'
            AND l1.l_receiptdate > l1.l_commitdate
            AND EXISTS (
                SELECT * FROM tpch.lineitem l2 WHERE l2.l_orderkey = l1.l_orderkey AND l2.l_suppkey <> l1.l_suppkey)
            AND NOT EXISTS (
                SELECT * FROM tpch.lineitem l3 WHERE l3.l_orderkey = l1.l_orderkey AND l3.l_suppkey <> l1.l_suppkey
                    AND l3.l_receiptdate > l3.l_commitdate)
            AND s_nationkey = n_nationkey AND n_name = '{q21_nation}'
        GROUP BY s_name ORDER BY numwait DESC, s_name LIMIT 100""",
    "q22": """
        SELECT cntrycode, count(*) AS numcust, sum(c_acctbal) AS totacctbal
        FROM (
            SELECT substring(c_phone FROM 1 FOR 2) AS cntrycode, c_acctbal FROM tpch.customer
            WHERE substring(c_phone FROM 1 FOR 2) IN ({q22_codes})
                AND c_acctbal > (
                    SELECT avg(c_acctbal) FROM tpch.customer
                    WHERE c_acctbal > 0.00 AND substring(c_phone FROM 1 FOR 2) IN ({q22_codes}))
                AND NOT EXISTS (SELECT * FROM tpch.orders WHERE o_custkey = c_custkey)) AS custsale
        GROUP BY cntrycode ORDER BY cntrycode""",
}


def steps(parameters: Mapping[str, str]) -> dict[str, str]:
    """The queries with their parameters filled in."""
    return {name: sql.format(**parameters) for name, sql in QUERIES.items()}
