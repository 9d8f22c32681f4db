"""Debezium's topics as a source: offsets are the position, what the messages come to is the content."""

from raypipe.sources.debezium.source import DebeziumSource

__all__ = ["DebeziumSource"]
