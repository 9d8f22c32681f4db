"""Named failpoints: the places in each protocol where tests kill, delay or break a process, and proof that they fired.

A failpoint costs one dictionary look-up when none is armed. Tests arm them through two environment variables::

    RAYPIPE_FAULTS="log.append.after=kill@3,sink.commit.after=lose"
    RAYPIPE_FAULTS_FIRED=/tmp/x/fired      # one line per firing, written and synced before the action

An entry is ``name=action[:argument][@n]``: the action happens at the n-th passage (default 1), counted per process,
and once in all: a process that finds its line in the file of firings already leaves it alone, so that a restarted actor
does not die of the same failpoint for ever.

| action | what happens |
|---|---|
| ``kill`` | SIGKILL of this process |
| ``stop`` | SIGSTOP of this process (somebody sends SIGCONT) |
| ``hold`` | this thread waits until somebody makes the file ``$RAYPIPE_FAULTS_FIRED.go``; the others work on |
| ``raise`` | ``Unavailable`` |
| ``lose`` | ``OutcomeUnknown``, as if the reply was lost |
| ``delay:SECONDS`` | sleeps |
| ``skip`` | ``armed()`` answers True: for mutants, which leave out a step of a protocol |
"""

from __future__ import annotations

import os
import signal
import time

from raypipe.errors import OutcomeUnknown, Unavailable

# Every failpoint in the code, in the order of the protocols. A test checks that the code and this list agree.
POINTS = (
    "source.poll.before",
    "source.poll.after",
    "log.append.before",
    "log.append.after",
    "log.commit.before",
    "log.commit.after",
    "source.acknowledge.before",
    "source.acknowledge.after",
    "epoch.begin",
    "epoch.step.after",
    "epoch.views.before",
    "epoch.views.after",
    "state.open.claimed",
    "state.commit.before",
    "state.commit.written",
    "state.commit.named",
    "state.commit.after",
    "state.merge.written",
    "state.checkpoint.run",
    "state.checkpoint.named",
    "state.restored",
    "reshard.packed",
    "reshard.listed",
    "reshard.left",
    "shards.cut",
    "shards.shared",
    "shards.named",
    "reshard.switched",
    "sink.open.after",
    "sink.write.after",
    "sink.commit.before",
    "sink.commit.data",
    "sink.commit.after",
    "log.retain.before",
    "log.retain.after",
    "repair.slot.after",
    "repair.position.after",
    "repair.compare.after",
    "repair.ask.after",
)

# Mutants: a step of a protocol deliberately left out, to prove that the tests would notice (see tests/chaos).
MUTANTS = (
    "mutant.acknowledge_early",  # prune the source before the log is durable
    "mutant.position_before_data",  # the log commits the position in a transaction before the rows
    "mutant.cut_before_data",  # a sink commits its cut before its data
    "mutant.no_fence",  # a sink or log does not check the generation
    "mutant.torn_cut",  # the log marks a cut in the middle of a transaction
    "mutant.no_watermark",  # rows that are read again go out before the stream has passed what they saw
    "mutant.backfill_touched",  # rows that are read again replace what the stream has written meanwhile
    "mutant.event_at_once",  # a change of a table's shape counts from where the stream stands when it is heard of
    "mutant.repair_before_slot",  # a repair compares with the source as it was before the slot was made
    "mutant.repair_keeps_gone",  # a repair leaves keys alone that are gone from the source
    "mutant.retain_early",  # the log forgets what a sink has not committed
    "mutant.checkpoint_alone",  # the log forgets what follows a checkpoint as soon as the sinks have it
    "mutant.state_name_early",  # a commit of the state gets its name before it is whole
    "mutant.state_drop_weight",  # equal rows of the state are merged without adding their weights
    "mutant.reshard_forgets",  # runs that were not cut beforehand are left out of the new shards
    "mutant.shard_unset_key",  # rows whose key is NULL stay at the shard that they are at
    "mutant.state_unset_key",  # rows whose key holds a NULL are left out of the state
)


def _parse(text: str) -> dict[str, tuple[str, str, int]]:
    armed: dict[str, tuple[str, str, int]] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, rest = entry.partition("=")
        action, _, nth = rest.partition("@")
        verb, _, argument = action.partition(":")
        if name not in POINTS and name not in MUTANTS:
            raise ValueError(f"unknown failpoint {name!r}; known: {', '.join(POINTS + MUTANTS)}")
        armed[name] = (verb, argument, int(nth or 1))
    return armed


_armed = _parse(os.environ.get("RAYPIPE_FAULTS", ""))
_passages: dict[str, int] = {}


def _record(name: str, action: str) -> None:
    path = os.environ.get("RAYPIPE_FAULTS_FIRED")
    if path:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, f"{name} {action} {os.getpid()}\n".encode())
        os.fsync(handle)
        os.close(handle)


def _has_fired(name: str) -> bool:
    path = os.environ.get("RAYPIPE_FAULTS_FIRED")
    if not path or not os.path.exists(path):
        return False
    with open(path) as lines:
        return any(line.split(" ", 1)[0] == name for line in lines)


def _wait_for_leave() -> None:
    leave = os.environ["RAYPIPE_FAULTS_FIRED"] + ".go"
    while not os.path.exists(leave):
        time.sleep(0.01)


def arm(text: str) -> None:
    """Arms failpoints in this process, as ``RAYPIPE_FAULTS`` would; an empty text disarms all."""
    global _armed
    _armed = _parse(text)
    _passages.clear()


def armed(name: str) -> bool:
    """Tells whether a mutant is armed, and records that it was asked."""
    if name not in _armed:
        return False
    if name not in _passages:
        _passages[name] = 1
        _record(name, "skip")
    return True


def point(name: str) -> None:
    """Marks a place in a protocol; does nothing unless a test armed it.

    Raises:
        Unavailable: armed with ``raise``.
        OutcomeUnknown: armed with ``lose``.
    """
    if not _armed or name not in _armed:
        return
    verb, argument, nth = _armed[name]
    _passages[name] = _passages.get(name, 0) + 1
    if _passages[name] != nth or _has_fired(name):
        return
    _record(name, verb)
    if verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif verb == "hold":
        _wait_for_leave()
    elif verb == "raise":
        raise Unavailable(f"failpoint {name} fired")
    elif verb == "lose":
        raise OutcomeUnknown(f"failpoint {name} fired")
    elif verb == "delay":
        time.sleep(float(argument))
