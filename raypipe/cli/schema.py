"""``raypipe schema``: the JSON Schema of the pipeline file, for editors."""

from __future__ import annotations

from raypipe.cli.terminal import say


def schema() -> None:
    """Print the JSON Schema of the pipeline file, which editors use to complete and check it."""
    import json

    from raypipe.spec import json_schema

    say(json.dumps(json_schema(), indent=2))
