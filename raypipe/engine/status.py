"""What a run tells about itself: one frozen value, the same for people, machines and the log's status note."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raypipe.contracts import StateReport

STATUS_NOTE = "status"


@dataclass(frozen=True, kw_only=True)
class InstanceStatus:
    """A source as its reader sees it.

    Attributes:
        name: Of the instance.
        state: ``starting``, ``loading``, ``streaming``, ``held``, ``full`` (the log is at its bound) or
            ``retrying``.
        position: Last committed in the log, text.
        loading: Share loaded of each table that is still loading, 0 to 1.
        pending: Changes that wait in the source, an estimate; None if unknown.
        parked: Rows in quarantine since this run began (net).
        rows: Row images appended to the log by this run.
        error: Last error while ``retrying``.
        kept: Bytes that the source's database keeps for us: ``kept_bytes`` not acknowledged yet, ``safe_bytes`` that it
            will still write before it gives up on us; empty if it keeps nothing.
    """

    name: str
    state: str = "starting"
    position: str | None = None
    loading: Mapping[str, float] = field(default_factory=dict)
    pending: int | None = None
    parked: int = 0
    rows: int = 0
    error: str = ""
    kept: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SinkStatus:
    """One unit of commit.

    Attributes:
        name: Of the unit.
        state: ``opening``, ``ready`` or ``retrying``.
        cut: Number of the cut it holds; None if none yet.
        position: Source positions at that cut, by instance.
        lag_rows: Row images in the log beyond that cut.
        lag_s: Age of the oldest cut it does not hold yet, 0 when it holds all.
        commits: By this run.
        error: Last error while ``retrying``.
    """

    name: str
    state: str = "opening"
    cut: int | None = None
    position: Mapping[str, str] = field(default_factory=dict)
    lag_rows: int = 0
    lag_s: float = 0.0
    commits: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class CarryingOn:
    """State that is behind the sinks and carried on to them by the log, before a run's first epoch.

    Attributes:
        cut: Number of the cut that it has reached.
        upto: Number of the cut that it has to reach.
    """

    cut: int
    upto: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """A run at one moment.

    Attributes:
        pipeline: Its name.
        run: Its number on this log.
        state: ``starting``, ``running``, ``stopping``, ``stopped`` or ``failed``.
        runner: ``local`` or ``ray``.
        pid: Of the process that conducts the run.
        host: It runs on.
        at: When this was written, seconds since 1970.
        epochs: Committed by this run.
        rows: Row images this run carried into sinks (once, however many sinks).
        rows_per_s: Over the last few seconds.
        executors: Epochs by executor: ``inline``, ``ray_data``.
        stage_s: Seconds by stage: ``read_source``, ``append_log``, ``read_log``, ``steps``, ``write_sinks``,
            ``commit_sinks``.
        instances: Sources.
        sinks: Units of commit.
        state_shards: In how many shards that lies; 0 without such steps.
        stateful: What stateful steps remember: one report for each owner of state, none without such steps.
        carrying_on: How far the state is that is carried on to the sinks; None while none is.
        error: Why it failed.
    """

    pipeline: str
    run: int = 0
    state: str = "starting"
    runner: str = "local"
    pid: int = 0
    host: str = ""
    at: float = 0.0
    epochs: int = 0
    rows: int = 0
    rows_per_s: float = 0.0
    executors: Mapping[str, int] = field(default_factory=dict)
    stage_s: Mapping[str, float] = field(default_factory=dict)
    instances: tuple[InstanceStatus, ...] = ()
    sinks: tuple[SinkStatus, ...] = ()
    state_shards: int = 0
    stateful: tuple[StateReport, ...] = ()
    carrying_on: CarryingOn | None = None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """One line of JSON; ``from_json`` reads it back."""
        return json.dumps(self.to_dict(), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Status:
        """Reads what ``to_json`` wrote."""
        from raypipe.contracts import StateReport  # with Arrow, which a mere --help does without

        fields = json.loads(text)
        fields["instances"] = tuple(InstanceStatus(**each) for each in fields["instances"])
        fields["sinks"] = tuple(SinkStatus(**each) for each in fields["sinks"])
        fields["stateful"] = tuple(StateReport.from_dict(each) for each in fields.get("stateful", ()))
        carrying = fields.get("carrying_on")
        fields["carrying_on"] = CarryingOn(**carrying) if carrying else None
        return cls(**fields)

    def alive(self, now: float) -> bool:
        """Whether the run that wrote this is still at work, judged by the age of the note."""
        return self.state in ("starting", "running", "stopping") and now - self.at < HEARTBEAT_LOST_S


# A run writes its status twice a second; one that has been silent for this long is taken for dead. Only convenience
# hangs on it (status, whether verify asks a run or starts one): what may write is decided by generations alone.
HEARTBEAT_S = 0.5
HEARTBEAT_LOST_S = 10.0
