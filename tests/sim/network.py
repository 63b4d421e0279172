"""The simulated network: delay, loss, duplication, reordering, cuts in one direction, clogging.

Limits. Proposals and reads that a follower forwards are never duplicated: production links are TCP
streams, which lose but do not repeat. Answers of raft are, because raft must stand it.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyetcd.raft.codec import decode_message, encode_message
from pyetcd.raft.types import Message, MsgType

ONCE = frozenset({MsgType.PROP})
LATE = 0.2  # of the second copies come out of any order, up to LATE_S after the first
LATE_S = 3.0


@dataclass
class NetworkOptions:
    loss: float
    duplication: float
    reordering: float
    delay_s: tuple[float, float]
    encoded: bool  # through the codec, as in production; without it entries are shared
    is_late: bool = False  # some second copies come when nobody thinks of them any more


class Network:
    def __init__(
        self,
        options: NetworkOptions,
        rng: random.Random,
        later: Callable[[float, Callable[[], None]], object],
        now_s: Callable[[], float],
        receive: Callable[[Message], None],
    ) -> None:
        self.options = options
        self.sent_total = 0
        self.lost_total = 0
        self._rng = rng
        self._later = later
        self._now_s = now_s
        self._receive = receive
        self._cut: dict[tuple[int, int], None] = {}
        self._clogged_until_s: dict[tuple[int, int], float] = {}
        self._last_s: dict[tuple[int, int], float] = {}
        self._longer_s: dict[tuple[int, int], float] = {}

    def send(self, message: Message) -> bool:
        """False when the sender will hear that it failed."""
        self.sent_total += 1
        link = (message.from_, message.to)
        options, rng = self.options, self._rng
        if link in self._cut or rng.random() < options.loss:
            self.lost_total += 1
            return link not in self._cut
        if options.encoded:
            message = decode_message(encode_message(message))
        copies = 1
        if message.type not in ONCE and rng.random() < options.duplication:
            copies = 2
        self._deliver(link, message)
        if copies > 1:
            late = options.is_late and rng.random() < LATE
            self._deliver(link, message, late_s=rng.random() * LATE_S if late else 0.0)
        return True

    def _deliver(self, link: tuple[int, int], message: Message, *, late_s: float = 0.0) -> None:
        at_s = self._now_s() + self.delay_s(link) + late_s
        if not late_s and self._rng.random() >= self.options.reordering:
            at_s = max(at_s, self._last_s.get(link, 0.0))
            self._last_s[link] = at_s

        def arrive() -> None:
            # What was on its way when the link was cut is lost in part.
            if link in self._cut and self._rng.random() < 0.5:
                return
            self._receive(message)

        self._later(at_s - self._now_s(), arrive)

    def delay_s(self, link: tuple[int, int]) -> float:
        low, high = self.options.delay_s
        delay_s = low + (high - low) * self._rng.random() ** 3
        delay_s += self._longer_s.get(link, 0.0)
        return delay_s + max(0.0, self._clogged_until_s.get(link, 0.0) - self._now_s())

    def is_cut(self, source: int, target: int) -> bool:
        return (source, target) in self._cut

    # Faults

    def cut(self, links: Iterable[tuple[int, int]]) -> None:
        for link in links:
            self._cut[link] = None

    def join(self, links: Iterable[tuple[int, int]]) -> None:
        for link in links:
            self._cut.pop(link, None)

    def clog(self, links: Iterable[tuple[int, int]], seconds: float) -> None:
        for link in links:
            self._clogged_until_s[link] = self._now_s() + seconds

    def lengthen(self, links: Iterable[tuple[int, int]], seconds: float) -> None:
        for link in links:
            self._longer_s[link] = seconds

    def heal(self) -> None:
        self._cut.clear()
        self._longer_s.clear()
        self._clogged_until_s.clear()
