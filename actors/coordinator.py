"""The coordinator actor: conducts a run with a crew of actors, and answers the driver meanwhile."""

from __future__ import annotations

import threading

import ray

from actors.crew import RayCrew
from actors.metrics import RunMetrics
from raypipe.engine.status import Status
from raypipe.local.conductor import Conductor, Until
from raypipe.log import open_log
from raypipe.plan.model import Plan


@ray.remote(num_cpus=0, max_restarts=0, max_concurrency=4)
class CoordinatorActor:
    """One run. Its actors die with it; the driver starts another, which fences whatever is left.

    Args:
        plan: What to run.
        token: Part of the actors' names.
        node: Where the run was started.
    """

    def __init__(self, plan: Plan, token: str, node: str) -> None:
        self._plan = plan
        self._token = token
        self._node = node
        self._status = Status(pipeline=plan.pipeline, runner="ray")
        self._stop = threading.Event()
        self._metrics = RunMetrics(plan.pipeline)

    def run(self, until: Until) -> Status:
        """Runs to the end; see ``Conductor.run``."""
        log = open_log(self._plan.log, pipeline=self._plan.pipeline)
        try:
            crew = RayCrew(plan=self._plan, log=log, token=self._token, node=self._node)
            conductor = Conductor(
                plan=self._plan,
                log=log,
                crew=crew,
                until=until,
                observer=self._observe,
                stop=self._stop,
                runner="ray",
            )
            return conductor.run()
        finally:
            log.close()

    def status(self) -> Status:
        """The newest status."""
        return self._status

    def stop(self) -> None:
        """Ends the run cleanly."""
        self._stop.set()

    def _observe(self, status: Status) -> None:
        self._status = status
        self._metrics.publish(status)
