"""Reads YAML into plain values and remembers where each of them stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

from raypipe.spec.origin import TextBlock
from raypipe.spec.problems import DocumentPath, Location, PipelineFileError, Problem, listed

# Aliases can make a small file enormous ("billion laughs"); no honest pipeline file has this many values.
MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars: ``no``, ``on`` and ``2026-01-01`` are text, as everybody expects by now."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own name and shape for it


for _tag, _pattern, _first_characters in (
    ("null", r"(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first_characters)


@dataclass(kw_only=True)
class YamlText:
    """A YAML document as plain values, with the place of every key and value.

    Attributes:
        value: Mappings, lists, text, numbers, booleans and None.
        keys: Place of each mapping key.
        values: Place of each value.
        blocks: Of each text value.
        problems: Such as a key given twice; the first one then counts.
    """

    value: object = None
    keys: dict[DocumentPath, Location] = field(default_factory=dict)
    values: dict[DocumentPath, Location] = field(default_factory=dict)
    blocks: dict[DocumentPath, TextBlock] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_yaml(text: str, file: str) -> YamlText:
    """Reads one document.

    Args:
        text: Of the file.
        file: Its name, for locations.

    Raises:
        PipelineFileError: it is not YAML, is empty, or holds more than one document.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise _error("The file is empty; raypipe init writes one to start from.", file, 1, 1)
            return _Reader(loader, text, file).read(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _error(_syntax_sentence(error), file, line, column) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise _error("YAML does not allow this control character.", file, line, column) from None
    except RecursionError:
        raise _error("The file is nested too deeply to be a pipeline file.", file, 1, 1) from None


def _error(sentence: str, file: str, line: int, column: int) -> PipelineFileError:
    return PipelineFileError([Problem(sentence=sentence, location=Location(file=file, line=line, column=column))])


def _syntax_sentence(error: yaml.MarkedYAMLError) -> str:
    problem, context = error.problem or "", error.context or ""
    if r"'\t'" in problem:
        return "YAML takes no tabs here: indent with spaces."
    if "expected a single document" in context:
        return "The file holds more than one YAML document: remove the second --- and what follows it."
    where = f" {context}" if context else ""
    return f"This is not valid YAML:{where} {problem}.".replace("..", ".")


class _Reader:
    """Walks the node tree of one document."""

    def __init__(self, loader: _Loader, text: str, file: str) -> None:
        self._loader = loader
        self._lines = text.split("\n")
        self._file = file
        self._open: set[int] = set()
        self._count = 0
        self._found = YamlText()

    def read(self, root: yaml.Node) -> YamlText:
        """The document below a root node."""
        self._found.value = self._value(root, ())
        return self._found

    def _value(self, node: yaml.Node, path: DocumentPath) -> object:
        place = self._place(node)
        self._found.values[path] = place
        self._count += 1
        if id(node) in self._open or self._count > MOST_VALUES:
            raise _error("An alias (*name) makes the document endless.", self._file, place.line, place.column)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: DocumentPath) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self._found.problems.append(Problem(sentence="A key must be plain text.", path=path, location=place))
                continue
            # A key counts as written: a step may be called "on" or "2026".
            key = key_node.value
            below = (*path, key)
            if key in mapping:
                first = self._found.keys[below]
                sentence = f"This key is given twice; the first one is at line {first.line}."
                self._found.problems.append(Problem(sentence=sentence, path=below, location=place))
                continue
            self._found.keys[below] = place
            mapping[key] = self._value(value_node, below)
        return mapping

    def _scalar(self, node: yaml.ScalarNode, path: DocumentPath) -> object:
        try:
            value: object = self._loader.construct_object(node)
        except (yaml.MarkedYAMLError, ValueError):
            place = self._place(node)
            sentence = f"The tag {node.tag} is not known here; use {listed(['text', 'numbers', 'true', 'false'])}."
            self._found.problems.append(Problem(sentence=sentence, path=path, location=place))
            return node.value
        if isinstance(value, str):
            self._found.blocks[path] = self._block(node, value)
        return value

    def _block(self, node: yaml.ScalarNode, value: str) -> TextBlock:
        start, end = node.start_mark, node.end_mark
        if node.style == "|":
            first = next((i for i, line in enumerate(value.split("\n")) if line.strip()), 0)
            raw = start.line + 1 + first
            written = self._lines[raw].rstrip("\r") if raw < len(self._lines) else ""
            return TextBlock(
                line=start.line + 2, indent=len(written) - len(value.split("\n")[first].rstrip("\r")), aligned=True
            )
        quoted = 1 if node.style in ("'", '"') else 0
        one_line = node.style != ">" and start.line == end.line
        return TextBlock(line=start.line + 1, indent=start.column + quoted, aligned=one_line)

    def _place(self, node: yaml.Node) -> Location:
        return Location(file=self._file, line=node.start_mark.line + 1, column=node.start_mark.column + 1)
