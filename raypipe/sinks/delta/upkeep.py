"""When a table's files are tidied up: small commits make small files, and every rewritten file leaves its old one."""

from __future__ import annotations

from deltalake import CommitProperties

from raypipe.sinks.delta.lake import Lake

# Versions of a table between two rounds. 100 small files are merged in about 50 ms, a hundredth of what they cost.
COMPACT_EVERY = 100
# Looks at every file of the table, so it is rarer; how old a file must be is a property of the table.
VACUUM_EVERY = 1000


def tend(lake: Lake, before: int, fence: CommitProperties) -> None:
    """Merges small files and deletes forgotten ones, if the table's version has passed a round number.

    Each is a commit of its own that changes no row. A crash in between leaves the table as it was.

    Args:
        lake: After an epoch's commit.
        before: The table's version before it.
        fence: For the commits, so that a writer that was overtaken cannot even tidy up.
    """
    after = lake.version
    if before // COMPACT_EVERY != after // COMPACT_EVERY:
        lake.compact(fence)
    if before // VACUUM_EVERY != after // VACUUM_EVERY:
        lake.vacuum(fence)
