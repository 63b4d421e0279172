"""Watchers: clients that watch, and after a lost stream watch on from where they were."""

import random
from collections.abc import AsyncIterator
from typing import Any

from sim.checkers import Watch
from sim.member import Process, SimulatedMember

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.rpc_pb2 import WatchCreateRequest, WatchRequest, WatchResponse
from pyetcd.store.db import StorageFailure


class Stream:
    """The ServerStream that the watch handler serves, and the client's end of it."""

    peer = "sim"
    common_name = "root"  # of its certificate, where there are users

    def __init__(self, watcher: "Watcher", process: Process) -> None:
        self.metadata = {"hasleader": "true"} if watcher.rng.random() < 0.3 else {}
        self.closed = self.cancelled = False
        self.queued = 0
        self._watcher = watcher
        self._process = process
        self._requests: list[Any] = []
        self._reader: Any = None
        self._writer: Any = None
        self._last_s = 0.0

    @property
    def can_send(self) -> bool:
        return self.queued < 3000

    def send(self, payload: bytes) -> None:
        if self.closed:
            return
        self.queued += len(payload)
        world, watcher = self._watcher.world, self._watcher
        self._last_s = max(self._last_s, world.clock.now_s + watcher.delay_s())

        def arrive() -> None:
            if self.closed or watcher.stream is not self:
                return
            watcher.told(WatchResponse.FromString(payload))
            if self._process.loop.is_alive:
                self._process.loop.call_soon(self._took, len(payload))

        world.clock.at(self._last_s, arrive)

    def send_all(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            self.send(payload)

    def _took(self, size: int) -> None:
        self.queued -= size
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    async def drain(self) -> None:
        while not self.closed and not self.can_send:
            self._writer = self._process.loop.create_future()
            await self._writer

    def ask(self, request: Any) -> None:
        self._requests.append(request)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._requests:
            self._reader = self._process.loop.create_future()
            await self._reader
        return self._requests.pop(0)


class Watcher:
    """A client that watches, and after a lost stream watches on from where it was."""

    def __init__(self, world: Any, number: int) -> None:
        self.world = world
        self.name = f"w{number}"
        self.rng: random.Random = world.rng_for(self.name)
        self.watch: Watch | None = None
        self.finished: list[Watch] = []
        self.stream: Stream | None = None
        self.is_stopped = False
        self._task: Any = None
        self._is_slow = self.rng.random() < 0.3
        world.clock.after(self.rng.random() * 2, self.open)

    def delay_s(self) -> float:
        return self.rng.random() ** 3 * (0.3 if self._is_slow else 0.02)

    @property
    def served_by(self) -> SimulatedMember | None:
        return self._process.member if self.stream is not None else None

    def open(self) -> None:
        """A stream at some member; the same watch goes on if there is one."""
        world = self.world
        member = self.rng.choice(list(world.members.values()))
        process = member.process
        if process is None or not process.is_serving or process.facts.is_learner:
            world.clock.after(0.1, self.open)
            return
        self.stream = stream = Stream(self, process)
        self._process = process
        if self.watch is None or self.watch.ended:
            if self.watch is not None:
                self.finished.append(self.watch)
            self.watch = self._new()
        watch = self.watch
        if watch.next_revision:
            watch.start = watch.next_revision
        request = WatchCreateRequest(
            key=watch.key,
            range_end=watch.end,
            start_revision=watch.start,
            prev_kv=watch.prev_kv,
            progress_notify=self.rng.random() < 0.5,
        )
        if watch.without_puts:
            request.filters.append(WatchCreateRequest.NOPUT)
        if watch.without_deletes:
            request.filters.append(WatchCreateRequest.NODELETE)
        stream.ask(WatchRequest(create_request=request))
        self._task = None
        process.loop.call_soon(self._serve, process, stream)
        self._look(process, stream)

    def _serve(self, process: Process, stream: Stream) -> None:
        async def serve() -> None:
            try:
                await process.watch.watch(stream)  # type: ignore[arg-type]
            except EtcdError:
                pass  # no leader: the client sees the end of its stream
            except StorageFailure as error:  # as Member.bug
                process.fail(error)
            finally:
                stream.closed = True

        self._task = process.loop.create_task(serve())

    def _leave(self, task: Any) -> None:
        if task is not None:
            task.cancel()

    def _look(self, process: Process, stream: Stream) -> None:
        """The client sees a broken connection, leaves by itself, or asks for progress."""
        if stream is not self.stream:
            return
        chance = self.rng.random()
        gone = not process.loop.is_alive or stream.closed
        if not gone and not self.is_stopped:
            if chance < 0.03 and self._task is not None:
                stream.closed = stream.cancelled = True
                process.loop.call_soon(self._leave, self._task)
                gone = True
                if self.rng.random() < 0.5 and self.watch is not None:
                    self.watch.ended = True
            elif chance < 0.2:
                process.loop.call_soon(stream.ask, WatchRequest(progress_request={}))
        if gone:
            self.stream = None
            self.world.clock.after(self.rng.random() * 0.3, self.open)
        else:
            self.world.clock.after(0.2, lambda: self._look(process, stream))

    def _new(self) -> Watch:
        rng, model = self.rng, self.world.history.model
        start = 0
        if rng.random() < 0.7:
            start = max(1, model.revision + rng.randint(-100, rng.choice((20, 100))))
        key, end = rng.choice(((b"\0", b"\0"), (b"k", b"l"), (b"k1", b""), (b"k1", b"k3")))
        return Watch(
            self.name, key, end, model, start,
            without_puts=rng.random() < 0.1,
            without_deletes=rng.random() < 0.1,
            prev_kv=rng.random() < 0.3,
        )  # fmt: skip

    def told(self, response: Any) -> None:
        watch = self.watch
        assert watch is not None
        if response.created:
            watch.created(response.header.revision)
            return
        if watch.ended:
            return
        watch.told(response)
        if watch.ended and self.stream is not None:
            self.stream.closed = self.stream.cancelled = True
            process = self._process
            if process.loop.is_alive:
                process.loop.call_soon(self._leave, self._task)
