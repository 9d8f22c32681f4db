"""Stores that changes are written into."""
