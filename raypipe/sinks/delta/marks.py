"""What a Delta table remembers of raypipe: a few numbers, each an application transaction of the table.

An application transaction is a pair (application id, version) in a commit. It is the one thing Delta offers that is
atomic with the data, kept by checkpoints, and left alone when old log files are cleaned up. Two rules make it fence:

* Delta *records* it and enforces nothing, so who commits reads it first.
* Two commits that both touch one application id conflict: the one whose snapshot is older is rejected. Every commit
  of raypipe touches the generation, and so does the claim of a new writer. A writer that was paused between reading
  and committing is therefore rejected, whatever it was about to do.

========================  ===================================================================================
``<owner>``               number of the cut the table stands at; 0 for none
``<owner>/generation``    of the writer that owns it
``<owner>/view``          of the view it holds (``layout.view_mark``)
``<owner>/shape``         of its rows (``layout.shape_mark``); another view or shape means that they must go
``<owner>/awaiting/<n>``  branches ``32 n`` to ``32 n + 31`` that await their load, one bit each
========================  ===================================================================================

The whole cut travels in the commit's info as JSON, for people. It goes when the log is cleaned up; the number stays.
"""

from __future__ import annotations

from dataclasses import dataclass

from deltalake import CommitProperties, DeltaTable, Transaction

from raypipe.model import Cut
from raypipe.model.table import TableSchema

OWNER_PROPERTY = "raypipe.owner"
CUT_INFO = "raypipe.cut"
_WORD_BITS = 32
# Somebody else's commits (OPTIMIZE, VACUUM) may lie above ours.
_COMMITS_SEARCHED = 20


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The numbers of a table.

    Attributes:
        generation: See above.
        cut: Number of the cut, 0 for none.
        view: See above.
        shape: See above.
        awaiting: Branches that await their load.
    """

    generation: int = 0
    cut: int = 0
    view: int = 0
    shape: int = 0
    awaiting: frozenset[int] = frozenset()


def owner_of(pipeline: str, sink: str, table: str) -> str:
    """The application id that belongs to a table of a sink of a pipeline."""
    return f"raypipe/{pipeline}/{sink}/{table}"


def read_marks(delta: DeltaTable, owner: str, schema: TableSchema) -> Marks:
    """The numbers as the loaded version of the table has them."""
    words = [delta.transaction_version(app) or 0 for app in _awaiting_ids(owner, schema)]
    bits = sum(word << (place * _WORD_BITS) for place, word in enumerate(words))
    return Marks(
        generation=delta.transaction_version(f"{owner}/generation") or 0,
        cut=delta.transaction_version(owner) or 0,
        view=delta.transaction_version(f"{owner}/view") or 0,
        shape=delta.transaction_version(f"{owner}/shape") or 0,
        awaiting=frozenset(branch for branch in range(schema.branches) if bits >> branch & 1),
    )


def read_cut(delta: DeltaTable, number: int) -> Cut | None:
    """The cut of that number: whole if the newest commits still tell it, else the number alone; None for 0."""
    if not number:
        return None
    for info in delta.history(_COMMITS_SEARCHED):
        text = info.get(CUT_INFO)
        if isinstance(text, str):
            cut = Cut.from_json(text)
            if cut.number == number:
                return cut
    return Cut(number=number, log="", offsets={}, positions={})


def write_marks(owner: str, marks: Marks, schema: TableSchema, cut: Cut | None) -> CommitProperties:
    """What a commit that changes rows carries."""
    bits = sum(1 << branch for branch in marks.awaiting)
    mask = (1 << _WORD_BITS) - 1
    awaiting = [
        Transaction(app, bits >> (place * _WORD_BITS) & mask) for place, app in enumerate(_awaiting_ids(owner, schema))
    ]
    return _properties(
        [
            Transaction(owner, marks.cut),
            Transaction(f"{owner}/generation", marks.generation),
            Transaction(f"{owner}/view", marks.view),
            Transaction(f"{owner}/shape", marks.shape),
            *awaiting,
        ],
        cut,
    )


def write_generation(owner: str, generation: int, cut: Cut | None) -> CommitProperties:
    """What a commit that leaves the rows as they are carries: a claim, or a column that is added or widened."""
    return _properties([Transaction(f"{owner}/generation", generation)], cut)


def without_fence(owner: str, marks: Marks, schema: TableSchema, cut: Cut | None) -> CommitProperties:
    """What the mutant that does not fence carries."""
    whole = write_marks(owner, marks, schema, cut)
    kept = [mark for mark in whole.app_transactions or [] if mark.app_id != f"{owner}/generation"]
    return CommitProperties(custom_metadata=whole.custom_metadata, app_transactions=kept)


def _awaiting_ids(owner: str, schema: TableSchema) -> list[str]:
    return [f"{owner}/awaiting/{place}" for place in range((schema.branches - 1) // _WORD_BITS + 1)]


def _properties(transactions: list[Transaction], cut: Cut | None) -> CommitProperties:
    whole = cut is not None and cut.log
    return CommitProperties(
        custom_metadata={CUT_INFO: cut.to_json()} if cut is not None and whole else None,
        app_transactions=transactions,
    )
