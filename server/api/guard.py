"""Calls and streams that this member must refuse: without a leader, or as a learner.

A client says by the metadata `hasleader: true` that it wants a leader.

A new one is refused while this member knows no leader. Running streams are ended once it has known
none for three election timeouts: reconnecting costs a client more than waiting for an election
does (etcd v3rpc/interceptor.go: monitorLeader).

A learner serves its status, what it can read by itself and snapshots, nothing else (util.go:
isRPCSupportedForLearner, and the interceptor of streams).

Bounds: one entry per open stream, and streams are bounded by the listener.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from google.protobuf.message import Message

from pyetcd.proto.errors import NoLeader, NotSupportedForLearner
from pyetcd.server.access import OFF, Switch
from pyetcd.server.wire.grpc import ServerStream, StreamHandler, UnaryCall

TIMEOUTS_MAX: Final = 3

Handler = Callable[..., None]
OnLearner = Callable[[Any], bool]  # Any: the request class of the guarded method


def never(request: Message) -> bool:
    return False


class LeaderGuard:
    """Knows the streams that depend on a leader. A tick listener of the driver."""

    def __init__(
        self,
        has_leader: Callable[[], bool],
        *,
        monotonic_s: Callable[[], float],
        election_timeout_s: float,
    ) -> None:
        self.is_learner: Callable[[], bool] = lambda: False
        self._has_leader = has_leader
        self._monotonic_s = monotonic_s
        self._patience_s = TIMEOUTS_MAX * election_timeout_s
        self._seen_s = monotonic_s()
        self._tasks: dict[asyncio.Task[object], None] = {}
        self._ended: set[asyncio.Task[object]] = set()

    @contextmanager
    def watch(self, stream: ServerStream, *, on_learner: bool = False) -> Iterator[None]:
        """Around the work of a stream's handler; raises NoLeader or NotSupportedForLearner."""
        if self.is_learner() and not on_learner:
            raise NotSupportedForLearner
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

    def stream(self, handler: StreamHandler, *, on_learner: bool = False) -> StreamHandler:
        """`handler`, run under `watch`."""

        async def guarded(stream: ServerStream) -> None:
            with self.watch(stream, on_learner=on_learner):
                await handler(stream)

        return guarded

    def unary(
        self,
        handler: Handler,
        *,
        on_learner: OnLearner = never,
        auth: Switch = OFF,
        gated: Handler | None = None,
    ) -> Handler:
        """`handler`, refused while there is no leader when the client says that it needs one, and
        on a learner unless `on_learner` allows the request; while `auth` is on, `gated` instead.
        """
        has_leader = self._has_leader
        admit = gated or handler

        def guarded(call: UnaryCall, request: Message) -> None:
            if self.is_learner() and not on_learner(request):
                return call.fail(NotSupportedForLearner.code, NotSupportedForLearner.text)
            if call.metadata.get("hasleader") == "true" and not has_leader():
                return call.fail(NoLeader.code, NoLeader.text)
            if auth.enabled:
                return admit(call, request)
            return handler(call, request)

        return guarded

    def ticked(self) -> None:
        now_s = self._monotonic_s()
        if self._has_leader():
            self._seen_s = now_s
        elif now_s - self._seen_s >= self._patience_s:
            tasks, self._tasks = self._tasks, {}
            for task in tasks:
                self._ended.add(task)
                task.cancel()
