"""What is DuckDB's own: one process at a time, files that fill up, memory that stays flat."""

import resource
import shutil
import subprocess
import sys

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from raypipe.errors import Corrupt, Unavailable
from raypipe.model import ChangeBatch, Column, Cut, Epoch, Op, SinkTable, TableName, TableSchema
from raypipe.plan.model import SinkPlan
from raypipe.sinks import open_sinks

SCHEMA = TableSchema(
    table=TableName("", "", "r"),
    columns=(Column(name="id", type=pa.int64()), Column(name="v", type=pa.string())),
    key=("id",),
)
READ_FROM_OUTSIDE = (
    "import duckdb, sys; print(duckdb.connect(sys.argv[1], read_only=True).execute({query!r}).fetchall())"
)


def upserts(ids, value="x"):
    count = len(ids)
    operations = np.full(count, Op.INSERT, dtype=np.int8)
    zeros = np.zeros(count, dtype=np.int64)
    columns = [
        operations,
        zeros.astype(np.int8),
        zeros,
        zeros,
        pa.array(zeros).cast(pa.timestamp("us", tz="UTC")),
        np.asarray(ids, dtype=np.int64),
        pa.array(np.full(count, value)),
    ]
    shape = ChangeBatch.arrow_schema(SCHEMA)
    arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, shape, strict=True)]
    return ChangeBatch(schema=SCHEMA, rows=pa.RecordBatch.from_arrays(arrays, schema=shape))


def truncate():
    shape = ChangeBatch.arrow_schema(SCHEMA)
    values = [int(Op.TRUNCATE), 0, 0, 0, None, None, None]
    arrays = [pa.array([value], field.type) for value, field in zip(values, shape, strict=True)]
    return ChangeBatch(schema=SCHEMA, rows=pa.RecordBatch.from_arrays(arrays, schema=shape))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.duckdb"


@pytest.fixture
def sink(path):
    tables = (SinkTable(name="t", relation="r", schema=SCHEMA),)
    [sink] = open_sinks(SinkPlan(name="w", url=f"duckdb:///{path}", tables=tables), "p")
    yield sink
    sink.close()


def carry(sink, number, *batches):
    after = Cut(number=number - 1, log="log", offsets={}, positions={}) if number > 1 else None
    sink.begin(Epoch(after=after, upto=Cut(number=number, log="log", offsets={}, positions={}), generation=1))
    for batch in batches:
        sink.write("t", batch)
    sink.commit()


def read_from_outside(path, query="SELECT count(*) FROM t"):
    program = READ_FROM_OUTSIDE.format(query=query)
    return subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)


def test_a_sink_at_rest_lets_another_process_read_and_an_epoch_does_not(sink, path):
    sink.open(1)
    carry(sink, 1, truncate(), upserts([1, 2]))
    assert read_from_outside(path).returncode != 0
    sink.rest()
    assert read_from_outside(path).stdout.strip() == "[(2,)]"


def test_a_reader_that_holds_the_file_makes_the_sink_unavailable_and_nothing_is_lost(sink, path):
    sink.open(1)
    carry(sink, 1, truncate(), upserts([1]))
    sink.rest()
    waits = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", waits, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout.readline() == "open\n"
        with pytest.raises(Unavailable, match="open in another process"):
            carry(sink, 2, upserts([2]))
        reader.communicate("\n")
    sink.open(2)
    carry(sink, 2, upserts([2]))
    with sink.contents() as contents:
        assert sum(rows.num_rows for rows in contents.rows("t")) == 2


def test_what_was_committed_is_on_disk_before_the_file_is_closed(sink, path, tmp_path):
    sink.open(1)
    carry(sink, 1, truncate(), upserts([1]))
    (tmp_path / "crash").mkdir()
    for name in (path.name, path.name + ".wal"):  # as the disk is if the process dies now
        shutil.copy(path.with_name(name), tmp_path / "crash" / name)
    [after] = open_sinks(SinkPlan(name="w", url=f"duckdb:///{tmp_path}/crash/{path.name}", tables=sink.tables), "p")
    with after.contents() as contents:
        assert contents.committed.cut.number == 1
        assert sum(rows.num_rows for rows in contents.rows("t")) == 1


def test_a_full_disk_is_unavailable_and_the_sink_goes_on_once_there_is_room(sink, path):
    sink.open(1)
    carry(sink, 1, truncate(), upserts([1]))
    noise = ["".join(map(chr, row)) for row in np.random.default_rng(1).integers(33, 126, (2_000, 200))]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 4096, limits[1]))
    try:
        with pytest.raises(Unavailable):
            carry(sink, 2, *(upserts([number], text) for number, text in enumerate(noise)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    sink.abort()
    assert sink.open(2).cut.number == 1
    carry(sink, 2, upserts([2]))
    with sink.contents() as contents:
        assert sum(rows.num_rows for rows in contents.rows("t")) == 2


def test_a_folder_that_is_not_there_and_a_file_that_is_none_are_told_apart(tmp_path):
    def opened(path):
        [sink] = open_sinks(SinkPlan(name="w", url=f"duckdb:///{path}", tables=()), "p")
        sink.open(1)

    with pytest.raises(Unavailable, match="no such file"):
        opened(tmp_path / "nowhere" / "w.duckdb")
    (tmp_path / "text.duckdb").write_text("this is not a database, and it is long enough to look like one" * 100)
    with pytest.raises(Corrupt):
        opened(tmp_path / "text.duckdb")


def test_a_view_of_the_tables_name_is_somebody_elses(sink, path):
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE VIEW t AS SELECT 1 AS id")
    with pytest.raises(Exception, match="did not make"):
        sink.open(1)


def test_an_epoch_of_many_batches_keeps_none_of_them_in_arrow_memory(sink):
    sink.open(1)
    before, most = pa.total_allocated_bytes(), 0
    sink.begin(Epoch(after=None, upto=Cut(number=1, log="log", offsets={}, positions={}), generation=1))
    sink.write("t", truncate())
    for number in range(12):
        sink.write("t", upserts(np.arange(100_000) + number * 50_000))
        most = max(most, pa.total_allocated_bytes() - before)
    sink.commit()
    with sink.contents() as contents:
        assert sum(rows.num_rows for rows in contents.rows("t")) == 650_000
    assert most < 2 * upserts(np.arange(100_000)).rows.nbytes
