"""Ray: thin actors over raypipe's objects, and the Ray Data executor. The only place where ``.remote(`` is written."""

import os

# Ray tells drivers of every dead worker, on stdout, in a paragraph, even between our lines of JSON. A run tells
# of lost actors itself, in its status. Ray reads the variable when it is imported, so this comes first.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
