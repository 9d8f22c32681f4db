"""Debezium on Kafka Connect, as its users run it: configured, started, driven."""
