"""A run's status as Ray metrics: the dashboard and any Prometheus that scrapes Ray see them as ``ray_raypipe_…``."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from raypipe.engine.status import Status


class RunMetrics:
    """Publishes one run; Ray exports what is set here from the process it is set in.

    Args:
        pipeline: Value of the tag of that name on every metric.
    """

    def __init__(self, pipeline: str) -> None:
        self._tags = {"pipeline": pipeline}
        self._epochs = Counter("raypipe_epochs", "Epochs committed.", tag_keys=("pipeline", "executor"))
        self._rows = Counter("raypipe_rows", "Row images carried into sinks.", tag_keys=("pipeline",))
        self._stage = Counter("raypipe_stage_seconds", "Seconds spent by stage.", tag_keys=("pipeline", "stage"))
        self._lag_rows = Gauge("raypipe_sink_lag_rows", "Row images not yet committed.", tag_keys=("pipeline", "sink"))
        self._lag_s = Gauge(
            "raypipe_sink_lag_seconds", "Age of the oldest cut not held.", tag_keys=("pipeline", "sink")
        )
        self._cut = Gauge("raypipe_sink_cut", "Number of the cut a sink holds.", tag_keys=("pipeline", "sink"))
        self._pending = Gauge(
            "raypipe_source_pending", "Changes waiting in the source.", tag_keys=("pipeline", "instance")
        )
        self._parked = Gauge("raypipe_parked_rows", "Rows put into quarantine.", tag_keys=("pipeline", "instance"))
        self._told = Status(pipeline=pipeline)

    def publish(self, status: Status) -> None:
        """Sets the gauges, and adds to the counters what came since the last call."""
        told, self._told = self._told, status
        for executor, count in status.executors.items():
            self._add(self._epochs, count - told.executors.get(executor, 0), executor=executor)
        for stage, seconds in status.stage_s.items():
            self._add(self._stage, seconds - told.stage_s.get(stage, 0.0), stage=stage)
        self._add(self._rows, status.rows - told.rows)
        for sink in status.sinks:
            tags = self._tags | {"sink": sink.name}
            self._lag_rows.set(sink.lag_rows, tags=tags)
            self._lag_s.set(sink.lag_s, tags=tags)
            self._cut.set(sink.cut or 0, tags=tags)
        for instance in status.instances:
            tags = self._tags | {"instance": instance.name}
            self._parked.set(instance.parked, tags=tags)
            if instance.pending is not None:
                self._pending.set(instance.pending, tags=tags)

    def _add(self, counter: Counter, amount: float, **tags: str) -> None:
        if amount > 0:  # Ray refuses to add nothing
            counter.inc(amount, tags=self._tags | tags)
