"""A state machine for tests: the store parts over a real kv.db, fed entry by entry."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.kv_pb2 import Event
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import PutRequest, WatchCreateRequest, WatchResponse
from pyetcd.raft.types import Entry
from pyetcd.store.alarms import Alarms
from pyetcd.store.apply import Applied, Applier
from pyetcd.store.auth import AuthStore
from pyetcd.store.backend import Backend
from pyetcd.store.compact import CompactionJob, compact
from pyetcd.store.events import Reply
from pyetcd.store.lease import Lessor
from pyetcd.store.members import Members
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.streams import WatchStream
from pyetcd.store.tokens import SimpleTokens
from pyetcd.store.v2 import V2Store
from pyetcd.store.watch import WatchHub


class Machine:
    """`do(put=...)` applies one entry and gives the answer or raises the error."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.options = options
        self.now_s = 1000.0
        self.index = 0
        self.open(create=not path.exists())

    def open(self, *, create: bool = False) -> None:
        lessor = {k: v for k, v in self.options.items() if k != "quota_bytes"}
        self.backend = Backend.open(str(self.path), create=create)
        self.keyspace = Keyspace(self.backend)
        self.lessor = Lessor(self.backend, lambda: self.now_s, **lessor)
        self.members = Members(self.backend)
        self.alarms = Alarms(self.backend)
        self.hub = WatchHub(self.keyspace)
        self.auth = AuthStore(self.backend)
        self.tokens = SimpleTokens(lambda: self.now_s, ttl_s=300.0)
        self.applier = Applier(
            keyspace=self.keyspace,
            lessor=self.lessor,
            members=self.members,
            alarms=self.alarms,
            hub=self.hub,
            auth=self.auth,
            tokens=self.tokens,
            v2=V2Store(self.backend, lambda: 0),
            quota_bytes=self.options.get("quota_bytes", 0),
        )
        self.index = self.backend.applied_index

    def entry(self, **request: Message) -> Entry:
        self.index += 1
        data = InternalRaftRequest(header={"ID": self.index}, **request).SerializeToString()
        return Entry(1, self.index, data=data)

    def apply(self, **request: Message) -> Applied:
        entry = self.entry(**request)
        applied = self.applier.apply(entry)
        self.backend.set_applied(entry.index, entry.term)
        return applied

    def do(self, **request: Message) -> Any:
        applied = self.apply(**request)
        if isinstance(applied.answer, EtcdError):
            raise applied.answer
        return applied.answer

    def put(self, key: str, value: str = "v", lease: int = 0) -> int:
        request = PutRequest(key=key.encode(), value=value.encode(), lease=lease)
        return int(self.do(put=request).header.revision)

    def compact(self, revision: int, *, physically: bool = True) -> None:
        compact(self.keyspace, revision)
        job = CompactionJob(self.keyspace)
        while physically and job.step():
            pass

    def reopen(self) -> None:
        self.backend.commit()
        self.close()
        self.open()

    def close(self) -> None:
        if self.backend.is_open:
            self.backend.close()


class Client:
    """A watch stream that takes at once, unless `slow`."""

    def __init__(self, hub: WatchHub) -> None:
        self.hub = hub
        self.slow = False
        self.replies: list[Reply] = []
        self.stream = WatchStream(hub, self.sink)

    def sink(self) -> None:
        if not self.slow:
            self.replies += self.stream.take()

    def watch(self, key: str, end: str = "", start: int = 0, **options: Any) -> int:
        request = WatchCreateRequest(
            key=key.encode(), range_end=end.encode(), start_revision=start, **options
        )
        return self.stream.watch(request)

    def settle(self) -> None:
        while self.hub.step():
            pass

    def take(self) -> list[Reply]:
        """Everything that has come since the last time."""
        self.settle()
        if self.slow:
            while self.stream.has_replies:
                self.replies += self.stream.take()
                self.settle()
        replies, self.replies = self.replies, []
        return replies

    def events(self, watch_id: int = 0) -> list[tuple[str, int]]:
        """(key, revision) of what one watcher got; deletes as -key."""
        return [
            (
                ("-" if event.type == Event.DELETE else "") + event.kv.key.decode(),
                event.kv.mod_revision,
            )
            for reply in self.take()
            if reply.watch_id == watch_id
            for event in events_of(reply)
        ]


def events_of(reply: Reply) -> list[Event]:
    return list(WatchResponse.FromString(reply.events.joined()).events)


@pytest.fixture
def make_machine(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(name: str = "kv.db", **options: Any) -> Machine:
        machine = Machine(tmp_path / name, **options)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def machine(make_machine: Callable[..., Machine]) -> Machine:
    return make_machine()


@pytest.fixture
def client(machine: Machine) -> Client:
    return Client(machine.hub)


@pytest.fixture
def make_client() -> type[Client]:
    return Client


@pytest.fixture
def decode() -> Callable[[Reply], list[Event]]:
    return events_of
