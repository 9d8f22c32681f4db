"""The questions of Nexmark as steps: at every cut of the streams each holds what DuckDB says."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.kept import Kept, Tables
from benchmarks.nexmark.events import TABLES, House
from benchmarks.nexmark.queries import QUERIES

# 100 events for each second of event time, so that a few thousand of them fill several windows.
EVENTS, EVENTS_PER_SECOND, CUTS, SEED = 2_000, 100, 5, 1


@pytest.mark.timeout(300)
def test_every_question_is_answered_as_duckdb_does_at_every_cut_of_the_streams(tmp_path: Path) -> None:
    house = House(SEED, EVENTS_PER_SECOND)
    with closing(Tables(TABLES)) as tables, closing(Kept(tmp_path / "state", tables, QUERIES)) as kept:
        for number in range(CUTS):
            for name, rows in house.next(EVENTS).items():
                write = tables.insert if number else tables.load
                write(f"nexmark.{name}", rows)
            if number == 2:  # what the published streams never do: a bid is withdrawn, an auction ends earlier
                tables.delete("nexmark.bid", tables.rows("SELECT * FROM nexmark.bid ORDER BY ALL LIMIT 50"))
                auctions = tables.rows("SELECT * FROM nexmark.auction WHERE id % 3 = 0 ORDER BY id")
                tables.update("nexmark.auction", _ending_at_once(auctions))
                kept.reopen()
            kept.epoch(tables.epoch())
            assert not kept.differing()
        assert all(kept.contents(name).num_rows for name in kept.steps)


def _ending_at_once(auctions: pa.Table) -> pa.Table:
    names = auctions.column_names
    return auctions.set_column(names.index("expires"), "expires", auctions.column("date_time"))
