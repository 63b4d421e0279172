"""Streams whose client wants a leader: metadata `hasleader: true`.

A new one is refused while this member knows no leader. Running ones are ended once it has known
none for three election timeouts: reconnecting costs a client more than waiting for an election
does (etcd v3rpc/interceptor.go: monitorLeader).

Bounds: one entry per open stream, and streams are bounded by the listener.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pyetcd.proto.errors import NoLeader
from pyetcd.server.wire.grpc import ServerStream

TIMEOUTS_MAX: Final = 3


class LeaderGuard:
    """Knows the streams that depend on a leader. A tick listener of the driver."""

    def __init__(
        self,
        has_leader: Callable[[], bool],
        *,
        monotonic_s: Callable[[], float],
        election_timeout_s: float,
    ) -> None:
        self._has_leader = has_leader
        self._monotonic_s = monotonic_s
        self._patience_s = TIMEOUTS_MAX * election_timeout_s
        self._seen_s = monotonic_s()
        self._tasks: dict[asyncio.Task[object], None] = {}
        self._ended: set[asyncio.Task[object]] = set()

    @contextmanager
    def watch(self, stream: ServerStream) -> Iterator[None]:
        """Around the work of a stream's handler; raises NoLeader."""
        if stream.metadata.get("hasleader") != "true":
            yield
            return
        if not self._has_leader():
            raise NoLeader
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = None
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise NoLeader from None
        finally:
            self._tasks.pop(task, None)
            self._ended.discard(task)

    def ticked(self) -> None:
        now_s = self._monotonic_s()
        if self._has_leader():
            self._seen_s = now_s
        elif now_s - self._seen_s >= self._patience_s:
            tasks, self._tasks = self._tasks, {}
            for task in tasks:
                self._ended.add(task)
                task.cancel()
