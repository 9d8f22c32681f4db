"""Makes a database of orders on the PostgreSQL of `make services`, and keeps changing it for a while.

    python examples/orders-postgres-kafka/orders.py [--seconds 10] [--major 15]

Knows nothing of raypipe but where its pipeline file looks for the addresses of the servers.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pg8000.native

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # the checkout, which cluster.services is a part of

from cluster.services.home import open_home  # noqa: E402
from cluster.services.process import ServiceError  # noqa: E402
from cluster.services.servers import shared_kafka, shared_postgres  # noqa: E402

DATABASE = "orders"
TABLES = (
    "CREATE TABLE orders (order_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer text NOT NULL,"
    " status text NOT NULL DEFAULT 'new', amount numeric(10,2) NOT NULL, placed_at timestamptz NOT NULL DEFAULT now(),"
    " details jsonb)",
    "CREATE SCHEMA sales",
    "CREATE TABLE sales.events (at timestamptz NOT NULL DEFAULT now(), what text NOT NULL)",
    # Without a key an old row can only be told by all of its values.
    "ALTER TABLE sales.events REPLICA IDENTITY FULL",
)
FILL = (
    "INSERT INTO orders (customer, status, amount, details) SELECT 'customer ' || n % 100,"
    " (ARRAY['new', 'paid', 'shipped'])[1 + n % 3], n % 1000 + 0.5, jsonb_build_object('n', n)"
    " FROM generate_series(1, 10000) AS n"
)
CHANGES = (
    "INSERT INTO orders (customer, amount) VALUES ('customer ' || :n, :n)",
    "UPDATE orders SET status = 'paid' WHERE order_id BETWEEN :n AND :n + 3",
    "UPDATE orders SET status = 'shipped' WHERE order_id BETWEEN :n AND :n + 2",
    "DELETE FROM orders WHERE order_id = :n",
    "INSERT INTO sales.events (what) VALUES ('something happened to ' || :n)",
)


def connect(url: str, database: str) -> pg8000.native.Connection:
    """A connection to one of the server's databases."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 5432
    return pg8000.native.Connection(
        parts.username or "", host=host, port=port, password=parts.password, database=database
    )


def prepare(url: str) -> None:
    """Makes the database and its tables, unless they are there."""
    server = connect(url, "postgres")
    if not server.run("SELECT 1 FROM pg_database WHERE datname = :name", name=DATABASE):
        server.run(f"CREATE DATABASE {DATABASE}")
        orders = connect(url, DATABASE)
        for statement in (*TABLES, FILL):
            orders.run(statement)
        orders.close()
    server.close()


def write(url: str, seconds: float) -> int:
    """Makes small transactions for a while; returns how many."""
    orders, chance, done = connect(url, DATABASE), random.Random(), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        orders.run("BEGIN")
        for statement in chance.choices(CHANGES, k=chance.randint(1, 4)):
            orders.run(statement.replace(":n", str(chance.randint(1, 10_000))))
        orders.run("COMMIT")
        done += 1
    orders.close()
    return done


def note(name: str, text: str) -> None:
    """Writes down where a server is, for the pipeline file, and for nobody else to read."""
    path = HERE / "var" / name
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)


def main() -> int:
    """Does it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to write")
    parser.add_argument("--major", type=int, default=18, choices=(15, 16, 18), help="which PostgreSQL")
    given = parser.parse_args()
    try:
        home = open_home()
        postgres, kafka = shared_postgres(home, given.major), shared_kafka(home)
    except ServiceError as error:
        print(f"{error}", file=sys.stderr)
        return 1
    if postgres.pid is None or any(broker.pid is None for broker in kafka.brokers):
        print("The servers do not run: make services", file=sys.stderr)
        return 1
    note("database", postgres.url_of("raypipe", postgres.password, DATABASE))
    note("brokers", kafka.bootstrap)
    prepare(postgres.url)
    print(f"Database {DATABASE} is there; writing to it for {given.seconds:g} s.")
    print(f"{write(postgres.url, given.seconds):,} transactions committed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
