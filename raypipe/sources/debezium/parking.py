"""Keeps rows whose values do not fit their columns out of the changes, and in the quarantine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raypipe.errors import SchemaMismatch
from raypipe.model import ChangeBatch, TableSchema
from raypipe.sources.debezium.following import Following
from raypipe.sources.debezium.gather import Gathered
from raypipe.sources.debezium.images import Told, has_truncate
from raypipe.sources.debezium.quarantine import emptied, park


class Parking:
    """Of a source.

    Args:
        instance: Its name.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance

    def emptied(
        self, tables: Mapping[str, Following], found: Gathered, begun: Sequence[str], commit: int
    ) -> tuple[list[ChangeBatch], int]:
        """Empties the quarantine if a table is emptied that has had rows there; the other such tables are loaded again.

        Which of its rows are one table's cannot be told by a TRUNCATE.
        """
        known = {topic: each for topic, each in tables.items() if each.parked is not None}
        emptying = {
            topic for topic in known if topic in begun or (topic in found.parts and has_truncate(found.parts[topic]))
        }
        if not emptying:
            return [], 0
        count = sum(each.parked or 0 for each in known.values())
        for topic, each in known.items():
            each.parked = None
            each.restart |= topic not in emptying
        return [emptied(self._instance, commit, 0, None)], -count

    def fitting(self, each: Following, told: Told) -> tuple[list[ChangeBatch], int]:
        """What fits, with changes of the quarantine for the rest; and how many rows were parked, minus those released.

        Raises:
            SchemaMismatch: a key does not fit, so its row could not be told from others.
        """
        if told.batch is None:
            return [], 0
        schema, rows = told.batch.schema, told.batch.rows
        if told.misfits is not None:
            _require_whole_keys(told, schema, each.topic)
        if told.misfits is None and each.parked is None:
            return [told.batch], 0
        fitting, quarantined, parked = park(
            schema, rows, told.misfits, self._instance, clearing=each.parked is not None
        )
        batches = [ChangeBatch(schema=schema, rows=fitting)] if fitting.num_rows else []
        if quarantined is None:
            return batches, 0
        each.parked = max((each.parked or 0) + parked, 0)
        return [*batches, quarantined], parked


def _require_whole_keys(told: Told, schema: TableSchema, topic: str) -> None:
    misfits = told.misfits
    assert misfits is not None
    broken = np.isin(misfits, [schema.names.index(name) for name in schema.key])
    if not broken.any():
        return
    column = schema.names[int(misfits[broken][0])]
    raise SchemaMismatch(
        f"Column {column} of the key of topic {topic} holds a value that its type has no place for.",
        remedy=(
            f"Have the column carried as text: add text_columns={schema.table.table}.{column} to the source's URL, and"
            " run with a new log."
        ),
        topic=topic,
        column=column,
    )
