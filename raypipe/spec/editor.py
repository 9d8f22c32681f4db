"""The JSON Schema of the pipeline file, for editors."""

from __future__ import annotations

from typing import Any

from raypipe.spec.document import Pipeline


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the pipeline file."""
    schema = Pipeline.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "raypipe pipeline file",
        "description": "Sources, steps that are views over them, and sinks that hold the results.",
    }
