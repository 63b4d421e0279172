"""quorum.py against twins that are as dumb as possible: they try every subset of the voters."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from pyetcd.raft.quorum import (
    COMMIT_ANY,
    VoteResult,
    joint_commit,
    joint_vote,
    majority_commit,
    majority_vote,
)

ids = st.integers(1, 9)
voters = st.frozensets(ids, max_size=7)
acks = st.dictionaries(ids, st.integers(0, 12))
votes = st.dictionaries(ids, st.booleans())


def majorities(group: frozenset[int]) -> list[tuple[int, ...]]:
    size = len(group) // 2 + 1
    return [m for n in range(size, len(group) + 1) for m in combinations(group, n)]


def dumb_commit(group: frozenset[int], acked: dict[int, int]) -> int:
    if not group:
        return COMMIT_ANY
    return max(min(acked.get(node, 0) for node in m) for m in majorities(group))


def dumb_vote(group: frozenset[int], cast: dict[int, bool]) -> VoteResult:
    """Won if some majority said yes; lost if not even all the silent ones could help."""
    if not group:
        return VoteResult.WON
    if any(all(cast.get(node) is True for node in m) for m in majorities(group)):
        return VoteResult.WON
    if any(all(cast.get(node) is not False for node in m) for m in majorities(group)):
        return VoteResult.PENDING
    return VoteResult.LOST


@given(voters, acks)
def test_majority_commit(group: frozenset[int], acked: dict[int, int]) -> None:
    assert majority_commit(group, acked) == dumb_commit(group, acked)


@given(voters, voters, acks)
def test_joint_commit(one: frozenset[int], two: frozenset[int], acked: dict[int, int]) -> None:
    """Committed jointly: committed in both halves, whichever way they are named."""
    index = joint_commit(one, two, acked)
    assert index == min(dumb_commit(one, acked), dumb_commit(two, acked))
    assert index == joint_commit(two, one, acked)


@given(voters, votes)
def test_majority_vote(group: frozenset[int], cast: dict[int, bool]) -> None:
    assert majority_vote(group, cast) == dumb_vote(group, cast)


@given(voters, voters, votes)
def test_joint_vote(one: frozenset[int], two: frozenset[int], cast: dict[int, bool]) -> None:
    halves = (dumb_vote(one, cast), dumb_vote(two, cast))
    if VoteResult.LOST in halves:
        expected = VoteResult.LOST
    elif VoteResult.PENDING in halves:
        expected = VoteResult.PENDING
    else:
        expected = VoteResult.WON
    assert joint_vote(one, two, cast) == expected


@given(voters, voters, votes)
def test_equal_halves_decide_as_one(
    group: frozenset[int], other: frozenset[int], cast: dict[int, bool]
) -> None:
    assert joint_vote(group, group, cast) == majority_vote(group, cast)


def test_the_example_of_the_docstring() -> None:
    assert majority_commit({1, 2, 3, 4, 5}, {1: 12, 2: 10, 4: 7, 5: 9}) == 9
