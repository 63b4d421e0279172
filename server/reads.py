"""Linearizable reads: one ReadIndex round for all callers that wait, then the applied index.

Raft thesis 6.4. Callers that arrive while a round is under way form the next one: a round begun
before a caller came could miss a write that the caller already knows of. Each round, and each
retry of a round, has a context of its own; an answer that carries another one is ignored (etcd
answered stale reads when it reused a context, etcd-io/etcd#20418). No earlier run of this member
may have used it either: a leader may hold a question for long, and answers whoever is there then.

Bound: `WAITING_MAX` callers; beyond it the answer is "too many requests".
"""

from collections.abc import Callable
from typing import Protocol

from pyetcd.proto.errors import EtcdError, Stopped, Timeout, TooManyRequests

WAITING_MAX = 50_000
RETRY_S = 0.5  # etcd: readIndexRetryTime

ReadDone = Callable[[EtcdError | None], None]


class ReadTarget(Protocol):
    """What linearizable reads need of the loop that drives the replica."""

    def request_read_index(self, context: bytes) -> None:
        """Ask raft for a read index; the answer arrives at `confirmed`."""

    def read_soon(self) -> None:
        """Call `start_round` in the next turn."""

    @property
    def applied_index(self) -> int:
        """The index of the last entry in the keyspace."""


class LinearizableReads:
    """Callers that wait until this member has applied what was committed when they asked."""

    def __init__(
        self,
        target: ReadTarget,
        *,
        next_id: Callable[[], int],
        monotonic_s: Callable[[], float],
        timeout_s: float,
    ) -> None:
        """`next_id`: propose.RequestIds, whose ids are never used again."""
        self.slow_total = 0
        self.failed_total = 0
        self._target = target
        self._next_id = next_id
        self._monotonic_s = monotonic_s
        self._timeout_s = timeout_s
        self._queued: list[tuple[float, ReadDone]] = []
        self._round: list[tuple[float, ReadDone]] = []
        self._context = b""
        self._retry_at_s = 0.0
        # Rounds that are confirmed but not applied yet, in order of index.
        self._confirmed: list[tuple[int, list[tuple[float, ReadDone]]]] = []
        self._stopped = False

    def wait(self, done: ReadDone) -> None:
        """Call `done(None)` once a read here is linearizable, or with the error."""
        if self._stopped:
            return done(Stopped())
        if len(self._queued) + len(self._round) >= WAITING_MAX:
            return done(TooManyRequests())
        self._queued.append((self._monotonic_s() + self._timeout_s, done))
        return self._target.read_soon()

    @property
    def has_queued(self) -> bool:
        """Whether the driver should call `start_round` in its next turn."""
        return bool(self._queued) and not self._round

    def start_round(self) -> None:
        """Send one ReadIndex for everyone who has queued up."""
        assert self._queued and not self._round
        self._round, self._queued = self._queued, []
        self._ask()

    def _ask(self) -> None:
        self._context = self._next_id().to_bytes(8, "big")
        self._retry_at_s = self._monotonic_s() + RETRY_S
        self._target.request_read_index(self._context)

    def confirmed(self, index: int, context: bytes) -> None:
        """Raft answered: what was committed when the round began is at or below `index`."""
        if not self._round or context != self._context:
            return  # an answer to a retried or abandoned round
        finished, self._round = self._round, []
        self._confirmed.append((index, finished))
        self.applied(self._target.applied_index)
        if self._queued:
            self._target.read_soon()

    def applied(self, index: int) -> None:
        """The keyspace has moved on: answer every confirmed round at or below it."""
        while self._confirmed and self._confirmed[0][0] <= index:
            for _, done in self._confirmed.pop(0)[1]:
                done(None)

    def leader_changed(self) -> None:
        """There is a new leader: a round under way may never be answered, so it is asked of the
        new one. etcd 3.5 gives its callers an error for them to come again."""
        if self._round:
            self._ask()

    def expire(self) -> None:
        """Called every tick: retry a round without an answer, give up on old callers."""
        now_s = self._monotonic_s()
        if self._round and now_s >= self._retry_at_s:
            self._round = self._give_up(self._round, now_s)
            if self._round:
                self._ask()
        self._queued = self._give_up(self._queued, now_s)
        self._confirmed = [
            (index, self._give_up(callers, now_s)) for index, callers in self._confirmed
        ]

    def _give_up(
        self, callers: list[tuple[float, ReadDone]], now_s: float
    ) -> list[tuple[float, ReadDone]]:
        if not callers or callers[0][0] > now_s:
            return callers
        for deadline_s, done in callers:
            if deadline_s <= now_s:
                self.failed_total += 1
                self.slow_total += 1
                done(Timeout())
        return [caller for caller in callers if caller[0] > now_s]

    def stop(self) -> None:
        """Answer everyone who waits; later callers are refused at once."""
        self._stopped = True
        callers = self._round + self._queued + [c for _, group in self._confirmed for c in group]
        self._round, self._queued, self._confirmed = [], [], []
        for _, done in callers:
            done(Stopped())
