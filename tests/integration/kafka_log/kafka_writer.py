"""A writer in a process of its own: appends transactions of two commits each, and starts again after errors.

Usage: kafka_writer.py URL PIPELINE TRANSACTIONS
Goes on where the log stands, and prints a line for each commit that returned. Ends with 3 when it was fenced.
"""

from __future__ import annotations

import sys

from kafka_lab import changes, topic

from raypipe.errors import Directive, Fenced, RaypipeError
from raypipe.log.kafka import KafkaLog
from raypipe.model import Claim


def write(url: str, pipeline: str, claim: Claim, transactions: int) -> bool:
    """Appends until all is there; False after an error that a new start may mend."""
    log = None
    try:
        log = KafkaLog.open(url, pipeline)
        claim = log.renew(claim)
        at = int(log.position("shop") or 0)
        for half in range(at, 2 * transactions):
            transaction = log.begin("shop", claim)
            try:
                transaction.append(topic(pipeline), changes(2 * half))
                transaction.append(topic(pipeline), changes(2 * half + 1))
                transaction.commit(str(half + 1), boundary=half % 2 == 1)
            except BaseException:
                transaction.abort()
                raise
            print("durable", half + 1, flush=True)
        return True
    except Fenced:
        raise
    except RaypipeError as error:
        if error.directive is Directive.STOP:
            raise
        print("again:", type(error).__name__, error, flush=True)
        return False
    finally:
        if log is not None:
            log.close()


def main(url: str, pipeline: str, transactions: str) -> int:
    log = KafkaLog.create(url, pipeline)
    claim = log.claim(pipeline)
    log.close()
    print("claimed", claim.run, flush=True)
    try:
        while not write(url, pipeline, claim, int(transactions)):
            pass
    except RaypipeError as error:
        print(type(error).__name__, error, flush=True)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
