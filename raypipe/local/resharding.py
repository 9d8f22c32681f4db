"""State that lies in another number of shards than is wanted is shared out anew.

A layout is a folder that is named by its number of shards. The new one is made beside the old one, durable, and gets
its name last; so there is always one that is whole. Its files are made of the pieces that runs are cut into, which may
be there already: in ``<number>.prepared/<old number>.<old shard>``, cut while the old shards were at work. State that
cannot be read is not shared out: it counts as lost.
"""

from __future__ import annotations

import logging
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from raypipe import faults
from raypipe.disks import sync_folder
from raypipe.errors import StateLost, Unavailable
from raypipe.state import Cuttings, Store, Takeover

logger = logging.getLogger(__name__)

_PARTIAL = ".partial"
_PREPARED = ".prepared"
_GONE = ".gone-"
_LAYOUT = re.compile(rf"([1-9][0-9]*)({re.escape(_PARTIAL)})?")
# Most of a switch is waiting for the disk to say that something is durable, which several may do at once.
_THREADS = 8
# Opens the store in a shard's folder, one of so many.
Opening = Callable[[Path, int], Store]


def arrange(folder: Path, shards: int, opening: Opening) -> None:
    """Sees to it that there is a layout of so many shards, if there is any.

    Args:
        folder: Of the pipeline's state; may be missing.
        shards: How many there shall be.
        opening: Of a store.

    Raises:
        Fenced: a later run has it.
        LimitExceeded: a shard's part would be larger than it may be.
        Unavailable: the disk does not answer.
    """
    with _told(folder, shards):
        whole = [int(found[1]) for found in _layouts(folder) if not found[2]]
        if whole and shards not in whole:
            _share_out(folder, whole, shards, opening)


def discard_others(folder: Path, shards: int) -> list[Path]:
    """Takes their names from every other layout, and from what was cut for this one or of others.

    Only for who has opened this one: an older run has not.

    Returns:
        Folders that are nobody's any more, for ``remove``.

    Raises:
        Unavailable: the disk does not answer.
    """
    with _told(folder, shards):
        others = [folder / found[0] for found in _layouts(folder) if found[0] != str(shards)]
        used = [path for path in _prepared(folder) if f"{shards}{_PREPARED}" == path.parent.name or _of(path) != shards]
        token = secrets.token_hex(4)
        for number, path in enumerate([*others, *used]):
            path.rename(folder / f"{path.name}{_GONE}{token}-{number}")
        _forget_empty(used)
        return list(folder.glob(f"*{_GONE}*"))


def remove(folders: Iterable[Path]) -> None:
    """Removes folders that are nobody's; what is left over somebody else may try again."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def prepared(folder: Path, shards: int, old: int, shard: int) -> Path:
    """Where the pieces are that a shard, one of so many old ones, is cut into."""
    return folder / f"{shards}{_PREPARED}" / f"{old}.{shard}"


def discard_prepared(folder: Path, old: int, shard: int) -> None:
    """Removes what was cut of a shard for any other number.

    Raises:
        Unavailable: the disk does not answer.
    """
    with _told(folder, old):
        found = [path for path in _prepared(folder) if path.name == f"{old}.{shard}"]
        for path in found:
            shutil.rmtree(path)
        _forget_empty(found)


def _prepared(folder: Path) -> list[Path]:
    return list(folder.glob(f"*{_PREPARED}/*.*"))


def _of(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _forget_empty(prepared_ones: Iterable[Path]) -> None:
    for path in prepared_ones:
        with suppress(OSError):  # there are those of other shards
            path.parent.rmdir()


def _layouts(folder: Path) -> list[re.Match[str]]:
    paths = list(folder.iterdir()) if folder.exists() else []
    return [found for path in paths if (found := _LAYOUT.fullmatch(path.name))]


@contextmanager
def _told(folder: Path, shards: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"The state in {folder} cannot be shared out to {shards} shards ({type(error).__name__}).",
            remedy="Give this user the right to write the folder, and the disk room for the state once more.",
            cause=error,
        ) from error


def _share_out(folder: Path, whole: list[int], shards: int, opening: Opening) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(_THREADS, "raypipe-shards") as threads:

        def opened(number: int) -> list[Store]:
            paths = [folder / str(number) / str(shard) for shard in range(number)]
            return list(threads.map(lambda path: stack.enter_context(closing(opening(path, number))), paths))

        layouts = {number: opened(number) for number in whole}
        common = {number: _common(stores) for number, stores in layouts.items()}
        newest = max(layouts, key=lambda number: max(common[number], default=-1))
        if not common[newest]:
            return
        partial = folder / f"{shards}{_PARTIAL}"
        if partial.exists():
            shutil.rmtree(partial)
        cuttings = [Cuttings(prepared(folder, shards, newest, shard), shards) for shard in range(newest)]

        def filled(shard: int) -> None:
            with closing(opening(partial / str(shard), shards)) as store:
                takeover.into(store, shard)
            faults.point("shards.shared")

        try:
            if not faults.armed("mutant.reshard_forgets"):
                list(threads.map(lambda cut, store: cut.cut(store), cuttings, layouts[newest]))
            faults.point("shards.cut")
            takeover = Takeover(layouts[newest], cuttings, sorted(common[newest]))
            list(threads.map(filled, range(shards)))
        except StateLost as error:
            logger.warning("state cannot be shared out; it is made anew", extra={"error": str(error)})
            return  # what was not finished is removed by who has opened the new layout
        sync_folder(partial)
        partial.rename(folder / str(shards))
        sync_folder(folder)
        faults.point("shards.named")


def _common(stores: list[Store]) -> set[int]:
    """Versions that all of them keep."""
    return set(stores[0].versions()).intersection(*(store.versions() for store in stores[1:]))
