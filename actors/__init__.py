"""Ray: thin actors over raypipe's objects, and the Ray Data executor. The only place where ``.remote(`` is written."""
