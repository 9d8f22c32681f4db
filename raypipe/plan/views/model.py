"""What a stateful step is kept up by: a graph of a few kinds of operator, each with its own SQL fragment. Picklable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from raypipe.contracts import WEIGHT, TraceSchema
from raypipe.model import TableSchema

__all__ = [
    "WEIGHT",
    "Algebraic",
    "Bilinear",
    "Clock",
    "Keyed",
    "KeyedInput",
    "Linear",
    "Operator",
    "Relation",
    "Scan",
    "Union",
    "ViewPlan",
]


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Rows between two operators.

    Attributes:
        name: Unique within the view.
        columns: Names and Arrow types, without ``WEIGHT``.
        types: DuckDB's names of the types, in the same order.
        unique: Sets of columns of which no two rows have the same values; an empty set says that there is one row.
    """

    name: str
    columns: pa.Schema
    types: tuple[str, ...]
    unique: tuple[frozenset[str], ...] = ()

    def type_of(self, column: str) -> str:
        """DuckDB's type of a column."""
        return self.types[list(self.columns.names).index(column)]


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Changes of one of the view's inputs.

    Attributes:
        out: Its columns that the view needs.
        relation: As users write it.
    """

    out: Relation
    relation: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the relations it reads."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Clock:
    """One row with the time of the cut, which is what now() means in a step.

    Attributes:
        out: Its one column, a TIMESTAMPTZ.
    """

    out: Relation

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the relations it reads."""
        return ()

    @property
    def traces(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What it must remember, as (relation, key)."""
        return ((self.out.name, ()),)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Each row by itself: projection, filter, unnest. No state; costs the changes.

    Attributes:
        out: What it makes.
        input: Relation it reads.
        sql: Over ``leaf_names(out, 1)``, ``WEIGHT`` carried through as the last column; empty if ``renames`` says all.
        renames: Columns of the input that become the columns of ``out`` as they are.
    """

    out: Relation
    input: str
    sql: str
    renames: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the relations it reads."""
        return (self.input,)


@dataclass(frozen=True, kw_only=True)
class Union:
    """UNION ALL: the changes of all inputs. No state.

    Attributes:
        out: What it makes; its columns are those of the inputs by place.
        inputs: Relations it reads.
    """

    out: Relation
    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Bilinear:
    """An inner join: d(A join B) = dA join B + (A + dA) join dB. A trace for each side; costs changes x matches.

    Attributes:
        out: What it makes.
        left: Relation.
        right: Relation.
        left_key: Columns of the left that equal ``right_key``; both empty for a join without equality.
        right_key: Columns of the right.
        sql: Over ``leaf_names(out, 2)``, the last column the product of both weights.
        between: The right is one bound that moves (the time, a watermark), and the keys are slices of time: only rows
            of the left whose slice lies between the bound before and after can come or go because of it.
    """

    out: Relation
    left: str
    right: str
    left_key: tuple[str, ...]
    right_key: tuple[str, ...]
    sql: str
    between: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the relations it reads."""
        return (self.left, self.right)

    @property
    def traces(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What it must remember, as (relation, key)."""
        return ((self.left, self.left_key), (self.right, () if self.between else self.right_key))


@dataclass(frozen=True, kw_only=True)
class KeyedInput:
    """What a keyed operator reads.

    Attributes:
        relation: Name.
        key: Columns that hold the operator's key; None if every key needs all of its rows.
    """

    relation: str
    key: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Keyed:
    """Anything whose result for a key depends on nothing but the rows that have the key.

    The fragment runs over all rows of the affected keys; what it made for them before is remembered, not computed
    again: so what comes out always fits what came out earlier, whatever the last bits of floating point sums are.

    Attributes:
        out: What it makes.
        reads: Its inputs.
        key: Columns of ``out`` that hold the key; empty if the key is constant (no input has one): one group of all.
        sql: Over ``leaf_names(out, …)``, whose rows stand there as often as they count, without ``WEIGHT``.
        what: In a word, for people: ``group``, ``window``, ``left join`` …
        most_rows: That its inputs may have together; None if the pipeline's limit holds.
    """

    out: Relation
    reads: tuple[KeyedInput, ...]
    key: tuple[str, ...]
    sql: str
    what: str
    most_rows: int | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the relations it reads."""
        return tuple(read.relation for read in self.reads)

    @property
    def constant(self) -> bool:
        """Whether any change affects everything."""
        return all(read.key is None for read in self.reads)

    @property
    def traces(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What it must remember, as (relation, key)."""
        return (*((read.relation, read.key or ()) for read in self.reads), (self.out.name, self.key))


@dataclass(frozen=True, kw_only=True)
class Algebraic:
    """Groups that changes are added to: counts, sums, means, and extremes as long as no group loses its own.

    Attributes:
        out: What it makes: the key, then the aggregates.
        input: Relation it reads.
        key: Columns of the input; empty for one group of all, which is always there.
        sums: What is remembered of each group, by ``k0`` …; see ``plan.views.sums``.
        sql: Over the first two of ``leaf_names(out, 3)``: changes, and remembered groups.
        again: Over all three, the last being all rows of groups that lost an extreme; empty without extremes.
        first: Over the first of them: all rows, each once, when nothing is remembered.
        whole: Over the second of them: what the groups are.
        extremes: Whether it must find the rows of a group.
    """

    out: Relation
    input: str
    key: tuple[str, ...]
    sums: Relation
    sql: str
    again: str
    first: str
    whole: str
    extremes: bool

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the relations it reads."""
        return (self.input,)

    @property
    def sums_key(self) -> tuple[str, ...]:
        """Columns of ``sums`` that hold the key."""
        return tuple(f"k{place}" for place in range(len(self.key)))

    @property
    def traces(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What it must remember, as (relation, key)."""
        rows = ((self.input, self.key),) if self.extremes else ()
        return (*rows, (self.sums.name, self.sums_key))


Operator = Scan | Clock | Linear | Union | Bilinear | Keyed | Algebraic


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """A SQL step that needs other rows than the one that changed.

    Attributes:
        name: Of the step, and of its relation.
        sql: As the user wrote it.
        oracle: SQL to compare with: the user's, unless it leaves the order of equal rows open, which is then settled.
        inputs: Relations it reads, as users write them.
        operators: In an order in which inputs come first; the last makes the step's columns.
        schema: Of the relation it makes, key included.
        reason: Why it runs the way it does, one sentence for ``raypipe plan``.
        view: Fingerprint; see ``StepPlan``.
        identities: What each relation is made of, by its name: equal ones of several steps are one; see
            ``plan.views.identities``.
        notes: What raypipe settled that the SQL leaves open.
    """

    name: str
    sql: str
    oracle: str
    inputs: tuple[str, ...]
    operators: tuple[Operator, ...]
    schema: TableSchema
    reason: str
    view: str
    identities: Mapping[str, str] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def has_clock(self) -> bool:
        """Whether it changes with the time alone."""
        return any(isinstance(operator, Clock) for operator in self.operators)

    @property
    def traces(self) -> tuple[TraceSchema, ...]:
        """Everything it must remember; what two operators need alike is there once."""
        return tuple({trace.name: trace for trace in self.traces_by_relation.values()}.values())

    @property
    def traces_by_relation(self) -> dict[tuple[str, tuple[str, ...]], TraceSchema]:
        """The traces by (relation, key); equal relations have one."""
        relations = {operator.out.name: operator.out for operator in self.operators}
        relations |= {each.sums.name: each.sums for each in self.operators if isinstance(each, Algebraic)}
        wanted = dict.fromkeys(each for operator in self.operators for each in traces_of(operator))
        return {
            (relation, key): TraceSchema(
                name=self.trace_name(relation, key), columns=relations[relation].columns, key=key
            )
            for relation, key in wanted
        }

    def trace_name(self, relation: str, key: Sequence[str]) -> str:
        """Name of the trace of a relation by a key: the same in every step that means the same by it."""
        return f"operator/{self.identities[relation]}/{','.join(key)}"


def traces_of(operator: Operator) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What an operator must remember, as (relation, key)."""
    return operator.traces if isinstance(operator, Keyed | Bilinear | Clock | Algebraic) else ()


def leaf_names(out: str, leaves: int) -> tuple[str, ...]:
    """By which names an operator's fragment reads its inputs."""
    return tuple(f"{out}_{leaf}" for leaf in range(leaves))
