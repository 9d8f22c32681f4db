"""What the benchmarks of PostgreSQL and Kafka share: servers, contents, both ways of reading, what they cost."""
