"""Reads a pipeline file: every problem in it, or the pipeline."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from raypipe.spec.document import Pipeline
from raypipe.spec.origin import Origin
from raypipe.spec.problems import Location, PipelineFileError, Problem, Severity, listed
from raypipe.spec.relations import check_relations
from raypipe.spec.sentences import problems_of
from raypipe.spec.yaml_text import read_yaml


def load(path: str | Path) -> Pipeline:
    """Reads a pipeline file. Secrets stay unresolved, and nothing is connected to.

    Raises:
        PipelineFileError: with all problems of the file.
    """
    return parse(_text(Path(path)), file=str(path), folder=Path(path).absolute().parent)


def parse(text: str, *, file: str, folder: Path) -> Pipeline:
    """Reads a pipeline from the text of its file.

    Args:
        text: YAML.
        file: Name for locations.
        folder: That relative paths start from.

    Raises:
        PipelineFileError: with all problems of the text.
    """
    document = read_yaml(text, file)
    origin = Origin(folder=folder, file=file, keys=document.keys, values=document.values, blocks=document.blocks)
    problems = document.problems + check_relations(document.value, origin)
    try:
        pipeline = Pipeline.model_validate(document.value, by_alias=True, by_name=False)
    except ValidationError as error:
        problems += problems_of(error, Pipeline, origin)
    else:
        pipeline = pipeline.with_origin(origin)
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if errors:
        raise PipelineFileError(errors)
    return pipeline


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        beside = (
            sorted(p.name for p in path.absolute().parent.glob("*.y*ml")) if path.absolute().parent.is_dir() else []
        )
        there = f"; beside it there is: {listed(beside)}" if beside else ""
        raise _unreadable(path, f"There is no such file{there}. raypipe init writes one.") from None
    except IsADirectoryError:
        raise _unreadable(path, "This is a folder; name the file in it.") from None
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise _unreadable(path, "The file is not UTF-8 text.", line, column) from None
    except OSError as error:
        raise _unreadable(path, f"The file cannot be read: {error.strerror}.") from None


def _unreadable(path: Path, sentence: str, line: int = 1, column: int = 1) -> PipelineFileError:
    return PipelineFileError([Problem(sentence=sentence, location=Location(file=str(path), line=line, column=column))])
