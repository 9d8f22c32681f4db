"""One server process with its children: started, waited for, paused, killed, found again by its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.services.account import Account

# How often a condition is looked at while waiting for it.
LOOK_EVERY_S = 0.02

# Holds a server's process number, in the server's folder.
PID_FILE = "server.pid"

# What a server inherits from us. Not more: a server outlives who started it, and must behave the same for everybody.
INHERITED = ("PATH", "LANG", "LD_LIBRARY_PATH")


class _Server(subprocess.Popen[bytes]):
    """A child that may outlive us: a shared server goes on, so that it still runs when we end is nothing to warn of."""

    def __del__(self) -> None:
        """Nothing: `lives` buries it if it ends first."""


# The servers that this process has started. It must bury them, whichever object ends them, or they stay zombies.
_children: dict[int, _Server] = {}


class ServiceError(Exception):
    """A server could not be installed, started or stopped; the message says what to do about it."""


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message; empty if there is no log."""
    with suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return ""


def run_to_end(command: Sequence[str | Path], **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command without input and keeps what it says, however it ends; ``more`` is for `subprocess.run`."""
    words = [str(word) for word in command]
    return subprocess.run(words, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, **more)


class ServerProcess:
    """A server that keeps its data in one folder and writes its output to one log.

    The process number is kept in the folder, so that another process can find the server, and end it.
    """

    def __init__(self, *, name: str, folder: Path, log: Path, account: Account) -> None:
        self.name = name
        self.folder = folder
        self.log = log
        self.account = account
        self._log_begins_at = 0

    @property
    def pid(self) -> int | None:
        """The number of the running process, None if it does not run."""
        process = self._process()
        return process.pid if process else None

    def spawn(self, command: Sequence[str | Path]) -> None:
        """Starts the server in a session of its own, and does not wait for it to be ready."""
        with self.log.open("ab") as output:
            self._log_begins_at = output.tell()
            self.account.own(self.log)
            child = _Server(
                [str(word) for word in command],
                cwd=self.folder,
                env={name: os.environ[name] for name in INHERITED if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal that started it is not meant for it
                **self.account.popen(),
            )
        _children[child.pid] = child
        self._pid_file.write_text(f"{child.pid}\n")

    def await_ready(self, ready: Callable[[], bool], within_s: float) -> None:
        """Waits until ``ready()`` says so.

        Raises:
            ServiceError: The server ended, or was not ready in time; the message ends with the last lines of its log.
        """
        deadline = time.monotonic() + within_s
        while not ready():
            if self.pid is None:
                raise ServiceError(f"{self.name} ended while starting. The end of {self.log}:\n{tail(self.log)}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServiceError(f"{self.name} was not ready in {within_s:g} s. {self.log} ends:\n{tail(self.log)}")
            time.sleep(LOOK_EVERY_S)

    def has_said(self, words: str) -> bool:
        """Whether these words stand in what the server has logged since it was last started by this object."""
        with self.log.open("rb") as log:
            log.seek(self._log_begins_at)
            return words.encode() in log.read()

    def end(self, how: signal.Signals, within_s: float) -> None:
        """Sends a signal that asks the server to end, waits, and kills it if it takes longer."""
        process = self._process()
        if process is None:
            return
        tree = self._tree(process)
        for one in tree:
            with suppress(psutil.Error):
                one.send_signal(signal.SIGCONT)  # a paused process would not even hear it
        with suppress(psutil.Error):
            process.send_signal(how)
        self._await(tree, within_s)
        self.kill()

    def kill(self) -> None:
        """Ends the server and all its children at once, as a power cut would (SIGKILL)."""
        process = self._process()
        if process is not None:
            tree = self._tree(process)
            for one in tree:
                with suppress(psutil.Error):
                    one.kill()
            self._await(tree, 10.0)
        self._pid_file.unlink(missing_ok=True)

    def pause(self) -> None:
        """Stops the server and its children with all their connections open (SIGSTOP); when it returns, none runs."""
        deadline = time.monotonic() + 10.0
        for one in self._signal_all(signal.SIGSTOP):
            with suppress(psutil.Error):
                while one.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
                    time.sleep(0.001)

    def resume(self) -> None:
        """Lets a paused server run on (SIGCONT)."""
        self._signal_all(signal.SIGCONT)

    @property
    def _pid_file(self) -> Path:
        return self.folder / PID_FILE

    def _signal_all(self, which: signal.Signals) -> list[psutil.Process]:
        process = self._process()
        if process is None:
            raise ServiceError(f"{self.name} does not run.")
        tree = self._tree(process)
        for one in tree:
            with suppress(psutil.Error):
                one.send_signal(which)
        return tree

    def _process(self) -> psutil.Process | None:
        """The running server; None if it ended, or if its number belongs to another process by now."""
        try:
            process = psutil.Process(int(self._pid_file.read_text()))
            # The system is asked only about strangers: for a moment after exec a command line is empty.
            child = _children.get(process.pid)
            command = str(child.args) if child is not None else " ".join(process.cmdline())
            ours = lives(process) and f"{self.folder}/" in command
        except (OSError, ValueError, psutil.Error):
            return None
        return process if ours else None

    @staticmethod
    def _tree(process: psutil.Process) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return [process, *process.children(recursive=True)]
        return [process]

    def _await(self, processes: Sequence[psutil.Process], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if not any(lives(process) for process in processes):
                return
            time.sleep(LOOK_EVERY_S)


class Server(ABC):
    """What every server here does alike, by way of its one process.

    Attributes:
        folder: Holds all it keeps.
    """

    folder: Path
    _process: ServerProcess

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "server.log"

    @property
    def pid(self) -> int | None:
        """Its process number, None if it does not run."""
        return self._process.pid

    @abstractmethod
    def start(self) -> None:
        """Starts the server and waits until it serves.

        Raises:
            ServiceError: It does not come up; the message ends with the last lines of its log.
        """

    @abstractmethod
    def stop(self) -> None:
        """Ends the server in order."""

    def kill(self) -> None:
        """Ends all its processes at once (SIGKILL)."""
        self._process.kill()

    def pause(self) -> None:
        """Stops all its processes from running; connections stay open and silent."""
        self._process.pause()

    def resume(self) -> None:
        """Lets a paused server run on."""
        self._process.resume()

    def restart(self) -> None:
        """Stops and starts it."""
        self.stop()
        self.start()


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie, which only waits for its parent to notice, does not."""
    child = _children.get(process.pid)
    if child is not None and child.poll() is not None:
        del _children[process.pid]
        return False
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
