"""When `raypipe demo` does not begin: it clears nothing that is not its own, and nothing under a run at work."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import pytest

from raypipe.cli.demo import run_demo
from raypipe.cli.status import told
from raypipe.demo import shop
from raypipe.errors import RaypipeError
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.spec import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop" / "pipeline.yaml"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYPIPE_SHOP", str(tmp_path))
    return tmp_path


def test_a_demo_leaves_a_folder_alone_that_no_demo_made(folder: Path) -> None:
    (folder / "shop.db").write_text("somebody's")
    with pytest.raises(RaypipeError, match="no demo made what is in it"):
        run_demo(seconds=4, seed=1)
    assert (folder / "shop.db").read_text() == "somebody's"


def test_a_demo_does_not_clear_the_ground_under_a_run_at_work(folder: Path) -> None:
    shop.create(folder / "shop.db", rows=100, seed=1)
    pipeline = load(EXAMPLE)
    plan, begun, stop = assemble(pipeline), Event(), Event()
    run = Thread(
        target=lambda: run_local(plan, until="forever", stop=stop, observer=lambda s: s.epochs and begun.set())
    )
    run.start()
    try:
        assert begun.wait(60)
        with pytest.raises(RaypipeError, match="is running pipeline shop"):
            run_demo(seconds=4, seed=1)
    finally:
        stop.set()
        run.join()
    last = told(pipeline)
    assert last is not None
    assert last.state == "stopped"
