"""The checkpoints of a shard of the state: uploaded beside its work, restored when its disk holds nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from raypipe import faults
from raypipe.contracts import CheckpointReport, TraceSchema
from raypipe.errors import RaypipeError, StateLost
from raypipe.state import Saved, Shelf, Store, checkpoint, restore

logger = logging.getLogger(__name__)

# How long the end of a run waits for an upload that is under way; cut off, it is made again by the next run.
CLOSE_S = 30.0
# Opens the shard's own store.
Opening = Callable[[], Store]


class Saving:
    """Of one shard. Used by one thread; uploads have one of their own.

    Args:
        url: Where checkpoints go.
        shard: Number of this shard.
        shards: Of how many.
        identity: Of the log.
        traces: Of the state.
    """

    def __init__(self, url: str, shard: int, shards: int, *, identity: str, traces: Sequence[TraceSchema]) -> None:
        self._shelf = Shelf(url, shard, shards)
        self._shard = shard
        self._identity = identity
        self._traces = traces
        self._upload: threading.Thread | None = None
        self._lock = threading.Lock()  # of what is told
        self._told = CheckpointReport()

    def filled(self, store: Store, opening: Opening) -> Store:
        """The store of this shard, from the newest checkpoint that is whole if it holds nothing itself.

        Raises:
            Fenced: a later run has it.
            Unavailable: the object store does not answer, and the state depends on it.
        """
        if store.versions():
            self._start(self._look_up)
            return store
        for version in sorted(self.saved(), reverse=True):
            with suppress(StateLost):
                return self.restored(version, store)
            store = opening()
        return store

    def saved(self) -> tuple[int, ...]:
        """Versions that this shard can be restored at.

        Raises:
            Unavailable: the object store does not answer.
        """
        return tuple(sorted(self._look()))

    def restored(self, version: int, store: Store) -> Store:
        """A store that holds this version, in place of one, which is closed.

        Raises:
            Fenced: a later run has it.
            StateLost: there is no such checkpoint that is whole; the folder holds what it held.
            Unavailable: the object store or the disk does not answer.
        """
        store.close()
        found = self._look().get(version)
        if found is None:
            raise StateLost(f"There is no checkpoint of the state at cut {version}.")
        fresh = restore(
            found.remotes,
            store.path,
            generation=store.generation,
            identity=self._identity,
            traces=self._traces,
            limits=store.limits,
            version=version,
            share=found.share,
        )
        faults.point("state.restored")
        logger.info("state restored from a checkpoint", extra={"cut": version, "shard": self._shard})
        return fresh

    def begin(self, store: Store, version: int, keep: Collection[int]) -> None:
        """Begins to upload a version, unless an upload is under way.

        Args:
            store: That keeps it.
            version: Number of its cut.
            keep: Earlier ones to keep, which all shards have.
        """
        if self.report().making is not None:
            return
        self._tell(making=version)
        self._start(self._save, store, version, frozenset(keep))

    def report(self) -> CheckpointReport:
        """What there is to say."""
        with self._lock:
            return self._told

    def close(self) -> None:
        """Waits for an upload, not for ever."""
        if self._upload is not None:
            self._upload.join(CLOSE_S)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._upload = threading.Thread(target=work, args=arguments, name="raypipe-checkpoint", daemon=True)
        self._upload.start()

    def _look_up(self) -> None:
        try:
            self._look()
        except RaypipeError as error:
            self._tell(trouble=str(error))

    def _save(self, store: Store, version: int, keep: frozenset[int]) -> None:
        try:
            # Who does not know what all shards have removes nothing.
            keep_here = keep or frozenset(self._look())
            self._shelf.claim(store.generation)
            checkpoint(store, version, self._shelf.own, keep=keep_here)
            if keep and self._shard == 0:
                self._shelf.discard_others(store.generation, keep, identity=self._identity, traces=self._traces)
        except RaypipeError as error:
            logger.warning("no checkpoint was made", extra={"cut": version, "error": str(error)})
            self._tell(making=None, tried=version, trouble=str(error))
        except Exception as error:
            logger.exception("no checkpoint was made")
            self._tell(making=None, tried=version, trouble=type(error).__name__)
        else:
            self._tell(versions=tuple(sorted({*keep_here, version})), making=None, tried=version, trouble="")

    def _look(self) -> dict[int, Saved]:
        found = self._shelf.saved(identity=self._identity, traces=self._traces)
        self._tell(versions=tuple(sorted(found)))
        return found

    def _tell(self, **changed: object) -> None:
        with self._lock:
            self._told = replace(self._told, **changed)  # type: ignore[arg-type]
