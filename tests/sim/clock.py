"""Virtual time: one heap of timers for the whole world, and an asyncio loop for each member on it.

A member's loop can be paused (a stopped process: its timers wait, time does not) and killed (its
timers never come). Timers of one moment run in the order in which they were made, so one seed
gives one run.
"""

import asyncio
import contextvars
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any

WALL_S = 1_700_000_000.0
AT_ONCE_MAX = 100_000  # callbacks at one moment: more is a loop that waits for nothing


class Timer:
    """asyncio's handle, as far as anybody uses it."""

    __slots__ = ("_callback", "_context", "at_s", "loop")

    def __init__(
        self,
        at_s: float,
        callback: Callable[[], Any] | None,
        loop: "MemberLoop | None",
        context: Any,
    ) -> None:
        self.at_s = at_s
        self.loop = loop
        self._callback = callback
        self._context = context

    def __repr__(self) -> str:
        return f"<at {self.at_s} {self._callback}>"

    def cancel(self) -> None:
        self._callback = None

    def cancelled(self) -> bool:
        return self._callback is None

    def when(self) -> float:
        return self.at_s

    def run(self) -> None:
        callback, self._callback = self._callback, None
        if callback is None:
            return
        if self._context is None:
            callback()
        else:
            self._context.run(callback)


class Clock:
    """The heap. Also the production code's Clock (server/clock.py)."""

    def __init__(self) -> None:
        self.now_s = 1000.0  # zero would hide a wrong "never"
        self.events_total = 0
        self._at_once = 0
        self._heap: list[tuple[float, int, Timer]] = []
        self._number = 0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return WALL_S + self.now_s

    def at(
        self,
        at_s: float,
        callback: Callable[[], Any],
        loop: "MemberLoop | None" = None,
        context: Any = None,
    ) -> Timer:
        timer = Timer(max(at_s, self.now_s), callback, loop, context)
        self._number += 1
        heapq.heappush(self._heap, (timer.at_s, self._number, timer))
        return timer

    def after(self, delay_s: float, callback: Callable[[], Any]) -> Timer:
        return self.at(self.now_s + delay_s, callback)

    def run_until(self, end_s: float, run: Callable[[Timer], None]) -> None:
        heap = self._heap
        while heap and heap[0][0] <= end_s:
            at_s, number, timer = heapq.heappop(heap)
            loop = timer.loop
            if loop is not None:
                if not loop.is_alive:
                    continue
                if loop.paused_until_s > at_s:
                    heapq.heappush(heap, (loop.paused_until_s, number, timer))
                    continue
            if at_s > self.now_s:
                self.now_s = at_s
                self._at_once = 0
            if not timer.cancelled():
                self.events_total += 1
                self._at_once += 1
                assert self._at_once < AT_ONCE_MAX, f"time stands still: {timer}"
                run(timer)
        self.now_s = end_s


class MemberLoop(asyncio.AbstractEventLoop):
    """The loop of one run of one member."""

    def __init__(self, clock: Clock, failed: Callable[[str], None]) -> None:
        self.is_alive = True
        self.paused_until_s = 0.0
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
        bound = (lambda: callback(*args)) if args else callback
        return self._clock.at(when, bound, self, context or contextvars.copy_context())

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self._clock.now_s + delay, callback, *args, context=context)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self._clock.now_s, callback, *args, context=context)

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
            task.get_coro().close()  # type: ignore[union-attr]
        self._tasks.clear()
