"""When a table's files are tidied up: small commits make small files, and every rewritten file leaves its old one."""

from __future__ import annotations

from raypipe.sinks.delta.lake import Lake

# Versions of a table between two rounds. 100 small files are merged in about 50 ms, a hundredth of what they cost.
COMPACT_EVERY = 100
# Looks at every file of the table, so it is rarer; how old a file must be is a property of the table.
VACUUM_EVERY = 1000


def tend(lake: Lake, before: int) -> None:
    """Merges small files and deletes forgotten ones, if the table's version has passed a round number.

    Each is a commit of its own that changes no row. They carry no marks, as the library drops the application
    transactions of these two, so a writer that was overtaken may still tidy up; files that somebody else has rewritten
    meanwhile make its commit fail, and a crash leaves the table as it was.

    Args:
        lake: After an epoch's commit.
        before: The table's version before it.
    """
    after = lake.version
    if before // COMPACT_EVERY != after // COMPACT_EVERY:
        lake.compact()
    if before // VACUUM_EVERY != after // VACUUM_EVERY:
        lake.vacuum()
