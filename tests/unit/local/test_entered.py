"""Which traces a state folder has had without a break."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypipe.errors import Unavailable
from raypipe.local.entered import enter, entered


def test_a_trace_that_was_left_out_once_comes_as_a_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert enter(folder, ["a", "b"]) == {"a", "b"}
    assert enter(folder, ["a", "b"]) == {"a", "b"}  # nobody said yet that they were dealt with
    entered(folder, ["a", "b"])
    assert enter(folder, ["a", "b"]) == frozenset()
    assert enter(folder, ["a"]) == frozenset()
    assert enter(folder, ["a", "b"]) == {"b"}


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be used"):
        enter(tmp_path / "state", ["a"])
