"""The plan: what a pipeline file means once its sources were looked at. Picklable; actors are built from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from raypipe.model import SinkTable, TableSchema
from raypipe.plan.views.model import ViewPlan

CLOCK_S = 60.0


@dataclass(frozen=True, kw_only=True)
class InstancePlan:
    """A source and the tables captured from it.

    Attributes:
        name: From the pipeline file.
        url: With secrets resolved; never printed.
        chosen: Tables as the pipeline file names them, which is how a source is asked for them.
        tables: Their schemas when the plan was made.
    """

    name: str
    url: str = field(repr=False)
    chosen: tuple[str, ...]
    tables: tuple[TableSchema, ...]


@dataclass(frozen=True, kw_only=True)
class BranchPlan:
    """One SELECT of a row-wise step: what it reads and the SQL that runs over a batch of changes.

    Attributes:
        index: Of the UNION ALL branch, from 0; of the first of them if the relation has branches itself.
        relation: It reads, as users write it (``shop.orders`` or a step's name).
        sql: DuckDB SQL over a relation named ``changes``: ``_raypipe_row`` and ``columns``. Its first column is
            ``_raypipe_row``, carried through; then the step's columns by position, under any names.
        columns: Columns of the relation that the SQL needs.
        key: Columns of the relation that become the step's key, in the order of that key; empty for a multiset.
    """

    index: int
    relation: str
    sql: str
    columns: tuple[str, ...]
    key: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """A SQL step that runs row by row.

    Attributes:
        name: Of the step, and of its relation.
        sql: As the user wrote it, the oracle's SQL.
        branches: In the order of the UNION ALL.
        schema: Of the relation it makes, key included.
        reason: Why it runs the way it does, one sentence for ``raypipe plan``.
        view: Fingerprint of the SQL, its inputs' views included; changes when the relation's meaning does.
    """

    name: str
    sql: str
    branches: tuple[BranchPlan, ...]
    schema: TableSchema
    reason: str
    view: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Relations it reads, as users write them."""
        return tuple(dict.fromkeys(branch.relation for branch in self.branches))


@dataclass(frozen=True, kw_only=True)
class SinkPlan:
    """A sink as the user named it; its adapter makes one or more units of commit from it.

    Attributes:
        name: From the pipeline file.
        url: With secrets resolved; never printed.
        tables: In the file's order.
        options: What the file says besides: ``shards`` and the like.
    """

    name: str
    url: str = field(repr=False)  # secrets are filled in, in options too
    tables: tuple[SinkTable, ...]
    options: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a runner needs.

    Attributes:
        pipeline: Its name; prefix of its topics.
        log: URL of the log.
        instances: Sources, in the file's order.
        steps: In an order in which inputs come first.
        sinks: In the file's order.
        limits: Bounds in force (see ``raypipe.spec``): ``epoch_bytes``, ``log_bytes`` …
        state: Folder of what stateful steps remember.
        checkpoints: URL under which checkpoints of it go; empty for none.
    """

    pipeline: str
    log: str = field(repr=False)  # secrets are filled in
    instances: tuple[InstancePlan, ...]
    steps: tuple[StepPlan | ViewPlan, ...]
    sinks: tuple[SinkPlan, ...]
    limits: Mapping[str, float] = field(default_factory=dict)
    state: str = ""
    checkpoints: str = field(default="", repr=False)

    @property
    def state_shards(self) -> int:
        """In how many the state is."""
        return int(self.limits.get("state_shards", 1))

    def in_shards(self, shards: int) -> Plan:
        """The same, with another number of shards of the state."""
        return replace(self, limits={**self.limits, "state_shards": shards})

    @property
    def epoch_bytes(self) -> int:
        """How much of the log an epoch takes, about."""
        return int(self.limits.get("epoch_bytes", 64 << 20))

    @property
    def clock_s(self) -> float | None:
        """How long the time may stand still while nothing happens in the sources; None if no step asks for it."""
        asks = any(isinstance(step, ViewPlan) and step.has_clock for step in self.steps)
        return self.limits.get("clock_seconds", CLOCK_S) if asks else None

    def topic(self, relation: str) -> str | None:
        """Topic of a source table named as users write it; None for a step."""
        for instance in self.instances:
            for schema in instance.tables:
                if str(schema.table) == relation:
                    return schema.table.topic(self.pipeline)
        return None

    def topics_of(self, relation: str) -> tuple[str, ...]:
        """Topics that feed a relation, through any steps between."""
        topic = self.topic(relation)
        if topic is not None:
            return (topic,)
        step = next(step for step in self.steps if step.name == relation)
        found: dict[str, None] = {}
        for below in step.inputs:
            found.update(dict.fromkeys(self.topics_of(below)))
        return tuple(found)
