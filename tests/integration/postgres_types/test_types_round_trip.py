"""Every type of PostgreSQL from real servers: by stream and by copy the same Arrow, and what it must be."""

from __future__ import annotations

import pyarrow as pa
import pytest
from decoder_lab import Lab
from type_values import CASES, DEFINITIONS, MISFIT, Case

from raypipe.sources.postgres.decode import Shape, decode
from raypipe.sources.postgres.events import Event, Rows

COLUMNS = [f"c{number}" for number in range(len(CASES))]
COUNT = max(len(case.values) for case in CASES)


def committed(seen: list[Event]) -> bool:
    """Whether a transaction with rows, or its last rows, has ended."""
    rows = [event for event in seen if isinstance(event, Rows)]
    return any(len(event) for event in rows) and bool(rows[-1].transactions.end_lsn[-1:].any())


def streamed(lab: Lab, shape: Shape, options: str = "proto_version '1'") -> tuple[pa.Table, list[int]]:
    """The rows of the next transaction that has any, and the places of misfits."""
    tables, misfits = [], []
    for event in lab.events(committed, options):
        if isinstance(event, Rows) and len(event):
            [part] = decode(event, {int(event.oid[0]): shape})
            tables.append(pa.Table.from_batches([part.rows]))
            misfits += [-1] * part.rows.num_rows if part.misfits is None else part.misfits.places.tolist()
    return pa.concat_tables(tables).combine_chunks(), misfits


def exact(array: pa.Array) -> list[object]:
    """Values that Python compares exactly: moments as numbers, floats as their bits."""
    kind = array.type
    if pa.types.is_list(kind):
        values = exact(array.flatten())
        lengths = [None if not scalar.is_valid else len(scalar.values or ()) for scalar in array]
        taken = iter(values)
        return [None if length is None else [next(taken) for _ in range(length)] for length in lengths]
    if pa.types.is_date(kind):
        return array.view(pa.int32()).to_pylist()
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return array.view(pa.int64()).to_pylist()
    if pa.types.is_floating(kind):
        return [None if value is None else repr(value) for value in array.to_pylist()]
    return array.to_pylist()


def expected_of(case: Case, server_texts: list[str | None]) -> list[object]:
    """What the rows of one column must be; NULL where there is no value or a misfit."""
    found: list[object] = []
    for place in range(COUNT + 1):
        value = case.values[place][1] if place < len(case.values) else None
        if value is ...:
            value = server_texts[place]
        found.append(None if value is MISFIT else value)
    return found


def as_exact(value: object) -> object:
    if isinstance(value, list):
        return [as_exact(each) for each in value]
    return repr(value) if isinstance(value, float) else value


def inserts(columns: list[tuple[str, Case]]) -> list[str]:
    """Every value once, and a row without any."""
    found = []
    for place in range(COUNT):
        given = [(name, case) for name, case in columns if place < len(case.values)]
        names = ", ".join(["id", *(name for name, _ in given)])
        values = ", ".join([str(place), *(f"({case.values[place][0]})::{case.declared}" for _, case in given)])
        found.append(f"INSERT INTO typed ({names}) VALUES ({values})")
    return [*found, f"INSERT INTO typed (id) VALUES ({COUNT})"]


@pytest.fixture
def typed(lab: Lab) -> Lab:
    """A table with every type, written with the slot waiting."""
    columns = ", ".join(f"{name} {case.declared}" for name, case in zip(COLUMNS, CASES, strict=True))
    lab.database.write(*DEFINITIONS, f"CREATE TABLE typed (id int PRIMARY KEY, {columns})")
    lab.publish("typed")
    lab.database.write(*inserts([*zip(COLUMNS, CASES, strict=True)]))
    return lab


