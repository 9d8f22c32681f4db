"""The state of stateful steps: traces of weighted rows in sorted immutable runs on disk."""

from raypipe.state.checkpoint import checkpoint, reshard, restore
from raypipe.state.limits import Limits
from raypipe.state.remote import Remote
from raypipe.state.sharding import Share, lineage_of, shard_of
from raypipe.state.shelf import Saved, Shelf
from raypipe.state.store import Store

__all__ = [
    "Limits",
    "Remote",
    "Saved",
    "Share",
    "Shelf",
    "Store",
    "checkpoint",
    "lineage_of",
    "reshard",
    "restore",
    "shard_of",
]
