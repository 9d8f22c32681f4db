"""From a pipeline file to its plan: looks at the sources, compiles the steps, fits the sinks; all problems at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pyarrow as pa

from raypipe.contracts import Source
from raypipe.errors import Kind, RaypipeError, SchemaMismatch, Unavailable
from raypipe.model import Mode, SinkTable, TableSchema
from raypipe.plan import compile_step, order_steps
from raypipe.plan.model import InstancePlan, Plan, SinkPlan, StepPlan
from raypipe.plan.views import ViewPlan
from raypipe.sinks.types import check_key, check_names, stored_schema
from raypipe.sources import open_source
from raypipe.spec import Pipeline, PipelineFileError, Problem, Url, resolve_folder, resolve_place, resolve_url
from raypipe.spec.document import Sink
from raypipe.spec.document import SinkTable as SinkTableSpec
from raypipe.spec.problems import DocumentPath, listed, nearest
from raypipe.state import Remote

# What a person mends in the file or in the database it names; everything else ends the planning at once.
_MENDED_IN_THE_FILE = frozenset({Kind.PIPELINE_FILE, Kind.SQL, Kind.SCHEMA, Kind.LIMIT})


def assemble(pipeline: Pipeline) -> Plan:
    """The plan of a pipeline. Reads the sources' schemas and the secrets; changes nothing anywhere.

    Raises:
        PipelineFileError: with every problem of sources, steps and sinks, each with its line in the file.
        Unavailable: a source does not answer, and nothing else is wrong.
    """
    return _Assembly(pipeline).plan()


def view_of_table(relation: str) -> str:
    """Fingerprint of a source table's own view, which is all of its rows whatever its columns are."""
    return hashlib.sha256(f"table {relation}".encode()).hexdigest()[:32]


