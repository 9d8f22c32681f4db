"""Lists and structs of any shape: as JSON text and back, as codes to group by, and through every sink."""

import json
import math
import tempfile
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from raypipe.codec import relisted
from raypipe.contracts import Sink
from raypipe.errors import Corrupt
from raypipe.model import OP, ChangeBatch, Column, Cut, Epoch, Image, Mode, Op, SinkTable, TableName, TableSchema
from raypipe.plan.model import SinkPlan
from raypipe.sinks import open_sinks
from raypipe.sinks.delta.types import decode, encode
from raypipe.sinks.nested import codes
from raypipe.sinks.netting import WEIGHT, net_multiset
from raypipe.sinks.sql.nested_text import nested_text, nested_values

LEAVES = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.decimal128(10, 2): st.decimals(-99_999_999, 99_999_999, places=2),
    pa.decimal128(38, 20): st.decimals(-(10**17), 10**17, places=20),
    pa.string(): st.text(st.characters(exclude_categories=["Cs"])),
    pa.binary(): st.binary(),
    pa.date32(): st.integers(-719_000, 2_900_000),
    pa.time64("us"): st.integers(0, 86_400_000_000 - 1),
    pa.timestamp("us"): st.integers(-(2**55), 2**57),
    pa.timestamp("us", tz="UTC"): st.integers(-(2**55), 2**57),
    pa.timestamp("ns"): st.integers(-(2**63) + 1, 2**63 - 1),
}
NAMES = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=5)


@st.composite
def nested_types(draw: st.DrawFn, names: st.SearchStrategy[str] = NAMES) -> pa.DataType:
    def deeper(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
        fields = st.lists(st.tuples(names, inner), min_size=1, max_size=3, unique_by=lambda field: field[0].lower())
        return st.one_of(inner.map(pa.list_), fields.map(pa.struct))

    return draw(deeper(st.recursive(st.sampled_from(list(LEAVES)), deeper, max_leaves=4)))


def values_of(arrow: pa.DataType) -> st.SearchStrategy[object]:
    if pa.types.is_list(arrow):
        held = st.lists(values_of(arrow.value_type), max_size=4)
    elif pa.types.is_struct(arrow):
        held = st.fixed_dictionaries({field.name: values_of(field.type) for field in arrow})
    else:
        held = LEAVES[arrow]
    return st.none() | held


@st.composite
def columns(draw: st.DrawFn, names: st.SearchStrategy[str] = NAMES) -> pa.Array:
    arrow = draw(nested_types(names))
    return pa.array(draw(st.lists(values_of(arrow), max_size=6)), arrow)


def bits(column: pa.Array) -> pa.Array:
    """Floats as integers, NaNs as one, so that arrays can be compared to the last bit."""
    if pa.types.is_list(column.type):
        return relisted(column, bits(column.flatten()))
    if pa.types.is_struct(column.type):
        members = [bits(member) for member in column.flatten()]
        names = [field.name for field in column.type]
        return pa.StructArray.from_arrays(members, names, mask=column.is_null())
    if not pa.types.is_floating(column.type):
        return column
    same = pa.array([math.nan if value is not None and value != value else value for value in column.to_pylist()])
    return same.cast(pa.float64()).view(pa.int64())


def same(one: pa.Array, other: pa.Array) -> bool:
    return bool(one.type == other.type and bits(one).equals(bits(other)))


@given(column=columns(), begin=st.integers(0, 3))
@settings(max_examples=150)
@example(column=pa.array([None, [], [None], [b""]], pa.list_(pa.binary())), begin=1)
def test_json_text_is_read_back_as_the_same_values(column, begin):
    part = column.slice(begin)
    text = nested_text(part)
    assert same(nested_values(text, part.type), part)
    for each in text.to_pylist():
        assert each is None or json.loads(each) is not None


@given(column=columns(), begin=st.integers(0, 3))
@settings(max_examples=150)
def test_delta_gives_back_what_it_was_given(column, begin):
    part = column.slice(begin)
    assert same(decode(encode(part), part.type), part)


@given(column=columns(), data=st.data())
@settings(max_examples=100)
def test_values_have_the_same_code_if_they_have_the_same_text(column, data):
    again = data.draw(st.lists(st.integers(0, max(len(column) - 1, 0)), max_size=6)) if len(column) else []
    column = pa.concat_arrays([column, column.take(pa.array(again, pa.int64()))])
    pairs = set(zip(codes(column).to_pylist(), nested_text(column).to_pylist(), strict=True))
    assert len(pairs) == len({code for code, _ in pairs}) == len({text for _, text in pairs})


@pytest.mark.parametrize(
    "text", ["[1", "7", '{"a": 1}', '["x"]', "[[1]]", "[1.5]", "[300]"], ids=lambda text: text.replace("[", "(")
)
def test_a_text_that_somebody_else_wrote_is_told(text):
    with pytest.raises(Corrupt):
        nested_values(pa.array([text]), pa.list_(pa.int8()))


def relation(arrow: pa.DataType, key: tuple[str, ...]) -> TableSchema:
    return TableSchema(
        table=TableName("", "", "r"),
        columns=(Column(name="id", type=pa.int64()), Column(name="v", type=arrow)),
        key=key,
    )


def changes(schema: TableSchema, ops: list[Op], ids: pa.Array, values: pa.Array) -> ChangeBatch:
    count = len(ops)
    system = [
        pa.array([int(op) for op in ops], pa.int8()),
        pa.array([int(Image.FULL)] * count, pa.int8()),
        pa.array([1] * count, pa.int64()),
        pa.array(range(count), pa.int64()),
        pa.array([None] * count, pa.timestamp("us", tz="UTC")),
    ]
    shape = ChangeBatch.arrow_schema(schema)
    return ChangeBatch(schema=schema, rows=pa.RecordBatch.from_arrays([*system, ids, values], schema=shape))


@given(column=columns(), data=st.data())
@settings(max_examples=100)
def test_rows_with_lists_net_to_what_a_count_gives(column, data):
    chosen = data.draw(st.lists(st.integers(0, len(column) - 1), max_size=12)) if len(column) else []
    signs = data.draw(st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen)))
    values = column.take(pa.array(chosen, pa.int64()))
    schema = relation(column.type, ())
    ops = [Op.INSERT if sign else Op.DELETE for sign in signs]
    net = net_multiset(changes(schema, ops, pa.array([1] * len(ops), pa.int64()), values)).weights
    zeros = comparable_text(values)
    counted: Counter[str | None] = Counter()
    for text, sign in zip(zeros, signs, strict=True):
        counted[text] += 1 if sign else -1
    found = dict(zip(comparable_text(net["v"].combine_chunks()), net[WEIGHT].to_pylist(), strict=True))
    assert found == {text: weight for text, weight in counted.items() if weight}


