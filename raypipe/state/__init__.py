"""The state of stateful steps: traces of weighted rows in sorted immutable runs on disk."""

from raypipe.state.checkpoint import checkpoint, restore
from raypipe.state.cutting import Cuttings, Takeover
from raypipe.state.limits import Limits
from raypipe.state.remote import Remote
from raypipe.state.sharding import Share, lineage_of, shard_of
from raypipe.state.shelf import Saved, Shelf
from raypipe.state.store import Store

__all__ = [
    "Cuttings",
    "Limits",
    "Remote",
    "Saved",
    "Share",
    "Shelf",
    "Store",
    "Takeover",
    "checkpoint",
    "lineage_of",
    "restore",
    "shard_of",
]