def test_every_type_comes_by_stream_and_by_copy_as_what_it_is(typed: Lab) -> None:
    lab, shape = typed, typed.shape("typed")
    rows, misfits = streamed(lab, shape)
    copied, copied_misfits = lab.copy(shape, "typed")
    assert misfits == copied_misfits
    texts = ", ".join(f"CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END" for name in COLUMNS)
    by_server = lab.session.rows(f"SELECT {texts} FROM typed ORDER BY id")
    parked = {-1: set(range(COUNT + 1))}
    for number, (name, case) in enumerate(zip(COLUMNS, CASES, strict=True)):
        column = rows.column(name).combine_chunks()
        column.validate(full=True)
        copied[number + 1].validate(full=True)
        assert column.type == copied[number + 1].type == case.arrow, case.declared
        assert exact(column) == exact(copied[number + 1]), case.declared
        expected = expected_of(case, [row[number] for row in by_server])
        assert exact(column) == as_exact(expected), case.declared
        wrong = {place for place, (_, value) in enumerate(case.values) if value is MISFIT}
        parked[-1] -= wrong
    assert {place for place, misfit in enumerate(misfits) if misfit < 0} == parked[-1]


def test_a_stream_in_binary_gives_the_same_for_the_types_that_have_such_a_format(lab: Lab) -> None:
    lab.database.write(*DEFINITIONS)
    columns = ", ".join(f"{name} {case.declared}" for name, case in zip(COLUMNS, CASES, strict=True))
    lab.database.write(f"CREATE TABLE every (id int, {columns})")
    kinds = lab.shape("every").kinds[1:]
    some = [
        (name, case) for name, case, kind in zip(COLUMNS, CASES, kinds, strict=True) if kind.from_binary is not None
    ]
    assert len(some) > 30
    columns = ", ".join(f"{name} {case.declared}" for name, case in some)
    lab.database.write(f"CREATE TABLE typed (id int PRIMARY KEY, {columns})")
    lab.publish("typed")
    lab.database.write(*inserts(some))
    shape = lab.shape("typed")
    by_text, misfits = streamed(lab, shape)
    by_binary, same_misfits = streamed(lab, shape, "proto_version '1', binary 'true'")
    assert by_text.select(shape.schema.names).schema == by_binary.select(shape.schema.names).schema
    assert misfits == same_misfits
    for name, case in some:
        assert exact(by_text.column(name).combine_chunks()) == exact(by_binary.column(name).combine_chunks()), case


def test_a_declared_type_is_called_what_the_server_calls_it(typed: Lab) -> None:
    rows = typed.session.rows(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'typed'::regclass AND attnum > 0 ORDER BY attnum"
    )
    named = [
        (column.declared.replace("[][]", "[]").replace("[][]", "[]"), row[0])
        for column, row in zip(typed.shape("typed").schema.columns, rows, strict=True)
    ]
    assert [declared for declared, _ in named] == [by_server for _, by_server in named]


def test_a_label_added_to_an_enum_comes_like_the_others(lab: Lab) -> None:
    lab.database.write("CREATE TYPE mood AS ENUM ('sad')", "CREATE TABLE moods (id int PRIMARY KEY, m mood)")
    shape = lab.shape("moods")
    lab.publish("moods")
    lab.database.rows("ALTER TYPE mood ADD VALUE 'new'")
    lab.database.write("INSERT INTO moods VALUES (1, 'new')")
    rows, _ = streamed(lab, shape)
    assert rows.column("m").to_pylist() == ["new"]


def test_a_type_of_an_extension_comes_as_its_text(lab: Lab) -> None:
    if not lab.session.rows("SELECT 1 FROM pg_available_extensions WHERE name = 'hstore'"):
        pytest.skip("this server comes without hstore")
    lab.database.write("CREATE EXTENSION hstore", "CREATE EXTENSION citext")
    lab.database.write("CREATE TABLE odd (id int PRIMARY KEY, h hstore, c citext, hs hstore[])")
    lab.publish("odd")
    lab.database.write("""INSERT INTO odd VALUES (1, 'a=>1,b=>NULL', 'Abc', ARRAY['x=>"y"'::hstore])""")
    shape = lab.shape("odd")
    rows, _ = streamed(lab, shape)
    copied, _ = lab.copy(shape, "odd")
    assert [column.declared for column in shape.schema.columns] == ["integer", "hstore", "citext", "hstore[]"]
    assert [rows.column(name).to_pylist() for name in ("h", "c", "hs")] == [
        ['"a"=>"1", "b"=>NULL'],
        ["Abc"],
        ['{"\\"x\\"=>\\"y\\""}'],
    ]
    assert [column.to_pylist() for column in copied[1:]] == [rows.column(n).to_pylist() for n in ("h", "c", "hs")]