def comparable_text(values: pa.Array) -> list[str | None]:
    """SQL tells no sign of a zero."""

    def unsigned(found: object) -> object:
        if isinstance(found, list):
            return [unsigned(each) for each in found]
        if isinstance(found, dict):
            return {name: unsigned(each) for name, each in found.items()}
        return 0.0 if found == 0 and isinstance(found, float) else found

    return [
        None if text is None else json.dumps(unsigned(json.loads(text))) for text in nested_text(values).to_pylist()
    ]


URLS = {"duckdb": "duckdb:///{}/w.duckdb", "sqlite": "sqlite:///{}/w.db", "delta": "delta:///{}"}


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
@given(column=columns(st.text("aBc_ é", min_size=1, max_size=3)), data=st.data())
@settings(max_examples=12)
def test_every_sink_holds_lists_and_structs_as_they_came(url, column, data):
    """Loaded, then all updated in one epoch, into a table with a key, one without, and a history."""
    assume(len(column))
    after = column.take(pa.array(data.draw(st.permutations(range(len(column)))), pa.int64()))
    keyed = relation(column.type, ("id",))
    tables = (
        SinkTable(name="keyed", relation="r", schema=keyed),
        SinkTable(name="counted", relation="r", schema=relation(column.type, ())),
        SinkTable(name="told", relation="r", schema=keyed, mode=Mode.HISTORY),
    )
    with tempfile.TemporaryDirectory(prefix="nested-") as folder:
        for sink in open_sinks(SinkPlan(name="w", url=url.format(folder), tables=tables), "p"):
            sink.open(1)
            fill(sink, 1, loading(column))
            fill(sink, 2, updating(column, after))
            for table in sink.tables:
                found = contents_of(sink, table)
                assert found.type == column.type
                if table.name == "counted":  # zeros may have lost their sign
                    assert comparable_text(found) == comparable_text(after)
                else:
                    assert same(found, after)
            sink.close()


Rows = tuple[list[Op], pa.Array, pa.Array]


def loading(column: pa.Array) -> Rows:
    ids = pa.array([None, *range(len(column))], pa.int64())
    return [Op.TRUNCATE] + [Op.READ] * len(column), ids, pa.concat_arrays([pa.nulls(1, column.type), column])


def updating(before: pa.Array, after: pa.Array) -> Rows:
    count = len(before)
    turns = [(place, place + turn * count) for place in range(count) for turn in (0, 1)]
    values = pa.concat_arrays([before, after]).take(pa.array([at for _, at in turns], pa.int64()))
    return [Op.UPDATE_BEFORE, Op.UPDATE_AFTER] * count, pa.array([place for place, _ in turns], pa.int64()), values


def fill(sink: Sink, number: int, rows: Rows) -> None:
    def cut(number: int) -> Cut | None:
        return Cut(number=number, log="log", offsets={}, positions={}) if number else None

    sink.begin(Epoch(after=cut(number - 1), upto=cut(number), generation=1))
    for table in sink.tables:
        sink.write(table.name, changes(table.schema, *rows))
    sink.commit()


def contents_of(sink: Sink, table: SinkTable) -> pa.Array:
    """The values by id; of a history those of the updates."""
    with sink.contents() as contents:
        rows = pa.Table.from_batches(contents.rows(table.name))
    if table.mode is Mode.HISTORY:
        rows = rows.filter(pc.equal(rows[OP], int(Op.UPDATE_AFTER)))
    return rows.take(pc.sort_indices(rows["id"]))["v"].combine_chunks()
