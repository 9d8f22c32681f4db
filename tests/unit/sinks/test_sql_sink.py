"""What is SQL's and SQLite's own: locks, rights, full disks, names, indexes, and rows spread over several databases."""

from decimal import Decimal

import adbc_driver_sqlite.dbapi
import pyarrow as pa
import pytest

from raypipe.codec import shard_of
from raypipe.errors import Corrupt, SchemaMismatch, Unavailable
from raypipe.model import ChangeBatch, Column, Cut, Epoch, Image, Op, SinkTable, TableName, TableSchema
from raypipe.plan.model import SinkPlan
from raypipe.sinks import open_sinks
from raypipe.sinks.sharding import Shard
from raypipe.sinks.sql.sqlite import SqliteDialect
from raypipe.sinks.sql.store import SqlStore
from raypipe.sinks.transactional import TransactionalSink

LOCK_WAIT_MS = 20


def relation(*columns, key=("id",)):
    wanted = columns or (("id", pa.int64()), ("v", pa.string()))
    return TableSchema(
        table=TableName("", "", "r"), columns=tuple(Column(name=name, type=arrow) for name, arrow in wanted), key=key
    )


def changes(schema, *rows):
    shape = ChangeBatch.arrow_schema(schema)
    width = len(schema.columns)
    full = [
        (int(op), int(Image.FULL), 1, at, None, *(values or [None] * width)) for at, (op, *values) in enumerate(rows)
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(zip(*full, strict=True), shape, strict=True)]
    return ChangeBatch(schema=schema, rows=pa.RecordBatch.from_arrays(arrays, schema=shape))


@pytest.fixture
def make():
    """Makes sinks and closes them."""
    made = []

    def make(path, schema=None, name="t", pipeline="p"):
        tables = (SinkTable(name=name, relation="r", schema=schema or relation()),)
        store = SqlStore(dialect=SqliteDialect(str(path), LOCK_WAIT_MS), pipeline=pipeline, sink="w")
        made.append(TransactionalSink(name="w", tables=tables, store=store))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def carry(sink, number, batch):
    held = Cut(number=number - 1, log="log", offsets={}, positions={}) if number > 1 else None
    sink.begin(Epoch(after=held, upto=Cut(number=number, log="log", offsets={}, positions={}), generation=1))
    sink.write(sink.tables[0].name, batch)
    return sink.commit()


def rows_of(sink):
    with sink.contents() as contents:
        return [tuple(row.values()) for rows in contents.rows(sink.tables[0].name) for row in rows.to_pylist()]


def ask(path, statement):
    connection = adbc_driver_sqlite.dbapi.connect(str(path), autocommit=True)
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.db"


@pytest.fixture
def sink(make, path):
    sink = make(path)
    sink.open(1)
    return sink


LOAD = changes(relation(), (Op.TRUNCATE,), (Op.READ, 1, "a"), (Op.READ, 2, "b"))


def test_another_writers_lock_makes_the_sink_unavailable_and_nothing_is_lost(sink, path):
    carry(sink, 1, LOAD)
    other = adbc_driver_sqlite.dbapi.connect(str(path), autocommit=True)
    with other, other.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked by another writer"):
            carry(sink, 2, changes(relation(), (Op.INSERT, 3, "c")))
        cursor.execute("ROLLBACK")
    sink.open(2)
    carry(sink, 2, changes(relation(), (Op.INSERT, 3, "c")))
    assert len(rows_of(sink)) == 3


def test_readers_see_the_last_commit_while_an_epoch_is_under_way(sink, path):
    carry(sink, 1, LOAD)
    sink.begin(
        Epoch(
            after=Cut(number=1, log="log", offsets={}, positions={}),
            upto=Cut(number=2, log="log", offsets={}, positions={}),
            generation=1,
        )
    )
    for number in range(3):
        sink.write("t", changes(relation(), (Op.TRUNCATE,), (Op.READ, number, "c")))
    assert ask(path, "SELECT count(*) FROM t") == [(2,)]


def test_a_full_disk_is_unavailable_and_the_sink_goes_on_once_there_is_room(sink, path):
    carry(sink, 1, LOAD)
    cursor = sink._store._cursor
    [(pages,)] = ask(path, "PRAGMA page_count")
    cursor.execute(f"PRAGMA max_page_count = {pages + 1}")
    cursor.fetchall()
    with pytest.raises(Unavailable, match="disk is full"):
        carry(sink, 2, changes(relation(), (Op.INSERT, 3, "x" * 100_000)))
    assert sink.open(2).cut.number == 1
    carry(sink, 2, changes(relation(), (Op.INSERT, 3, "x" * 100_000)))
    assert len(rows_of(sink)) == 3


