"""Which functions a step may call: those whose answer depends on their arguments alone.

An allow-list: DuckDB's own catalogue says which scalar functions are consistent, and what follows here corrects it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cache

from raypipe.plan.sandbox import Sandbox


class Nature(Enum):
    """What a function is to a view that looks at one row at a time."""

    ROW_WISE = "row-wise"
    STATEFUL = "stateful"
    CLOCK = "clock"  # the time, which in a step is that of the cut
    UNSTABLE = "unstable"  # another call may answer otherwise
    OUTSIDE = "outside"  # looks at files, settings, the catalogue or DuckDB's inner life
    TABLE = "table"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What a stateful step may ask the time with.
CLOCK_CALLS = _names("now get_current_timestamp transaction_timestamp today")
CLOCK_WORDS = _names("current_timestamp current_date")

# Words that are calls without parentheses, unless a column has the name.
UNSTABLE_WORDS = _names("""
    current_catalog current_date current_role current_schema current_time current_timestamp current_user localtime
    localtimestamp session_user user
""")

# DuckDB calls these consistent; their answers change from run to run or from place to place all the same.
_UNSTABLE = _names("ago current_localtime current_localtimestamp get_current_time")

# Consistent or not, they are about DuckDB itself and not about a row.
_OUTSIDE = _names("""
    combine combine_aggr current_database current_query current_schemas current_setting error finalize getenv
    getvariable in_search_path index_key json_deserialize_sql json_serialize_plan json_serialize_sql
    parse_duckdb_log_message stats to_aggregate_state vector_type version write_log
""")

# Macros can hide anything, so they are named one by one. Those over lists fold the list of one row.
_ROW_WISE_MACROS = _names("""
    array_append array_pop_back array_pop_front array_prepend array_push_back array_push_front array_reverse
    array_to_string array_to_string_comma_default date_add days_in_month fdiv fmod if json list_any_value list_append
    list_approx_count_distinct list_avg list_bit_and list_bit_or list_bit_xor list_bool_and list_bool_or list_count
    list_entropy list_first list_histogram list_kurtosis list_kurtosis_pop list_last list_mad list_max list_median
    list_min list_mode list_prepend list_product list_reverse list_sem list_skewness list_stddev_pop list_stddev_samp
    list_string_agg list_sum list_var_pop list_var_samp map_contains_entry map_contains_value md5_number_lower
    md5_number_upper nullif split_part
""")
_STATEFUL_MACROS = _names("""
    geomean geometric_mean histogram json_group_array json_group_object json_group_structure variant_group_array wavg
    weighted_avg
""")
# A table function as well, but in a step it makes a row's own rows.
_UNNEST = _names("unnest")

_CATALOGUE = "SELECT lower(function_name), function_type, bool_or(coalesce(stability, '') <> 'CONSISTENT') "
_CATALOGUE += "FROM duckdb_functions() WHERE schema_name IN ('main', 'pg_catalog') GROUP BY ALL"


@cache
def catalogue() -> Mapping[str, Nature]:
    """Every function that this DuckDB knows, by lower-case name; read once in a process."""
    sandbox = Sandbox()
    try:
        rows = sandbox.ask(_CATALOGUE)
    finally:
        sandbox.close()
    # Later entries win: a name that is both a scalar and an aggregate counts as stateful.
    strength = ("table", "table_macro", "pragma", "macro", "scalar", "window", "aggregate")
    natures: dict[str, Nature] = {}
    for name, kind, unstable in sorted(rows, key=lambda row: strength.index(row[1])):
        natures[name] = _nature(name, kind, unstable)
    natures.update(dict.fromkeys(_UNNEST, Nature.ROW_WISE))
    natures.update(dict.fromkeys(_OUTSIDE, Nature.OUTSIDE))
    natures.update(dict.fromkeys(_UNSTABLE | UNSTABLE_WORDS, Nature.UNSTABLE))
    natures.update(dict.fromkeys(CLOCK_CALLS, Nature.CLOCK))
    natures.update(dict.fromkeys(_STATEFUL_MACROS, Nature.STATEFUL))
    return natures


def _nature(name: str, kind: str, unstable: bool) -> Nature:
    if kind in ("aggregate", "window"):
        return Nature.STATEFUL
    if kind in ("table", "table_macro", "pragma"):
        return Nature.TABLE
    if kind == "macro":
        return Nature.ROW_WISE if name in _ROW_WISE_MACROS else Nature.OUTSIDE
    if name.startswith("__internal"):
        return Nature.OUTSIDE
    return Nature.UNSTABLE if unstable else Nature.ROW_WISE


def nature_of(name: str, arguments: int) -> Nature | None:
    """What a call is; None for a function that DuckDB does not know."""
    if name.lower() == "age" and arguments == 1:
        return Nature.UNSTABLE  # age(x) counts from today, age(x, y) does not
    return catalogue().get(name.lower())


@cache
def aggregates() -> frozenset[str]:
    """Names of DuckDB's aggregates, macros over them included."""
    sandbox = Sandbox()
    try:
        rows = sandbox.ask(
            "SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE function_type = 'aggregate'"
        )
    finally:
        sandbox.close()
    return frozenset(row[0] for row in rows) | _STATEFUL_MACROS
