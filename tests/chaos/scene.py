"""One pipeline over the bank, run as real processes that can be killed, and checked sink by sink at its own cut."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pyarrow as pa
from bank import ALL_SINKS, Bank, expected, write_pipeline

from raypipe.contracts import HoldsAShare, SinkContents
from raypipe.engine.status import STATUS_NOTE, Status
from raypipe.local.assemble import assemble
from raypipe.log import open_log
from raypipe.model import BRANCH, COMMIT, OP, ORDINAL, Mode, Op, SinkTable
from raypipe.plan.model import Plan
from raypipe.sinks import open_sinks
from raypipe.spec import load

DEADLINE_S = 60.0
SHARDS = 2


class Scene:
    """A bank, its pipeline file and the processes that run it."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        limits: Mapping[str, object] | None = None,
        sinks: str = ALL_SINKS,
        log: str = "",
        name: str = "bank",
        steps: str = "",
    ) -> None:
        self.folder = folder
        self.bank = Bank(folder / "bank.db", seed)
        self.pipeline = name
        self.log_url = log or f"sqlite:///{folder}/log.db"
        self.file = write_pipeline(folder, limits, sinks, self.log_url, name, steps)
        self._started: list[subprocess.Popen[str]] = []
        self.fired = folder / "fired"

    def plan(self) -> Plan:
        """The plan as the command line makes it."""
        return assemble(load(self.file))

    def start(
        self, *, until: str = "forever", faults: str = "", local: tuple[str, ...] = ("--local",)
    ) -> subprocess.Popen[str]:
        """Starts a run in a process of its own."""
        environment = os.environ | {
            "RAYPIPE_FAULTS": faults,
            "RAYPIPE_FAULTS_FIRED": str(self.fired),
            "PYTHONFAULTHANDLER": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "raypipe", "run", str(self.file), *local, "--until", until],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return process

    def ended(self, process: subprocess.Popen[str], timeout_s: float = DEADLINE_S) -> str:
        """Waits for a run to end, however it does; returns what it printed.

        Raises:
            AssertionError: it hangs; tells where each of its threads does.
        """
        try:
            return process.communicate(timeout=timeout_s)[0]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            output, _ = process.communicate(timeout=DEADLINE_S)
            raise AssertionError(f"not ended within {timeout_s:.0f} s: {output}") from None

    def finish(self, process: subprocess.Popen[str]) -> str:
        """Waits for a run to end by itself and cleanly; returns what it printed."""
        output = self.ended(process)
        assert process.returncode == 0, f"exit {process.returncode}: {output}"
        return output

    def settle(self, faults: str = "") -> str:
        """Runs until every sink has everything."""
        return self.finish(self.start(until="idle", faults=faults))

    def pause(self, process: subprocess.Popen[str], point: str) -> None:
        """SIGSTOP at a point armed with ``hold``, in a moment in which the run has locked neither source nor log.

        Its other threads work on while one is held, so a SIGSTOP at the point itself might hit the reader while it
        prunes: then nobody could write to the source before the run wakes.
        """
        wait_until(lambda: point in self.fired_points(), "the run's coming to the point")
        with ExitStack() as held:
            for path in (self.bank.path, self.folder / "log.db"):
                connection = held.enter_context(closing(sqlite3.connect(path, timeout=DEADLINE_S)))
                connection.execute("BEGIN IMMEDIATE")
            process.send_signal(signal.SIGSTOP)

    def wake(self, process: subprocess.Popen[str]) -> None:
        """SIGCONT to a run that was paused, which goes on from its point."""
        self.fired.with_name(f"{self.fired.name}.go").touch()
        process.send_signal(signal.SIGCONT)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """SIGKILL, reaped."""
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)

    def close(self) -> None:
        """Kills and reaps whatever a failed test left at work, paused or not."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=DEADLINE_S)

    def fired_points(self) -> dict[str, int]:
        """How often each failpoint fired."""
        counts: dict[str, int] = {}
        for line in self.fired.read_text().splitlines() if self.fired.exists() else []:
            name = line.split(" ", 1)[0]
            counts[name] = counts.get(name, 0) + 1
        return counts

    def status(self) -> Status | None:
        """What the newest run last said of itself; None before the first."""
        log = open_log(self.log_url, pipeline=self.pipeline)
        try:
            text = log.notes(STATUS_NOTE).get(STATUS_NOTE)
            return Status.from_json(text) if text is not None else None
        finally:
            log.close()

    def status_run(self) -> int:
        """Number of the newest run."""
        status = self.status()
        return status.run if status is not None else 0

    def cuts_of_sinks(self) -> dict[str, int | None]:
        """The cut each unit of commit holds, by the newest run's own words: a look that locks no store."""
        status = self.status()
        return {sink.name: sink.cut for sink in status.sinks} if status is not None else {}

    def all_beyond(self, cut: int = 0) -> bool:
        """Whether the newest run tells of sinks, and each of them holds a later cut than this one."""
        cuts = self.cuts_of_sinks().values()
        return bool(cuts) and all((held or 0) > cut for held in cuts)

    def check(self, *, caught_up: bool = False) -> int:
        """Compares every table of every sink with the bank's state at that sink's own cut; returns tables compared.

        Raises:
            AssertionError: something is lost, doubled, stale or torn.
        """
        plan = self.plan()
        log = open_log(plan.log, pipeline=plan.pipeline)
        compared = 0
        try:
            last = log.last_cut()
            shards: dict[str, list[tuple[int, dict[object, tuple[object, ...]]]]] = {}
            for sink_plan in plan.sinks:
                for sink in open_sinks(sink_plan, plan.pipeline):
                    with sink.contents() as contents:
                        cut = contents.committed.cut
                        if cut is None:
                            assert not caught_up, f"{sink.name} holds no cut"
                            continue
                        known = log.cut(cut.number)
                        assert known is not None, f"{sink.name} holds cut {cut.number}, which the log does not know"
                        assert not caught_up or (last is not None and last.number == cut.number), (
                            f"{sink.name} is behind"
                        )
                        if known.loading:
                            continue
                        seq = int(json.loads(known.positions["bank"])["seq"])
                        assert not caught_up or seq >= self.bank.last_seq(), f"{sink.name} is behind the source"
                        for table in sink.tables:
                            if isinstance(contents, HoldsAShare):
                                strays = [contents.strays(table.name, rows) for rows in contents.rows(table.name)]
                                assert not any(rows.num_rows for rows in strays), f"{sink.name}: rows of another shard"
                            held = _rows(contents, table)
                            if len(sink_plan.options.get("urls", ())) > 1:  # type: ignore[arg-type]
                                shards.setdefault(table.name, []).append((seq, held))
                                continue
                            self._same(f"{sink.name}/{table.name}", held, seq, table.relation)
                            compared += 1
                    sink.close()
            for name, parts in shards.items():
                compared += self._check_shards(name, parts, SHARDS)
        finally:
            log.close()
        return compared

    def _check_shards(self, table: str, parts: list[tuple[int, dict[object, tuple[object, ...]]]], shards: int) -> int:
        """Shards may stand at different cuts: each must agree with its own; together they cover equal cuts."""
        for seq, held in parts:
            want = expected(f"bank.{table}", self.bank.state_at(seq))
            wrong = {key: row for key, row in held.items() if want.get(key) != row}
            assert not wrong, f"shard of {table}: {len(wrong)} rows are not those of change {seq}"
        if len(parts) == shards and len({seq for seq, _ in parts}) == 1:
            union = {key: row for _, held in parts for key, row in held.items()}
            assert sum(len(held) for _, held in parts) == len(union), f"{table}: a row lies in two shards"
            self._same(f"shards/{table}", union, parts[0][0], f"bank.{table}")
        return len(parts)

    def _same(self, where: str, held: dict[object, tuple[object, ...]], seq: int, relation: str) -> None:
        want = expected(relation, self.bank.state_at(seq))
        missing, extra = want.keys() - held.keys(), held.keys() - want.keys()
        different = [key for key in want.keys() & held.keys() if want[key] != held[key]]
        wrong = len(missing) + len(extra) + len(different)
        assert wrong == 0, (
            f"{where} at change {seq}: {len(missing)} missing, {len(extra)} extra, {len(different)} different"
        )


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Polls a condition."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {deadline_s:.0f} s")
        time.sleep(0.005)


