"""The state of stateful steps: traces of weighted rows in sorted immutable runs on disk."""

from raypipe.state.limits import Limits
from raypipe.state.store import Store

__all__ = ["Limits", "Store"]
