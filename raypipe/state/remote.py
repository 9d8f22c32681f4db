"""An object store by fsspec: a few whole-object operations, each tried a bounded number of times."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from raypipe.engine.backoff import Backoff
from raypipe.errors import Kind, MissingExtra, RaypipeError, Unavailable

# Object stores answer "slow down" for seconds; what lasts longer is for whoever asked to decide. Some drivers try again
# themselves, for half a minute and more, so time is bounded as well: no try begins after that.
_TRIES = 5
_PATIENCE_S = 10.0
# Here a folder is nothing but a part of a name, and asking for one would make a bucket that is missing, or misspelled.
_BUCKETS = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss"))

Result = TypeVar("Result")


class Remote:
    """Objects under one URL.

    Raises, from every method:
        Unavailable: the store did not do it in several tries; the message names no credentials.
    """

    def __init__(self, url: str, *, wait: Callable[[float], None] = time.sleep) -> None:
        try:
            import fsspec
        except ImportError:
            raise MissingExtra.of("checkpoints", "A checkpoint of the state") from None
        self._scheme = url.partition("://")[0] if "://" in url else "file"
        self._wait = wait
        try:
            self._files, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise RaypipeError(
                f"Checkpoints cannot be kept at {self._scheme}:// addresses.",
                kind=Kind.PIPELINE_FILE,
                remedy="Install the fsspec driver of that store (for s3://: pip install s3fs), or name a folder.",
                cause=error,
            ) from error

    def list(self, folder: str) -> dict[str, int]:
        """Names and bytes of the objects in a folder; none if it is not there."""
        return {name: size for name, (kind, size) in self._entries(folder).items() if kind == "file"}

    def folders(self) -> set[str]:
        """Names of the folders under the URL itself."""
        return {name for name, (kind, _) in self._entries("").items() if kind == "directory"}

    def _entries(self, folder: str) -> dict[str, tuple[str, int]]:
        def listing() -> dict[str, tuple[str, int]]:
            self._files.invalidate_cache()
            try:
                found = self._files.ls(f"{self._root}/{folder}".rstrip("/"), detail=True)
            except FileNotFoundError:
                return {}
            return {
                each["name"].rstrip("/").rpartition("/")[2]: (each["type"], int(each["size"] or 0)) for each in found
            }

        return self._tried("listed", listing)

    def get(self, name: str) -> bytes | None:
        """An object's content; None if there is none."""

        def content() -> bytes | None:
            try:
                found: bytes = self._files.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
            return found

        return self._tried("read", content)

    def put(self, name: str, content: Any) -> None:
        """Makes or replaces an object of bytes, or of what has their buffer."""
        whole = bytes(memoryview(content))  # drivers check for that very type

        def write() -> None:
            path = f"{self._root}/{name}"
            if self._scheme not in _BUCKETS:
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, whole)

        self._tried("written", write)

    def remove(self, name: str) -> None:
        """Removes an object, if it is there."""

        def gone() -> None:
            try:
                self._files.rm_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return

        self._tried("cleaned", gone)

    def remove_folder(self, name: str) -> None:
        """Removes a folder with all that is in it, if it is there."""

        def gone() -> None:
            try:
                self._files.rm(f"{self._root}/{name}", recursive=True)
            except FileNotFoundError:
                return

        self._tried("cleaned", gone)

    def _tried(self, done: str, action: Callable[[], Result]) -> Result:
        backoff, began = Backoff(), time.monotonic()
        while True:
            try:
                return action()
            except Exception as error:  # each store raises its own kinds
                backoff = backoff.after_failure(0.0, at_once=False)
                if backoff.failures >= _TRIES or time.monotonic() - began > _PATIENCE_S:
                    # Its text may hold an address with credentials, so only its type is told.
                    raise Unavailable(
                        f"Checkpoints at the {self._scheme}:// address cannot be {done}: {type(error).__name__}"
                        f" after {backoff.failures} {'try' if backoff.failures == 1 else 'tries'}.",
                        remedy="Check the address, the credentials and the network.",
                        tries=backoff.failures,
                    ) from None
                self._wait(backoff.retry_at)
