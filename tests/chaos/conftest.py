"""A scene for each test, and an end for every process that it started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scene import Scene


@pytest.fixture
def make_scene(tmp_path: Path, seed: int) -> Iterator[Callable[..., Scene]]:
    """Makes a scene; takes what ``Scene`` takes by keyword."""
    print(f"seed {seed}")
    made: list[Scene] = []

    def make(**options: object) -> Scene:
        made.append(Scene(tmp_path, seed, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for scene in made:
        scene.close()


@pytest.fixture
def scene(make_scene: Callable[..., Scene]) -> Scene:
    """A scene with all kinds of sinks."""
    return make_scene()
