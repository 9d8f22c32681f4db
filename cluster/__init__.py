"""Where raypipe runs: example files for clusters, and the servers that tests and examples use. No library code."""
