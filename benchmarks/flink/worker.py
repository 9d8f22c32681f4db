"""Flink in a process of its own: ``python worker.py JOB.json``, run by the Python of Flink's environment.

It imports nothing of this repository. It answers the question over a small input first, writing every change of the
answer to files, says ``ready``, and answers it over the whole input, into nowhere, when it is told ``go``; then it says
``done``, and ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Does one job."""
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    os.environ.update(job["environment"])  # which pyflink reads when it is imported
    from pyflink.common import Configuration
    from pyflink.table import EnvironmentSettings, TableEnvironment

    configuration = Configuration()
    for name, value in job["configuration"].items():
        configuration.set_string(name, value)
    settings = EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration).build()
    flink = TableEnvironment.create(settings)
    _run(flink, job["sql"], job["checked"])
    print("ready", flush=True)
    if sys.stdin.readline().strip() != "go":
        return
    columns = _run(flink, job["sql"], job["measured"])
    print("done", json.dumps({"columns": columns}), flush=True)
    sys.stdin.read()


def _run(flink: Any, sql: str, part: dict[str, Any]) -> list[str]:
    """Answers the question into a sink whose columns are c0, c1 and so on; returns the columns' names."""
    for name, value in part["configuration"].items():
        flink.get_config().set(name, value)
    for name, create in part["tables"].items():
        flink.execute_sql(f"DROP TEMPORARY TABLE IF EXISTS {name}")
        flink.execute_sql(create)
    columns = flink._j_tenv.sqlQuery(sql).getResolvedSchema().getColumns()
    described = ", ".join(f"c{place} {_type(column)}" for place, column in enumerate(columns))
    flink.execute_sql("DROP TEMPORARY TABLE IF EXISTS answer")
    flink.execute_sql(f"CREATE TEMPORARY TABLE answer ({described}) WITH ({part['sink']})")
    flink.execute_sql(f"INSERT INTO answer {sql}").wait()
    return [column.getName() for column in columns]


def _type(column: Any) -> str:
    """As CREATE TABLE takes it: a time that drives windows is a plain one in a table."""
    type_: str = column.getDataType().getLogicalType().asSummaryString()
    return type_.replace("NOT NULL", "").replace("*ROWTIME*", "").strip()


if __name__ == "__main__":
    main()
