"""Somebody locks the source for half a minute: the run survives, says so, and loses nothing."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing

import pytest
from scene import Scene, wait_until

pytestmark = pytest.mark.chaos

LOCKED_S = 30.0


def test_a_source_locked_for_thirty_seconds_is_read_on_afterwards(scene: Scene) -> None:
    with closing(sqlite3.connect(scene.bank.path)) as connection:
        connection.execute("PRAGMA journal_mode = delete")  # under a WAL readers go on beside whoever writes
    run = scene.start()
    scene.bank.wait_for_capture()
    wait_until(scene.all_beyond, "the first commits")
    with closing(sqlite3.connect(scene.bank.path, timeout=60.0, isolation_level=None)) as holder:
        scene.bank.burst(20)
        holder.execute("BEGIN EXCLUSIVE")
        holder.execute("UPDATE accounts SET note = note")
        kept = threading.Event()
        release = threading.Timer(LOCKED_S, kept.set)
        release.start()
        wait_until(lambda: "locked" in said(scene), "the status to say that the source is locked")
        wait_until(kept.is_set, "the end of the half minute")
        assert run.poll() is None, "the run must survive a locked source"
        holder.execute("ROLLBACK")
    scene.bank.burst(20)
    wait_until(lambda: said(scene) == "" and behind(scene) == 0, "the run to catch up")
    run.terminate()
    output = scene.ended(run)
    assert run.returncode in (0, 143), output
    scene.check(caught_up=True)


def said(scene: Scene) -> str:
    """What the run says of its source, as ``raypipe status`` shows it."""
    status = scene.status()
    return status.instances[0].error if status is not None and status.instances else "nothing yet"


def behind(scene: Scene) -> int:
    """Changes that the slowest sink has not got."""
    status = scene.status()
    if status is None or not status.sinks:
        return -1
    held = [json.loads(sink.position["bank"])["seq"] for sink in status.sinks if "bank" in sink.position]
    return scene.bank.last_seq() - min(held) if len(held) == len(status.sinks) else -1
