"""What is in the file: its tables, its settings, and how a new one is made whole."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from pathlib import Path

from raypipe.disks import sync_folder

APPLICATION_ID = 0x52415950  # "RAYP" in the file's header: this SQLite file is a raypipe log
FORMAT = 1

# Small enough that a commit of a few rows writes little, large enough that a batch of 1 MiB is a short chain.
PAGE_BYTES = 8192

# WAL size at which a commit has to checkpoint, because the rounds beside it (``checkpoints``) have fallen behind: the
# bound on the WAL while nobody reads old pages, and on what such a commit takes.
WAL_BYTES = 32 << 20

# A writer holds the lock for one transaction of some megabytes; who waits longer than this waits for a stuck process.
BUSY_TIMEOUT_S = 15.0

# Narrow tables beside one wide one: planning an epoch and finding a load never touch the payloads.
_TABLES = """
CREATE TABLE state (               -- one row
    identity        TEXT NOT NULL,
    next_number     INTEGER NOT NULL DEFAULT 1,   -- of a batch, in the order of appends
    last_place      INTEGER NOT NULL DEFAULT 0,   -- of a batch that a cut covers, in the order of cuts
    forgotten_place INTEGER NOT NULL DEFAULT 0,   -- batches up to here were given up by retention
    last_cut        INTEGER NOT NULL DEFAULT 0,
    rows            INTEGER NOT NULL DEFAULT 0,   -- covered by cuts since the log began
    bytes           INTEGER NOT NULL DEFAULT 0,   -- likewise
    kept_bytes      INTEGER NOT NULL DEFAULT 0    -- payloads in the file now
);
CREATE TABLE claims (pipeline TEXT PRIMARY KEY, run INTEGER NOT NULL, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE writers (
    instance   TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    progress   TEXT,               -- JSON: position and loading, now and at the last transaction boundary
    checksum   INTEGER
) WITHOUT ROWID;
CREATE TABLE topics (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    instance    TEXT NOT NULL,
    next_offset INTEGER NOT NULL DEFAULT 0,
    cut_offset  INTEGER NOT NULL DEFAULT 0        -- next offset at the last transaction boundary of the instance
);
CREATE TABLE pending (             -- batches beyond the last transaction boundary of their instance
    number      INTEGER PRIMARY KEY,
    topic       INTEGER NOT NULL,
    offset      INTEGER NOT NULL,
    rows        INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    checksum    INTEGER NOT NULL,
    begins_load INTEGER NOT NULL
);
CREATE TABLE batches (             -- batches that a cut covers; places have no gaps
    place       INTEGER PRIMARY KEY,
    number      INTEGER NOT NULL,
    topic       INTEGER NOT NULL,
    offset      INTEGER NOT NULL,
    rows        INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    checksum    INTEGER NOT NULL,
    begins_load INTEGER NOT NULL
);
CREATE INDEX loads ON batches (topic, offset) WHERE begins_load;
CREATE TABLE payloads (number INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE cuts (
    number     INTEGER PRIMARY KEY,
    last_place INTEGER NOT NULL,   -- of the batches it covers
    body       TEXT NOT NULL,      -- JSON
    checksum   INTEGER NOT NULL
);
CREATE TABLE notes (key TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection to an existing file, in explicit transactions, durable on power loss."""
    # Closing from another thread than the one that works is how a runner stops; SQLite itself is serialised.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        # A reader of the log acknowledges to its source after a commit, so a commit must survive a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_BYTES // PAGE_BYTES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        # Some builds overwrite what is deleted with zeros, which doubles the cost of retention.
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        # No mmap: a file truncated under a mapping kills the process with SIGBUS instead of raising an error.
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("PRAGMA cache_size = -8192")
    except BaseException:
        connection.close()
        raise
    return connection


def make(path: Path) -> None:
    """Makes a new, empty log at ``path``, all at once: if two processes do it together, one of them makes it.

    The file is prepared under another name and linked into place, so nobody ever sees half a log.

    Raises:
        sqlite3.Error: the preparation failed.
        OSError: likewise; the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.draft")
    draft.touch(mode=0o600)
    try:
        connection = connect(draft)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; {_TABLES}; COMMIT")
            connection.execute("INSERT INTO state (identity) VALUES (?)", (str(uuid.uuid4()),))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        finally:
            connection.close()
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        for suffix in ("", "-wal", "-shm"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    sync_folder(path.parent)
