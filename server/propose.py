"""Proposals: a request gets an id, goes to the replica's next batch, and its answer comes back.

A caller hands over an InternalRaftRequest and a callback; nothing here waits. The answer is the
response message or an EtcdError, delivered exactly once: when the entry was applied on this member,
when it was refused, or when the request timeout has passed. A timed-out proposal may still commit
later; that is why no client may repeat a write whose answer was a timeout.

Bounds: `PENDING_MAX` requests wait at once, and no more than `APPLY_GAP_MAX` committed entries may
wait to be applied (etcd: maxGapBetweenApplyAndCommitIndex); beyond either the answer is
"too many requests". One entry is at most `request_bytes_max` bytes.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import Message

from pyetcd.proto.errors import (
    ContextDeadlineExceeded,
    EtcdError,
    RequestTooLarge,
    Stopped,
    Timeout,
    TimeoutDueToConnectionLost,
    TimeoutDueToLeaderFail,
    TooManyRequests,
)
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest

PENDING_MAX = 50_000
APPLY_GAP_MAX = 5_000

Done = Callable[[Message | EtcdError], None]


class ProposalTarget(Protocol):
    """What a proposer needs of the loop that drives the replica."""

    @property
    def apply_gap(self) -> int:
        """Entries committed and not yet applied."""

    def submit(self, request_id: int, data: bytes) -> None:
        """Put one entry's data into the next batch."""

    def submit_as_leader(self, request_id: int, data: bytes) -> None:
        """The same, dropped unless this member still leads in the same term by then."""

    def withdraw(self, request_id: int) -> bool:
        """Take a proposal back; False when raft has it already."""


class RequestIds:
    """Ids that no other member and no earlier run of this member can make.

    16 bits of the member id, 40 bits of wall-clock milliseconds, 8 bits of counter, as etcd's
    idutil lays them out; the counter runs over into the time, which only moves it forward. A wall
    clock can be set back, and some machines start at the same time of day each time: `salt`, a
    random number of 40 bits, keeps the runs apart then, too.
    """

    __slots__ = ("_next", "_prefix")

    def __init__(self, member_id: int, wall_s: float, *, salt: int = 0) -> None:
        self._prefix = (member_id & 0xFFFF) << 48
        self._next = ((int(wall_s * 1000) + salt) & 0xFF_FFFF_FFFF) << 8

    def next(self) -> int:
        """The next id, never 0."""
        self._next += 1
        return self._prefix | (self._next & 0xFFFF_FFFF_FFFF)


class Proposer:
    """The requests of this member that wait for their entry to be applied."""

    def __init__(
        self,
        target: ProposalTarget,
        ids: RequestIds,
        *,
        monotonic_s: Callable[[], float],
        request_bytes_max: int,
        timeout_s: float,
        election_timeout_s: float = 1.0,
    ) -> None:
        self.failed_total = 0
        # When this member was last elected, in monotonic seconds; 0.0 for never.
        self.elected_s = 0.0
        # Whether the link to the leader, or a leader's to a quorum, has held since then.
        self.is_connected_since: Callable[[float], bool] = lambda since_s: True
        self._target = target
        self._ids = ids
        self._monotonic_s = monotonic_s
        self._request_bytes_max = request_bytes_max
        self._timeout_s = timeout_s
        self._election_timeout_s = election_timeout_s
        self._waiting: dict[int, Done] = {}
        # Every request has the same timeout, so the order of arrival is the order of expiry.
        self._deadlines: deque[tuple[float, int]] = deque()
        self._stopped = False

    @property
    def pending(self) -> int:
        """How many requests wait for an answer."""
        return len(self._waiting)

    def propose(self, request: InternalRaftRequest, done: Done) -> None:
        """Send `request` through raft; `done` gets the answer of the state machine."""
        self._propose(request, done, self._target.submit)

    def propose_as_leader(self, request: InternalRaftRequest, done: Done) -> None:
        """The same for what only a leader may ask; it times out if this member is none."""
        self._propose(request, done, self._target.submit_as_leader)

    def _propose(
        self, request: InternalRaftRequest, done: Done, submit: Callable[[int, bytes], None]
    ) -> None:
        if self._stopped:
            return done(Stopped())
        if len(self._waiting) >= PENDING_MAX or self._target.apply_gap > APPLY_GAP_MAX:
            return done(TooManyRequests())
        request_id = self._ids.next()
        request.header.ID = request_id
        data = request.SerializeToString()
        if len(data) > self._request_bytes_max and not _is_own(request):
            return done(RequestTooLarge())
        self._waiting[request_id] = done
        self._deadlines.append((self._monotonic_s() + self._timeout_s, request_id))
        submit(request_id, data)
        return None

    def next_id(self) -> int:
        """An id of the same kind, for leases and configuration changes."""
        return self._ids.next()

    def await_id(self, request_id: int, done: Done) -> None:
        """Wait for an entry that was proposed another way (a configuration change)."""
        if self._stopped:
            return done(Stopped())
        self._waiting[request_id] = done
        self._deadlines.append((self._monotonic_s() + self._timeout_s, request_id))
        return None

    def resolve(self, request_id: int, answer: Message | EtcdError) -> None:
        """An entry with this id was applied; entries of other members find nobody waiting."""
        done = self._waiting.pop(request_id, None)
        if done is not None:
            done(answer)

    def expire(self) -> None:
        """Called every tick: answer what has waited for longer than the request timeout."""
        now_s = self._monotonic_s()
        deadlines = self._deadlines
        while deadlines:
            deadline_s, request_id = deadlines[0]
            done = self._waiting.get(request_id)
            # Answered ones go at once: seven seconds of them would be 30 MB at full load.
            if done is not None and deadline_s > now_s:
                break
            deadlines.popleft()
            if done is not None:
                del self._waiting[request_id]
                self.failed_total += 1
                done(self._timeout_error(request_id, deadline_s - self._timeout_s))

    def _timeout_error(self, request_id: int, started_s: float) -> EtcdError:
        """etcd's four answers to a proposal that took too long (server.go, parseProposeCtxErr)."""
        if self._target.withdraw(request_id):
            return ContextDeadlineExceeded()  # no leader ever took it: it will never commit
        if self.elected_s - 2 * self._election_timeout_s < started_s < self.elected_s:
            return TimeoutDueToLeaderFail()
        if not self.is_connected_since(started_s):
            return TimeoutDueToConnectionLost()
        return Timeout()

    def stop(self) -> None:
        """Answer everything that waits; later proposals are refused at once."""
        self._stopped = True
        waiting, self._waiting = self._waiting, {}
        self._deadlines.clear()
        for done in waiting.values():
            done(Stopped())


def _is_own(request: InternalRaftRequest) -> bool:
    """What a member says itself: without it, it would not be ready to serve."""
    return request.HasField("cluster_member_attr_set") or request.HasField("cluster_version_set")
