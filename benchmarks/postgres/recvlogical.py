"""The limit: ``pg_recvlogical``, PostgreSQL's own reader, which throws everything away."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.postgres.lab import Lab, quoted

NAME = "recvlogical"
# Nothing here takes that long; what does has hung.
WITHIN_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Recvlogical:
    """A slot and a publication of its own: it reads the same content as raypipe, of the same tables."""

    lab: Lab

    @classmethod
    def install(cls, lab: Lab, tables: Sequence[str]) -> Recvlogical:
        """Makes slot and publication; what is written from now on waits in the slot."""
        lab.run(
            f"CREATE PUBLICATION {NAME} FOR TABLE {quoted(tables)}",
            f"SELECT pg_create_logical_replication_slot('{NAME}', 'pgoutput')",
        )
        return cls(lab=lab)

    def read(self, upto: str) -> None:
        """Reads what waits, up to a place in the write-ahead log (``Lab.settle``), to ``/dev/null``."""
        command = [
            *self.lab.postgres.command("pg_recvlogical"),
            *("-d", "postgres", "--slot", NAME, "--start", "--endpos", upto, "--no-loop", "-f", os.devnull),
            *("-o", "proto_version=1", "-o", f"publication_names={NAME}"),
        ]
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            env={**os.environ, "PGPASSWORD": self.lab.postgres.password},
        )
        if done.returncode != 0:
            raise RuntimeError(f"pg_recvlogical ended with exit code {done.returncode}: {done.stderr}")
