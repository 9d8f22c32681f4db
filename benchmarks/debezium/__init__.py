"""Debezium on Kafka Connect, as its users run it: installed from Maven, configured, started, driven."""
