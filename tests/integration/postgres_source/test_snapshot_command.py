"""Loads are started, rested and resumed from outside while a pipeline runs."""

from __future__ import annotations

import time
from contextlib import closing
from threading import Event, Thread

import pytest
from test_postgres_pipeline import PIPELINE, SCHEMA, await_run, wrong

from raypipe.cli.app import main
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.log import open_existing_log
from raypipe.sources.postgres import PostgresSource
from raypipe.spec import load
from raypipe.verify import verify


def test_tables_are_loaded_again_by_command_while_the_pipeline_runs(database, tmp_path, capsys):
    database.write(*SCHEMA)
    file = tmp_path / "pipeline.yaml"
    file.write_text(PIPELINE.format(url=database.url))
    plan = assemble(load(file))
    run_local(plan, until="idle")
    topic = "postgres_shop.shop.public.orders"
    with closing(open_existing_log(plan.log, pipeline=plan.pipeline)) as log:
        before = log.load_begins(topic)

        def command(*words: str) -> str:
            with pytest.raises(SystemExit) as ended:
                main(["snapshot", words[0], str(file), *words[1:]])
            assert ended.value.code == 0
            return capsys.readouterr().out

        assert "Every table is loaded" in command("status")
        stop = Event()
        runner = Thread(target=run_local, args=(plan,), kwargs={"until": "forever", "stop": stop})
        runner.start()
        try:
            await_run(plan)
            command("pause")
            command("start", "--table", "shop.orders")
            await_that(lambda: log.load_begins(topic) not in (None, before))
            database.write("INSERT INTO orders VALUES (90001, 1, 1, 'paid', 'x')")
            assert "shop.orders" in command("status")
            assert "loads rest" in command("status")
            command("resume")
            await_that(lambda: "Every table is loaded" in command("status"))
        finally:
            stop.set()
            runner.join()
    assert wrong(verify(plan)) == {}


def await_that(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        Event().wait(0.05)


def test_a_source_whose_loads_rest_reads_its_stream(database, read):
    database.write("CREATE TABLE a(id int PRIMARY KEY)", "INSERT INTO a SELECT generate_series(1, 1000)")
    database.write("CREATE TABLE b(id int PRIMARY KEY)")
    reading = read("a", "b").open()
    reading.step(2000)
    assert isinstance(reading.source, PostgresSource)
    reading.source.pause_loads(True)
    reading.drain(2000)
    loaded = len(reading.present("a"))
    database.write("INSERT INTO b VALUES (1)")
    reading.drain(2000)
    assert len(reading.present("a")) == loaded < 1000
    reading.source.pause_loads(False)
    reading.until_loaded(2000).agree()
