"""A grammar of stateful SELECTs over the tables of ``raypipe_view_cases``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Columns = list[tuple[str, str]]  # expression, type

TYPES = {
    "id": "int",
    "k": "int",
    "small": "int",
    "price": "dec",
    "name": "text",
    "x": "float",
    "flag": "bool",
    "day": "date",
}
_LITERALS = {
    "int": ("1", "2", "0"),
    "dec": ("1.25", "2"),
    "text": ("'a'", "'bb'"),
    "float": ("0.2", "0.3"),
    "bool": ("true",),
    "date": ("DATE '2024-01-02'",),
}


class Grammar:
    """Makes SQL from random numbers.

    Args:
        rng: Decides.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        # What was added later has chances of its own: it changes few of the statements that were there before.
        self._later = rng.spawn(1)[0]
        self._aliases = 0
        self._budget = 3  # subqueries

    def statement(self) -> str:
        """A step."""
        roll = self._rng.random()
        if roll < 0.12:
            return self._set_operation()
        if roll < 0.24:
            return self._with()
        sql, _ = self.select(depth=2)
        return sql

    def _pick(self, choices: Sequence[str]) -> str:
        return choices[int(self._rng.integers(0, len(choices)))]

    def _chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def _alias(self) -> str:
        self._aliases += 1
        return f"t{self._aliases}"

    def _set_operation(self) -> str:
        types = [self._pick(("int", "text", "dec")) for _ in range(int(self._rng.integers(1, 3)))]
        verbs = ("UNION", "UNION ALL", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL")
        parts = [self._of_types(types) for _ in range(2 + self._chance(0.3))]
        sql = parts[0]
        for part in parts[1:]:
            sql = f"({sql}) {self._pick(verbs)} ({part})"
        return sql

    def _of_types(self, types: list[str]) -> str:
        source, columns = self._from(1)
        items = [f"{self._value(columns, wanted)} AS c{place}" for place, wanted in enumerate(types)]
        return f"SELECT {', '.join(items)} FROM {source}{self._where(columns)}"

    def _with(self) -> str:
        inner, made = self.select(depth=1)
        first, second = self._alias(), self._alias()
        columns = [(f"{first}.{name}", kind) for name, kind in made]
        others = [(f"{second}.{name}", kind) for name, kind in made]
        if self._chance(0.5):
            return self._over(f"WITH q AS ({inner}) ", f"q {first}", columns, 1)[0]
        on = self._condition(columns, others) or "true"
        verb = self._pick(("JOIN", "LEFT JOIN"))
        return self._over(f"WITH q AS ({inner}) ", f"q {first} {verb} q {second} ON {on}", columns + others, 1)[0]

    def select(self, depth: int) -> tuple[str, Columns]:
        """A SELECT, and its columns."""
        source, columns = self._from(depth)
        return self._over("", source, columns, depth)

    def _over(self, head: str, source: str, columns: Columns, depth: int) -> tuple[str, Columns]:
        where = self._where(columns)
        shape = self._pick(
            ("plain", "group", "group", "group", "window", "window", "distinct", "on", "limit", "global")
        )
        if shape == "group" or shape == "global":
            sql, made = self._grouped(source, columns, where, keys=shape == "group")
        elif shape == "window":
            sql, made = self._windowed(source, columns, where)
        else:
            items, made = self._items(columns)
            distinct = "DISTINCT " if shape == "distinct" else ""
            tail = ""
            if shape == "on":
                keys = [self._pick([name for name, _ in columns])]
                distinct = f"DISTINCT ON ({', '.join(keys)}) "
                tail = f" ORDER BY {keys[0]}, {self._pick([name for name, _ in columns])} DESC"
            elif shape == "limit":
                order, sign = self._pick([name for name, _ in made]), self._pick(("", "DESC"))
                tail = f" ORDER BY {order} {sign} LIMIT {self._rng.integers(1, 5)}"
            sql = f"SELECT {distinct}{items} FROM {source}{where}{tail}"
        return head + sql, made

    def _items(self, columns: Columns) -> tuple[str, Columns]:
        chosen = [columns[int(i)] for i in self._rng.integers(0, len(columns), int(self._rng.integers(1, 4)))]
        items, made = [], []
        for place, (name, kind) in enumerate(chosen):
            text = name
            if kind == "int" and self._chance(0.3):
                text = f"{name} + 1"
            elif kind == "text" and self._chance(0.2):
                text = f"coalesce({name}, 'none')"
            items.append(f"{text} AS c{place}")
            made.append((f"c{place}", kind))
        if self._budget and self._chance(0.15):
            items.append(f"{self._scalar(columns)} AS s")
            made.append(("s", "int"))
        return ", ".join(items), made

    def _grouped(self, source: str, columns: Columns, where: str, *, keys: bool) -> tuple[str, Columns]:
        names = list(
            dict.fromkeys(self._pick([name for name, _ in columns]) for _ in range(int(self._rng.integers(1, 3))))
        )
        kinds = dict(columns)
        items: list[str] = []
        made: Columns = []
        groups: list[str] = []
        for place, name in enumerate(names if keys else []):
            text = f"{name} % 2" if kinds[name] == "int" and self._chance(0.2) else name
            groups.append(text)
            if self._chance(0.85):
                items.append(f"{text} AS g{place}")
                made.append((f"g{place}", kinds[name]))
        for place in range(int(self._rng.integers(1, 4))):
            text, kind = self._aggregate(columns)
            items.append(f"{text} AS a{place}")
            made.append((f"a{place}", kind))
        by = ""
        if groups:
            style = self._rng.random()
            if style < 0.1:
                by = f" GROUP BY ROLLUP ({', '.join(groups)})"
            elif style < 0.13:
                by = f" GROUP BY CUBE ({', '.join(groups)})"
            elif style < 0.16:
                by = f" GROUP BY GROUPING SETS (({', '.join(groups)}), ({groups[0]}))"
            else:
                by = f" GROUP BY {', '.join(groups)}"
        having = f" HAVING count(*) > {self._rng.integers(0, 3)}" if self._chance(0.3) else ""
        if self._budget and self._chance(0.1):
            having = f" HAVING count(*) {self._pick(('>', '<='))} {self._scalar([])}"
        if self._budget and groups and self._chance(0.1):
            items.append(f"{self._scalar([(groups[0], kinds[names[0]])] if groups[0] in kinds else [])} AS s")
            made.append(("s", "int"))
        return f"SELECT {', '.join(items)} FROM {source}{where}{by}{having}", made

    def _aggregate(self, columns: Columns) -> tuple[str, str]:
        name, kind = columns[int(self._rng.integers(0, len(columns)))]
        other = self._pick([name for name, _ in columns])
        choices = [
            ("count(*)", "int"),
            (f"count({name})", "int"),
            (f"count(DISTINCT {name})", "int"),
            (f"min({name})", kind),
            (f"max({name})", kind),
            (f"first({name})", kind),
            (f"arg_max({name}, {other})", kind),
            (f"list({name} ORDER BY {other})", "list"),
            (f"any_value({name})", kind),
            (f"mode({name})", kind),
            (f"arg_min({name}, {other})", kind),
            (f"list(DISTINCT {name} ORDER BY {name})", "list"),
            (f"last({name} ORDER BY {other})", kind),
        ]
        if kind in ("int", "dec", "float"):
            sum_kind = {"int": "big", "dec": "dec", "float": "float"}[kind]
            choices += [
                (f"sum({name})", sum_kind),
                (f"sum(DISTINCT {name})", sum_kind),
                (f"avg({name})", "float"),
                (f"quantile_cont({name}, 0.25)", "float" if kind != "dec" else "dec"),
                (f"quantile_disc({name}, 0.75)", kind),
                (f"median({name})", "float" if kind != "dec" else "dec"),
            ]
        if kind == "text":
            choices.append((f"string_agg({name}, ',' ORDER BY {other})", "text"))
        if self._later.random() < 0.06:
            choices = [
                (f"approx_top_k({name}, 2)", "list"),
                (f"json_group_array({name})", "list"),
                (f"arg_max_nulls_last({name}, {other})", kind),
                (f"approx_count_distinct({name})", "int"),
                (f"histogram({name})", "list"),
            ]
            if kind in ("int", "dec", "float", "date"):
                choices.append((f"approx_quantile({name}, 0.4)", kind))
            text, made = choices[int(self._later.integers(0, len(choices)))]
            return text, made
        text, made = choices[int(self._rng.integers(0, len(choices)))]
        if self._chance(0.15):
            text += f" FILTER (WHERE {self._predicate(columns)})"
        return text, made

    def _windowed(self, source: str, columns: Columns, where: str) -> tuple[str, Columns]:
        items, made = self._items(columns)
        extra = []
        for place in range(1 + self._chance(0.3)):
            name, kind = columns[int(self._rng.integers(0, len(columns)))]
            by = self._pick([name for name, _ in columns])
            order = self._pick([name for name, _ in columns])
            partition = f"PARTITION BY {by} " if self._chance(0.85) else ""
            choices = [
                (f"row_number() OVER ({partition}ORDER BY {order})", "int"),
                (f"rank() OVER ({partition}ORDER BY {order} DESC)", "int"),
                (f"lag({name}) OVER ({partition}ORDER BY {order})", kind),
                (f"count(*) OVER ({partition})", "int"),
                (f"min({name}) OVER ({partition}ORDER BY {order})", kind),
                (f"first_value({name}) OVER ({partition}ORDER BY {order})", kind),
                (f"count({name}) OVER ({partition}ORDER BY {order} ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)", "int"),
            ]
            if kind in ("int", "dec"):
                choices.append((f"sum({name}) OVER ({partition}ORDER BY {order})", "big"))
            text, made_kind = choices[int(self._rng.integers(0, len(choices)))]
            extra.append(f"{text} AS w{place}")
            made.append((f"w{place}", made_kind))
        qualify = ""
        if self._chance(0.4):
            by, order = self._pick([name for name, _ in columns]), self._pick([name for name, _ in columns])
            qualify = f" QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY {order}) <= 2"
        return f"SELECT {items}, {', '.join(extra)} FROM {source}{where}{qualify}", made

    def _from(self, depth: int) -> tuple[str, Columns]:
        source, columns = self._source(depth)
        if self._later.random() < 0.04:
            alias = self._alias()
            numbers = [name for name, kind in columns if kind == "int"] or ["1"]
            source += f" CROSS JOIN unnest([{', '.join(numbers[:2])}, 3]) AS {alias}(v)"
            columns = [*columns, (f"{alias}.v", "int")]
        for _ in range(int(self._rng.choice([0, 0, 1, 1, 2]))):
            other, more = self._source(depth)
            verb = self._pick(
                (
                    "JOIN",
                    "JOIN",
                    "LEFT JOIN",
                    "LEFT JOIN",
                    "RIGHT JOIN",
                    "FULL JOIN",
                    "SEMI JOIN",
                    "ANTI JOIN",
                    "CROSS JOIN",
                )
            )
            if verb == "CROSS JOIN":
                source = f"{source} CROSS JOIN {other}"
            else:
                on = self._condition(columns, more) or "true"
                if self._chance(0.2):
                    on += f" AND {self._predicate(more)}"
                source = f"{source} {verb} {other} ON {on}"
            if verb not in ("SEMI JOIN", "ANTI JOIN"):
                columns = columns + more
        return source, columns

    def _source(self, depth: int) -> tuple[str, Columns]:
        alias = self._alias()
        if depth > 1 and self._budget and self._chance(0.2):
            self._budget -= 1
            inner, made = self.select(depth - 1)
            return f"({inner}) {alias}", [(f"{alias}.{name}", kind) for name, kind in made]
        table = self._pick(("shop.a", "shop.b", "shop.c"))
        if self._later.random() < 0.04:
            cells = "count(*) AS n, max(price) AS most FOR k IN (1 AS one, 2 AS two)"
            kinds = {
                "one_n": "int",
                "one_most": "dec",
                "two_n": "int",
                "two_most": "dec",
                "small": "int",
                "day": "date",
            }
            pivot = f"(FROM {table} PIVOT ({cells} GROUP BY small, day)) {alias}"
            return pivot, [(f"{alias}.{name}", kind) for name, kind in kinds.items()]
        return f"{table} {alias}", [(f"{alias}.{name}", kind) for name, kind in TYPES.items()]

    def _condition(self, left: Columns, right: Columns) -> str:
        pairs = [
            (a, b, kind) for a, kind in left for b, other in right if kind == other and kind not in ("list", "bool")
        ]
        if not pairs:
            return ""
        a, b, _ = pairs[int(self._rng.integers(0, len(pairs)))]
        sign = "=" if self._chance(0.85) else self._pick(("<", ">=", "IS NOT DISTINCT FROM"))
        text = f"{a} {sign} {b}"
        if self._chance(0.2):
            a, b, _ = pairs[int(self._rng.integers(0, len(pairs)))]
            text += f" AND {a} {self._pick(('=', '<', '<>'))} {b}"
        return text

    def _value(self, columns: Columns, wanted: str) -> str:
        names = [name for name, kind in columns if kind == wanted]
        return self._pick(names) if names else self._pick(_LITERALS[wanted])

    def _where(self, columns: Columns) -> str:
        parts = []
        if self._chance(0.4):
            parts.append(self._predicate(columns))
        if self._budget and self._chance(0.3):
            parts.append(self._subquery(columns))
        days = [name for name, kind in columns if kind == "date"]
        if days and self._later.random() < 0.12:
            parts.append(self._moving(days))
        return f" WHERE {' AND '.join(parts)}" if parts else ""

    def _moving(self, days: Sequence[str]) -> str:
        """A condition against the time of the cut or a watermark."""
        day = days[int(self._later.integers(0, len(days)))]
        bounds = ("now()", "now() - INTERVAL 1 DAY", "current_date", "(SELECT max(day) - 1 FROM shop.b)")
        bound = bounds[int(self._later.integers(0, len(bounds)))]
        sign = (">", "<=", ">=", "<", "=")[int(self._later.integers(0, 5))]
        return f"{day} {sign} {bound}"

    def _predicate(self, columns: Columns) -> str:
        usable = [(name, kind) for name, kind in columns if kind in _LITERALS]
        if not usable:
            return "true"
        name, kind = usable[int(self._rng.integers(0, len(usable)))]
        if self._chance(0.2):
            return f"{name} IS {self._pick(('', 'NOT '))}NULL"
        if kind == "bool":
            return name
        literal = self._pick(_LITERALS[kind])
        text = f"{name} {self._pick(('>', '<=', '<>', '='))} {literal}"
        if self._chance(0.15):
            return f"({text} OR {self._predicate(columns)})"
        return text

    def _subquery(self, columns: Columns) -> str:
        self._budget -= 1
        outer, kind = columns[int(self._rng.integers(0, len(columns)))]
        if kind not in _LITERALS or kind == "bool":
            outer, kind = next(((n, k) for n, k in columns if k in ("int", "text", "dec")), ("1", "int"))
        source, inner = self._source(1)
        own = self._value(inner, kind)
        choice = self._rng.random()
        if choice < 0.3:
            extra = f" AND {self._predicate(inner)}" if self._chance(0.4) else ""
            return f"{self._pick(('', 'NOT '))}EXISTS (SELECT 1 FROM {source} WHERE {own} = {outer}{extra})"
        if choice < 0.6:
            return f"{outer} {self._pick(('', 'NOT '))}IN (SELECT {own} FROM {source}{self._simple_where(inner)})"
        if choice < 0.8:
            return f"({outer} IN (SELECT {own} FROM {source}) OR {self._predicate(columns)})"
        sign = self._pick(("=", ">", "<"))
        link = self._condition(columns, inner)
        where = f" WHERE {link}" if link and self._chance(0.7) else ""
        return f"{outer} {sign} (SELECT {self._pick(('max', 'min'))}({own}) FROM {source}{where})"

    def _simple_where(self, columns: Columns) -> str:
        return f" WHERE {self._predicate(columns)}" if self._chance(0.4) else ""

    def _scalar(self, columns: Columns) -> str:
        self._budget -= 1
        source, inner = self._source(1)
        link = self._condition(columns, inner)
        where = f" WHERE {link}" if link and self._chance(0.8) else ""
        return f"(SELECT count(*) FROM {source}{where})"
