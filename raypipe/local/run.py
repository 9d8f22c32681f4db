"""Runs a plan in this process."""

from __future__ import annotations

import logging
from functools import partial
from threading import Event

from raypipe.engine.status import Status
from raypipe.errors import StateLost
from raypipe.local.alone import StatefulAlone
from raypipe.local.conductor import Conductor, Until
from raypipe.local.crew import LocalCrew, State
from raypipe.local.demand import Demand
from raypipe.local.stateful import Stateful
from raypipe.local.teller import Observer
from raypipe.local.threads import StatefulShards
from raypipe.log import open_existing_log, open_log
from raypipe.plan.model import Plan
from raypipe.sinks import open_sinks
from raypipe.sources import open_instance
from raypipe.steps import Flow

logger = logging.getLogger(__name__)

# State that is lost so often in one run has a disk that does not keep it.
MOST_LOSSES = 3


def run_local(
    plan: Plan, *, until: Until = "idle", observer: Observer = lambda _: None, stop: Event | None = None
) -> Status:
    """Runs a pipeline in this process until a condition holds.

    Args:
        plan: What to run.
        until: ``"idle"``, ``"forever"`` or seconds.
        observer: Told of the status about twice a second.
        stop: Ends the run cleanly when set.

    Returns:
        The last status.

    Raises:
        Fenced: a later run took over.
        RaypipeError: what no retry could mend.
    """
    losses = 0
    shards = plan.state_shards

    def observe(status: Status) -> None:
        nonlocal shards
        shards = status.state_shards or shards
        observer(status)

    while True:
        try:
            return _run(plan.in_shards(shards), until, observe, stop or Event())
        except StateLost as error:
            losses += 1
            if losses >= MOST_LOSSES:
                raise
            logger.warning("state was lost; the run begins anew", extra={"error": str(error)})


def _run(plan: Plan, until: Until, observer: Observer, stop: Event) -> Status:
    log = open_log(plan.log, pipeline=plan.pipeline)
    demand = Demand.of(plan)
    flow = Flow(plan, demand.streamed({table.relation for sink in plan.sinks for table in sink.tables}))
    crew: LocalCrew | None = None
    try:
        crew = LocalCrew(
            plan=plan,
            log=log,
            steps=flow,
            open_sinks=lambda planned: [unit for sink in planned.sinks for unit in open_sinks(sink, plan.pipeline)],
            demand=demand,
            open_state=partial(_state, plan, demand, log.identity) if demand else None,
            open_log=lambda: open_existing_log(plan.log, pipeline=plan.pipeline),
            open_source=lambda name: open_instance(plan, name),
        )
        conductor = Conductor(plan=plan, log=log, crew=crew, until=until, observer=observer, stop=stop, runner="local")
        return conductor.run()
    finally:
        if crew is not None:
            crew.close_state()
        flow.close()
        log.close()


def _state(plan: Plan, demand: Demand, identity: str, shards: int) -> State:
    if shards == 1:
        return StatefulAlone(Stateful(plan, demand, identity))
    return StatefulShards(plan, demand, identity, shards)
