"""What etcd's v2 statistics tell of appends: how many, at which rate, how long they took.

Source: api/v2stats/queue.go and leader.go. The rate is that of the last RECENT_MAX appends, the
older ones are forgotten; it is 0 when the last one is more than a second ago. Times are what
writing took until the bytes were handed on, as in etcd, not what the network took.
"""

from collections import deque
from math import sqrt
from typing import Final

RECENT_MAX: Final = 200
IDLE_S: Final = 1.0


class Appends:
    """Those of one direction of one link."""

    __slots__ = ("_recent", "_recent_bytes", "total")

    def __init__(self) -> None:
        self.total = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._recent_bytes = 0

    def add(self, now_s: float, size_bytes: int) -> None:
        """One more."""
        self.total += 1
        recent = self._recent
        if len(recent) == RECENT_MAX:
            self._recent_bytes -= recent.popleft()[1]
        recent.append((now_s, size_bytes))
        self._recent_bytes += size_bytes

    def rates(self, now_s: float) -> tuple[float, float]:
        """Appends and bytes per second."""
        recent = self._recent
        if not recent or now_s - recent[-1][0] > IDLE_S:
            recent.clear()
            self._recent_bytes = 0
            return 0.0, 0.0
        lasted_s = recent[-1][0] - recent[0][0]
        if lasted_s <= 0:
            return 0.0, 0.0
        return len(recent) / lasted_s, self._recent_bytes / lasted_s


class Deliveries:
    """How long appends to one follower took, in ms, and how many failed."""

    __slots__ = ("_average_square", "average_ms", "current_ms", "failed", "maximum_ms",
                 "minimum_ms", "succeeded")  # fmt: skip

    def __init__(self) -> None:
        self.succeeded = self.failed = 0
        self.current_ms = self.average_ms = self.maximum_ms = self.minimum_ms = 0.0
        self._average_square = 0.0

    def add(self, took_s: float) -> None:
        """One that was sent."""
        took_ms = took_s * 1000
        self.succeeded += 1
        count = self.succeeded
        self.current_ms = took_ms
        self.minimum_ms = min(self.minimum_ms, took_ms) if count > 1 else took_ms
        self.maximum_ms = max(self.maximum_ms, took_ms)
        self.average_ms += (took_ms - self.average_ms) / count
        self._average_square += (took_ms * took_ms - self._average_square) / count

    @property
    def deviation_ms(self) -> float:
        """The standard deviation."""
        return sqrt(max(0.0, self._average_square - self.average_ms * self.average_ms))
