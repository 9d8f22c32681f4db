"""The shop's writers as processes: started together, told to stop together, none left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

# A writer ends after the transaction in hand, which may wait for the database.
STOP_WITHIN_S = 10.0


class Staff:
    """Writer processes; a context manager that leaves none running.

    Args:
        desks: What ``raypipe.demo.writer`` is told of its database, one writer for each.
        seed: Of the first writer; each further one has the next.
        rate: Transactions a second of each; 0 for as many as can be.
    """

    def __init__(self, desks: Iterable[Sequence[str]], *, seed: int, rate: float = 0.0) -> None:
        self._desks = tuple(desks)
        self._seed = seed
        self._rate = rate
        self._writers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        for seed, desk in enumerate(self._desks, start=self._seed):
            command = [sys.executable, "-m", "raypipe.demo.writer", *desk]
            command += ["--seed", str(seed), "--rate", str(self._rate)]
            # A session of their own: Ctrl-C at the terminal reaches the one who started them, who stops them in order.
            self._writers.append(
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
                )
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def at_work(self) -> int:
        """How many writers are running."""
        return sum(writer.poll() is None for writer in self._writers)

    def stop(self) -> list[Mapping[str, Any]]:
        """Stops all; returns what each did, as ``writer.Tally`` has it.

        Raises:
            RuntimeError: a writer failed; with its last words.
        """
        writers, self._writers = self._writers, []
        for writer in writers:
            if writer.poll() is None:
                writer.send_signal(signal.SIGTERM)
        # A writer that was told to stop before it had begun dies of the signal, and did nothing.
        ended = [end for writer in writers if (end := _ended(writer))[0] != -signal.SIGTERM]
        failed = [words for code, _, words in ended if code != 0]
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(ended)} writers failed: {failed[0].strip().splitlines()[-1:]}")
        return [json.loads(told) for _, told, _ in ended]


def _ended(writer: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        told, words = writer.communicate(timeout=STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        writer.kill()
        told, words = writer.communicate()
    return writer.returncode, told, words
