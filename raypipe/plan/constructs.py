"""Finds with sqlglot what makes a SELECT stateful, and what no step can do, and names it as the user wrote it."""

from __future__ import annotations

from sqlglot import Token, exp, parse_one
from sqlglot.errors import ParseError

from raypipe.plan.text import StepText

# Construct: (its name in a sentence, the keywords it begins with). Calls and windows are judged by ``allowed``.
_CONSTRUCTS: dict[type[exp.Expr], tuple[str, tuple[str, ...]]] = {
    exp.Join: ("a join", ("JOIN", ",")),
    exp.Group: ("GROUP BY", ("GROUP",)),
    exp.Having: ("HAVING", ("HAVING",)),
    exp.Qualify: ("QUALIFY", ("QUALIFY",)),
    exp.Distinct: ("DISTINCT", ("DISTINCT",)),
    exp.Intersect: ("INTERSECT", ("INTERSECT",)),
    exp.Except: ("EXCEPT", ("EXCEPT",)),
    exp.Order: ("ORDER BY", ("ORDER",)),
    exp.Limit: ("LIMIT", ("LIMIT",)),
    exp.Fetch: ("FETCH", ("FETCH",)),
    exp.Offset: ("OFFSET", ("OFFSET",)),
    exp.TableSample: ("a sample", ("SAMPLE", "TABLESAMPLE")),
    exp.Pivot: ("PIVOT or UNPIVOT", ("PIVOT", "UNPIVOT")),
    exp.Exists: ("EXISTS", ("EXISTS",)),
}


# What has no one answer, or none that can be kept: (name, keywords, what to write instead).
_IMPOSSIBLE: dict[type[exp.Expr], tuple[str, tuple[str, ...], str]] = {
    exp.TableSample: ("a sample", ("SAMPLE", "TABLESAMPLE"), "a WHERE on a hash of the key"),
}
IMPOSSIBLE = "{{step}} uses {what}{{where}}, which cannot be kept up to date; write {instead}."


def impossible(text: StepText) -> list[tuple[int, str]]:
    """What no step can do, as (offset in characters, sentence)."""
    tree, tokens = _parsed(text), text.tokens()
    found = []
    for node in tree.walk():
        for kind, (what, keywords, instead) in _IMPOSSIBLE.items():
            if isinstance(node, kind):
                found.append((_offset(node, keywords, tokens), IMPOSSIBLE.format(what=what, instead=instead)))
        if isinstance(node, exp.Join) and node.method == "POSITIONAL":
            sentence = IMPOSSIBLE.format(what="a POSITIONAL join", instead="a join by a column")
            found.append((_offset(node, ("POSITIONAL",), tokens), sentence))
    return found


def only_recomputed(text: StepText) -> list[tuple[int, str]]:
    """What can be kept only by computing everything again, as (offset in characters, sentence)."""
    tree, tokens = _parsed(text), text.tokens()
    found = []
    for node in tree.walk():
        if isinstance(node, exp.With) and node.args.get("recursive"):
            what, instead = "WITH RECURSIVE", "as many joins as the recursion is deep"
        elif isinstance(node, exp.Pivot) and node.args.get("unpivot"):
            what, instead = "UNPIVOT", "a SELECT for each column with UNION ALL"
        else:
            continue
        place = _offset(node, (what.rpartition(" ")[2],), tokens)
        found.append((place, IMPOSSIBLE.format(what=what, instead=f"{instead}, or give the step recompute_rows")))
    return found


def stateful(text: StepText) -> list[tuple[int, str]]:
    """Stateful constructs, as (offset in characters, what).

    Raises:
        SqlError: sqlglot cannot read what DuckDB can.
    """
    tree, tokens = _parsed(text), text.tokens()
    found = []
    for node in tree.walk():
        named = _named(node)
        if named:
            what, keywords = named
            found.append((_offset(node, keywords, tokens), what))
    return found


def _parsed(text: StepText) -> exp.Expr:
    try:
        return parse_one(text.sql, dialect="duckdb")
    except ParseError as error:
        place = error.errors[0] if error.errors else {}
        line, column = place.get("line"), place.get("col")
        # sqlglot names the last character of the token it stumbled over.
        over = len(str(place.get("highlight", "")) or " ")
        lines = text.sql.split("\n")
        offset = sum(len(before) + 1 for before in lines[: line - 1]) + column - over if line and column else None
        raise text.problem(
            "{step} has SQL that raypipe cannot classify{where}; write this part in another way.", offset
        ) from error


def _named(node: exp.Expr) -> tuple[str, tuple[str, ...]] | None:
    if isinstance(node, exp.Join) and _is_unnest(node.this):
        return None
    if isinstance(node, exp.With) and node.args.get("recursive"):
        return ("WITH RECURSIVE", ("RECURSIVE",))
    if isinstance(node, exp.Union) and node.args.get("distinct"):
        return ("UNION without ALL", ("UNION",))
    if isinstance(node, exp.Query) and _is_inside_an_expression(node):
        return ("a subquery in an expression", ("SELECT",))
    return next((named for kind, named in _CONSTRUCTS.items() if isinstance(node, kind)), None)


def _is_unnest(node: exp.Expr) -> bool:
    return isinstance(node, exp.Unnest) or (isinstance(node, exp.Table) and isinstance(node.this, exp.Unnest))


def _is_inside_an_expression(query: exp.Expr) -> bool:
    """False for queries that stand where a table may stand: at the top, in FROM, in WITH, under a set operation."""
    parent = query.parent
    if parent is None or isinstance(parent, exp.From | exp.Join | exp.CTE | exp.SetOperation):
        return False
    # Parentheses are judged by themselves.
    return not isinstance(parent, exp.Subquery | exp.Exists)


def _offset(node: exp.Expr, keywords: tuple[str, ...], tokens: list[Token]) -> int:
    """Where a construct begins: its keyword before the first of its parts that has a place."""
    part = node.expression if isinstance(node, exp.SetOperation) else node
    anchor = min((int(below.meta["start"]) for below in part.walk() if "start" in below.meta), default=None)
    # One token may be two words: GROUP BY.
    starts = [token.start for token in tokens if not set(keywords).isdisjoint(token.text.upper().split())]
    if anchor is None:
        return starts[0] if starts else 0
    return max((start for start in starts if start <= anchor), default=anchor)
