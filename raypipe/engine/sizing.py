"""How large the next epoch may be: latency when there is little to do, throughput when there is much."""

from __future__ import annotations


class EpochSizing:
    """Bounds an epoch in bytes of the log so that it takes about ``target_s``.

    With no backlog an epoch takes whatever is there, at once. With one, its size follows the measured speed: as many
    bytes as the slowest recent epochs suggest fit into the target time, between a floor (below which the fixed cost
    of a commit dominates) and the bound of the pipeline file.
    """

    # Below this the fixed cost of a commit (10 ms for a Delta table) outweighs the work itself.
    FLOOR_BYTES = 1 << 20

    def __init__(self, max_bytes: int, target_s: float = 2.0) -> None:
        self._max_bytes = max_bytes
        self._target_s = target_s
        self._bytes_per_s: float | None = None

    def observe(self, size_bytes: int, seconds: float) -> None:
        """Takes the measure of a finished epoch; small ones say nothing about speed and are ignored."""
        if size_bytes < self.FLOOR_BYTES // 4 or seconds <= 0:
            return
        speed = size_bytes / seconds
        self._bytes_per_s = speed if self._bytes_per_s is None else 0.7 * self._bytes_per_s + 0.3 * speed

    def budget_bytes(self) -> int:
        """Bytes the next epoch may take; it takes at least one cut, however large."""
        if self._bytes_per_s is None:
            return min(self._max_bytes, 8 * self.FLOOR_BYTES)
        return int(min(self._max_bytes, max(self.FLOOR_BYTES, self._bytes_per_s * self._target_s)))