class _Assembly:
    """One pass from top to bottom of the file, which goes on after a problem as far as that makes sense."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._problems: list[Problem] = []
        self._unavailable: list[tuple[DocumentPath, Unavailable]] = []
        self._schemas: dict[str, TableSchema] = {}
        self._views: dict[str, str] = {}
        # Relations that something is wrong with: what reads them is not reported as well.
        self._broken: set[str] = set()

    def plan(self) -> Plan:
        pipeline = self._pipeline
        log = self._resolved(("log",), pipeline.log)
        instances = tuple(self._instances())
        steps = tuple(self._steps())
        sinks = tuple(self._sinks())
        state, checkpoints = self._state(), self._checkpoints()
        if self._problems:
            away = [self._problem(path, error) for path, error in self._unavailable]
            raise PipelineFileError([*self._problems, *away])
        if self._unavailable:
            raise self._unavailable[0][1]
        limits = {name: float(value) for name, value in pipeline.limits.model_dump().items()}
        return Plan(
            pipeline=pipeline.pipeline,
            log=log,
            instances=instances,
            steps=steps,
            sinks=sinks,
            limits=limits,
            state=state,
            checkpoints=checkpoints,
        )

    def _instances(self) -> Iterator[InstancePlan]:
        for name, source in self._pipeline.sources.items():
            relations = [source.url.relation(name, table) for table in source.tables]
            self._broken.update(relations)
            url = self._resolved(("sources", name, "url"), source.url)
            if not url:
                continue
            schemas = self._tables(name, url, source.tables)
            for schema in schemas:
                relation = str(schema.table)
                self._broken.discard(relation)
                self._schemas[relation] = schema
                self._views[relation] = view_of_table(relation)
            yield InstancePlan(name=name, url=url, chosen=source.tables, tables=schemas)

    def _tables(self, name: str, url: str, tables: tuple[str, ...]) -> tuple[TableSchema, ...]:
        try:
            with closing(self._source(name, url, tables)) as source:
                return source.tables()
        except SchemaMismatch:
            # Asked one by one, so that every missing table is told with its own line.
            found: list[TableSchema] = []
            for index, table in enumerate(tables):
                with self._told(("sources", name, "tables", index)), closing(self._source(name, url, (table,))) as one:
                    found += one.tables()
            return tuple(found)
        except Unavailable as error:
            self._unavailable.append((("sources", name, "url"), error))
        except RaypipeError as error:
            self._tell(("sources", name), error)
        return ()

    def _source(self, name: str, url: str, tables: tuple[str, ...]) -> Source:
        return open_source(name, url, tables, pipeline=self._pipeline.pipeline)

    def _steps(self) -> Iterator[StepPlan | ViewPlan]:
        for name in self._order():
            inputs = {relation: schema for relation, schema in self._schemas.items() if relation not in self._broken}
            try:
                spec = self._pipeline.steps[name]
                step = compile_step(name, spec.sql, inputs, self._views, recompute_rows=spec.recompute_rows)
            except RaypipeError as error:
                # Ordering has found every name a step reads, so one that is missing here is broken and told already.
                if not (self._broken and isinstance(error, SchemaMismatch)):
                    self._tell_sql(name, error)
                self._broken.add(name)
            else:
                self._schemas[name] = step.schema
                self._views[name] = step.view
                yield step

    def _order(self) -> tuple[str, ...]:
        steps = {name: step.sql for name, step in self._pipeline.steps.items()}
        while True:
            try:
                return order_steps(steps, [*self._schemas, *self._broken])
            except RaypipeError as error:
                name = str(error.fields.get("step", ""))
                if name not in steps:
                    raise
                self._tell_sql(name, error)
                self._broken.add(name)
                del steps[name]

    def _sinks(self) -> Iterator[SinkPlan]:
        for name, sink in self._pipeline.sinks.items():
            urls = self._sink_urls(name, sink)
            tables = tuple(
                table
                for table_name, spec in sink.tables.items()
                if (table := self._sink_table(name, table_name, spec)) is not None
            )
            options: dict[str, object] = {"urls": urls} if sink.urls else {}
            yield SinkPlan(name=name, url=urls[0], tables=tables, options=options)

    def _sink_urls(self, name: str, sink: Sink) -> tuple[str, ...]:
        if sink.url is not None:
            return (self._resolved(("sinks", name, "url"), sink.url),)
        return tuple(self._resolved(("sinks", name, "urls", number), url) for number, url in enumerate(sink.urls))

    def _sink_table(self, sink: str, name: str, spec: SinkTableSpec) -> SinkTable | None:
        if spec.from_ in self._broken or spec.from_ not in self._schemas:
            return None
        schema = self._schemas[spec.from_]
        path: DocumentPath = ("sinks", sink, "tables", name)
        self._check_columns((*path, "partition_by"), spec.partition_by, schema)
        self._check_columns((*path, "key"), spec.key, schema)
        self._check_partitions((*path, "partition_by"), spec.partition_by, schema)
        with self._told((*path, "from")):
            stored_schema(schema.arrow(), name, sink)
            check_names(schema, name, sink)
        keyed = self._keyed((*path, "key"), spec, schema)
        with self._told((*path, "key") if spec.key else (*path, "from")):
            check_key(keyed, name, sink)
        return SinkTable(
            name=name,
            relation=spec.from_,
            schema=keyed,
            mode=Mode(spec.mode),
            partition_by=spec.partition_by,
            view=self._views[spec.from_],
        )

    def _check_columns(self, path: DocumentPath, columns: tuple[str, ...], schema: TableSchema) -> None:
        for index, column in enumerate(columns):
            if column not in schema.names:
                self._problems.append(
                    Problem(
                        sentence=f"{schema.table} has no column {column}; it has: {listed(schema.names)}.",
                        path=(*path, index),
                        location=self._pipeline.location_of(*path, index),
                        did_you_mean=nearest(column, schema.names),
                    )
                )

    def _check_partitions(self, path: DocumentPath, columns: tuple[str, ...], schema: TableSchema) -> None:
        """Two floating point numbers that should be equal may not be, and their rows would lie in two places."""
        floats = {column.name for column in schema.columns if pa.types.is_floating(column.type)}
        self._problems += [
            Problem(
                sentence=f"{schema.table} cannot be partitioned by {column}, which is a floating point number; "
                "make a column of it in a step, rounded to an integer or a DECIMAL, and take that.",
                path=(*path, index),
                location=self._pipeline.location_of(*path, index),
            )
            for index, column in enumerate(columns)
            if column in floats
        ]

    def _keyed(self, path: DocumentPath, spec: SinkTableSpec, schema: TableSchema) -> TableSchema:
        if not spec.key or set(spec.key) == set(schema.key):
            return replace(schema, key=spec.key or schema.key)
        if schema.key:
            # A delete may carry the key columns alone, so a row cannot be found by others.
            self._problems.append(
                Problem(
                    sentence=f"{schema.table} has the key {', '.join(schema.key)}; "
                    "another can be given only where there is none.",
                    path=path,
                    location=self._pipeline.location_of(*path),
                )
            )
        return replace(schema, key=spec.key)

    def _state(self) -> str:
        """The folder of the state; empty after a problem."""
        pipeline = self._pipeline
        try:
            return str(resolve_folder(pipeline.state or f"{pipeline.pipeline}.state", pipeline.folder))
        except RaypipeError as error:
            self._tell(("state",), error)
            return ""

    def _checkpoints(self) -> str:
        """Where this pipeline's checkpoints go; empty for nowhere, or after a problem."""
        pipeline = self._pipeline
        if not pipeline.checkpoints:
            return ""
        try:
            place = f"{resolve_place(pipeline.checkpoints, pipeline.folder).rstrip('/')}/{pipeline.pipeline}"
            Remote(place)  # complains of an address that no driver is for
        except RaypipeError as error:
            self._tell(("checkpoints",), error)
            return ""
        return place

    def _resolved(self, path: DocumentPath, url: Url) -> str:
        """The URL to connect with; empty after a problem."""
        try:
            return resolve_url(url, self._pipeline.folder)
        except RaypipeError as error:
            self._tell(path, error)
            return ""

    @contextmanager
    def _told(self, path: DocumentPath) -> Iterator[None]:
        """Turns an error of the block into a problem at a path."""
        try:
            yield
        except RaypipeError as error:
            self._tell(path, error)

    def _tell(self, path: DocumentPath, error: RaypipeError) -> None:
        if error.kind not in _MENDED_IN_THE_FILE:
            raise error
        self._problems.append(self._problem(path, error))

    def _problem(self, path: DocumentPath, error: RaypipeError) -> Problem:
        return Problem(sentence=str(error), path=path, location=self._pipeline.location_of(*path))

    def _tell_sql(self, step: str, error: RaypipeError) -> None:
        if error.kind not in _MENDED_IN_THE_FILE:
            raise error
        line, column = error.fields.get("line"), error.fields.get("column")
        excerpt = str(error.fields.get("excerpt") or "")
        self._problems.append(
            Problem(
                # The message ends with the excerpt, which is shown below the sentence here.
                sentence=f"{error.message.removesuffix(excerpt).rstrip()} {error.remedy}".rstrip(),
                path=("steps", step, "sql"),
                location=self._pipeline.location_in_sql(
                    step, line if isinstance(line, int) else 1, column if isinstance(column, int) else 1
                ),
                excerpt=excerpt,
            )
        )
