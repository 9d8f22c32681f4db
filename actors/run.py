"""Runs a plan on Ray: starts or joins a cluster, starts the coordinator, and watches it until the end."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

import ray

import raypipe
from actors.asking import ActorLost, answer, start
from actors.coordinator import CoordinatorActor
from raypipe.engine.status import HEARTBEAT_S, Status
from raypipe.errors import StateLost, Unavailable
from raypipe.local.conductor import Until
from raypipe.local.run import MOST_LOSSES
from raypipe.local.teller import Observer
from raypipe.plan.model import Plan

logger = logging.getLogger(__name__)

NAMESPACE = "raypipe"
# Ray gathers up to 100 objects that nobody needs for up to a second before it frees them: by then an epoch has touched
# five times as much of the object store as it ever uses at once, in every process. A cluster of others keeps its own.
FREED_SOON = {"free_objects_period_milliseconds": 100, "free_objects_batch_size": 4}
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# From a signal to the event that it sets.
_HEARD_WITHIN_S = 1.0
# A coordinator that dies this often in a row, without a status between, is not helped by starting it again.
MOST_DEATHS = 5


def run_on_ray(
    plan: Plan,
    *,
    address: str | None = None,
    until: Until = "idle",
    observer: Observer = lambda _: None,
    stop: Event | None = None,
) -> Status:
    """Runs a pipeline on Ray until a condition holds.

    Args:
        plan: What to run.
        address: Of a cluster (``auto``, ``host:port``); ``local`` starts a Ray of its own that ends with the run; None
            joins the cluster of a submitted job, and does as ``local`` outside of one.
        until: ``"idle"``, ``"forever"`` or seconds.
        observer: Told of the status about twice a second.
        stop: Ends the run cleanly when set.

    Raises:
        Fenced: a later run took over.
        Unavailable: the cluster cannot be reached, or the coordinator kept dying.
        RaypipeError: what no retry could mend.
    """
    stop = stop or Event()
    not_begun = Status(pipeline=plan.pipeline, runner="ray", state="stopped")
    if stop.is_set():
        return not_begun
    try:
        started = connect(address)
    except KeyboardInterrupt:
        ray.shutdown()
        if not stop.wait(_HEARD_WITHIN_S):  # the signal reaches the event by another thread
            raise
        return not_begun
    try:
        return _watch(plan, until, observer, stop)
    finally:
        if started:
            ray.shutdown()


def connect(address: str | None) -> bool:
    """Joins a cluster or starts a local one; True if this call did, and should end it.

    Raises:
        Unavailable: the cluster does not answer, or wants a token that is not there.
        KeyboardInterrupt: SIGINT or SIGTERM came meanwhile.
    """
    if ray.is_initialized():
        return False
    # A driver that `ray job submit` started finds its cluster in the environment.
    address = address or (
        "auto" if os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") else None
    )
    quiet = {"namespace": NAMESPACE, "log_to_driver": False, "configure_logging": False}
    try:
        with _interruptible():
            if address in (None, "local"):
                ray.init(
                    address="local",
                    _node_ip_address="127.0.0.1",
                    dashboard_host="127.0.0.1",
                    _system_config=FREED_SOON,
                    **quiet,
                )
            else:
                ray.init(address=address, runtime_env=_shipped(), **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Unavailable(
            f"Ray does not answer at {address or 'a local start'}.",
            remedy=(
                "Start one with 'ray start --head', or leave --address out. If the cluster wants a token, set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."
            ),
            cause=error,
        ) from error
    return True


@contextmanager
def _interruptible() -> Iterator[None]:
    """Signals that are only noted otherwise, for a clean end, end the block at once.

    Ctrl-C at a terminal reaches Ray's processes too: one that is just starting dies of it, and Ray waits a minute.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are none of this thread's business
        return
    noted = {number: noting for number in SIGNALS if callable(noting := signal.getsignal(number))}

    def end(number: int, frame: FrameType | None) -> None:
        noted[signal.Signals(number)](number, frame)
        raise KeyboardInterrupt

    for number in noted:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, noting in noted.items():
            if signal.getsignal(number) is end:  # Ray puts handlers of its own in place
                signal.signal(number, noting)


def _shipped() -> dict[str, Any]:
    """What workers of a foreign cluster need to import us, unless the job ships its own working directory."""
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return {}
    root = Path(raypipe.__file__).parent
    return {"py_modules": [str(root), str(root.parent / "actors")]}


def _watch(plan: Plan, until: Until, observer: Observer, stop: Event) -> Status:
    deaths = losses = 0
    shards = plan.state_shards
    began = time.monotonic()
    while True:
        token = uuid.uuid4().hex[:6]
        node = ray.get_runtime_context().get_node_id()
        coordinator = start(
            CoordinatorActor, f"{plan.pipeline}/{token}/coordinator", plan.in_shards(shards), token, node
        )
        left = until if isinstance(until, str) else max(0.0, until - (time.monotonic() - began))
        ending = coordinator.run.remote(left)
        try:
            while not ray.wait([ending], timeout=HEARTBEAT_S)[0]:
                if stop.is_set():
                    coordinator.stop.remote()
                news: Status = answer(coordinator.status.remote(), "The coordinator", timeout_s=30.0)
                deaths = 0 if news.run else deaths
                shards = news.state_shards or shards
                observer(news)
            status: Status = answer(ending, "The coordinator")
            observer(status)
            return status
        except StateLost as error:
            ray.kill(coordinator)
            losses += 1
            if losses >= MOST_LOSSES or stop.is_set():
                raise
            logger.warning("state was lost; the run begins anew", extra={"error": str(error)})
        except ActorLost as lost:
            ray.kill(coordinator)
            deaths += 1
            if deaths >= MOST_DEATHS or stop.is_set():
                raise Unavailable(f"The coordinator died {deaths} times in a row.", cause=lost) from lost
