"""A follower as the leader sees it: what it has, what is on the way, how to send more.

    PROBE      we do not know where its log ends: one append at a time, then wait
    REPLICATE  we know: stream appends optimistically, within the inflight window
    SNAPSHOT   its next entry is compacted here: nothing is sent until it has the snapshot

    PROBE --accepted--> REPLICATE --rejected, unreachable--> PROBE
    PROBE, REPLICATE --entry compacted--> SNAPSHOT --reported or caught up--> PROBE

Rules: 0 <= match < next, always. match only grows within a term; next may fall back to match+1.
The inflight window is bounded in messages and in bytes; when it is full, entries wait and only
an empty append per heartbeat goes out, so that lost acknowledgements cannot block for ever.
"""

from collections import deque
from enum import IntEnum


class ProgressState(IntEnum):
    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


class Inflights:
    """The appends sent and not yet acknowledged: (last index, payload bytes) of each, in order.

    Bounded by count_max and bytes_max (0: no byte limit). The byte bound may be passed by one
    message, otherwise a single large entry could never be sent.
    """

    __slots__ = ("_window", "bytes", "bytes_max", "count_max")

    def __init__(self, count_max: int, bytes_max: int = 0) -> None:
        assert count_max > 0 and bytes_max >= 0
        self.count_max = count_max
        self.bytes_max = bytes_max
        self.bytes = 0
        self._window: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._window)

    @property
    def full(self) -> bool:
        return len(self._window) >= self.count_max or 0 < self.bytes_max <= self.bytes

    def add(self, index: int, payload_bytes: int) -> None:
        assert not self.full, "append sent although the window is full"
        assert not self._window or self._window[-1][0] < index, "appends out of order"
        self._window.append((index, payload_bytes))
        self.bytes += payload_bytes

    def free_to(self, index: int) -> None:
        """The follower has everything up to index."""
        while self._window and self._window[0][0] <= index:
            self.bytes -= self._window.popleft()[1]
        assert self.bytes >= 0 and (self._window or self.bytes == 0), "leaked inflight bytes"

    def clear(self) -> None:
        self._window.clear()
        self.bytes = 0


class Progress:
    """next: the first entry not sent yet. sent_commit: the highest commit index on its way.

    recent_active: heard from since the last quorum check. flow_paused: in PROBE, one append is
    out; in REPLICATE, the window is full; a heartbeat response lifts both.
    """

    __slots__ = (
        "flow_paused",
        "inflights",
        "is_learner",
        "match",
        "next",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(self, next_: int, inflights: Inflights, *, is_learner: bool = False) -> None:
        assert next_ >= 1
        self.match = 0
        self.next = next_
        self.inflights = inflights
        self.is_learner = is_learner
        self.state = ProgressState.PROBE
        self.sent_commit = 0
        self.pending_snapshot = 0
        self.recent_active = False
        self.flow_paused = False

    @property
    def paused(self) -> bool:
        return self.flow_paused or self.state == ProgressState.SNAPSHOT

    def become_probe(self) -> None:
        """After SNAPSHOT, probe behind the snapshot: it may have arrived without our knowing."""
        self.next = max(self.match, self.pending_snapshot) + 1
        self._enter(ProgressState.PROBE)
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        self._enter(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = max(index, self.match) + 1
        self.sent_commit = index

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.flow_paused = False
        self.pending_snapshot = 0
        self.inflights.clear()

    def sent_entries(self, count: int, payload_bytes: int) -> None:
        """An append with count entries from next on was sent."""
        assert self.state != ProgressState.SNAPSHOT, "append sent while a snapshot is on its way"
        if self.state == ProgressState.REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, payload_bytes)
            # The append that fills the window, or an empty one while it is full, is a probe.
            self.flow_paused = self.inflights.full
        elif count:
            self.flow_paused = True

    def can_bump_commit(self, commit: int) -> bool:
        """Whether telling the follower this commit index now could move its own: it cannot go
        past next-1, so once that much was sent a further message is wasted."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def acked(self, index: int) -> bool:
        """The follower has everything up to index. False if that is old news."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        self.flow_paused = False
        return True

    def rejected(self, index: int, hint: int) -> bool:
        """The follower refused an append after index; hint is where its log may match ours.

        False if the rejection is an old or repeated message: in REPLICATE anything at or below
        match, in PROBE anything but the one append that is out.
        """
        if self.state == ProgressState.REPLICATE:
            if index <= self.match:
                return False
            self.next = self.match + 1
        else:
            if self.next - 1 != index:
                return False
            self.next = max(min(index, hint + 1), self.match + 1)
            self.flow_paused = False
        self.sent_commit = min(self.sent_commit, self.next - 1)
        return True
