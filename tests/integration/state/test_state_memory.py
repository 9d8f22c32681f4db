"""State several times as large as the memory that its process may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The heap may grow by this much over what the libraries take; mapped files do not count, the kernel takes them back.
HEAP_BYTES = 96 << 20
PROGRAM = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from raypipe.contracts import WEIGHT, TraceSchema
from raypipe.state import Limits, Remote, Store, checkpoint, restore

HEAP, ROWS, STEP = int(sys.argv[2]), 13_000_000, 200_000
pa.set_cpu_count(1)
kept = [line for line in open("/proc/self/status") if line.startswith("VmData")]
now = int(kept[0].split()[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (now + HEAP, now + HEAP))
schema = TraceSchema(name="t", columns=pa.schema([("id", pa.int64()), ("group", pa.int64())]), key=("group",))
limits = Limits(spill_bytes=8 << 20, block_bytes=8 << 20, slice_bytes=2 << 20)

def rows(first, count):
    ids = np.arange(first, first + count)
    return pa.table({"id": ids, "group": ids % 100_003, WEIGHT: np.ones(count, np.int64)})

folder = Path(sys.argv[1])
store = Store.open(folder / "state", generation=1, identity="x", traces=[schema], limits=limits)
work = store.begin(None)
for first in range(0, ROWS, STEP):
    work.trace("t").append(rows(first, STEP))
work.commit(1)
store.settle()
for version in range(2, 12):
    work = store.begin(version - 1)
    found = work.trace("t").probe(pa.table({"group": np.arange(version * 100, version * 100 + 100)}))
    assert found.num_rows >= 100 * (ROWS // 100_003)
    work.trace("t").append(rows(ROWS + version * 1000, 1000))
    work.commit(version)
    store.keep([version - 1])
assert sum(batch.num_rows for batch in store.begin(11).trace("t").rows()) == ROWS + 10_000
remote = Remote(f"file://{folder}/saved")
checkpoint(store, 11, remote)
size = store.bytes
store.close()
other = restore([remote], folder / "other", generation=1, identity="x", traces=[schema], limits=limits)
assert other.begin(11).trace("t").count == ROWS + 10_000
try:
    bytearray(2 * HEAP)
except MemoryError:
    print(size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA covers mapped memory on Linux only")
def test_state_larger_than_the_heap_is_loaded_merged_probed_scanned_and_restored(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(HEAP_BYTES)],
        # Freed pieces go back to the system at once, so that the bound meets what is held and not what malloc keeps.
        env=os.environ
        | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 3 * HEAP_BYTES, "the bound did not hold, or the state was small"
