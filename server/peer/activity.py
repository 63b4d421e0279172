"""What is known of the link to one peer: since when it is active, which URL to try, what it moved.

Strategy. etcd's rules (rafthttp/peer_status.go, urlpick.go): any stream or post that succeeds
makes the peer active, any that fails makes it inactive. `active_since_s` is what the checks
before a membership change ask for. Counters are plain numbers that a metrics collector reads.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pyetcd.server.logs import Log
from pyetcd.server.peer.appends import Appends, Deliveries

# etcd: exponential from 0.1 ms, factor 2, 16 buckets; of snapshots from 0.1 s, 10 buckets.
RTT_BUCKETS_S: Final = tuple(0.0001 * 2**n for n in range(16))
SNAPSHOT_BUCKETS_S: Final = tuple(0.1 * 2**n for n in range(10))


@dataclass(slots=True)
class Durations:
    """How long something took; `counts` has one more for +Inf."""

    bounds_s: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds_s) + 1)

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds


@dataclass(slots=True)
class PeerCounters:
    """The etcd_network_peer_* numbers of one peer, but for the prefix, and what the v2 statistics
    tell of it."""

    sent_bytes_total: int = 0
    received_bytes_total: int = 0
    sent_failures_total: int = 0
    received_failures_total: int = 0
    disconnected_total: int = 0
    snapshot_sent_total: int = 0
    snapshot_send_failures_total: int = 0
    snapshot_received_total: int = 0
    snapshot_receive_failures_total: int = 0
    snapshots_sending: int = 0  # now
    snapshots_receiving: int = 0
    appends_sent: Appends = field(default_factory=Appends)
    appends_received: Appends = field(default_factory=Appends)
    deliveries: Deliveries = field(default_factory=Deliveries)
    rtt: Durations = field(default_factory=lambda: Durations(RTT_BUCKETS_S))
    snapshot_sends: Durations = field(default_factory=lambda: Durations(SNAPSHOT_BUCKETS_S))
    snapshot_receipts: Durations = field(default_factory=lambda: Durations(SNAPSHOT_BUCKETS_S))


class Activity:
    """Whether a peer answers."""

    def __init__(self, peer_id: int, counters: PeerCounters, log: Log) -> None:
        self.active_since_s: float | None = None
        # Learned from its headers: our keyspace snapshots are of use to it.
        self.is_pyetcd = False
        self._peer_id = peer_id
        self._counters = counters
        self._log = log

    @property
    def is_active(self) -> bool:
        return self.active_since_s is not None

    def activate(self, now_s: float) -> None:
        if self.active_since_s is None:
            self.active_since_s = now_s
            self._log.info("peer became active", peer_id=f"{self._peer_id:x}")

    def deactivate(self, action: str, source: str, reason: str) -> None:
        """`action` on `source` failed, for instance `dial` on `stream Message`."""
        if self.active_since_s is None:
            return
        self.active_since_s = None
        self._counters.disconnected_total += 1
        self._log.warn(
            "peer became inactive (message send to peer failed)",
            peer_id=f"{self._peer_id:x}",
            error=f"failed to {action} {self._peer_id:x} on {source} ({reason})",
        )


class UrlPicker:
    """Which URL of a peer to use: the same one until it fails, then the next."""

    def __init__(self, urls: Sequence[str]) -> None:
        assert urls
        self._urls = tuple(urls)
        self._picked = 0

    def pick(self) -> str:
        return self._urls[self._picked]

    def unreachable(self, url: str) -> None:
        if url == self._urls[self._picked]:
            self._picked = (self._picked + 1) % len(self._urls)

    def update(self, urls: Sequence[str]) -> bool:
        """Whether they are others than before."""
        assert urls
        if self._urls == tuple(urls):
            return False
        self._urls = tuple(urls)
        self._picked = 0
        return True
