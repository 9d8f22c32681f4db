"""``python -m benchmarks.flink install``: puts Flink where the benchmark finds it."""

from __future__ import annotations

import argparse
import sys

from benchmarks.flink.installation import HOME, VERSION, find, install
from benchmarks.harness import CannotRun


def main() -> int:
    """Installs; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flink")
    parser.add_argument("action", choices=["install"], help=f"Flink {VERSION} from PyPI into {HOME}, 844 MB")
    parser.parse_args()
    try:
        install()
        found = find()
    except CannotRun as why:
        print(why, file=sys.stderr)
        return 1
    print(f"Flink {found.version} at {found.python}, {found.java}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
