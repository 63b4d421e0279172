"""Threads for what takes long: big ranges, hashes, checkpoints, file copies.

Two threads, so that a long scan does not keep a checkpoint waiting; further jobs queue up behind
`QUEUE_MAX`, beyond which `run` answers "too many requests". The result comes back in the loop.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from pyetcd.proto.errors import EtcdError, TooManyRequests

THREADS = 2
QUEUE_MAX = 256

T = TypeVar("T")


class Workers:
    """Runs functions in threads; `failed` hears of anything but an EtcdError."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, failed: Callable[[BaseException], None]
    ) -> None:
        self._loop = loop
        self._failed = failed
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="worker")
        self._waiting = 0
        self._stopped = False

    def run(self, job: Callable[[], T], done: Callable[[T | EtcdError], None]) -> None:
        """`done` gets the job's result, or the EtcdError that it raised."""
        if self._waiting >= QUEUE_MAX:
            return done(TooManyRequests())
        self._waiting += 1
        future = self._loop.run_in_executor(self._pool, job)
        return future.add_done_callback(lambda ended: self._ended(ended, done))

    def _ended(self, future: "asyncio.Future[T]", done: Callable[[T | EtcdError], None]) -> None:
        self._waiting -= 1
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            # A job may end while its owner stops: what `done` would go on with is closed by then.
            if not self._stopped:
                done(future.result())
        elif isinstance(error, EtcdError):
            done(error)
        else:
            self._failed(error)

    @contextmanager
    def quiesce(self) -> Iterator[None]:
        """Block the loop until no job runs, and let none run meanwhile: for replacing the file
        under them, which is rare. Queued jobs follow afterwards."""
        arrived = threading.Barrier(THREADS + 1)
        done = threading.Event()

        def hold() -> None:
            arrived.wait()
            done.wait()

        for _ in range(THREADS):
            self._pool.submit(hold)
        arrived.wait()
        try:
            yield
        finally:
            done.set()

    def stop(self) -> None:
        """Waits for the jobs that run; the queued ones are dropped."""
        self._stopped = True
        self._pool.shutdown(wait=True, cancel_futures=True)
