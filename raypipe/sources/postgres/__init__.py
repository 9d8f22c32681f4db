"""PostgreSQL as a source: a logical replication slot hands out changes in commit order, decoded here by column."""

from raypipe.sources.postgres.source import PostgresSource

__all__ = ["PostgresSource"]
