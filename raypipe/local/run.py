"""Runs a plan in this process."""

from __future__ import annotations

from threading import Event

from raypipe.engine.status import Status
from raypipe.local.conductor import Conductor, Until
from raypipe.local.crew import LocalCrew
from raypipe.local.stateful import Stateful
from raypipe.local.teller import Observer
from raypipe.log import open_existing_log, open_log
from raypipe.plan.model import Plan
from raypipe.sinks import open_sinks
from raypipe.sources import open_instance
from raypipe.steps import Flow


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
    log = open_log(plan.log, pipeline=plan.pipeline)
    relations = {table.relation for sink in plan.sinks for table in sink.tables}
    stateful = Stateful(plan, relations, log.identity)
    flow = Flow(plan, stateful.streamed(relations))
    try:
        crew = LocalCrew(
            plan=plan,
            log=log,
            steps=flow,
            open_sinks=lambda planned: [unit for sink in planned.sinks for unit in open_sinks(sink, plan.pipeline)],
            stateful=stateful,
            open_log=lambda: open_existing_log(plan.log, pipeline=plan.pipeline),
            open_source=lambda name: open_instance(plan, name),
        )
        conductor = Conductor(
            plan=plan, log=log, crew=crew, until=until, observer=observer, stop=stop or Event(), runner="local"
        )
        return conductor.run()
    finally:
        stateful.close()
        flow.close()
        log.close()
