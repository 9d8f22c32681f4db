"""Every aggregate that DuckDB has is kept exactly, or refused with what can be kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import duckdb
import pytest
from raypipe_view_cases import TABLES, check

from raypipe.errors import SqlError
from raypipe.plan import compile_step
from raypipe.plan.functions import aggregates
from raypipe.plan.views import ViewPlan

# Calls over columns of the tables, by aggregate.
KEPT = {
    "any_value": ["any_value(name)"],
    "approx_count_distinct": ["approx_count_distinct(name)"],
    "approx_quantile": ["approx_quantile(x, 0.3)", "approx_quantile(small, [0.1, 0.7])", "approx_quantile(day, 0.5)"],
    "approx_top_k": ["approx_top_k(name, 2)", "approx_top_k(small + 1, 3)"],
    "arbitrary": ["arbitrary(name)"],
    "arg_max": ["arg_max(name, price)", "arg_max(name, price, 2)"],
    "arg_max_null": ["arg_max_null(name, price)"],
    "arg_max_nulls_last": ["arg_max_nulls_last(name, price)", "arg_max_nulls_last(name, price, 2)"],
    "arg_min": ["arg_min(name, price)", "arg_min(name, price, 2)"],
    "arg_min_null": ["arg_min_null(name, price)"],
    "arg_min_nulls_last": ["arg_min_nulls_last(name, price)", "arg_min_nulls_last(name, price, 2)"],
    "argmax": ["argmax(name, day)"],
    "argmin": ["argmin(name, day)"],
    "array_agg": ["array_agg(name)"],
    "avg": ["avg(price)"],
    "bit_and": ["bit_and(small)"],
    "bit_or": ["bit_or(small)"],
    "bit_xor": ["bit_xor(small)"],
    "bitstring_agg": ["bitstring_agg(small, 0, 60)"],
    "bool_and": ["bool_and(flag)"],
    "bool_or": ["bool_or(flag)"],
    "corr": ["corr(small, price)"],
    "count": ["count(name)", "count(*)"],
    "count_if": ["count_if(flag)"],
    "count_star": ["count_star()"],
    "countif": ["countif(flag)"],
    "covar_pop": ["covar_pop(small, price)"],
    "covar_samp": ["covar_samp(small, price)"],
    "decimal_average": ["decimal_average(price)"],
    "entropy": ["entropy(name)"],
    "favg": ["favg(x)"],
    "first": ["first(name)"],
    "fsum": ["fsum(x)"],
    "geomean": ["geomean(small + 1)"],
    "geometric_mean": ["geometric_mean(small + 1)"],
    "group_concat": ["group_concat(name)"],
    "histogram": ["histogram(name)", "histogram(small, [1, 2])"],
    "histogram_exact": ["histogram_exact(small, [1, 2])"],
    "json_group_array": ["json_group_array(small = 1 OR flag)"],
    "json_group_object": ["json_group_object(coalesce(name, '-'), price)"],
    "json_group_structure": ["json_group_structure({'a': small})"],
    "kahan_sum": ["kahan_sum(x)"],
    "kurtosis": ["kurtosis(small)"],
    "kurtosis_pop": ["kurtosis_pop(small)"],
    "last": ["last(name)"],
    "list": ["list(name)", "list('a')"],
    "listagg": ["listagg(name, ',')"],
    "lttb": ["lttb(small, price, 3)", "lttb(x, small, 3)"],
    "mad": ["mad(price)"],
    "max": ["max(name)", "max(name, 2)"],
    "max_by": ["max_by(name, price)"],
    "mean": ["mean(price)"],
    "median": ["median(price)"],
    "min": ["min(name)", "min(name, 2)"],
    "min_by": ["min_by(name, price)"],
    "mode": ["mode(name)"],
    "product": ["product(small)"],
    "quantile": ["quantile(small, 0.3)"],
    "quantile_cont": ["quantile_cont(small, 0.3)"],
    "quantile_disc": ["quantile_disc(small, 0.3)"],
    "regr_avgx": ["regr_avgx(small, price)"],
    "regr_avgy": ["regr_avgy(small, price)"],
    "regr_count": ["regr_count(x, price)"],
    "regr_intercept": ["regr_intercept(price, small)"],
    "regr_r2": ["regr_r2(price, small)"],
    "regr_slope": ["regr_slope(price, small)"],
    "regr_sxx": ["regr_sxx(price, small)"],
    "regr_sxy": ["regr_sxy(price, small)"],
    "regr_syy": ["regr_syy(price, small)"],
    "sem": ["sem(small)"],
    "skewness": ["skewness(small)"],
    "stddev": ["stddev(small)"],
    "stddev_pop": ["stddev_pop(small)"],
    "stddev_samp": ["stddev_samp(small)"],
    "string_agg": ["string_agg(name, ',')"],
    "sum": ["sum(price)", "sum(x)"],
    "sum_no_overflow": ["sum_no_overflow(small)"],
    "sumkahan": ["sumkahan(x)"],
    "var_pop": ["var_pop(small)"],
    "var_samp": ["var_samp(small)"],
    "variance": ["variance(small)"],
    "variant_group_array": ["variant_group_array(name)"],
    "variant_group_object": ["variant_group_object(coalesce(k, -1) || ' ' || id, small::VARIANT)"],
    "wavg": ["wavg(small, price + 1)"],
    "weighted_avg": ["weighted_avg(small, price + 1)"],
}
CALLS = [call for calls in KEPT.values() for call in calls]
TOGETHER = 14  # in one statement, because planning each takes longer than running it
REFUSED = {
    "bitstring_agg(small)": "bitstring_agg() with the least and the greatest value",
    "combine_aggr(small)": "calls combine_aggr()",
    "reservoir_quantile(small, 0.3)": "chosen by chance; raypipe can keep quantile_cont() up to date",
    "approx_quantile(x, 0.3) OVER (PARTITION BY k ORDER BY id)": "raypipe can keep quantile_cont() up to date",
    "lttb(x, small, 3) OVER (ORDER BY id ROWS 2 PRECEDING)": "lttb() over whole partitions",
}
# With FILTER, in grouping sets and in windows, where they differ from other aggregates.
SHAPES = [
    "SELECT k, approx_quantile(DISTINCT small, 0.3) FILTER (WHERE flag) AS q,"
    " approx_top_k(name, 2) FILTER (WHERE x > 0.1) FROM shop.c GROUP BY k",
    "SELECT k, name, approx_quantile(price, 0.5) AS q, approx_top_k(day, 2) AS t FROM shop.c GROUP BY ROLLUP (k, name)"
    " HAVING len(approx_top_k(day, 2)) > 1",
    "SELECT id, approx_quantile(x, 0.5) FILTER (WHERE flag) OVER (PARTITION BY k) AS q,"
    " lttb(small, x, 3) OVER (PARTITION BY k) FROM shop.a",
    "SELECT id, approx_top_k(small, 2) FILTER (WHERE flag) OVER (PARTITION BY k ORDER BY id) AS t FROM shop.a",
    "SELECT json_group_array(price + 1) FILTER (WHERE small > 0) OVER (PARTITION BY k) AS j FROM shop.c",
    "SELECT approx_quantile(price, 0.9) AS q, approx_top_k(name, 3) AS t, json_group_array(name) AS j FROM shop.c",
    "SELECT k, approx_top_k(t, 2) FROM (SELECT k, day, json_group_array(name) AS t FROM shop.c GROUP BY k, day)"
    " GROUP BY k",
]


def test_the_list_holds_every_aggregate_that_duckdb_has() -> None:
    assert set(KEPT) | {call.partition("(")[0] for call in REFUSED} == aggregates()


@pytest.mark.parametrize("start", range(0, len(CALLS), TOGETHER))
def test_every_kept_aggregate_equals_its_sql_at_every_cut(start: int) -> None:
    items = _items(CALLS[start : start + TOGETHER])
    for seed in (1, 2):
        wrong = check(f"SELECT k, {items} FROM shop.a GROUP BY k", seed)
        assert not wrong, wrong


@pytest.mark.parametrize("call", REFUSED)
def test_an_aggregate_without_one_answer_is_refused_with_what_has_one(call: str) -> None:
    with pytest.raises(SqlError) as caught:
        compile_step("v", f"SELECT {call} AS v FROM shop.a", TABLES, {})
    assert REFUSED[call] in str(caught.value)


@pytest.mark.parametrize("sql", SHAPES)
def test_aggregates_written_in_other_words_hold_in_every_shape(sql: str) -> None:
    for seed in (1, 2):
        wrong = check(sql, seed)
        assert not wrong, wrong


def test_every_kept_aggregate_answers_the_same_in_any_order_of_the_rows_and_on_any_number_of_threads() -> None:
    grouped = compile_step("v", f"SELECT k, {_items(CALLS)} FROM shop.a GROUP BY k", TABLES, {})
    whole = [f"{call} OVER (PARTITION BY k)" for call in CALLS if call.startswith(("approx_q", "lttb"))]
    windows = compile_step("w", f"SELECT DISTINCT k, {_items(whole)} FROM shop.a", TABLES, {})
    assert isinstance(grouped, ViewPlan)
    assert isinstance(windows, ViewPlan)
    answers = [
        [_rounded(row) for plan in (grouped, windows) for row in _answer(plan.oracle, threads, seed)]
        for threads, seed in ((1, 1), (1, 2), (4, 3), (4, 4))
    ]
    for answer in answers[1:]:
        for expected, found in zip(answers[0], answer, strict=True):
            wrong = [place for place, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b]
            assert not wrong, [CALLS[place - 1] for place in wrong]


def _items(calls: Sequence[str]) -> str:
    return ", ".join(f"{call} AS v{place}" for place, call in enumerate(calls))


def _answer(sql: str, threads: int, seed: int) -> list[tuple[object, ...]]:
    """What SQL returns over one table of 20,000 rows, whose order is that of the seed."""
    with closing(duckdb.connect(config={"threads": threads})) as database:
        database.execute("CREATE SCHEMA shop")
        database.execute(
            "CREATE TABLE shop.a AS SELECT n AS id, CASE WHEN n % 13 > 0 THEN n % 3 END AS k,"
            " CASE WHEN hash(n) % 9 > 0 THEN (hash(n + 1) % 40)::INT END AS small,"
            " ((hash(n + 2) % 90) / 4)::DECIMAL(10, 2) AS price, 'n' || hash(n + 3) % 70 AS name,"
            " (hash(n + 4) % 5000) / 64 AS x, hash(n + 5) % 3 = 0 AS flag,"
            " DATE '2024-01-01' + (hash(n + 6) % 90)::INT AS day"
            f" FROM range(20000) t(n) ORDER BY hash(n + {seed * 7919})"
        )
        return sorted(database.execute(sql).fetchall(), key=lambda row: (row[0] is None, row[0]))


def _rounded(row: tuple[object, ...]) -> list[object]:
    return [float(f"{value:.9g}") if isinstance(value, float) else value for value in row]
