"""Waiting until this member has applied an entry that a token names.

One timer for all who wait, and nothing to be done for each of them until their entry is there: who
waits may be anybody with a made-up token.

Bounds: WAITING_MAX at a time, each for at most WAIT_MAX_S; beyond either the caller goes on without
the entry.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

WAIT_MAX_S: Final = 7.0
POLL_S: Final = 0.01
WAITING_MAX: Final = 1000


class AppliedWait:
    """Calls back once an index is applied, or when there is no waiting any more."""

    def __init__(self, applied_index: Callable[[], int], loop: asyncio.AbstractEventLoop) -> None:
        self._applied_index = applied_index
        self._loop = loop
        # By the order of arrival.
        self._waiting: dict[int, tuple[int, Callable[[], None]]] = {}
        self._by_index: list[tuple[int, int]] = []  # a heap, also of those that have gone
        self._by_time: deque[tuple[float, int]] = deque()
        self._arrived = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def is_applied(self, index: int) -> bool:
        return index <= self._applied_index()

    def wait(self, index: int, then: Callable[[], None]) -> None:
        """`then` is called later, exactly once; at once if too many wait."""
        if len(self._waiting) >= WAITING_MAX:
            return then()
        self._arrived += 1
        self._waiting[self._arrived] = (index, then)
        heappush(self._by_index, (index, self._arrived))
        self._by_time.append((self._loop.time() + WAIT_MAX_S, self._arrived))
        if self._timer is None:
            self._timer = self._loop.call_later(POLL_S, self._look)
        return None

    def _look(self) -> None:
        self._timer = None
        ready: list[int] = []
        while self._by_index and self.is_applied(self._by_index[0][0]):
            ready.append(heappop(self._by_index)[1])
        now_s = self._loop.time()
        while self._by_time and self._by_time[0][0] <= now_s:
            ready.append(self._by_time.popleft()[1])
        for arrived in ready:
            found = self._waiting.pop(arrived, None)
            if found is not None:
                found[1]()
        if len(self._by_index) > 2 * WAITING_MAX:  # of those who have given up
            self._by_index = sorted((index, n) for n, (index, _) in self._waiting.items())
        if self._waiting and self._timer is None:
            self._timer = self._loop.call_later(POLL_S, self._look)
