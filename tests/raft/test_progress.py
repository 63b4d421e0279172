"""progress.py: the inflight window and the moves between probe, replicate and snapshot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyetcd.raft.progress import Inflights, Progress, ProgressState


def progress(
    match: int = 3, next_: int = 5, state: ProgressState = ProgressState.PROBE
) -> Progress:
    made = Progress(next_, Inflights(4, 100))
    made.match, made.state = match, state
    return made


@given(st.integers(1, 5), st.integers(0, 50), st.lists(st.integers(0, 40), max_size=30), st.data())
def test_inflights_count_what_is_out(
    count_max: int, bytes_max: int, sizes: list[int], data: st.DataObject
) -> None:
    """A list of what is out is the dumb twin."""
    window, twin = Inflights(count_max, bytes_max), list[tuple[int, int]]()
    for index, size in enumerate(sizes, 1):
        if window.full:
            freed = data.draw(st.integers(twin[0][0], index))
            window.free_to(freed)
            twin = [pair for pair in twin if pair[0] > freed]
        if window.full:
            continue
        window.add(index, size)
        twin.append((index, size))
        total = sum(pair[1] for pair in twin)
        assert (len(window), window.bytes) == (len(twin), total)
        assert window.full == (len(twin) >= count_max or 0 < bytes_max <= total)
    window.clear()
    assert (len(window), window.bytes) == (0, 0)


def test_a_full_window_takes_nothing() -> None:
    window = Inflights(1)
    window.add(1, 5)
    with pytest.raises(AssertionError):
        window.add(2, 5)


@pytest.mark.parametrize(
    ("state", "pending", "next_"),
    [
        (ProgressState.REPLICATE, 0, 4),
        (ProgressState.SNAPSHOT, 10, 11),
        (ProgressState.SNAPSHOT, 2, 4),
    ],
)
def test_become_probe(state: ProgressState, pending: int, next_: int) -> None:
    peer = progress(state=state)
    peer.pending_snapshot = pending
    peer.become_probe()
    assert (peer.state, peer.match, peer.next, peer.pending_snapshot) == (0, 3, next_, 0)


def test_become_replicate_and_snapshot() -> None:
    peer = progress()
    peer.become_replicate()
    assert (peer.state, peer.next, peer.paused) == (ProgressState.REPLICATE, 4, False)
    peer.become_snapshot(9)
    assert (peer.state, peer.next, peer.pending_snapshot, peer.paused) == (2, 10, 9, True)
    with pytest.raises(AssertionError):
        peer.sent_entries(1, 1)


def test_probe_pauses_after_one_append_replicate_with_a_full_window() -> None:
    peer = progress()
    peer.sent_entries(0, 0)
    assert not peer.paused
    peer.sent_entries(2, 10)
    assert peer.paused and peer.next == 5
    peer.become_replicate()
    for expected in (False, False, False, True):
        peer.sent_entries(1, 10)
        assert peer.paused is expected
    assert peer.next == 8
    peer.inflights.free_to(4)
    assert peer.acked(4) and not peer.paused


@pytest.mark.parametrize(
    ("index", "changed", "match", "next_"),
    [(2, False, 3, 5), (3, False, 3, 5), (4, True, 4, 5), (5, True, 5, 6), (7, True, 7, 8)],
)
def test_acked(index: int, changed: bool, match: int, next_: int) -> None:
    peer = progress()
    assert peer.acked(index) is changed
    assert (peer.match, peer.next) == (match, next_)


@pytest.mark.parametrize(
    ("state", "match", "next_", "rejected", "hint", "changed", "after"),
    [
        (ProgressState.REPLICATE, 5, 10, 5, 5, False, 10),  # what it has it did not reject now
        (ProgressState.REPLICATE, 5, 10, 4, 4, False, 10),
        (ProgressState.REPLICATE, 5, 10, 9, 9, True, 6),
        (ProgressState.PROBE, 0, 0 + 1, 5, 5, False, 1),  # not the probe that is out
        (ProgressState.PROBE, 0, 10, 5, 5, False, 10),
        (ProgressState.PROBE, 0, 10, 9, 9, True, 9),
        (ProgressState.PROBE, 0, 10, 9, 2, True, 3),
        (ProgressState.PROBE, 0, 2, 1, 0, True, 1),
        (ProgressState.PROBE, 4, 10, 9, 0, True, 5),  # never to or below match
    ],
)
def test_rejected(
    state: ProgressState,
    match: int,
    next_: int,
    rejected: int,
    hint: int,
    changed: bool,
    after: int,
) -> None:
    peer = progress(match, next_, state)
    assert peer.rejected(rejected, hint) is changed
    assert (peer.match, peer.next) == (match, after)
    assert peer.match < peer.next


def test_the_commit_index_is_sent_only_where_it_can_move_something() -> None:
    peer = progress(match=3, next_=6)
    peer.sent_commit = 2
    assert peer.can_bump_commit(4)
    assert not peer.can_bump_commit(2)
    peer.sent_commit = 5
    assert not peer.can_bump_commit(9)
