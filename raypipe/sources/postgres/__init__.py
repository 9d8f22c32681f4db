"""PostgreSQL as a source: a logical replication slot hands out changes in commit order, raypipe decodes them by column."""

from raypipe.sources.postgres.source import PostgresSource

__all__ = ["PostgresSource"]
