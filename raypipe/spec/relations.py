"""What the parts of a pipeline file must agree on: names that refer to each other, and options that fit their store.

Works on the plain document, so that these problems are reported together with those of its single values, and skips
whatever does not have the right shape: that is reported elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from raypipe.spec.origin import Origin
from raypipe.spec.problems import DocumentPath, Problem, Severity, listed, nearest
from raypipe.spec.url import Url

SOURCE_SCHEMES = ("sqlite", "postgresql")
LOG_SCHEMES = ("sqlite", "kafka")
SINK_SCHEMES = ("delta", "duckdb", "sqlite")
# Stores that keep rows in files by partition.
PARTITIONED_SCHEMES = ("delta",)
# SQL databases, over several of which one sink's rows can be spread.
SHARDED_SCHEMES = ("sqlite",)


def check_relations(document: object, origin: Origin) -> list[Problem]:
    """Everything wrong (or doubtful) between the parts of a document of plain values."""
    outline = _Outline.of(document)
    return [
        *_clashing_names(outline, origin),
        *_unknown_inputs(outline, origin),
        *_unused_steps(outline, origin),
        *_repeated_items(outline, origin),
        *_schemes(outline, origin),
        *_shared_places(outline, origin),
        *_sink_options(outline, origin),
    ]


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _url(value: object) -> Url | None:
    try:
        return value if isinstance(value, Url) else Url(value) if isinstance(value, str) else None
    except ValueError:
        return None  # its shape is wrong, which is reported elsewhere


@dataclass(frozen=True, kw_only=True)
class _Outline:
    """The parts of a document that have the right shape."""

    log: object
    sources: Mapping[str, Mapping[str, object]]
    steps: Mapping[str, Mapping[str, object]]
    sinks: Mapping[str, Mapping[str, object]]

    @classmethod
    def of(cls, document: object) -> _Outline:
        top = _mapping(document)

        def section(name: str) -> dict[str, Mapping[str, object]]:
            return {key: _mapping(value) for key, value in _mapping(top.get(name)).items()}

        return cls(log=top.get("log"), sources=section("sources"), steps=section("steps"), sinks=section("sinks"))

    def source_tables(self) -> list[str]:
        named = (f"{name}.{table}" for name, source in self.sources.items() for table in _list(source.get("tables")))
        return list(dict.fromkeys(named))

    def sink_tables(self) -> Iterator[tuple[str, str, Mapping[str, object]]]:
        for name, sink in self.sinks.items():
            for table, options in _mapping(sink.get("tables")).items():
                yield name, table, _mapping(options)

    def urls(self) -> Iterator[tuple[DocumentPath, Url]]:
        written: list[tuple[DocumentPath, object]] = [(("log",), self.log)]
        written += [(("sources", name, "url"), source.get("url")) for name, source in self.sources.items()]
        for name, sink in self.sinks.items():
            written.append((("sinks", name, "url"), sink.get("url")))
            written += [(("sinks", name, "urls", number), url) for number, url in enumerate(_list(sink.get("urls")))]
        for path, value in written:
            url = _url(value)
            if url is not None:
                yield path, url


def _clashing_names(outline: _Outline, origin: Origin) -> Iterator[Problem]:
    # SQL does not tell Orders from orders, nor do some file systems.
    relations: list[tuple[DocumentPath, str]] = [
        *((("sources", name), "source") for name in outline.sources),
        *((("steps", name), "step") for name in outline.steps),
    ]
    sinks: list[tuple[DocumentPath, str]] = [(("sinks", name), "sink") for name in outline.sinks]
    scopes = [(relations, "names of sources and steps"), (sinks, "names of sinks")]
    for name, sink in outline.sinks.items():
        tables: list[tuple[DocumentPath, str]] = [
            (("sinks", name, "tables", table), "table") for table in _mapping(sink.get("tables"))
        ]
        scopes.append((tables, "tables of a sink"))
    for named, what in scopes:
        first: dict[str, tuple[str, str]] = {}
        for path, kind in named:
            name = str(path[-1])
            if name.lower() in first:
                other_kind, other = first[name.lower()]
                yield Problem(
                    sentence=f"There is a {other_kind} {other} already: {what} must differ, in more than case.",
                    path=path,
                    location=origin.key(path),
                )
            first.setdefault(name.lower(), (kind, name))


def _unknown_inputs(outline: _Outline, origin: Origin) -> Iterator[Problem]:
    choices = [*outline.steps, *outline.source_tables()]
    for sink, table, options in outline.sink_tables():
        relation = options.get("from")
        if isinstance(relation, str) and relation not in choices:
            path: DocumentPath = ("sinks", sink, "tables", table, "from")
            yield Problem(
                sentence=f"There is no step or source table {relation}; there are: {listed(choices) or 'none'}.",
                path=path,
                location=origin.value(path),
                did_you_mean=nearest(relation, choices),
            )


def _unused_steps(outline: _Outline, origin: Origin) -> Iterator[Problem]:
    fed = {options.get("from") for _, _, options in outline.sink_tables()}
    texts = {name: text for name, step in outline.steps.items() if isinstance(text := step.get("sql"), str)}
    for name in outline.steps:
        # The planner knows exactly what SQL reads; for a warning, the name standing alone in the text is enough.
        word = re.compile(rf"(?i)(?<![\w.]){re.escape(name)}(?!\w)")
        read = any(word.search(text) for other, text in texts.items() if other != name)
        if name not in fed and not read:
            yield Problem(
                sentence="No sink table and no other step reads this step, so it does not run.",
                path=("steps", name),
                location=origin.key(("steps", name)),
                severity=Severity.WARNING,
            )


def _repeated_items(outline: _Outline, origin: Origin) -> Iterator[Problem]:
    lists: list[tuple[DocumentPath, Sequence[object]]] = [
        (("sources", name, "tables"), _list(source.get("tables"))) for name, source in outline.sources.items()
    ]
    lists += [
        (("sinks", sink, "tables", table, option), _list(options.get(option)))
        for sink, table, options in outline.sink_tables()
        for option in ("partition_by", "key")
    ]
    for path, items in lists:
        for index, item in enumerate(items):
            if isinstance(item, str) and item in items[:index]:
                yield Problem(
                    sentence=f"{item} is given twice.", path=(*path, index), location=origin.value((*path, index))
                )


def _schemes(outline: _Outline, origin: Origin) -> Iterator[Problem]:
    known = {"log": LOG_SCHEMES, "sources": SOURCE_SCHEMES, "sinks": SINK_SCHEMES}
    for path, url in outline.urls():
        choices = known[str(path[0])]
        if url.scheme and url.scheme not in choices:
            yield Problem(
                sentence=f"raypipe has no {str(path[0]).removesuffix('s')} for {url.scheme}:// URLs; "
                f"there are: {', '.join(choices)}.",
                path=path,
                location=origin.value(path),
                did_you_mean=nearest(url.scheme, choices),
            )


def _shared_places(outline: _Outline, origin: Origin) -> Iterator[Problem]:
    owners: dict[str, DocumentPath] = {}
    for path, url in outline.urls():
        owner = owners.setdefault(url.written, path)
        if owner == path or {owner[0], path[0]} == {"sources", "sinks"}:
            continue
        what = {
            "log": "the log needs a database of its own",
            "sources": "one source reads all tables of a database that the pipeline needs",
            "sinks": "one sink keeps all tables that go to a store",
        }[str(owner[0])]
        yield Problem(
            sentence=f"This is the URL of {'.'.join(map(str, owner[:2]))} too: {what}.",
            path=path,
            location=origin.value(path),
        )


def _sink_options(outline: _Outline, origin: Origin) -> Iterator[Problem]:
    for name, sink in outline.sinks.items():
        path: DocumentPath = ("sinks", name)
        shards = _list(sink.get("urls"))
        if (sink.get("url") is not None) == bool(shards):
            yield Problem(
                sentence="A sink has either url (one store) or urls (a list of SQL databases to spread rows over).",
                path=path,
                location=origin.key(path),
            )
        schemes = {url.scheme for below, url in outline.urls() if below[:2] == path and url.scheme}
        if shards and not schemes <= set(SHARDED_SCHEMES) and schemes <= set(SINK_SCHEMES):
            yield Problem(
                sentence=f"Rows can be spread over databases of these kinds only: {', '.join(SHARDED_SCHEMES)}.",
                path=(*path, "urls"),
                location=origin.value((*path, "urls")),
            )
        yield from _table_options(path, _mapping(sink.get("tables")), schemes, origin)


def _table_options(
    sink: DocumentPath, tables: Mapping[str, object], schemes: Iterable[str], origin: Origin
) -> Iterator[Problem]:
    for table, options in tables.items():
        path = (*sink, "tables", table, "partition_by")
        unfit = [scheme for scheme in schemes if scheme in SINK_SCHEMES and scheme not in PARTITIONED_SCHEMES]
        if _mapping(options).get("partition_by") and unfit:
            yield Problem(
                sentence=f"{unfit[0]} does not partition tables; these do: {', '.join(PARTITIONED_SCHEMES)}.",
                path=path,
                location=origin.key(path),
            )