def test_a_database_that_may_only_be_read_is_unavailable(sink):
    sink._store._cursor.execute("PRAGMA query_only = 1")  # what SQLite says of a file without the right to write
    with pytest.raises(Unavailable, match="read-only"):
        carry(sink, 1, LOAD)


def test_a_folder_that_is_not_there_and_a_file_that_is_none_are_told_apart(make, tmp_path):
    with pytest.raises(Unavailable, match="cannot be opened"):
        make(tmp_path / "nowhere" / "w.db").open(1)
    (tmp_path / "text.db").write_text("this is not a database" * 100)
    with pytest.raises(Corrupt, match="no SQLite database"):
        make(tmp_path / "text.db").open(1)


def test_the_database_of_an_application_keeps_its_journal_and_its_tables(make, path):
    ask(path, "CREATE TABLE theirs (id INTEGER)")
    sink = make(path)
    sink.open(1)
    carry(sink, 1, LOAD)
    assert ask(path, "PRAGMA journal_mode") == [("delete",)]
    assert ask(path, "SELECT count(*) FROM theirs") == [(0,)]


def test_two_pipelines_share_a_database_but_not_a_table(make, path):
    make(path, name="a").open(5)
    assert make(path, name="b", pipeline="q").open(1).generation == 1
    with pytest.raises(SchemaMismatch, match="did not make"):
        make(path, name="a", pipeline="q").open(1)


def test_any_name_can_be_a_table_or_a_column(make, path):
    schema = relation(('a "b"', pa.int64()), ("select", pa.string()), ("rowid", pa.int64()), key=('a "b"',))
    sink = make(path, schema, name="odd name's")
    sink.open(1)
    carry(sink, 1, changes(schema, (Op.TRUNCATE,), (Op.READ, 1, "x", 7), (Op.READ, 2, "y", 8)))
    carry(sink, 2, changes(schema, (Op.DELETE, 1, "x", 7), (Op.UPDATE_AFTER, 2, "z", 9)))
    assert rows_of(sink) == [(2, "z", 9)]


def test_names_sqlite_cannot_tell_apart_or_needs_itself_are_refused(make, path):
    for names, says in ((("v", "V"), "one name"), (("id", "_ROWID_"), "needs for itself")):
        schema = relation(*((name, pa.int64()) for name in names), key=())
        with pytest.raises(SchemaMismatch, match=says):
            make(path, schema).open(1)


def test_a_delete_searches_the_index_of_the_key(sink, path):
    carry(sink, 1, LOAD)
    assert ask(path, "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = 't'") == [
        ("raypipe_t_identity",)
    ]
    plan = ask(path, "EXPLAIN QUERY PLAN SELECT 1 FROM (SELECT 1 AS id) AS s CROSS JOIN t ON t.id IS s.id")
    assert any("USING COVERING INDEX raypipe_t_identity" in str(line) for line in plan)


def test_widening_a_type_keeps_rows_indexes_and_the_look_of_decimals(make, path):
    narrow = relation(("id", pa.int32()), ("n", pa.decimal128(4, 1)), ("m", pa.int16()))
    sink = make(path, narrow)
    sink.open(1)
    carry(sink, 1, changes(narrow, (Op.TRUNCATE,), (Op.READ, 1, Decimal("1.5"), 3)))
    ask(path, "CREATE VIEW theirs AS SELECT count(*) AS n FROM t")
    wide = relation(("id", pa.int64()), ("n", pa.decimal128(10, 3)), ("m", pa.decimal128(9, 2)))
    carry(sink, 2, changes(wide, (Op.INSERT, 2**40, None, None)))
    assert ask(path, "SELECT id, n, m FROM t ORDER BY id") == [(1, "1.500", "3.00"), (2**40, None, None)]
    assert ask(path, "SELECT n FROM theirs") == [(2,)]
    assert ask(path, "SELECT type FROM pragma_table_info('t')") == [
        ("BIGINT",),
        ("DECIMAL_TEXT(10,3)",),
        ("DECIMAL_TEXT(9,2)",),
    ]
    assert ask(path, "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND tbl_name = 't'") == [(1,)]


