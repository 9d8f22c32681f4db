"""The cluster's example files are what Ray reads."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_the_autoscaling_example_fits_rays_own_schema() -> None:
    ray = find_spec("ray")
    if ray is None or ray.origin is None:
        pytest.skip("Ray is not installed")
    schema = json.loads(Path(ray.origin).with_name("autoscaler").joinpath("ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((ROOT / "cluster" / "autoscaling.yaml").read_text()), schema)
