"""Groups that need not be computed again: what count, sum, avg, min and max remember of a group, and the SQL for it.

Of each group a row is remembered: its key, how many rows it has, and a *slot* for each sum and each extreme. One
statement adds an epoch's changes to the groups that they touch, and says what each group was and is. Integers and
decimals are added exactly, so nothing drifts; sums of floating point numbers are not kept this way. A minimum or a
maximum is kept until its row goes: of such a group the statement needs the rows once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlglot import exp

from raypipe.contracts import WEIGHT
from raypipe.plan.scope import quote

# Whole numbers whose products with a weight fit into the type beside them.
_WHOLE = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT"), "BIGINT"),
    **dict.fromkeys(("UINTEGER", "BIGINT", "UBIGINT"), "HUGEINT"),
}
_ORDERED = ("DATE", "TIME", "VARCHAR", "FLOAT", "DOUBLE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE")


@dataclass(frozen=True)
class Slot:
    """What is remembered of a group.

    Attributes:
        name: Of the column.
        value: Of a changed row: what it adds to a sum, or the value that an extreme may take.
        whole: The aggregate of all rows of a group, each of which counts once.
        type: DuckDB's, of the column.
        extreme: ``min``, ``max`` or empty for a sum.
    """

    name: str
    value: str
    whole: str
    type: str
    extreme: str = ""


class Slots:
    """Collects what the aggregates of a SELECT need.

    Args:
        type_of: DuckDB's type of an expression over the rows, which it calls ``t``.
    """

    def __init__(self, type_of: Callable[[str], str]) -> None:
        self._type_of = type_of
        self._found: dict[tuple[str, str], Slot] = {}

    @property
    def all(self) -> tuple[Slot, ...]:
        """In the order of their names."""
        return tuple(self._found.values())

    @property
    def extremes(self) -> tuple[Slot, ...]:
        """Those that depend on single rows."""
        return tuple(slot for slot in self.all if slot.extreme)

    def result(self, call: exp.Expr) -> str | None:
        """An aggregate as an expression over ``{n}`` and slots in braces; None if it cannot be kept this way."""
        where = ""
        if isinstance(call, exp.Filter):
            where = call.expression.this.sql("duckdb")
            call = call.this
        if call.args.get("expressions") or isinstance(call.this, exp.Distinct | exp.Order):
            return None
        if isinstance(call, exp.Count):
            counted = call.this is not None and not isinstance(call.this, exp.Star)
            conditions = [f"({call.this.sql('duckdb')}) IS NOT NULL"] if counted else []
            return self._count([*conditions, *([where] if where else [])])
        if isinstance(call, exp.CountIf):
            return self._count([call.this.sql("duckdb"), *([where] if where else [])])
        if isinstance(call, exp.Sum | exp.Avg):
            return self._sum(call.this.sql("duckdb"), where, mean=isinstance(call, exp.Avg))
        if isinstance(call, exp.Min | exp.Max):
            return self._extreme("min" if isinstance(call, exp.Min) else "max", call.this.sql("duckdb"), where)
        return None

    def _count(self, conditions: Sequence[str]) -> str:
        if not conditions:
            return "{n}"
        met = " AND ".join(f"({each})" for each in conditions)
        return self._slot(f"CASE WHEN {met} THEN t.{WEIGHT} ELSE 0 END", f"count(*) FILTER ({met})", "BIGINT")

    def _sum(self, value: str, where: str, *, mean: bool) -> str | None:
        type_ = self._type_of(value)
        if type_ in _WHOLE:
            weighted, kept = f"({value})::{_WHOLE[type_]} * t.{WEIGHT}", "HUGEINT"
        elif type_.startswith("DECIMAL("):
            weighted, kept = f"({value}) * t.{WEIGHT}", f"DECIMAL(38,{type_.rstrip(')').partition(',')[2]})"
        else:
            return None
        conditions = [f"({value}) IS NOT NULL", *([where] if where else [])]
        met = " AND ".join(f"({each})" for each in conditions)
        whole = f"coalesce(sum({value}){f' FILTER ({where})' if where else ''}, 0)"
        total = self._slot(f"CASE WHEN {met} THEN {weighted} ELSE 0 END", whole, kept)
        count = self._count(conditions)
        made = f"{total}::DOUBLE / {count}" if mean else total
        return f"CASE WHEN {count} > 0 THEN {made} END"

    def _extreme(self, extreme: str, value: str, where: str) -> str | None:
        type_ = self._type_of(value)
        if type_ not in _ORDERED and type_ not in _WHOLE and not type_.startswith("DECIMAL("):
            return None
        value = f"CASE WHEN {where} THEN {value} END" if where else value
        return self._slot(value, f"{extreme}({value})", type_, extreme)

    def _slot(self, value: str, whole: str, type_: str, extreme: str = "") -> str:
        key = (value, extreme)
        if key not in self._found:
            self._found[key] = Slot(f"{'x' if extreme else 's'}{len(self._found)}", value, whole, type_, extreme)
        return f"{{{self._found[key].name}}}"


def adding(
    changes: str,
    before: str,
    rest: str | None,
    keys: Sequence[str],
    slots: Sequence[Slot],
    results: Sequence[tuple[str, str]],
) -> str:
    """The statement that carries groups over an epoch.

    Its columns: the key ``k0`` …, the number of rows ``n`` and the slots as they are afterwards; ``b_n`` and ``b_``
    with each slot as they were; ``o0`` … the results afterwards, ``p0`` … before; ``came`` and ``was``, whether the
    group is there and was; ``told``, whether results differ; ``lost``, whether all of its rows are needed.

    Changes are added up by themselves first: so an aggregate sees a row once, and none has a FILTER, which costs more.

    Args:
        changes: FROM item, called ``t``, of changed rows with their weights; each once if there are extremes.
        before: Name of the remembered rows of the same groups.
        rest: FROM item, called ``t``, of all rows of groups whose extreme went; their weights do not count. None while
            that is not known.
        keys: Expressions over ``t``; none for one group of all.
        slots: What is remembered.
        results: Expressions over slots in braces, with their types.
    """
    names = [f"k{place}" for place in range(len(keys))]
    sums = [slot for slot in slots if not slot.extreme]
    extremes = [slot for slot in slots if slot.extreme]
    keyed = [f"{key} AS {name}" for key, name in zip(keys, names, strict=True)]
    # By number: a column of the rows may be called like one of ours.
    grouped = f" GROUP BY {', '.join(str(place + 1) for place in range(len(keys)))}" if keys else ""
    added = [*keyed, f"coalesce(sum(t.{WEIGHT}), 0)::BIGINT AS n"]
    added += [f"coalesce(sum({slot.value}), 0)::{slot.type} AS {slot.name}" for slot in sums]
    for slot in extremes:
        for prefix, condition in (("c", f"t.{WEIGHT} > 0"), ("g", f"t.{WEIGHT} < 0")):
            added.append(f"{slot.extreme}(CASE WHEN {condition} THEN {slot.value} END) AS {prefix}_{slot.name}")
    parts = [f"added AS ({_select(added, changes)}{grouped})"]
    source = f"added AS a LEFT JOIN {before} AS b ON {_same(names, 'b')}"
    if rest is not None:
        found = [*keyed, *(f"{slot.extreme}({slot.value}) AS r_{slot.name}" for slot in extremes), "true AS again"]
        parts.append(f"rest AS ({_select(found, rest)}{grouped})")
        source += f" LEFT JOIN rest AS r ON {_same(names, 'r')}"
    totals = [
        # As it was told before: 0.0 and -0.0 are one group.
        *(f"coalesce(b.{name}, a.{name}) AS {name}" for name in names),
        *_total("n", "BIGINT"),
        *(each for slot in sums for each in _total(slot.name, slot.type)),
        "b.n IS NOT NULL AS was",
        "false AS again" if rest is None else "coalesce(r.again, false) AS again",
    ]
    for slot in extremes:
        totals += [f"a.c_{slot.name}", f"a.g_{slot.name}", f"b.{slot.name} AS b_{slot.name}"]
        totals.append(f"NULL::{slot.type} AS r_{slot.name}" if rest is None else f"r.r_{slot.name}")
    present = "n > 0" if keys else "true"
    afterwards = [
        "*",
        f"{present} AS came",
        *(_afterwards(slot) for slot in extremes),
        f"{_lost(extremes)} AS lost",
    ]
    remembered = ["n", *(slot.name for slot in slots)]
    new = {name: name for name in remembered}
    old = {name: f"b_{name}" for name in remembered}
    shown = [
        *names,
        *remembered,
        *old.values(),
        *(f"CAST({result.format_map(new)} AS {type_}) AS o{place}" for place, (result, type_) in enumerate(results)),
        *(f"CAST({result.format_map(old)} AS {type_}) AS p{place}" for place, (result, type_) in enumerate(results)),
        "came",
        "was",
        "lost",
    ]
    differ = " OR ".join(["came <> was", "lost", *(f"{name} IS DISTINCT FROM {old[name]}" for name in remembered)])
    told = " OR ".join(["came <> was", *(f"o{place} IS DISTINCT FROM p{place}" for place in range(len(results)))])
    return (
        f"WITH {', '.join(parts)}, totals AS ({_select(totals, source)}),"
        f" groups AS (SELECT {', '.join(afterwards)} FROM totals),"
        f" shown AS (SELECT {', '.join(shown)} FROM groups WHERE {differ}) SELECT *, {told} AS told FROM shown"
    )


def _same(names: Sequence[str], other: str) -> str:
    return " AND ".join(f"a.{name} IS NOT DISTINCT FROM {other}.{name}" for name in names) or "true"


def beginning(rows: str, keys: Sequence[str], slots: Sequence[Slot], results: Sequence[tuple[str, str]]) -> str:
    """The statement that makes groups of all rows, where nothing is remembered: what ``adding`` says of afterwards.

    Args:
        rows: FROM item, called ``t``; each counts once.
        keys: See ``adding``.
        slots: Likewise.
        results: Likewise.
    """
    names = [f"k{place}" for place in range(len(keys))]
    totals = [f"{key} AS {name}" for key, name in zip(keys, names, strict=True)]
    totals += ["count(*) AS n", *(f"CAST({slot.whole} AS {slot.type}) AS {slot.name}" for slot in slots)]
    remembered = ["n", *(slot.name for slot in slots)]
    same = _Same()
    made = (f"CAST({result.format_map(same)} AS {type_}) AS o{place}" for place, (result, type_) in enumerate(results))
    # By number: a column of the rows may be called like one of ours.
    grouped = f" GROUP BY {', '.join(str(place + 1) for place in range(len(keys)))}" if keys else ""
    return f"WITH totals AS ({_select(totals, rows)}{grouped}) {_select([*names, *remembered, *made], 'totals')}"


def results_of(remembered: str, outs: Sequence[str], keys: int, results: Sequence[tuple[str, str]]) -> str:
    """The statement that says what remembered groups are, in columns of the given names: keys, then results."""
    names = _Same()
    columns = [f"k{place}" for place in range(keys)]
    columns += [f"CAST({result.format_map(names)} AS {type_})" for result, type_ in results]
    items = [f"{column} AS {quote(out)}" for column, out in zip(columns, outs, strict=True)]
    return f"{_select(items, remembered)}"


class _Same(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return name


def _select(items: Sequence[str], source: str) -> str:
    return f"SELECT {', '.join(items)} FROM {source}"


def _total(name: str, type_: str) -> tuple[str, str]:
    return f"(a.{name} + coalesce(b.{name}, 0))::{type_} AS {name}", f"coalesce(b.{name}, 0)::{type_} AS b_{name}"


def _afterwards(slot: Slot) -> str:
    sign = "<=" if slot.extreme == "max" else ">="
    came, before = f"c_{slot.name}", f"b_{slot.name}"
    return (
        f"CASE WHEN n = 0 THEN NULL WHEN again THEN r_{slot.name}"
        f" WHEN {came} IS NULL OR {came} {sign} {before} THEN {before} ELSE {came} END AS {slot.name}"
    )


def _lost(extremes: Sequence[Slot]) -> str:
    if not extremes:
        return "false"
    each = []
    for slot in extremes:
        sign, before = ">=" if slot.extreme == "max" else "<=", f"b_{slot.name}"
        gone, came = f"g_{slot.name} {sign} {before}", f"c_{slot.name} {sign} {before}"
        each.append(f"(coalesce({gone}, false) AND NOT coalesce({came}, false))")
    return f"(n > 0 AND NOT again AND ({' OR '.join(each)}))"
