"""TPC-H after its published specification: tables, invented rows, refresh functions, and the 22 queries as steps."""
