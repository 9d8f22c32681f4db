"""The rules of ``contracts/sink.py``, each a function that fails an assertion if a sink breaks it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from sinks import SinkMaker

from raypipe import faults
from raypipe.contracts import Sink
from raypipe.errors import Fenced, OutcomeUnknown, SchemaMismatch, Unavailable
from raypipe.model import (
    BRANCH,
    COMMIT,
    OP,
    ChangeBatch,
    Column,
    Cut,
    Epoch,
    Image,
    Mode,
    Op,
    SinkTable,
    TableName,
    TableSchema,
)

READ, INSERT, BEFORE, AFTER, DELETE, TRUNCATE = (
    Op.READ,
    Op.INSERT,
    Op.UPDATE_BEFORE,
    Op.UPDATE_AFTER,
    Op.DELETE,
    Op.TRUNCATE,
)

KEYED = TableSchema(
    table=TableName("", "", "r"),
    columns=(Column(name="id", type=pa.int64()), Column(name="v", type=pa.string())),
    key=("id",),
)
MULTISET = replace(KEYED, key=())
BRANCHED = replace(KEYED, branches=2)
NESTED = TableSchema(
    table=TableName("", "", "r"),
    columns=(
        Column(name="id", type=pa.int64()),
        Column(name="v", type=pa.list_(pa.list_(pa.decimal128(10, 2)))),
        Column(name="s", type=pa.struct([("a", pa.list_(pa.list_(pa.string()))), ("b", pa.float64())])),
    ),
    key=("id",),
)
NESTED_FLOATS = replace(KEYED, columns=(KEYED.columns[0], Column(name="v", type=pa.list_(pa.list_(pa.float64())))))
BRANCHED_MULTISET = replace(KEYED, key=(), branches=2)


def table(schema: TableSchema = KEYED, *, mode: Mode = Mode.CURRENT, view: str = "v1", name: str = "t") -> SinkTable:
    return SinkTable(name=name, relation="r", schema=schema, mode=mode, view=view)


def changes(schema: TableSchema, *rows: tuple[object, ...]) -> ChangeBatch:
    """(op, values…), or (op, branch, values…) for a relation with branches; a TRUNCATE needs no values."""
    width = len(schema.columns) + (schema.branches > 1)
    full = [(op, *values, *[None] * (width - len(values))) for op, *values in rows]
    ordinals, at = [], 0
    for op, *_ in rows:
        at += op != Op.UPDATE_AFTER
        ordinals.append(at)
    shape = ChangeBatch.arrow_schema(schema)
    system = [[int(row[0]) for row in full], [int(Image.FULL)] * len(full), [1] * len(full), ordinals, [0] * len(full)]
    values = [[row[place] for row in full] for place in range(1, width + 1)]
    arrays = [pa.array(column, field.type) for column, field in zip(system + values, shape, strict=True)]
    return ChangeBatch(schema=schema, rows=pa.RecordBatch.from_arrays(arrays, schema=shape))


class Run:
    """One run of a pipeline with the one sink, whose units it drives together."""

    def __init__(self, maker: SinkMaker, folder: Path, *tables: SinkTable) -> None:
        self.units = maker.make(folder, tables)
        self.generation = 0
        self.cuts: dict[str, Cut | None] = {}

    def open(self, generation: int = 1) -> Run:
        self.generation = generation
        self.cuts = {unit.name: unit.open(generation).cut for unit in self.units}
        return self

    def begin(self, number: int) -> None:
        for unit in self.units:
            unit.begin(Epoch(after=self.cuts[unit.name], upto=cut(number), generation=self.generation))

    def write(self, batch: ChangeBatch, name: str = "t") -> None:
        for unit in self.of(name):
            unit.write(name, batch)

    def commit(self) -> None:
        for unit in self.units:
            self.cuts[unit.name] = unit.commit().cut

    def epoch(self, number: int, *batches: ChangeBatch, name: str = "t") -> None:
        self.begin(number)
        for batch in batches:
            self.write(batch, name)
        self.commit()

    def of(self, name: str) -> list[Sink]:
        return [unit for unit in self.units if name in {table.name for table in unit.tables}]

    def batches(self, name: str = "t") -> list[pa.RecordBatch]:
        found = []
        for unit in self.of(name):
            with unit.contents() as contents:
                found += list(contents.rows(name))
        return found

    def rows(self, name: str = "t") -> list[tuple[object, ...]]:
        """Rows as tuples, in an order that does not depend on the store."""
        return sorted((tuple(row.values()) for batch in self.batches(name) for row in batch.to_pylist()), key=repr)

    def held(self) -> set[int | None]:
        numbers = set()
        for unit in self.units:
            with unit.contents() as contents:
                numbers.add(contents.committed.cut.number if contents.committed.cut is not None else None)
        return numbers

    def awaiting(self, name: str = "t") -> set[frozenset[int]]:
        found = set()
        for unit in self.of(name):
            with unit.contents() as contents:
                found.add(contents.committed.tables[name].awaiting)
        return found

    def abort(self) -> None:
        for unit in self.units:
            unit.abort()

    def rest(self) -> None:
        for unit in self.units:
            unit.rest()

    def close(self) -> None:
        for unit in self.units:
            unit.close()


class Stage:
    """Where a rule plays: one store, any number of runs over it, and the dice for what is left to chance."""

    def __init__(self, maker: SinkMaker, folder: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self._maker = maker
        self._folder = folder
        self._runs: list[Run] = []

    def run(self, *tables: SinkTable) -> Run:
        run = Run(self._maker, self._folder, *tables)
        self._runs.append(run)
        return run

    def plant(self, name: str) -> None:
        self._maker.plant(self._folder, name)

    def clear(self) -> None:
        faults.arm("")
        for run in self._runs:
            run.close()


def cut(number: int) -> Cut:
    return Cut(number=number, log="log", offsets={"p.r": number}, positions={"i": str(number)})


def what_is_committed_is_there_with_its_cut(stage: Stage) -> None:
    run = stage.run(table()).open()
    run.epoch(3, changes(KEYED, (TRUNCATE,), (READ, 1, "a"), (READ, 2, "b"), (READ, 3, "ü")))
    run.epoch(7, changes(KEYED, (BEFORE, 1, "a"), (AFTER, 1, "A"), (DELETE, 2, "b"), (INSERT, 4, None)))
    assert (run.rows(), run.held()) == ([(1, "A"), (3, "ü"), (4, None)], {7})


def what_is_accepted_and_not_committed_is_not_there(stage: Stage) -> None:
    run = stage.run(table()).open()
    run.epoch(1, changes(KEYED, (TRUNCATE,), (READ, 1, "a")))
    run.begin(2)
    run.write(changes(KEYED, (DELETE, 1, "a"), (INSERT, 2, "b")))
    run.abort()
    run.abort()
    assert (run.rows(), run.held()) == ([(1, "a")], {1})
    run.begin(2)
    run.write(changes(KEYED, (DELETE, 1, "a")))
    run.begin(2)  # drops what the unfinished one left
    run.write(changes(KEYED, (INSERT, 3, "c")))
    run.close()
    run.close()
    assert (run.rows(), run.held()) == ([(1, "a")], {1})
    run.open(2).epoch(2, changes(KEYED, (INSERT, 4, "d")))
    assert run.rows() == [(1, "a"), (4, "d")]


def a_store_that_was_never_opened_holds_nothing(stage: Stage) -> None:
    run = stage.run(table())
    assert (run.rows(), run.held()) == ([], {None})


def an_epoch_already_held_changes_nothing(stage: Stage) -> None:
    run = stage.run(table(MULTISET)).open()
    load = changes(MULTISET, (TRUNCATE,), (READ, 1, "a"))
    more = changes(MULTISET, (INSERT, 1, "a"))
    run.epoch(1, load)
    before = dict(run.cuts)
    run.epoch(2, more)
    after, run.cuts = run.cuts, before
    run.epoch(2, more)
    assert run.cuts == after
    assert (run.rows(), run.held()) == ([(1, "a"), (1, "a")], {2})


def opening_again_tells_what_is_held(stage: Stage) -> None:
    stage.run(table()).open().epoch(1, changes(KEYED, (TRUNCATE,), (READ, 1, "a")))
    stage.clear()
    run = stage.run(table())
    for unit in run.units:
        committed = unit.open(2)
        assert (committed.cut, committed.generation) == (cut(1), 2)
        assert committed.tables["t"].awaiting == frozenset()
        assert committed.tables["t"].view == "v1"
    assert run.rows() == [(1, "a")]


def a_lower_generation_cannot_open(stage: Stage) -> None:
    stage.run(table()).open(5)
    stage.clear()
    with pytest.raises(Fenced):
        stage.run(table()).open(4)
    stage.clear()
    stage.run(table()).open(5)


def a_writer_whose_successor_has_opened_writes_nothing_more(stage: Stage) -> None:
    old = stage.run(table()).open(1)
    old.epoch(1, changes(KEYED, (TRUNCATE,), (READ, 1, "a")))
    old.rest()
    new = stage.run(table()).open(2)
    new.rest()
    with pytest.raises(Fenced):
        old.epoch(2, changes(KEYED, (INSERT, 2, "late")))
    old.close()
    new.epoch(2, changes(KEYED, (INSERT, 3, "new")))
    assert (new.rows(), new.held()) == ([(1, "a"), (3, "new")], {2})


def a_writer_paused_before_its_commit_and_overtaken_writes_nothing(stage: Stage) -> None:
    old = stage.run(table()).open(1)
    old.epoch(1, changes(KEYED, (TRUNCATE,), (READ, 1, "a")))
    old.begin(2)
    old.write(changes(KEYED, (INSERT, 2, "late")))
    new = stage.run(table())
    try:
        new.open(2)
    except Unavailable:  # the store lets nobody in beside an unfinished epoch: then it has to be whole
        old.commit()
        old.rest()
        new.open(2)
        assert (new.rows(), new.held()) == ([(1, "a"), (2, "late")], {2})
        return
    with pytest.raises(Fenced):
        old.commit()
    old.close()
    assert (new.rows(), new.held()) == ([(1, "a")], {1})


def a_new_table_ignores_changes_until_its_load_begins(stage: Stage) -> None:
    run = stage.run(table()).open()
    run.epoch(1, changes(KEYED, (INSERT, 1, "early")))
    assert (run.rows(), run.held(), run.awaiting()) == ([], {1}, {frozenset({0})})
    run.epoch(2, changes(KEYED, (INSERT, 2, "early"), (TRUNCATE,), (READ, 3, "a")))
    assert (run.rows(), run.awaiting()) == ([(3, "a")], {frozenset()})


def a_table_whose_view_changed_is_emptied_and_awaits_a_load(stage: Stage) -> None:
    stage.run(table()).open().epoch(1, changes(KEYED, (TRUNCATE,), (READ, 1, "a")))
    stage.clear()
    run = stage.run(table(view="v2")).open(2)
    assert (run.rows(), run.held(), run.awaiting()) == ([], {1}, {frozenset({0})})
    run.epoch(2, changes(KEYED, (DELETE, 1, "a"), (INSERT, 2, "b")))
    assert run.rows() == []
    run.epoch(3, changes(KEYED, (TRUNCATE,), (READ, 2, "b")))
    assert run.rows() == [(2, "b")]


def a_table_whose_key_changed_is_emptied_and_awaits_a_load(stage: Stage) -> None:
    stage.run(table()).open().epoch(1, changes(KEYED, (TRUNCATE,), (READ, 1, "a")))
    stage.clear()
    run = stage.run(table(replace(KEYED, key=("v",)))).open(2)
    assert (run.rows(), run.awaiting()) == ([], {frozenset({0})})


def a_table_of_somebody_else_is_refused(stage: Stage) -> None:
    stage.plant("t")
    with pytest.raises(SchemaMismatch, match="did not make"):
        stage.run(table()).open()


def a_truncate_in_the_stream_empties_the_table(stage: Stage) -> None:
    for schema in (KEYED, MULTISET):
        run = stage.run(table(schema, view=str(schema.key))).open()
        number = max((held or 0) for held in run.held())
        run.epoch(number + 1, changes(schema, (TRUNCATE,), (READ, 1, "a")))
        run.epoch(number + 2, changes(schema, (INSERT, 2, "b"), (TRUNCATE,), (READ, 3, "c")))
        assert run.rows() == [(3, "c")]
        run.close()


def each_branch_is_awaited_and_truncated_by_itself(stage: Stage) -> None:
    for schema in (BRANCHED, BRANCHED_MULTISET):
        run = stage.run(table(schema, view=str(schema.key))).open()
        number = max((held or 0) for held in run.held())
        run.epoch(number + 1, changes(schema, (TRUNCATE, 0), (READ, 0, 1, "a"), (INSERT, 1, 1, "early")))
        assert (run.rows(), run.awaiting()) == ([(0, 1, "a")], {frozenset({1})})
        run.epoch(number + 2, changes(schema, (TRUNCATE, 1), (READ, 1, 1, "b")))
        assert run.rows() == [(0, 1, "a"), (1, 1, "b")]
        run.epoch(number + 3, changes(schema, (TRUNCATE, 0), (READ, 0, 2, "c")))
        assert run.rows() == [(0, 2, "c"), (1, 1, "b")]
        assert run.batches()[0].schema.names == [BRANCH, "id", "v"]
        run.close()


def null_is_a_key_like_any_other(stage: Stage) -> None:
    run = stage.run(table()).open()
    run.epoch(1, changes(KEYED, (TRUNCATE,), (READ, None, "a"), (READ, 1, "x")))
    run.epoch(2, changes(KEYED, (BEFORE, None, "a"), (AFTER, None, "b")))
    assert run.rows() == [(1, "x"), (None, "b")]
    run.epoch(3, changes(KEYED, (DELETE, None, "b")))
    assert run.rows() == [(1, "x")]


def a_delete_needs_no_more_than_the_key(stage: Stage) -> None:
    run = stage.run(table()).open()
    run.epoch(1, changes(KEYED, (TRUNCATE,), (READ, 1, "a"), (READ, 2, "b")))
    batch = changes(KEYED, (DELETE, 1, None))
    rows = batch.rows.set_column(1, batch.rows.schema.field(1), pa.array([int(Image.KEY)], pa.int8()))
    run.epoch(2, ChangeBatch(schema=KEYED, rows=rows))
    assert run.rows() == [(2, "b")]


def a_moved_key_moves_its_row(stage: Stage) -> None:
    run = stage.run(table()).open()
    run.epoch(1, changes(KEYED, (TRUNCATE,), *((READ, key, "a") for key in range(20))))
    run.epoch(2, changes(KEYED, *((op, key + (op == AFTER) * 100, "a") for key in range(20) for op in (BEFORE, AFTER))))
    assert run.rows() == sorted(((key, "a") for key in range(100, 120)), key=repr)


def rows_without_a_key_are_counted(stage: Stage) -> None:
    run = stage.run(table(MULTISET)).open()
    run.epoch(1, changes(MULTISET, (TRUNCATE,), *[(READ, 1, "a")] * 3, (READ, None, None), (READ, None, None)))
    run.epoch(2, changes(MULTISET, (DELETE, 1, "a"), (DELETE, None, None), (INSERT, 2, "b"), (INSERT, 2, "b")))
    assert Counter(run.rows()) == {(1, "a"): 2, (None, None): 1, (2, "b"): 2}
    run.epoch(3, changes(MULTISET, (BEFORE, 1, "a"), (AFTER, 1, "c")))
    assert Counter(run.rows()) == {(1, "a"): 1, (1, "c"): 1, (None, None): 1, (2, "b"): 2}


def a_history_holds_every_change_once(stage: Stage) -> None:
    run = stage.run(table(mode=Mode.HISTORY)).open()
    run.epoch(1, changes(KEYED, (INSERT, 9, "early"), (TRUNCATE,), (READ, 1, "a")))
    run.epoch(2, changes(KEYED, (BEFORE, 1, "a"), (AFTER, 1, "b"), (BEFORE, 1, "b"), (AFTER, 2, "b"), (DELETE, 2, "b")))
    found = [row for batch in run.batches() for row in batch.to_pylist() if row[OP] != TRUNCATE]
    assert Counter((row[OP], row["id"], row["v"]) for row in found) == Counter(
        [(READ, 1, "a"), (AFTER, 1, "b"), (DELETE, 1, "b"), (AFTER, 2, "b"), (DELETE, 2, "b")]
    )
    assert set(run.batches()[0].schema.names) == set(ChangeBatch.arrow_schema(KEYED).names)
    assert {row[COMMIT] for row in found} == {1}


def many_batches_of_an_epoch_are_one_commit(stage: Stage) -> None:
    run = stage.run(table()).open()
    run.epoch(
        1,
        changes(KEYED, (TRUNCATE,), (READ, 1, "a"), (READ, 2, "a")),
        changes(KEYED, (BEFORE, 1, "a"), (AFTER, 1, "b")),
        changes(KEYED, (DELETE, 2, "a")),
        changes(KEYED, (BEFORE, 1, "b"), (AFTER, 3, "b")),
        changes(KEYED, (INSERT, 2, "c")),
    )
    assert run.rows() == [(2, "c"), (3, "b")]


def tables_of_a_sink_are_kept_apart(stage: Stage) -> None:
    run = stage.run(table(), table(MULTISET, name="u")).open()
    run.begin(1)
    run.write(changes(KEYED, (TRUNCATE,), (READ, 1, "a")), "t")
    run.write(changes(MULTISET, (TRUNCATE,), (READ, 1, "b"), (READ, 1, "b")), "u")
    run.commit()
    assert (run.rows("t"), run.rows("u"), run.held()) == ([(1, "a")], [(1, "b")] * 2, {1})


def a_column_that_comes_is_added_and_one_that_goes_holds_null(stage: Stage) -> None:
    run = stage.run(table()).open()
    run.epoch(1, changes(KEYED, (TRUNCATE,), (READ, 1, "a")))
    added = replace(KEYED, columns=(*KEYED.columns, Column(name="n", type=pa.int32())), version=2)
    run.epoch(2, changes(added, (INSERT, 2, "b", 20)))
    gone = replace(added, columns=(added.columns[0], added.columns[2]), version=3)
    run.epoch(3, changes(gone, (BEFORE, 2, 20), (AFTER, 2, 21), (INSERT, 3, 30)))
    run.close()
    wide = stage.run(table(added))
    assert wide.rows() == [(1, "a", None), (2, None, 21), (3, None, 30)]


def a_type_is_widened_if_it_loses_nothing_and_refused_otherwise(stage: Stage) -> None:
    narrow = replace(KEYED, columns=(Column(name="id", type=pa.int32()), Column(name="v", type=pa.decimal128(5, 2))))
    wide = replace(
        narrow, columns=(Column(name="id", type=pa.int64()), Column(name="v", type=pa.decimal128(20, 4))), version=2
    )
    run = stage.run(table(narrow)).open()
    one, two = Decimal("1.25"), Decimal("2.0001")
    run.epoch(1, changes(narrow, (TRUNCATE,), (READ, 1, one), (READ, 2, one)))
    run.epoch(2, changes(wide, (BEFORE, 2, one), (AFTER, 2, two), (INSERT, 2**40, two)))
    run.close()
    again = stage.run(table(wide)).open(2)
    assert sorted(again.rows()) == [(1, one), (2, two), (2**40, two)]
    text = replace(wide, columns=(wide.columns[0], Column(name="v", type=pa.string())), version=3)
    with pytest.raises(SchemaMismatch, match="v"):
        again.epoch(3, changes(text, (INSERT, 3, "x")))
    again.abort()
    assert again.held() == {2}


def a_type_no_store_holds_is_refused(stage: Stage) -> None:
    odd = replace(KEYED, columns=(KEYED.columns[0], Column(name="v", type=pa.month_day_nano_interval())))
    with pytest.raises(SchemaMismatch, match="v"):
        stage.run(table(odd)).open()


def lists_and_structs_are_kept_as_they_are(stage: Stage) -> None:
    run = stage.run(table(NESTED), table(NESTED, name="h", mode=Mode.HISTORY)).open()
    full = [[Decimal("1.50"), None], [], None, [None]]
    inner = {"a": [["x", ""], None, []], "b": None}
    for name in ("t", "h"):
        values = [(1, full, inner), (2, [], None), (3, None, {"a": None, "b": 0.1}), (4, [None], inner)]
        number = 1 + (name == "h")
        run.epoch(number, changes(NESTED, (TRUNCATE,), *((READ, *row) for row in values)), name=name)
    assert run.rows() == [(1, full, inner), (2, [], None), (3, None, {"a": None, "b": 0.1}), (4, [None], inner)]
    moved = changes(NESTED, (BEFORE, 1, full, inner), (AFTER, 1, [[]], None), (DELETE, 2, [], None))
    run.begin(3)
    run.write(moved, "t")
    run.write(moved, "h")
    run.commit()
    assert run.rows() == [(1, [[]], None), (3, None, {"a": None, "b": 0.1}), (4, [None], inner)]
    history = [(row.get(OP), row["id"], row["v"]) for batch in run.batches("h") for row in batch.to_pylist()]
    told = [(READ, 1, full), (READ, 2, []), (READ, 3, None), (READ, 4, [None]), (AFTER, 1, [[]]), (DELETE, 2, [])]
    assert Counter(repr(row) for row in history if row[0] != TRUNCATE) == Counter(
        repr((int(op), *row)) for op, *row in told
    )


def rows_with_lists_and_without_a_key_are_counted(stage: Stage) -> None:
    schema = replace(NESTED_FLOATS, key=())
    run = stage.run(table(schema)).open()
    nan = [[float("nan")], [0.0]]
    same = [[float("nan")], [-0.0]]  # SQL finds no difference
    load = [(READ, 1, nan), (READ, 1, same), (READ, 1, nan), (READ, 1, None), (READ, 1, []), (READ, 1, [])]
    run.epoch(1, changes(schema, (TRUNCATE,), *load))
    run.epoch(2, changes(schema, (DELETE, 1, same), (DELETE, 1, []), (INSERT, 1, [None])))
    assert Counter(map(repr, run.rows())) == Counter(map(repr, [(1, nan), (1, nan), (1, None), (1, []), (1, [None])]))


def a_list_is_no_key(stage: Stage) -> None:
    with pytest.raises(SchemaMismatch, match="part of the key"):
        stage.run(table(replace(NESTED, key=("id", "v")))).open()


def what_a_list_holds_is_widened_like_a_column(stage: Stage) -> None:
    def version(element: pa.DataType, number: int) -> TableSchema:
        inner = pa.list_(pa.struct([("n", element), ("s", pa.string())]))
        added = (Column(name="w", type=pa.list_(pa.timestamp("us"))),) if number > 1 else ()
        return replace(KEYED, columns=(KEYED.columns[0], Column(name="v", type=inner), *added), version=number)

    narrow, wide, text = version(pa.int16(), 1), version(pa.int64(), 2), version(pa.string(), 3)
    run = stage.run(table(narrow)).open()
    run.epoch(1, changes(narrow, (TRUNCATE,), (READ, 1, [{"n": 7, "s": "a"}, None]), (READ, 2, [])))
    run.epoch(2, changes(wide, (BEFORE, 2, [], None), (AFTER, 2, [{"n": 2**40, "s": None}], [None])))
    run.close()
    again = stage.run(table(wide)).open(2)
    assert again.rows() == [(1, [{"n": 7, "s": "a"}, None], None), (2, [{"n": 2**40, "s": None}], [None])]
    with pytest.raises(SchemaMismatch, match="v"):
        again.epoch(3, changes(text, (INSERT, 3, [{"n": "x", "s": "y"}])))
    again.abort()
    assert again.held() == {2}


def a_sink_at_rest_can_be_read_by_others_and_goes_on_afterwards(stage: Stage) -> None:
    run = stage.run(table()).open()
    run.epoch(1, changes(KEYED, (TRUNCATE,), (READ, 1, "a")))
    run.rest()
    assert stage.run(table()).rows() == [(1, "a")]
    run.epoch(2, changes(KEYED, (INSERT, 2, "b")))
    assert run.rows() == [(1, "a"), (2, "b")]


def a_commit_that_fails_before_its_end_leaves_nothing(stage: Stage) -> None:
    run = stage.run(table()).open()
    run.epoch(1, changes(KEYED, (TRUNCATE,), (READ, 1, "a")))
    for number, point in enumerate(("sink.write.after", "sink.commit.before", "sink.commit.data")):
        faults.arm(f"{point}=raise")
        with pytest.raises(Unavailable):
            run.epoch(2, changes(KEYED, (DELETE, 1, "a"), (INSERT, 2, "b")))
        faults.arm("")
        run.open(number + 2)
        assert (run.rows(), run.held()) == ([(1, "a")], {1})
    run.epoch(2, changes(KEYED, (INSERT, 2, "b")))
    assert (run.rows(), run.held()) == ([(1, "a"), (2, "b")], {2})


def a_commit_whose_reply_is_lost_is_read_back(stage: Stage) -> None:
    run = stage.run(table(MULTISET)).open()
    run.epoch(1, changes(MULTISET, (TRUNCATE,), (READ, 1, "a")))
    before = dict(run.cuts)
    faults.arm("sink.commit.after=lose")
    with pytest.raises(OutcomeUnknown):
        run.epoch(2, changes(MULTISET, (INSERT, 1, "a")))
    faults.arm("")
    run.abort()
    run.open(2)
    assert cut(2) in run.cuts.values()
    run.cuts = before
    run.epoch(2, changes(MULTISET, (INSERT, 1, "a")))
    assert (run.rows(), run.held()) == ([(1, "a"), (1, "a")], {2})


def any_changes_in_any_epochs_give_what_the_relation_holds(stage: Stage) -> None:
    dice = stage.dice
    run = stage.run(table(BRANCHED), table(BRANCHED_MULTISET, name="u")).open()
    model: dict[tuple[int, int | None], str | None] = {}
    load = [(TRUNCATE, 0), (TRUNCATE, 1)]
    for number in range(1, 13):
        rows: list[tuple[object, ...]] = list(load)
        load = []
        for _ in range(dice.randrange(30)):
            branch, key = dice.randrange(2), dice.choice([None, 0, 1, 2, 3])
            value = dice.choice([None, "a", "b"])
            old = model.pop((branch, key), "absent")
            if old == "absent":
                rows.append((INSERT, branch, key, value))
                model[branch, key] = value
            elif dice.random() < 0.4:
                rows.append((DELETE, branch, key, old))
            elif dice.random() < 0.05:
                rows += [(DELETE, branch, key, old), (TRUNCATE, branch)]
                model = {identity: v for identity, v in model.items() if identity[0] != branch}
            else:
                rows += [(BEFORE, branch, key, old), (AFTER, branch, key, value)]
                model[branch, key] = value
        middle = dice.randrange(len(rows) + 1)
        while middle < len(rows) and rows[middle][0] == AFTER:
            middle += 1
        run.begin(number)
        for part in (rows[:middle], rows[middle:]):
            run.write(changes(BRANCHED, *part), "t")
            run.write(changes(BRANCHED_MULTISET, *part), "u")
        if dice.random() < 0.3:
            run.abort()
            run.open(number + 1)
            run.begin(number)
            run.write(changes(BRANCHED, *rows), "t")
            run.write(changes(BRANCHED_MULTISET, *rows), "u")
        run.commit()
        expected = sorted(((*identity, value) for identity, value in model.items()), key=repr)
        assert (run.rows("t"), run.rows("u")) == (expected, expected)


RULES: tuple[Callable[[Stage], None], ...] = (
    what_is_committed_is_there_with_its_cut,
    what_is_accepted_and_not_committed_is_not_there,
    a_store_that_was_never_opened_holds_nothing,
    an_epoch_already_held_changes_nothing,
    opening_again_tells_what_is_held,
    a_lower_generation_cannot_open,
    a_writer_whose_successor_has_opened_writes_nothing_more,
    a_writer_paused_before_its_commit_and_overtaken_writes_nothing,
    a_new_table_ignores_changes_until_its_load_begins,
    a_table_whose_view_changed_is_emptied_and_awaits_a_load,
    a_table_whose_key_changed_is_emptied_and_awaits_a_load,
    a_table_of_somebody_else_is_refused,
    a_truncate_in_the_stream_empties_the_table,
    each_branch_is_awaited_and_truncated_by_itself,
    null_is_a_key_like_any_other,
    a_delete_needs_no_more_than_the_key,
    a_moved_key_moves_its_row,
    rows_without_a_key_are_counted,
    a_history_holds_every_change_once,
    many_batches_of_an_epoch_are_one_commit,
    tables_of_a_sink_are_kept_apart,
    a_column_that_comes_is_added_and_one_that_goes_holds_null,
    a_type_is_widened_if_it_loses_nothing_and_refused_otherwise,
    a_type_no_store_holds_is_refused,
    lists_and_structs_are_kept_as_they_are,
    rows_with_lists_and_without_a_key_are_counted,
    a_list_is_no_key,
    what_a_list_holds_is_widened_like_a_column,
    a_sink_at_rest_can_be_read_by_others_and_goes_on_afterwards,
    a_commit_that_fails_before_its_end_leaves_nothing,
    a_commit_whose_reply_is_lost_is_read_back,
    any_changes_in_any_epochs_give_what_the_relation_holds,
)
