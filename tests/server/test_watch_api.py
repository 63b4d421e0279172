"""The Watch handler over a stream that the test holds (SURFACE 8.3), byte for byte where it
matters: its responses must be those that protobuf itself would write."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyetcd.proto.errors import NoLeader
from pyetcd.proto.rpc_pb2 import ResponseHeader, WatchRequest, WatchResponse
from pyetcd.server.api import watch as watch_module
from pyetcd.server.api.guard import LeaderGuard
from pyetcd.server.api.watch import WatchApi
from pyetcd.store.backend import Backend
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.streams import REPLIES_MAX
from pyetcd.store.watch import WatchHub


class Stream:
    """What the handler needs of wire.grpc.ServerStream; the client takes while `room` is left."""

    def __init__(self, **metadata: str) -> None:
        self.metadata = metadata
        self.requests: asyncio.Queue[WatchRequest | None] = asyncio.Queue()
        self.payloads: list[bytes] = []
        self.room = 1 << 40
        self.queued = 0
        self.cancelled = False
        self._drained = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[WatchRequest]:
        while (request := await self.requests.get()) is not None:
            yield request

    def ask(self, **union: Any) -> None:
        self.requests.put_nowait(WatchRequest(**union))

    @property
    def can_send(self) -> bool:
        return self.room > 0

    def send(self, payload: bytes) -> None:
        self.room -= len(payload)
        self.payloads.append(payload)

    def send_all(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            self.send(payload)

    async def drain(self) -> None:
        while not self.can_send:
            self._drained.clear()
            await self._drained.wait()

    def drink(self, room: int) -> None:
        self.room = room
        self._drained.set()

    def responses(self) -> list[WatchResponse]:
        payloads, self.payloads = self.payloads, []
        found = [WatchResponse.FromString(payload) for payload in payloads]
        for response, payload in zip(found, payloads, strict=True):
            assert response.SerializeToString(deterministic=True) == payload
        return found


class Header:
    cluster_id = (1 << 64) - 1
    member_id = 77
    raft_term = 3


class Server:
    """A hub and its handler; `connect` runs one stream."""

    def __init__(self, path: Path) -> None:
        self.backend = Backend.open(str(path), create=True)
        self.keyspace = Keyspace(self.backend)
        self.hub = self.keyspace.listener = WatchHub(self.keyspace)
        self.has_leader = True
        self.now_s = 0.0
        self.bugs: list[BaseException] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, **options: Any) -> None:
        self.guard = LeaderGuard(
            lambda: self.has_leader, monotonic_s=lambda: self.now_s, election_timeout_s=1.0
        )
        self.api = WatchApi(
            self.hub,
            Header(),
            guard=self.guard,
            loop=asyncio.get_running_loop(),
            fatal=self.bugs.append,
            **{"request_bytes_max": 1536 * 1024} | options,
        )

    def connect(self, **metadata: str) -> Stream:
        stream = Stream(**metadata)
        handler: Any = self.api.watch(stream)  # type: ignore[arg-type]
        self.tasks.append(asyncio.create_task(handler))
        return stream

    def put(self, key: bytes, value: bytes = b"v") -> None:
        txn = self.keyspace.begin()
        txn.put(key, value)
        txn.end()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert (self.hub.streams, self.hub.watchers, self.bugs) == (0, 0, [])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # the test's own pace, not an event's
        await asyncio.sleep(0)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., None]]:
    server = Server(tmp_path / "kv.db")

    def go(test: Callable[[Server], Awaitable[None]], **options: Any) -> None:
        async def main() -> None:
            server.start(**options)
            try:
                await test(server)
            finally:
                await server.stop()

        asyncio.run(main())

    yield go
    server.backend.close()


def test_created_then_events_with_a_full_header(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        stream = server.connect()
        stream.ask(create_request={"key": b"a", "watch_id": 5, "prev_kv": True})
        await settle()
        server.put(b"a", b"1")
        server.put(b"a", b"2")
        await settle()
        created, first, second = stream.responses()
        assert created == WatchResponse(
            header=ResponseHeader(cluster_id=(1 << 64) - 1, member_id=77, revision=1, raft_term=3),
            watch_id=5,
            created=True,
        )
        assert (first.header.revision, first.watch_id, len(first.events)) == (2, 5, 1)
        assert second.events[0].prev_kv.value == b"1"

    run(test)


def test_refusals_carry_etcds_reasons(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        stream = server.connect()
        stream.ask(create_request={"key": b"b", "range_end": b"a"})
        stream.ask(create_request={"key": b"a", "start_revision": -2})
        stream.ask()  # no request in it: ignored
        stream.ask(cancel_request={"watch_id": 9})
        await settle()
        assert [
            (r.created, r.canceled, r.watch_id, r.cancel_reason) for r in stream.responses()
        ] == [
            (True, True, -1, "mvcc: watcher range is empty"),
            (True, True, -1, "etcdserver: mvcc: required revision has been compacted"),
        ]

    run(test)


def test_the_authorizer_may_refuse(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        server.api.authorize = lambda stream, request: "denied"
        stream = server.connect()
        stream.ask(create_request={"key": b"a"})
        await settle()
        (refused,) = stream.responses()
        assert (refused.watch_id, refused.cancel_reason) == (-1, "denied")

    run(test)


def test_compaction_cancels_without_revision_and_reason(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        for _ in range(4):
            server.put(b"a")
        server.keyspace.compact_revision = 4
        stream = server.connect()
        stream.ask(create_request={"key": b"a", "start_revision": 2})
        await settle()
        _, canceled = stream.responses()
        assert canceled == WatchResponse(
            header=ResponseHeader(cluster_id=(1 << 64) - 1, member_id=77, raft_term=3),
            canceled=True,
            compact_revision=4,
        )

    run(test)


def test_progress_for_the_stream_has_id_minus_one(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        stream = server.connect()
        stream.ask(create_request={"key": b"a"})
        await settle()
        server.put(b"z")
        stream.ask(progress_request={})
        await settle()
        _, progress = stream.responses()
        assert (progress.watch_id, progress.header.revision) == (-1, 2)
        assert not (progress.created or progress.canceled or progress.events)

    run(test)


def test_progress_notify_comes_each_interval(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "PROGRESS_INTERVAL_S_MIN", 0.001)

    async def test(server: Server) -> None:
        stream = server.connect()
        stream.ask(create_request={"key": b"a", "progress_notify": True})
        await until(lambda: len(stream.payloads) >= 4)
        created, *notes = stream.responses()
        assert created.created and {note.header.revision for note in notes} == {1}

    run(test, progress_interval_s=0.001)


def test_events_go_on_after_the_client_half_closed(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        stream = server.connect()
        stream.ask(create_request={"key": b"a"})
        stream.requests.put_nowait(None)
        await settle()
        server.put(b"a")
        await settle()
        assert len(stream.responses()) == 2

    run(test)


def test_a_slow_client_gets_everything_later(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        slow, quick = server.connect(), server.connect()
        for stream in (slow, quick):
            stream.ask(create_request={"key": b"a"})
        await settle()
        slow.drink(0)
        for _ in range(2 * REPLIES_MAX):
            server.put(b"a")
            await asyncio.sleep(0)
        await settle()
        assert len(quick.responses()) == 1 + 2 * REPLIES_MAX
        assert server.hub.blocked == 1 and len(slow.responses()) == 1
        slow.drink(1 << 40)
        await until(lambda: not server.hub.slow)
        await settle()
        revisions = [e.kv.mod_revision for r in slow.responses() for e in r.events]
        assert revisions == list(range(2, 2 + 2 * REPLIES_MAX))

    run(test)


def test_requests_wait_while_the_queue_is_full(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        stream = server.connect()
        stream.drink(0)
        for _ in range(2 * REPLIES_MAX):
            stream.ask(create_request={"key": b"a"})
        await settle()
        assert server.hub.watchers == REPLIES_MAX
        stream.drink(1 << 40)
        await until(lambda: server.hub.watchers == 2 * REPLIES_MAX)

    run(test)


@pytest.mark.parametrize("may_fragment", [True, False])
def test_item_33_fragments_on_the_wire(run: Callable[..., None], may_fragment: bool) -> None:
    async def test(server: Server) -> None:
        txn = server.keyspace.begin()
        for n in range(10):
            txn.put(b"k%d" % n, bytes(200_000))
        txn.end()
        stream = server.connect()
        create = {"key": b"k", "range_end": b"l", "start_revision": 2, "fragment": may_fragment}
        stream.ask(create_request=create)
        await settle()
        _, *pieces = stream.responses()
        flags = [piece.fragment for piece in pieces]
        assert flags == ([True, True, True, False] if may_fragment else [False])
        keys = [event.kv.key for piece in pieces for event in piece.events]
        assert keys == [b"k%d" % n for n in range(10)]
        assert not may_fragment or all(piece.ByteSize() < 636_288 for piece in pieces)

    run(test, request_bytes_max=112_000)


def test_item_35_without_a_leader_a_new_stream_is_refused(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        server.has_leader = False
        server.connect(hasleader="true")
        patient = server.connect()
        await settle()
        assert isinstance(server.tasks[0].exception(), NoLeader)
        patient.ask(create_request={"key": b"a"})
        await settle()
        assert len(patient.responses()) == 1

    run(test)


def test_item_35_streams_end_after_three_election_timeouts(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        server.connect(hasleader="true")
        server.connect()
        await settle()
        server.has_leader = False
        server.now_s = 2.9
        server.guard.ticked()
        await settle()
        assert not server.tasks[0].done()
        server.now_s = 3.0
        server.guard.ticked()
        await settle()
        assert isinstance(server.tasks[0].exception(), NoLeader)
        assert not server.tasks[1].done()

    run(test)


def test_a_storage_failure_stops_the_member(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        server.put(b"a")
        stream = server.connect()

        def broken(*args: Any, **options: Any) -> None:
            raise RuntimeError("disk")

        server.hub._read = broken  # type: ignore[method-assign,assignment]
        stream.ask(create_request={"key": b"a", "start_revision": 1})
        await settle()
        assert [str(bug) for bug in server.bugs] == ["disk"]
        server.bugs.clear()

    run(test)


def test_new_events_do_not_wait_for_those_who_catch_up(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        server.put(b"a")
        stream = server.connect()
        stream.ask(create_request={"key": b"a"})
        await settle()
        server.api._is_pausing = True
        stream.ask(create_request={"key": b"a", "start_revision": 1})
        server.put(b"a")
        await settle()
        assert [(r.watch_id, len(r.events)) for r in stream.responses()] == [
            (0, 0),
            (0, 1),
            (1, 0),
        ]
        server.api._resume()
        await settle()
        assert [(r.watch_id, len(r.events)) for r in stream.responses()] == [(1, 2)]

    run(test)
