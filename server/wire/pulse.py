"""Is the peer alive, and does it behave: token buckets, ping strikes, keepalive, stalled sending.

Strategy: plain arithmetic on times handed in. Nothing here sends; the answers say what to do.
Behaviour and numbers of the pings are grpc-go's (http2_server.go handlePing, keepalive).
"""

from enum import Enum, auto

from pyetcd.server.wire.frames import ENHANCE_YOUR_CALM, ConnectionFault
from pyetcd.server.wire.limits import Limits


class Bucket:
    """`burst` tokens, refilled by `per_s`. Taking from an empty one ends the connection."""

    __slots__ = ("_burst", "_filled_at_s", "_per_s", "_tokens")

    def __init__(self, burst: int, per_s: float, now_s: float) -> None:
        self._burst = float(burst)
        self._per_s = per_s
        self._tokens = float(burst)
        self._filled_at_s = now_s

    def take(self, now_s: float, what: str) -> None:
        gained = (now_s - self._filled_at_s) * self._per_s
        self._tokens = min(self._burst, self._tokens + gained)
        self._filled_at_s = now_s
        if self._tokens < 1.0:
            raise ConnectionFault(ENHANCE_YOUR_CALM, f"too many {what}")
        self._tokens -= 1.0


class Verdict(Enum):
    """What a tick asks for."""

    FINE = auto()
    PING = auto()
    DEAD = auto()


class Pulse:
    """One connection's signs of life."""

    __slots__ = (
        "_limits",
        "_ping_at_s",
        "_pinged_at_s",
        "_progress",
        "_progress_at_ping",
        "_progress_at_s",
        "_silent_since_s",
        "_strikes",
        "heard",
    )

    def __init__(self, limits: Limits, now_s: float) -> None:
        self._limits = limits
        self.heard = False  # something was received since the last tick
        self._silent_since_s = now_s
        self._pinged_at_s: float | None = None
        self._ping_at_s: float | None = None  # the peer's last ping
        self._strikes = 0
        self._progress_at_ping = 0
        self._progress = 0
        self._progress_at_s = now_s

    def on_ping(self, now_s: float, *, progress: int, has_streams: bool) -> None:
        """An answer of ours since the peer's last ping forgives its strikes."""
        limits = self._limits
        last_s, self._ping_at_s = self._ping_at_s, now_s
        if progress != self._progress_at_ping:
            self._progress_at_ping = progress
            self._strikes = 0
            return
        least_s = limits.keepalive_min_time_s if has_streams else limits.keepalive_idle_min_time_s
        if last_s is not None and now_s - last_s < least_s:
            self._strikes += 1
            if self._strikes > limits.ping_strikes_max:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "too_many_pings")

    def on_pong(self) -> None:
        self._pinged_at_s = None

    def tick(self, now_s: float, *, progress: int, waiting: bool) -> Verdict:
        """Once a second or so. `waiting`: we have bytes the peer does not take."""
        if not waiting or progress != self._progress:
            self._progress = progress
            self._progress_at_s = now_s
        elif now_s - self._progress_at_s > self._limits.blocked_timeout_s:
            return Verdict.DEAD  # slow read, CVE-2019-9511
        if self.heard:
            self.heard = False
            self._silent_since_s = now_s
            self._pinged_at_s = None
            return Verdict.FINE
        if self._pinged_at_s is not None:
            late = now_s - self._pinged_at_s > self._limits.keepalive_timeout_s
            return Verdict.DEAD if late else Verdict.FINE
        if now_s - self._silent_since_s > self._limits.keepalive_interval_s:
            self._pinged_at_s = now_s
            return Verdict.PING
        return Verdict.FINE
