"""Values that travel: errors across processes, cuts and statuses through text."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from raypipe import faults
from raypipe.engine.status import InstanceStatus, SinkStatus, Status
from raypipe.errors import DIRECTIVES, Fenced, Kind, OutcomeUnknown, RaypipeError, Unavailable
from raypipe.model import Cut, Op


def test_every_error_kind_has_a_directive() -> None:
    assert set(DIRECTIVES) == set(Kind)


@pytest.mark.parametrize("make", [RaypipeError, Fenced, OutcomeUnknown, Unavailable])
def test_an_error_survives_pickling_with_its_fields_and_the_text_of_its_cause(make: type[RaypipeError]) -> None:
    error = make("It failed.", remedy="Do this.", cause=OSError("disk"), sink="lake", count=3)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is make
    assert (str(copy), copy.kind, copy.fields) == ("It failed. Do this.", error.kind, {"sink": "lake", "count": 3})
    assert copy.cause == "OSError: disk"


def test_a_cut_survives_its_text() -> None:
    cut = Cut(
        number=3, log="x", offsets={"t": 4}, positions={"shop": "{}"}, loading=("shop.a",), rows=5, bytes=6, at=7.5
    )
    assert Cut.from_json(cut.to_json()) == cut


def test_a_status_survives_its_text_and_is_taken_for_dead_after_ten_silent_seconds() -> None:
    status = Status(
        pipeline="p", state="running", at=100.0, instances=(InstanceStatus(name="i"),), sinks=(SinkStatus(name="s"),)
    )
    assert Status.from_json(status.to_json()) == status
    assert status.alive(105.0)
    assert not status.alive(111.0)


def test_weights_of_ops_make_a_batch_a_z_set() -> None:
    assert {op.name: op.weight for op in Op} == {
        "READ": 1,
        "INSERT": 1,
        "UPDATE_BEFORE": -1,
        "UPDATE_AFTER": 1,
        "DELETE": -1,
        "TRUNCATE": 0,
    }


def test_an_armed_failpoint_fires_at_its_passage_only_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fired = tmp_path / "fired"
    monkeypatch.setenv("RAYPIPE_FAULTS_FIRED", str(fired))
    faults.arm("sink.commit.before=raise@2")
    try:
        faults.point("sink.commit.before")
        with pytest.raises(Unavailable):
            faults.point("sink.commit.before")
        faults.point("sink.commit.before")
    finally:
        faults.arm("")
    assert fired.read_text().startswith("sink.commit.before raise")


def test_an_unknown_failpoint_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown failpoint 'sink\.comit'.*sink\.commit\.before"):
        faults.arm("sink.comit=kill")
