"""How fast raypipe is, each figure beside a limit or a peer that ran a moment before on the same machine."""
