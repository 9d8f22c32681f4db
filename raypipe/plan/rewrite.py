"""Rewrites a row-wise SELECT so that it runs over changed rows, as one linear path for each UNION ALL branch.

A linear view distributes over UNION ALL and passes through subqueries and CTEs: every way from the top down to one
table is a SELECT over that table alone. Each of its SELECTs carries one more column, ``_raypipe_row``, the place of the
changed row in its batch, by which op, commit and order of the change are found again afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from raypipe.errors import RaypipeError
from raypipe.model import TableSchema
from raypipe.plan.allowed import TABLE_FUNCTION, UNSTABLE
from raypipe.plan.functions import UNSTABLE_WORDS
from raypipe.plan.references import table_name
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.scope import EVERYTHING, Scope, Source
from raypipe.plan.text import STATEFUL, StepText
from raypipe.plan.tree import Node, byte_offset, column_reference, parse, text_of, walk

# The relation that a rewritten SELECT reads, and the column that every level carries.
CHANGES = "changes"
ROW = "_raypipe_row"

# Among these a cast keeps different values different, so that a key stays a key.
_INTEGERS = frozenset(
    f"{sign}{width}" for sign in ("", "U") for width in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
)
# A SELECT that has one of these is stateful; sqlglot has named it before, this is the second lock.
_STATEFUL_PARTS = ("modifiers", "group_expressions", "group_sets", "having", "sample", "qualify")


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One path from a table to the view.

    Attributes:
        node: SELECT over ``CHANGES``; its first column is ``ROW``, the rest are the view's.
        relation: The input it reads.
        needs: Columns of the input that it uses, in the input's order.
        names: Of the view's columns, which need not be those of the node.
        types: DuckDB's.
        origins: For each column, the input column that it is an unchanged copy of, None if it is computed.
        one_to_one: False if a row can become several (unnest).
    """

    node: Node
    relation: str
    needs: tuple[str, ...]
    names: tuple[str, ...]
    types: tuple[str, ...]
    origins: tuple[str | None, ...]
    one_to_one: bool


