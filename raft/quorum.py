"""Majorities, single and joint: which index is committed, which election is won.

Strategy: pure functions over sets of ids. A joint configuration decides by two majorities that
must both agree (thesis 4.3); a single configuration is a joint one whose second half is empty.
An empty majority agrees with everything, so that half never decides.

Worked example, voters 1 2 3 4 5 with acknowledged indexes

    id      1    2    3    4    5
    acked  12   10    -    7    9        sorted: 0 7 9 10 12

five voters need three: the third from the top is 9, so 9 is committed. tests/raft compares each
function with a deliberately dumb twin.
"""

from collections.abc import Collection, Mapping
from enum import Enum

# The commit index of an empty majority: any other majority is stricter.
COMMIT_ANY = 2**64 - 1


class VoteResult(Enum):
    PENDING = "pending"
    LOST = "lost"
    WON = "won"


def majority_commit(voters: Collection[int], acked: Mapping[int, int]) -> int:
    """The largest index that a majority has acknowledged; who is not in acked has nothing."""
    if not voters:
        return COMMIT_ANY
    ranked = sorted([acked.get(voter, 0) for voter in voters])
    return ranked[(len(ranked) - 1) // 2]


def joint_commit(
    incoming: Collection[int], outgoing: Collection[int], acked: Mapping[int, int]
) -> int:
    """The largest index committed in both halves."""
    if not outgoing:
        return majority_commit(incoming, acked)
    return min(majority_commit(incoming, acked), majority_commit(outgoing, acked))


def majority_vote(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """WON with a majority of yes, LOST once the missing votes cannot make one."""
    if not voters:
        return VoteResult.WON
    granted = sum(votes.get(voter) is True for voter in voters)
    missing = sum(voter not in votes for voter in voters)
    need = len(voters) // 2 + 1
    if granted >= need:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= need else VoteResult.LOST


def joint_vote(
    incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]
) -> VoteResult:
    """WON if both halves are won, LOST as soon as one is lost."""
    results = {majority_vote(incoming, votes), majority_vote(outgoing, votes)}
    for decisive in (VoteResult.LOST, VoteResult.PENDING):
        if decisive in results:
            return decisive
    return VoteResult.WON
