"""Epochs, cuts and the commit protocol: plain decisions, with no I/O and no clock of their own."""