class Rewriter:
    """Rewrites the SQL of one step.

    Args:
        text: The step's SQL.
        inputs: Schemas of everything it may read, by the name users write; it reads nothing else.
        sandbox: Holds a relation of each input's columns under that name.
    """

    def __init__(self, text: StepText, inputs: Mapping[str, TableSchema], sandbox: Sandbox) -> None:
        self._text = text
        self._inputs = inputs
        self._sandbox = sandbox

    def paths(self, node: Node, scope: Scope = EVERYTHING) -> list[Linear]:
        """Every path of a query node, in the order of its UNION ALL branches.

        Raises:
            SqlError: the query is not row-wise, or DuckDB refuses it.
        """
        scope = scope.within(node)
        if node["type"] == "SELECT_NODE":
            return self._select(node, scope)
        if node["type"] == "SET_OPERATION_NODE" and node["setop_type"] == "UNION" and node["setop_all"]:
            if node["modifiers"]:
                raise self._refusal(STATEFUL.format(what="ORDER BY, LIMIT or DISTINCT over a UNION"), node)
            names, types = self._describe(node, scope)
            return [self._as(path, names, types) for child in node["children"] for path in self.paths(child, scope)]
        what = "UNION ALL BY NAME" if "BY_NAME" in str(node.get("setop_type")) else "a set operation"
        raise self._refusal(
            f"{{step}} uses {what}{{where}}, which cannot be followed row by row; write UNION ALL.", node
        )

    def _select(self, node: Node, scope: Scope) -> list[Linear]:
        if any(node[part] for part in _STATEFUL_PARTS) or node["aggregate_handling"] != "STANDARD_HANDLING":
            raise self._refusal(STATEFUL.format(what="a clause over several rows"), node)
        table, unnests = self._split(node["from_table"])
        sources = self._sources(table, scope)
        for source in sources[:1]:
            self._check_references(node, source)
        names, types = self._describe(node, scope)
        seen = self._beside_unnest(node, scope) if unnests else sources[0].names
        one_to_one = not unnests and not any(is_unnest(part) for part in self._own_parts(node))
        return [self._path(node, source, seen, names, types, one_to_one=one_to_one) for source in sources]

    def _path(
        self,
        node: Node,
        source: Source,
        seen: Sequence[str],
        names: tuple[str, ...],
        types: tuple[str, ...],
        *,
        one_to_one: bool,
    ) -> Linear:
        items = [item for listed in node["select_list"] for item in self._expand(listed, source, seen)]
        if len(items) != len(names):
            raise self._refusal("{step} has a select list that raypipe cannot follow{where}; write its columns.", node)
        rewritten = copy.deepcopy({**node, "cte_map": {"map": []}, "select_list": [column_reference(ROW), *items]})
        rewritten["from_table"] = _with_table(rewritten["from_table"], source.reference)
        for part in walk(rewritten):
            if part.get("class") == "COLUMN_REF":
                part["column_names"] = source.shortened(part["column_names"])
        used = {
            source.column(part["column_names"])
            for part in self._own_parts(rewritten)
            if part.get("class") == "COLUMN_REF"
        }
        return Linear(
            node=rewritten,
            relation=source.relation,
            needs=tuple(name for name in source.needs if source.needs_all or name in used),
            names=names,
            types=types,
            origins=tuple(
                source.origin(item["column_names"]) if item["class"] == "COLUMN_REF" else None for item in items
            ),
            one_to_one=one_to_one and source.one_to_one,
        )

    def _as(self, path: Linear, names: tuple[str, ...], types: tuple[str, ...]) -> Linear:
        """A path as a branch of a UNION ALL, which names its columns like the first and finds a common type."""
        if path.types == types:
            return replace(path, names=names)
        inner = [f"c{index}" for index in range(len(types))]
        casts = ", ".join(
            name if before == after else f"CAST({name} AS {after})"
            for name, before, after in zip(inner, path.types, types, strict=True)
        )
        sql = f"SELECT {ROW}, {casts} FROM ({text_of(self._sandbox, path.node)}) AS branch({', '.join([ROW, *inner])})"
        origins = tuple(
            origin if before == after or {before, after} <= _INTEGERS else None
            for origin, before, after in zip(path.origins, path.types, types, strict=True)
        )
        node = parse(self._sandbox, replace(self._text, sql=sql))
        return replace(path, node=node, names=names, types=types, origins=origins)

    def _split(self, table: Node) -> tuple[Node, bool]:
        """The one table of a FROM, and whether lists are unnested beside it."""
        if table["type"] == "JOIN":
            unnest = table["right"]["type"] == "TABLE_FUNCTION" and is_unnest(table["right"]["function"])
            if table["ref_type"] != "CROSS" or not unnest:
                raise self._refusal(STATEFUL.format(what="a join"), table)
            return self._split(table["left"])[0], True
        if table["type"] == "TABLE_FUNCTION":
            raise self._refusal(TABLE_FUNCTION.format(name=table["function"]["function_name"]), table)
        if table["type"] not in ("BASE_TABLE", "SUBQUERY"):
            raise self._refusal("{step} has a SELECT{where} that reads no table; a step is a view of tables.", table)
        if table["sample"] or table.get("at_clause"):
            raise self._refusal(STATEFUL.format(what="a sample or a version of a table"), table)
        return table, False

    def _sources(self, table: Node, scope: Scope) -> list[Source]:
        if table["type"] == "SUBQUERY":
            return [self._derived(path, table) for path in self.paths(table["subquery"]["node"], scope)]
        name = table_name(table)
        definition = None if table["schema_name"] else scope.definition(name)
        if definition is not None:
            paths = self.paths(definition.node, definition.scope)
            alias = table["alias"] or name
            aliases = table["column_name_alias"] or list(definition.columns)
            return [self._derived(path, {**table, "alias": alias, "column_name_alias": aliases}) for path in paths]
        relation = next(known for known in self._inputs if known.lower() == name.lower())
        columns = self._inputs[relation].names
        renamed = tuple(table["column_name_alias"])
        reference = {
            **table,
            "catalog_name": "",
            "schema_name": "",
            "table_name": CHANGES,
            "qualified_name": {"path": [CHANGES]},
            "alias": table["alias"] or table["table_name"],
            "column_name_alias": [ROW, *renamed] if renamed else [],
        }
        return [
            Source(
                reference=reference,
                relation=relation,
                alias=reference["alias"],
                path=() if table["alias"] else (table["schema_name"], table["table_name"]),
                names=renamed + columns[len(renamed) :],
                origins=columns,
                needs=columns,
                needs_all=bool(renamed),  # a list of aliases counts columns
            )
        ]

    def _derived(self, path: Linear, table: Node) -> Source:
        given = tuple(table["column_name_alias"] or ())
        names = given + path.names[len(given) :]
        reference = {
            "type": "SUBQUERY",
            "alias": table["alias"],
            "sample": None,
            "subquery": {"node": path.node, "named_param_map": []},
            "column_name_alias": [ROW, *names],
        }
        reference["alias"] = reference["alias"] or "unnamed_subquery"  # column aliases need one
        return Source(
            reference=reference,
            relation=path.relation,
            alias=table["alias"],
            names=names,
            origins=path.origins,
            needs=path.needs,
            needs_all=True,
            one_to_one=path.one_to_one,
        )

    def _expand(self, item: Node, source: Source, seen: Sequence[str]) -> list[Node]:
        """An item of a select list; a star becomes the columns that it stands for today."""
        if item["class"] != "STAR":
            return [item]
        if item["columns"] or item["expr"]:
            raise self._refusal("{step} uses COLUMNS(…){where}; write the columns, or * with EXCLUDE.", item)
        name = item["relation_name"]
        if name and name.lower() != source.alias.lower():
            raise self._refusal(f"{{step}} uses {name}.*{{where}}; write the columns that it stands for.", item)
        left_out = {column.lower() for column in item["exclude_list"]}
        left_out |= {entry["column"].lower() for entry in item["qualified_exclude_list"]}
        replaced = {entry["key"].lower(): entry["value"] for entry in item["replace_list"]}
        renamed = {entry["key"]["column"].lower(): entry["value"] for entry in item["rename_list"]}
        return [
            {**replaced[column.lower()], "alias": column}
            if column.lower() in replaced
            else column_reference(column, alias=renamed.get(column.lower(), ""))
            for column in (source.names if name else seen)
            if column.lower() not in left_out
        ]

    def _check_references(self, node: Node, source: Source) -> None:
        """Names that mean something else than a column of the row."""
        stars = {id(item) for item in node["select_list"]}
        for part in self._own_parts(node):
            if part.get("class") == "STAR" and id(part) not in stars:
                raise self._refusal("{step} uses * or COLUMNS(…) inside an expression{where}; write the columns.", part)
            if part.get("class") != "COLUMN_REF" or source.column(part["column_names"]):
                continue
            first = part["column_names"][0].lower()
            if len(part["column_names"]) == 1 and first in UNSTABLE_WORDS:
                raise self._refusal(UNSTABLE.format(name=first), part)
            if part["column_names"][-1].lower() == source.alias.lower():
                raise self._refusal("{step} uses a table as if it was a column{where}; write the columns.", part)

    def _own_parts(self, node: Node) -> list[Node]:
        """Parts of a SELECT itself, without those of the queries it reads."""
        unnests: list[Node] = []
        table = node["from_table"]
        while table["type"] == "JOIN":
            unnests.append(table["right"])
            table = table["left"]
        return [part for own in (node["select_list"], node["where_clause"], unnests) for part in walk(own)]

    def _beside_unnest(self, node: Node, scope: Scope) -> tuple[str, ...]:
        """Columns that * stands for when lists are unnested beside the table."""
        star = parse(self._sandbox, replace(self._text, sql="SELECT * FROM x"))
        names, _ = self._describe({**star, "from_table": node["from_table"]}, scope)
        return names

    def _describe(self, node: Node, scope: Scope) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names and types of a query's columns, as DuckDB binds it over the inputs."""
        sql = text_of(self._sandbox, {**node, "cte_map": scope.cte_map()})
        try:
            rows = self._sandbox.ask(f"DESCRIBE {sql}")
        except duckdb.Error as error:
            # The text bound before as the user wrote it, so this is ours; the place would be in our text.
            raise self._text.problem(
                "{step} has SQL that raypipe cannot take apart; split it into several steps.", None
            ) from error
        return tuple(row[0] for row in rows), tuple(row[1] for row in rows)

    def _place(self, node: Node) -> int | None:
        place = byte_offset(node)
        return None if place is None else self._text.offset(place)

    def _refusal(self, sentence: str, node: Node) -> RaypipeError:
        place = self._place(node)
        if place is None:
            place = next((found for part in walk(node) if (found := self._place(part)) is not None), None)
        return self._text.problem(sentence, place)


def is_unnest(node: Node) -> bool:
    """Tells whether a node is a call that makes several rows of one."""
    return node.get("class") == "FUNCTION" and str(node["function_name"]).lower() == "unnest"


def _with_table(table: Node, reference: Node) -> Node:
    """A FROM with its one table replaced."""
    if table["type"] == "JOIN":
        return {**table, "left": _with_table(table["left"], reference)}
    return reference