def test_what_lists_hold_is_written_anew_where_a_wider_type_looks_different(make, path):
    def version(number, decimal, whole, real):
        inner = pa.struct([("d", decimal), ("r", real)])
        return relation(("id", pa.int64()), ("v", pa.list_(inner)), ("n", pa.list_(whole)), ("s", pa.string()))

    narrow = version(1, pa.decimal128(5, 2), pa.uint32(), pa.float32())
    wide = version(2, pa.decimal128(9, 3), pa.uint64(), pa.float64())
    one, two = {"d": Decimal("1.50"), "r": 0.5}, {"d": Decimal("2.125"), "r": 0.1}
    sink = make(path, narrow)
    sink.open(1)
    carry(
        sink,
        1,
        changes(
            narrow,
            (Op.TRUNCATE,),
            (Op.READ, 1, None, [1, None], "a"),
            (Op.READ, 2, [one, None], [], "b"),
            (Op.READ, 3, [], None, None),
        ),
    )
    carry(sink, 2, changes(wide, (Op.INSERT, 4, [two], [2**64 - 1], "c")))
    texts = ask(path, "SELECT id, v, n FROM t ORDER BY id")
    assert texts == [
        (1, None, '["1",null]'),
        (2, '[{"d":"1.500","r":0.5},null]', "[]"),
        (3, "[]", None),
        (4, '[{"d":"2.125","r":0.1}]', '["18446744073709551615"]'),
    ]
    sink.close()
    again = make(path, wide)
    again.open(2)
    assert sorted(rows_of(again)) == [
        (1, None, [1, None], "a"),
        (2, [{"d": Decimal("1.500"), "r": 0.5}, None], [], "b"),
        (3, [], None, None),
        (4, [two], [2**64 - 1], "c"),
    ]


def test_each_shard_holds_the_keys_of_its_own_and_nothing_else(tmp_path):
    urls = [f"sqlite:///{tmp_path}/{index}.db" for index in range(3)]
    tables = (SinkTable(name="t", relation="r", schema=relation()),)
    shards = open_sinks(SinkPlan(name="w", url="", tables=tables, options={"urls": urls}), "p")
    batch = changes(relation(), (Op.TRUNCATE,), *((Op.READ, key, "x") for key in range(50)))
    expected = shard_of(batch.rows, ["id"], 3)[1:].tolist()
    for shard in shards:
        shard.open(1)
        carry(shard, 1, batch)
    assert [sorted(key for key, _ in rows_of(shard)) for shard in shards] == [
        [key for key in range(50) if expected[key] == index] for index in range(3)
    ]
    for shard in shards:
        shard.close()


def test_a_relation_without_a_key_lives_in_the_first_shard():
    batch = changes(relation(key=()), (Op.TRUNCATE,), (Op.READ, 1, "a"))
    assert [Shard(index=index, count=2).share(batch).num_rows for index in range(2)] == [2, 1]


def test_a_table_spread_over_another_number_of_shards_is_loaded_again(tmp_path):
    def opened(count):
        urls = [f"sqlite:///{tmp_path}/{index}.db" for index in range(count)]
        tables = (SinkTable(name="t", relation="r", schema=relation()),)
        return open_sinks(SinkPlan(name="w", url="", tables=tables, options={"urls": urls}), "p")

    for shard in opened(2):
        shard.open(1)
        carry(shard, 1, LOAD)
        shard.close()
    for shard in opened(3):
        assert shard.open(2).tables["t"].awaiting == {0}
        assert rows_of(shard) == []
        shard.close()


def test_a_key_given_by_the_user_counts_for_a_relation_that_has_none(make, path):
    keyless = relation(key=())
    sink = make(path, relation())
    sink.open(1)
    carry(sink, 1, changes(keyless, (Op.TRUNCATE,), (Op.READ, 1, "a"), (Op.READ, 1, "b")))
    assert rows_of(sink) == [(1, "b")]


def test_a_row_that_somebody_else_took_from_a_table_without_key_is_told(make, path):
    keyless = relation(key=())
    sink = make(path, keyless)
    sink.open(1)
    carry(sink, 1, changes(keyless, (Op.TRUNCATE,), (Op.READ, 1, "a"), (Op.READ, 1, "a")))
    ask(path, "DELETE FROM t WHERE _rowid_ = 1")
    with pytest.raises(Corrupt, match="lacks rows"):
        carry(sink, 2, changes(keyless, (Op.DELETE, 1, "a"), (Op.DELETE, 1, "a")))
