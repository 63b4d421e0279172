"""Virtual time: one heap of timers for the whole world, and an asyncio loop for each member on it.

A member's loop can be paused (a stopped process: its timers wait, time does not) and killed (its
timers never come). Timers of one moment run in the order in which they were made, so one seed
gives one run.

What is to run at once, and most is, waits in a queue of its own: those of the heap that are due at
the same moment were all made before the first of these.

Limit. Callbacks run without a context: production code has no context variables.
"""

import asyncio
import contextlib
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from typing import Any

WALL_S = 1_700_000_000.0
AT_ONCE_MAX = 100_000  # callbacks at one moment: more is a loop that waits for nothing


class Timer:
    """asyncio's handle, as far as anybody uses it."""

    __slots__ = ("args", "at_s", "callback", "loop")

    def __init__(
        self,
        at_s: float,
        callback: Callable[..., Any] | None,
        args: tuple[Any, ...],
        loop: "MemberLoop | None",
    ) -> None:
        self.at_s = at_s
        self.loop = loop
        self.callback = callback
        self.args = args

    def __repr__(self) -> str:
        return f"<at {self.at_s} {self.callback}>"

    def cancel(self) -> None:
        self.callback = None

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.at_s

    def run(self) -> None:
        callback, self.callback = self.callback, None
        if callback is not None:
            callback(*self.args)


class Clock:
    """The heap and the queue. Also the production code's Clock (server/clock.py)."""

    def __init__(self) -> None:
        self.now_s = 1000.0  # zero would hide a wrong "never"
        self.events_total = 0
        self._heap: list[tuple[float, int, Timer]] = []
        self._soon: deque[Timer] = deque()
        self._number = 0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return WALL_S + self.now_s

    def at(
        self,
        at_s: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...] = (),
        loop: "MemberLoop | None" = None,
    ) -> Timer:
        if at_s <= self.now_s:
            timer = Timer(self.now_s, callback, args, loop)
            self._soon.append(timer)
            return timer
        timer = Timer(at_s, callback, args, loop)
        self._number += 1
        heappush(self._heap, (at_s, self._number, timer))
        return timer

    def after(self, delay_s: float, callback: Callable[[], Any]) -> Timer:
        return self.at(self.now_s + delay_s, callback)

    def run_until(self, end_s: float, turn: Callable[[Timer], None]) -> None:
        """`turn` runs what belongs to a loop; the rest is run here."""
        heap, soon = self._heap, self._soon
        at_once = 0
        while True:
            if soon and not (heap and heap[0][0] <= self.now_s):
                timer = soon.popleft()
            elif heap and heap[0][0] <= end_s:
                at_s, _, timer = heappop(heap)
                if at_s > self.now_s:
                    self.now_s = at_s
                    at_once = 0
            else:
                break
            callback, loop = timer.callback, timer.loop
            if callback is None:
                continue
            if loop is not None:
                if not loop.is_alive:
                    continue
                if loop.paused_until_s > self.now_s or loop.waiting:
                    self._hold(timer, loop)
                    continue
            at_once += 1
            assert at_once < AT_ONCE_MAX, f"time stands still: {timer}"
            self.events_total += 1
            if loop is None:
                timer.callback = None
                callback(*timer.args)
            else:
                turn(timer)
        self.now_s = end_s

    def _hold(self, timer: Timer, loop: "MemberLoop") -> None:
        """Of a loop that is paused, or has just been: what waits comes first, in its order."""
        loop.waiting.append(timer)
        if loop.paused_until_s <= self.now_s:
            self._soon.extendleft(reversed(loop.waiting))
            loop.waiting.clear()
        elif loop.wakes_s != loop.paused_until_s:
            loop.wakes_s = loop.paused_until_s
            self.at(loop.wakes_s, lambda: None, loop=loop)


class MemberLoop(asyncio.AbstractEventLoop):
    """The loop of one run of one member."""

    def __init__(self, clock: Clock, failed: Callable[[str], None]) -> None:
        self.is_alive = True
        self.paused_until_s = 0.0
        self.wakes_s = 0.0
        self.waiting: list[Timer] = []
        self._clock = clock
        self._failed = failed
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def time(self) -> float:
        return self._clock.now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self._clock.at(when, callback, args, self)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self._clock.at(self._clock.now_s + delay, callback, args, self)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        clock = self._clock
        timer = Timer(clock.now_s, callback, args, self)
        clock._soon.append(timer)
        return timer

    call_soon_threadsafe = call_soon

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: Any = None, context: Any = None
    ) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.is_alive:
            self._failed(f"unhandled in a task: {context}")

    def run(self, timer: Timer) -> None:
        events._set_running_loop(self)
        try:
            timer.run()
        finally:
            events._set_running_loop(None)

    def kill(self) -> None:
        """Nothing of this run happens any more."""
        self.is_alive = False
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with contextlib.suppress(Exception):  # a dead process tidies nothing up
                task.get_coro().close()  # type: ignore[union-attr]
        self._tasks.clear()
