"""Automatic compaction by the leader: by age (periodic) or by count of revisions.

By age: every tenth of the period (at most of an hour) the revision is noted. Once a whole period
has passed, and from then on every period, at most every hour, what is older than the oldest note
goes. By count: every five minutes all but the newest `retention` revisions go. As etcd
v3compactor, but that a member which does not lead only notes.

Bound: as many notes as tenths of an hour fit into the period: a week has 1,681.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from google.protobuf.message import Message

from pyetcd.proto.errors import Compacted, EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import CompactionRequest
from pyetcd.server.logs import get

HOUR_S: Final = 3600.0
TENTH: Final = 10
REVISION_INTERVAL_S: Final = 300.0  # etcd: revInterval


class Leadership(Protocol):
    """RawNode."""

    @property
    def is_leader(self) -> bool: ...


class Proposer(Protocol):
    """server/propose.py"""

    def propose_as_leader(
        self, request: InternalRaftRequest, done: Callable[[Message | EtcdError], None]
    ) -> None: ...


class Compactor:
    """A tick listener of the driver. Give it one of the two retentions, or none."""

    def __init__(
        self,
        *,
        node: Leadership,
        proposer: Proposer,
        revision: Callable[[], int],
        monotonic_s: Callable[[], float],
        period_s: float = 0.0,
        revisions: int = 0,
    ) -> None:
        assert not (period_s and revisions)
        self._node = node
        self._proposer = proposer
        self._revision = revision
        self._monotonic_s = monotonic_s
        self._period_s = period_s
        self._revisions = revisions
        self._pause_s = min(period_s, HOUR_S) / TENTH if period_s else REVISION_INTERVAL_S
        notes_max = int(period_s / self._pause_s) + 1 if period_s else 1
        self._notes: deque[int] = deque(maxlen=notes_max)
        self._wait_s = period_s  # the first one waits for a whole period
        now_s = monotonic_s()
        self._succeeded_at_s = now_s
        self._due_at_s = now_s
        self._compacted = 0
        self._log = get("compactor")

    def ticked(self) -> None:
        if not self._period_s and not self._revisions:
            return
        now_s = self._monotonic_s()
        if now_s < self._due_at_s:
            return
        if self._notes:  # else it has just started
            self._compact(now_s)
        self._notes.append(self._revision())
        self._due_at_s = now_s + self._pause_s

    def _compact(self, now_s: float) -> None:
        if not self._node.is_leader:
            return
        if self._period_s:
            if now_s - self._succeeded_at_s < self._wait_s:
                return
            self._wait_s = min(self._period_s, HOUR_S)
            revision = self._notes[0]
        else:
            revision = self._revision() - self._revisions
        if revision <= 0 or revision == self._compacted:
            return
        self._log.info("starting auto compaction", revision=revision)

        def done(answer: Message | EtcdError) -> None:
            if isinstance(answer, EtcdError) and not isinstance(answer, Compacted):
                self._log.warn("failed auto compaction", revision=revision, error=answer.text)
                return
            self._succeeded_at_s = now_s
            self._compacted = revision
            self._log.info("completed auto compaction", revision=revision)

        request = InternalRaftRequest(compaction=CompactionRequest(revision=revision))
        self._proposer.propose_as_leader(request, done)
