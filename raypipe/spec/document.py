"""The pipeline file as models: the same classes whether it is read from YAML or built in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from raypipe.spec.limits import Limits
from raypipe.spec.names import DatabaseName, Name, SourceName
from raypipe.spec.origin import Origin
from raypipe.spec.problems import Location, Problem, Severity
from raypipe.spec.relations import check_relations
from raypipe.spec.url import Url, check_references

# A list becomes a tuple here; strictness would allow only tuples.
DatabaseNames = Annotated[tuple[DatabaseName, ...], Field(strict=False)]


class _Section(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        # A validation error must not print the value: it may be a URL with a password.
        hide_input_in_errors=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class Source(_Section):
    """A database that changes are read from."""

    url: Url = Field(
        description="Where the database is: `sqlite:///shop.db` or `postgresql://user:${env:PASSWORD}@host:5432/shop`."
    )
    tables: Annotated[DatabaseNames, Field(min_length=1)] = Field(
        description="Tables to capture, as the database calls them; in PostgreSQL `schema.table`, or the table alone "
        "if its schema is `public`. In SQL and in `from` they are `<source>.<table>`."
    )


class Step(_Section):
    """A view: at every cut its relation holds what its SQL would return over the source tables at that cut."""

    sql: Annotated[str, Field(min_length=1)] = Field(
        description="One SELECT (or SELECTs joined by UNION ALL) in DuckDB's SQL over `<source>.<table>` and other "
        "steps. Write it as a `|` block, so that errors name the right line."
    )
    recompute_rows: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Computes the step whole, from all rows of its inputs, whenever one of them changes: for SQL that "
        "cannot be kept up to date otherwise (`WITH RECURSIVE`, `UNPIVOT`, `now()` anywhere). The pipeline stops when "
        "its inputs have more rows than this.",
    )


class SinkTable(_Section):
    """A table that raypipe makes and keeps in a sink."""

    from_: str = Field(
        validation_alias="from",
        serialization_alias="from",
        description="The step (`paid_orders`) or source table (`shop.orders`) that feeds it.",
    )
    mode: Literal["current", "history"] = Field(
        default="current",
        description="`current` holds the relation as it stands at the cut; `history` holds every change as one row.",
    )
    partition_by: DatabaseNames = Field(
        default=(),
        description="Columns that a lake table's files are partitioned by.",
    )
    key: DatabaseNames = Field(
        default=(),
        description="Columns that identify a row, for a relation whose key raypipe cannot know (such as a source "
        "table without a primary key). Your word is taken for it: of two rows with one key the sink holds the later.",
    )


class Sink(_Section):
    """A store that is kept equal to the relations that feed it."""

    url: Url | None = Field(
        default=None,
        description="Where the store is: `delta:///folder`, `duckdb:///file.duckdb`, `sqlite:///file.db`.",
    )
    urls: Annotated[tuple[Url, ...], Field(strict=False)] = Field(
        default=(),
        description="Instead of `url`: several SQL databases, over which rows are spread by a hash of their key. The "
        "place in the list is the number of the shard, so do not reorder it.",
    )
    tables: Annotated[dict[Name, SinkTable], Field(min_length=1)] = Field(
        description="Tables to make and keep there, by name.",
    )

    @property
    def locations(self) -> tuple[Url, ...]:
        """Its URL, or the URLs of its shards in order."""
        return self.urls or ((self.url,) if self.url else ())


class Pipeline(_Section):
    """What a pipeline file says: sources, steps that are views over them, and sinks that hold the results.

    Built in Python, relative paths start from the working directory of that moment, and a mistake is pydantic's
    ``ValidationError``; read with ``raypipe.spec.load``, from the file's folder, and it is a ``PipelineFileError``.
    """

    pipeline: Name = Field(description="Its name; also the prefix of its topics and of its actors.")
    log: Url = Field(
        description="Where the log between readers and sinks is kept: `sqlite:///var/log.db`, or "
        "`kafka://host:9092` (`kafka+sasl_ssl://user:${env:PASSWORD}@host:9092`)."
    )
    state: Annotated[str, AfterValidator(check_references)] = Field(
        default="",
        description="Folder for what stateful steps (joins, aggregates, windows …) remember, on a local disk; relative "
        "to the file, and with `${env:NAME}` like a URL. Without, `NAME.state` beside the file. It may be removed: "
        "everything is then loaded again, or restored from a checkpoint.",
    )
    checkpoints: Annotated[str, AfterValidator(check_references)] = Field(
        default="",
        description="Where checkpoints of that state go: a folder that another machine can read too, or the URL of an "
        "object store (`s3://bucket/raypipe`; needs the extra `checkpoints` and fsspec's driver of that store). State "
        "that is lost is then restored and carried on by the log; without, everything is loaded again. Pipelines may "
        "share one.",
    )
    sources: Annotated[dict[SourceName, Source], Field(min_length=1)] = Field(
        description="Databases to read from, by the name they have in SQL.",
    )
    steps: dict[Name, Step] = Field(default_factory=dict, description="Views, by name; the order does not matter.")
    sinks: Annotated[dict[Name, Sink], Field(min_length=1)] = Field(description="Stores to keep, by name.")
    limits: Limits = Field(default_factory=Limits, description="Bounds of memory, disk and time.")

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @model_validator(mode="after")
    def _relations_hold(self) -> Self:
        errors = [p for p in check_relations(self.to_document(), self._origin) if p.severity is Severity.ERROR]
        if errors:
            raise PydanticCustomError("relations", "{text}", {"text": "; ".join(str(error) for error in errors)})
        return self

    def to_document(self) -> dict[str, object]:
        """As a pipeline file would say it, defaults left out; URLs as ``Url`` values."""
        return self.model_dump(exclude_defaults=True)

    @property
    def folder(self) -> Path:
        """Where relative paths start from."""
        return self._origin.folder

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is allowed and yet looks like a mistake."""
        return tuple(p for p in check_relations(self.to_document(), self._origin) if p.severity is Severity.WARNING)

    def with_origin(self, origin: Origin) -> Self:
        """The same pipeline, knowing where it came from."""
        copy = self.model_copy()
        copy._origin = origin
        return copy

    def location_of(self, *path: str | int) -> Location | None:
        """Where a value stands, as in ``location_of("steps", "paid_orders", "sql")``; None if there is no file."""
        return self._origin.value(path)

    def location_in_sql(self, step: str, line: int, column: int = 1) -> Location | None:
        """Where a line and column (from 1) of a step's SQL stand in the file; None if there is no file."""
        return self._origin.text(("steps", step, "sql"), line, column)
