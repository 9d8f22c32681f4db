"""The pipeline file: read from YAML or built in Python, one set of models either way."""

from raypipe.spec.document import Pipeline, Sink, SinkTable, Source, Step
from raypipe.spec.editor import json_schema
from raypipe.spec.limits import Limits
from raypipe.spec.problems import Location, PipelineFileError, Problem, Severity
from raypipe.spec.reading import load, parse
from raypipe.spec.resolve import resolve_folder, resolve_place, resolve_url
from raypipe.spec.url import Url, redact

__all__ = [
    "Limits",
    "Location",
    "Pipeline",
    "PipelineFileError",
    "Problem",
    "Severity",
    "Sink",
    "SinkTable",
    "Source",
    "Step",
    "Url",
    "json_schema",
    "load",
    "parse",
    "redact",
    "resolve_folder",
    "resolve_place",
    "resolve_url",
]
