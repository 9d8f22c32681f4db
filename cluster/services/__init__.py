"""PostgreSQL and Kafka on this machine's loopback, for tests and examples: ``python -m cluster.services``."""
