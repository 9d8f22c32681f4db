"""Apache Flink beside raypipe: the same questions over the same files, each in processes of its own."""
