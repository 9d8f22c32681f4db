"""The tables that the PostgreSQL benchmarks read, and the histories written to them."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.postgres.lab import Lab

# Seven columns, about 150 bytes a row in the write-ahead log: numbers, a text, a moment, an amount of money.
COLUMNS = """(
    order_id bigint PRIMARY KEY, customer_id int NOT NULL, reference bigint NOT NULL, weight double precision NOT NULL,
    name text NOT NULL, placed_at timestamptz NOT NULL, amount numeric(12,2) NOT NULL)"""
ROW = """{i}, {i} % 1000, {i}::bigint * 7919, {i} * 1.5, 'name-' || lpad(({i})::text, 15, '0'), clock_timestamp(),
    ({i} % 100000) / 100.0"""

ORDERS = "orders"

# Of the mixed history: a third of its changes in each size, so most transactions are small and most time is not
# spent on a few large ones.
TRANSACTION_SIZES = (10, 100, 1000)
KEPT_ROWS = 2_000  # of each table before the history begins: what its first updates and deletes find


@dataclass(frozen=True, kw_only=True)
class Written:
    """A history.

    Attributes:
        changes: Rows inserted, updated or deleted.
        images: Row images that raypipe makes of them: an update has two.
        transactions: How many.
    """

    changes: int
    images: int
    transactions: int


def make_orders(lab: Lab, rows: int = 0) -> None:
    """Makes the table, with rows 1, 2 and so on."""
    lab.run(f"CREATE TABLE {ORDERS} {COLUMNS}")
    if rows:
        one_transaction(lab, 1, rows)
        lab.run(f"VACUUM ANALYZE {ORDERS}")


def next_order(lab: Lab) -> int:
    """A key above all that are there."""
    return int(lab.value(f"SELECT coalesce(max(order_id), 0) + 1 FROM {ORDERS}"))


def one_transaction(lab: Lab, first: int, rows: int) -> Written:
    """Inserts rows in one transaction, with keys from ``first`` on."""
    lab.run(insertion(first, rows))
    return Written(changes=rows, images=rows, transactions=1)


def insertion(first: int, rows: int) -> str:
    """The statement that inserts rows, with keys from ``first`` on."""
    return f"INSERT INTO {ORDERS} SELECT {ROW.format(i='i')} FROM generate_series({first}, {first + rows - 1}) AS i"


def single_rows(lab: Lab, first: int, rows: int) -> Written:
    """Inserts rows, each in a transaction of its own, with keys from ``first`` on."""
    lab.run(
        f"""DO $$ BEGIN
        FOR i IN {first} .. {first + rows - 1} LOOP
            INSERT INTO {ORDERS} VALUES ({ROW.format(i="i")});
            COMMIT;
        END LOOP; END $$"""
    )
    return Written(changes=rows, images=rows, transactions=rows)


def make_shops(lab: Lab, tables: int) -> tuple[str, ...]:
    """Makes tables of the same columns, each with the rows that a mixed history begins with; returns their names."""
    names = tuple(f"orders_{number}" for number in range(tables))
    for name in names:
        lab.run(
            f"CREATE TABLE {name} {COLUMNS}",
            f"INSERT INTO {name} SELECT {ROW.format(i='i')} FROM generate_series(1, {KEPT_ROWS}) AS i",
            f"VACUUM ANALYZE {name}",
        )
    return names


def mixed(lab: Lab, tables: tuple[str, ...], changes: int) -> Written:
    """Inserts (60 %), updates (30 %) and deletes (10 %) on tables of `make_shops`, in transactions of several sizes.

    Each transaction inserts into one table, updates the newest rows of the next and deletes the oldest of the one
    after; the tables take turns for each size, so every table is given as many rows as any other.
    """
    # As many transactions of each size as give it its third of the changes.
    counts = [changes // len(TRANSACTION_SIZES) // size for size in TRANSACTION_SIZES]
    written = sum(count * size for count, size in zip(counts, TRANSACTION_SIZES, strict=True))
    newest = [lab.value(f"SELECT max(order_id) FROM {name}") for name in tables]
    oldest = [lab.value(f"SELECT min(order_id) FROM {name}") - 1 for name in tables]
    branches = "\n".join(
        f"""WHEN {number} THEN
            IF what = 0 THEN
                INSERT INTO {name} SELECT {ROW.format(i="i")} FROM generate_series(newest[t] + 1, newest[t] + n) AS i;
                newest[t] := newest[t] + n;
            ELSIF what = 1 THEN
                UPDATE {name} SET weight = weight + 1, placed_at = clock_timestamp()
                WHERE order_id > newest[t] - n AND order_id <= newest[t];
            ELSE
                DELETE FROM {name} WHERE order_id > oldest[t] AND order_id <= oldest[t] + n;
                oldest[t] := oldest[t] + n;
            END IF;"""
        for number, name in enumerate(tables, start=1)
    )
    lab.run(
        f"""DO $$
        DECLARE
            newest bigint[] := ARRAY{newest};
            oldest bigint[] := ARRAY{oldest};  -- and all below are gone
            counts int[] := ARRAY{counts};
            sizes int[] := ARRAY{list(TRANSACTION_SIZES)};
            done int[] := array_fill(0, ARRAY[{len(counts)}]);
            t int; n int;
        BEGIN
            FOR turn IN 1 .. counts[1] LOOP
                FOR s IN 1 .. {len(counts)} LOOP
                    -- The rarer sizes come as often as their share of the most frequent one's turns.
                    CONTINUE WHEN done[s] >= turn::bigint * counts[s] / counts[1];
                    done[s] := done[s] + 1;
                    FOR what IN 0 .. 2 LOOP
                        t := (done[s] + s + what) % {len(tables)} + 1;
                        n := (ARRAY[sizes[s] * 6 / 10, sizes[s] * 3 / 10, sizes[s] / 10])[what + 1];
                        CASE t {branches} END CASE;
                    END LOOP;
                    COMMIT;
                END LOOP;
            END LOOP;
        END $$"""
    )
    return Written(changes=written, images=written * 13 // 10, transactions=sum(counts))