def _rows(contents: SinkContents, table: SinkTable) -> dict[object, tuple[object, ...]]:
    batches = list(contents.rows(table.name))
    if not batches:
        return {}
    rows = pa.Table.from_batches(batches).to_pylist()
    if table.mode is Mode.HISTORY:
        return _folded(rows)
    held: dict[object, tuple[object, ...]] = {}
    for row in rows:
        key = (row[BRANCH], row["id"]) if BRANCH in row else row["id"]
        assert key not in held, f"{table.name}: key twice"
        held[key] = tuple(row.values())
    return held


def _folded(rows: list[dict[str, object]]) -> dict[object, tuple[object, ...]]:
    """The present state that a history tells, change by change; a doubled change is an error."""
    state: dict[object, tuple[object, ...]] = {}
    seen: set[tuple[object, ...]] = set()
    for row in sorted(rows, key=lambda row: (row[COMMIT], row[ORDINAL], -int(str(row[OP])))):
        op = Op(int(str(row[OP])))
        if op is Op.TRUNCATE:
            state.clear()
            continue
        identity = (row[COMMIT], row[ORDINAL], op.weight, row["id"])
        assert identity not in seen, "a change stands twice in the history"
        seen.add(identity)
        data = tuple(value for name, value in row.items() if not name.startswith("_raypipe_"))
        if op.weight > 0:
            state[row["id"]] = data
        else:
            state.pop(row["id"], None)
    return state
