"""The checker finds each anomaly in a history made by hand that has it, and nothing in one that has none."""

from __future__ import annotations

import pytest
from anomalies import Kind, Outcome, Poll, Record, Write, anomalies


def write(number: int, *values: str, writer: str = "w", outcome: Outcome = Outcome.COMMITTED) -> Write:
    return Write(writer=writer, number=number, outcome=outcome, values=values)


def poll(*values: str, reader: str = "r", begin: int = 0, seeks: bool = False) -> Poll:
    """A poll of one partition, offset by offset."""
    records = tuple(Record(value, "p", (begin + place, 0)) for place, value in enumerate(values))
    return Poll(reader=reader, records=records, seeks=seeks)


def cut(*values: str, reader: str = "r", seeks: bool = False) -> Poll:
    """A poll up to a cut, by a reader that tells no offsets."""
    return Poll(reader=reader, records=tuple(map(Record, values)), seeks=seeks, whole=True)


def kinds(writes: list[Write], polls: list[Poll]) -> set[Kind]:
    return {anomaly.kind for anomaly in anomalies(writes, polls)}


ABORTED, UNKNOWN = Outcome.ABORTED, Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("writes", "polls"),
    [
        ([], []),
        ([write(1, "a", "b"), write(2, "c")], [poll("a", "b", "c")]),
        ([write(1, "a"), write(2, "b", outcome=ABORTED)], [poll("a")]),
        ([write(1, "a", outcome=UNKNOWN), write(2, "b")], [poll("b")]),
        ([write(1, "a", outcome=UNKNOWN), write(2, "b")], [poll("a", "b")]),
        ([write(1, "a", "b"), write(2, "c")], [cut("b", "a"), cut("c")]),
        ([write(1, "a"), write(1, "b", writer="v")], [cut("b"), cut("a")]),
        ([write(1, "a"), write(2, "b")], [poll("a"), poll("b", begin=7)]),
        ([write(1, "a"), write(2, "b")], [poll("a", "b"), poll("a", "b", seeks=True)]),
        ([write(1, "a"), write(2, "b")], [cut("a"), cut("a", seeks=True), cut("b")]),
        # Two transactions delete a row, and it is not known which of them did.
        ([write(1, "-x", "a", outcome=UNKNOWN), write(1, "-x", "b", writer="v")], [cut("-x", "b")]),
        ([write(1, "-x", outcome=ABORTED), write(1, "-x", writer="v")], [cut("-x")]),
    ],
)
def test_nothing_is_wrong_with_a_sound_history(writes: list[Write], polls: list[Poll]) -> None:
    assert anomalies(writes, polls) == []


def test_a_value_that_was_rolled_back_and_polled_is_an_aborted_read() -> None:
    assert kinds([write(1, "a"), write(2, "b", outcome=ABORTED)], [poll("a", "b")]) == {Kind.ABORTED_READ}


def test_a_value_that_nobody_wrote_is_told() -> None:
    assert kinds([write(1, "a")], [poll("a", "?")]) == {Kind.UNWRITTEN}


def test_a_committed_value_before_a_polled_one_is_a_lost_write() -> None:
    assert kinds([write(1, "a"), write(2, "b")], [poll("b")]) == {Kind.LOST_WRITE}
    assert kinds([write(1, "a", "b")], [poll("b")]) == {Kind.LOST_WRITE}


def test_a_committed_value_after_all_that_was_polled_is_unseen() -> None:
    assert kinds([write(1, "a"), write(2, "b")], [poll("a")]) == {Kind.UNSEEN}
    assert kinds([write(1, "a")], []) == {Kind.UNSEEN}


def test_what_one_reader_did_not_get_is_missing_though_another_did() -> None:
    assert kinds([write(1, "a"), write(2, "b")], [poll("a", "b"), poll("a", reader="s")]) == {Kind.UNSEEN}


def test_a_value_in_two_places_is_a_duplicate() -> None:
    assert kinds([write(1, "a")], [poll("a", "a")]) == {Kind.DUPLICATE}
    assert kinds([write(1, "a")], [cut("a"), cut("a")]) == {Kind.DUPLICATE}


def test_two_values_in_one_place_are_inconsistent_offsets() -> None:
    found = kinds([write(1, "a"), write(1, "b", writer="v")], [poll("a", "b"), poll("b", "a", reader="s")])
    assert found == {Kind.INCONSISTENT_OFFSETS, Kind.DUPLICATE}


def test_a_later_value_of_a_writer_before_an_earlier_one_is_out_of_order() -> None:
    assert kinds([write(1, "a"), write(2, "b")], [poll("b", "a")]) == {Kind.OUT_OF_ORDER}
    assert kinds([write(1, "a", "b")], [poll("b", "a")]) == {Kind.OUT_OF_ORDER}
    assert kinds([write(1, "a"), write(2, "b")], [cut("b"), cut("a")]) == {Kind.OUT_OF_ORDER}


def test_a_cut_that_has_part_of_a_transaction_is_torn() -> None:
    assert kinds([write(1, "a", "b")], [cut("a"), cut("b")]) == {Kind.TORN}
    assert kinds([write(1, "a", "b")], [cut("a")]) == {Kind.TORN, Kind.UNSEEN}
    assert kinds([write(1, "a", "b", outcome=UNKNOWN)], [cut("a")]) == {Kind.TORN}


def test_a_reader_that_goes_back_without_a_seek_polls_nonmonotonically() -> None:
    assert kinds([write(1, "a"), write(2, "b")], [poll("a", "b"), poll("a")]) == {Kind.NONMONOTONIC_POLL}


def test_a_reader_that_passes_a_record_skips() -> None:
    writes = [write(1, "a"), write(2, "b"), write(3, "c")]
    whole = poll("a", "b", "c", reader="s")
    assert kinds(writes, [whole, poll("a"), poll("c", begin=2)]) == {Kind.POLL_SKIP, Kind.LOST_WRITE}
