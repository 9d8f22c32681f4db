"""What the URL of a source over Debezium's topics says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raypipe.errors import Kind, RaypipeError, SchemaMismatch
from raypipe.kafka import Servers, parse_servers
from raypipe.model import TableName

EXAMPLE = "kafka://broker1:9092,broker2:9092?prefix=cdc.public"
_OPTIONS = ("prefix", "before", "text_columns", "transactions")

# Ends the name of the topic that Debezium writes with provide.transaction.metadata.
_TRANSACTIONS = ".transaction"


@dataclass(frozen=True, kw_only=True)
class Address:
    """A URL, understood. ``str`` shows no secret.

    Attributes:
        kafka: Brokers and security.
        prefix: Of the topics: a table's is ``<prefix>.<table>``.
        whole_before: An envelope's ``before`` holds the whole row, so that it may be trusted.
        text_columns: ``table.column`` to carry as text, whatever they are.
        transactions: Debezium's transaction topic, if cuts are to lie between the source's transactions.
    """

    kafka: Servers
    prefix: str
    whole_before: bool = False
    text_columns: frozenset[str] = frozenset()
    transactions: str | None = None

    def __str__(self) -> str:
        return str(self.kafka)

    def topic(self, table: str) -> str:
        """Of a table as the pipeline file writes it."""
        return f"{self.prefix}.{table}"

    def collections(self, tables: Sequence[str]) -> dict[str, str]:
        """What the transaction topic calls tables, by their topics."""
        server = (self.transactions or "").removesuffix(_TRANSACTIONS)
        return {self.topic(table): self.topic(table).removeprefix(f"{server}.") for table in tables}

    def name(self, instance: str, table: str) -> TableName:
        """Of a table as the pipeline file writes it; without a schema it has the prefix's last part."""
        schema, _, own = table.rpartition(".")
        return TableName(instance, schema or self.prefix.rpartition(".")[2], own)


def parse_address(url: str) -> Address:
    """Reads a URL whose secrets are filled in.

    Raises:
        RaypipeError: with one sentence for the first mistake, which shows no secret; of kind ``pipeline_file``.
    """
    kafka = parse_servers(url, "source", _OPTIONS, EXAMPLE)
    prefix = kafka.options.get("prefix", "").strip(".")
    if not prefix:
        raise RaypipeError(
            "The URL of a Kafka source does not say how its topics begin.",
            kind=Kind.PIPELINE_FILE,
            remedy=f"A table's topic is <prefix>.<table>: write for instance {EXAMPLE}",
        )
    before = kafka.options.get("before", "key")
    if before not in ("key", "full"):
        raise RaypipeError(
            f"The option 'before' of a Kafka source is key or full, not {before!r}.",
            kind=Kind.PIPELINE_FILE,
            remedy="Write full if the database tells the whole row that was, as with REPLICA IDENTITY FULL.",
        )
    columns = [each.strip() for each in kafka.options.get("text_columns", "").split(",") if each.strip()]
    return Address(
        kafka=kafka,
        prefix=prefix,
        whole_before=before == "full",
        text_columns=frozenset(columns),
        transactions=_transactions(kafka.options.get("transactions"), prefix),
    )


def _transactions(topic: str | None, prefix: str) -> str | None:
    """The topic, checked: what it calls a table follows from its own name."""
    if topic is None:
        return None
    server = topic.removesuffix(_TRANSACTIONS)
    if topic == server or not f"{prefix}.".startswith(f"{server}."):
        raise RaypipeError(
            f"The option 'transactions' of a Kafka source is Debezium's topic.prefix and {_TRANSACTIONS}, by which"
            f" its topics begin; {topic!r} and prefix {prefix!r} do not go together.",
            kind=Kind.PIPELINE_FILE,
            remedy="Write for instance prefix=cdc.public&transactions=cdc.transaction",
        )
    return topic


def require_distinct(instance: str, tables: Sequence[str]) -> None:
    """Refuses tables of one name.

    Raises:
        SchemaMismatch: two have one.
    """
    names = [table.rpartition(".")[2] for table in tables]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SchemaMismatch(
            f"Source {instance!r} has two tables of the name {twice[0]!r} in different schemas.",
            remedy="Read them as two sources: a relation is called <source>.<table>.",
        )
