"""Arguments and options that several commands share, each with one spelling and one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PIPELINE_FILE = Path("pipeline.yaml")

File = Annotated[Path, typer.Argument(metavar="FILE", help="The pipeline file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text.")]
