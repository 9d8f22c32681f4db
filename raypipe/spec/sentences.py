"""Says pydantic's validation errors in the words of the pipeline file, each at its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from raypipe.spec.origin import Origin
from raypipe.spec.problems import DocumentPath, Problem, nearest

_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list, as in [a, b]",
    "dict_type": "a mapping of names",
    "url_type": "a URL, as in sqlite:///shop.db",
}
_MISSING = "This key is missing."


def problems_of(error: ValidationError, root: type[BaseModel], origin: Origin) -> list[Problem]:
    """The problems that a validation error stands for.

    Args:
        error: Of validating a document.
        root: The model it was validated by.
        origin: Of the document.
    """
    problems = [
        _problem(details, root, origin)
        for details in error.errors(include_url=False)
        if details["type"] != "relations"  # reported from the plain document, with their places
    ]
    # A mistyped key is one mistake, not also a missing one.
    mistyped = {(*problem.path[:-1], problem.did_you_mean) for problem in problems if problem.did_you_mean}
    return [problem for problem in problems if problem.sentence != _MISSING or problem.path not in mistyped]


def _problem(details: ErrorDetails, root: type[BaseModel], origin: Origin) -> Problem:
    path: DocumentPath = tuple(details["loc"])
    kind, context = details["type"], details.get("ctx", {})
    if path and path[-1] == "[key]":
        path = path[:-1]
        sentence = f"{path[-1]!r} cannot be a name: {details['msg']}."
        return Problem(sentence=sentence, path=path, location=origin.key(path))
    if kind == "extra_forbidden":
        known = _keys(_model_at(root, path[:-1]))
        meant = nearest(str(path[-1]), known)
        sentence = f"Unknown key; known here: {', '.join(known)}."
        return Problem(sentence=sentence, path=path, location=origin.key(path), did_you_mean=meant)
    if kind == "missing":
        return Problem(sentence=_MISSING, path=path, location=origin.key(path))
    if kind == "literal_error":
        choices = _literals(_field_at(root, path))
        meant = nearest(str(details["input"]), choices)
        sentence = f"Should be one of: {', '.join(choices)}."
        return Problem(sentence=sentence, path=path, location=origin.value(path), did_you_mean=meant)
    return Problem(
        sentence=_sentence(kind, details, context, root, path),
        path=path,
        location=origin.value(path),
        did_you_mean=str(context.get("did_you_mean", "")),
    )


def _sentence(
    kind: str, details: ErrorDetails, context: Mapping[str, Any], root: type[BaseModel], path: DocumentPath
) -> str:
    if kind == "model_type":
        keys = ", ".join(_keys(_model_at(root, path)))
        return f"Should be a mapping with the keys {keys}, not {_shape(details['input'])}."
    if kind in _WANTED:
        quoting = ": put it in quotes" if kind == "string_type" and isinstance(details["input"], int | float) else ""
        return f"Should be {_WANTED[kind]}, not {_shape(details['input'])}{quoting}."
    if kind in ("too_short", "string_too_short"):
        return "Should not be empty."
    if kind in ("greater_than", "greater_than_equal"):
        return (
            f"Should be {'more than' if kind == 'greater_than' else 'at least'} {context.get('gt', context.get('ge'))}."
        )
    sentence = details["msg"]
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _shape(value: object) -> str:
    # Never the value itself: it may be a secret in the wrong place.
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a mapping" if isinstance(value, Mapping) else "a list"


def _keys(model: type[BaseModel] | None) -> list[str]:
    if model is None:
        return []
    return [str(field.validation_alias or name) for name, field in model.model_fields.items()]


def _field_at(root: type[BaseModel], path: DocumentPath) -> Any:
    """The annotation at a path of the document: dictionaries are entered by any key."""
    annotation: Any = root
    for part in path:
        models = list(_models(annotation))
        if len(models) == 1 and isinstance(annotation, type):
            fields = models[0].model_fields
            named = [f for name, f in fields.items() if part in (name, f.validation_alias)]
            annotation = named[0].annotation if named else None
        else:
            annotation = get_args(annotation)[1] if len(get_args(annotation)) == 2 else None
    return annotation


def _model_at(root: type[BaseModel], path: DocumentPath) -> type[BaseModel] | None:
    return next(_models(_field_at(root, path)), None)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def _literals(annotation: Any) -> list[str]:
    return [str(choice) for choice in get_args(annotation)]
