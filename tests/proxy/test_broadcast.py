"""Watchers on shared watches hear what they would hear alone."""

import random
from collections import deque

import pytest

from pyetcd.proto import kv_pb2 as mvcc
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.server.proxy.broadcast import NO_DELETE, NO_PUT, Broadcast, Hub, Watcher

PUT, DELETE = mvcc.Event.EventType.PUT, mvcc.Event.EventType.DELETE


class Cluster:
    """What the hub talks to: nothing comes before it is told to."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.history: list[mvcc.Event] = []
        self.opened: deque[Broadcast] = deque()
        self.next: dict[Broadcast, int] = {}  # of created ones
        self.hub = Hub(self.opened.append, self.closed)

    def closed(self, broadcast: Broadcast) -> None:
        self.next.pop(broadcast, None)
        if broadcast in self.opened:
            self.opened.remove(broadcast)

    def put(self, type: int = PUT, count: int = 1) -> None:
        """A transaction of so many events."""
        self.revision += 1
        for _ in range(count):
            kv = mvcc.KeyValue(key=b"k", mod_revision=self.revision)
            self.history.append(mvcc.Event(type=type, kv=kv, prev_kv=mvcc.KeyValue(key=b"k")))

    def header(self) -> rpc.ResponseHeader:
        return rpc.ResponseHeader(revision=self.revision)

    def create(self) -> None:
        """Answers the oldest open broadcast."""
        broadcast = self.opened.popleft()
        self.next[broadcast] = broadcast.start_revision or self.revision + 1
        self.say(broadcast, rpc.WatchResponse(header=self.header(), created=True))

    def say(self, broadcast: Broadcast, response: rpc.WatchResponse) -> None:
        self.hub.received(broadcast, response)

    def step(self, broadcast: Broadcast, revisions: int = 1000) -> None:
        """Some of what a broadcast has still to hear; its header is that of now, as etcd's."""
        first = self.next[broadcast]
        if first < self.compacted:
            response = rpc.WatchResponse(header=self.header(), compact_revision=self.compacted)
            response.canceled = True
            del self.next[broadcast]
            self.say(broadcast, response)
            return
        end = min(first + revisions, self.revision + 1)
        events = [one for one in self.history if first <= one.kv.mod_revision < end]
        self.next[broadcast] = max(first, end)
        if events:
            self.say(broadcast, rpc.WatchResponse(header=self.header(), events=events))

    def progress(self, broadcast: Broadcast) -> None:
        if self.next[broadcast] == self.revision + 1:
            self.say(broadcast, rpc.WatchResponse(header=self.header()))

    def breaks(self) -> None:
        """Every watch is gone and is asked for again."""
        self.opened.extend(self.next)
        self.next.clear()

    def settle(self) -> None:
        while self.opened or any(start <= self.revision for start in self.next.values()):
            while self.opened:
                self.create()
            for broadcast in list(self.next):
                if broadcast in self.next:
                    self.step(broadcast)


class Client:
    """A watcher and what it has heard."""

    def __init__(self, cluster: Cluster, start: int = 0, **fields: object) -> None:
        self.cluster = cluster
        self.heard: list[rpc.WatchResponse] = []
        self.start = start
        self.filters = fields.get("filters", ())
        request = rpc.WatchCreateRequest(key=b"k", start_revision=start, **fields)  # type: ignore[arg-type]
        self.watcher = Watcher(7, request, send=self.hear)
        cluster.hub.add(self.watcher)

    def hear(self, raw: bytes) -> None:
        self.heard.append(rpc.WatchResponse.FromString(raw))

    @property
    def events(self) -> list[tuple[int, int]]:
        return [(e.type, e.kv.mod_revision) for one in self.heard for e in one.events]

    @property
    def created(self) -> list[int]:
        return [one.header.revision for one in self.heard if one.created]

    @property
    def canceled(self) -> list[rpc.WatchResponse]:
        return [one for one in self.heard if one.canceled]

    def check(self) -> None:
        """All events from its start on, once, in order, and no other."""
        assert len(self.created) == 1 and self.heard[0].created
        first = self.start or self.created[0] + 1
        refused = {PUT} if NO_PUT in self.filters else set()  # type: ignore[operator]
        refused |= {DELETE} if NO_DELETE in self.filters else set()  # type: ignore[operator]
        wanted = [
            (event.type, event.kv.mod_revision)
            for event in self.cluster.history
            if event.kv.mod_revision >= first and event.type not in refused
        ]
        assert self.events == wanted


def test_the_worked_example() -> None:
    cluster = Cluster()
    cluster.revision = 2
    a = Client(cluster, 3)
    cluster.create()
    cluster.revision = 6
    cluster.put()  # 7
    cluster.step(a.watcher.broadcast)  # type: ignore[arg-type]
    assert a.watcher.broadcast.through == 7  # type: ignore[union-attr]
    cluster.revision = 9
    b = Client(cluster)
    assert cluster.hub.broadcasts == 2
    cluster.create()
    assert cluster.hub.broadcasts == 1 and b.created == [9]
    assert b.watcher.broadcast is a.watcher.broadcast
    c = Client(cluster, 10)
    assert not cluster.opened and len(c.created) == 1
    cluster.put()
    cluster.settle()
    assert b.events == c.events == [(PUT, 10)] and a.events == [(PUT, 7), (PUT, 10)]


def test_two_hundred_are_one() -> None:
    cluster = Cluster()
    clients = []
    for turn in range(200):
        clients.append(Client(cluster))
        if turn % 3 == 0:
            cluster.settle()
    cluster.settle()
    assert cluster.hub.broadcasts == 1 and cluster.hub.watchers == 200
    cluster.put()
    cluster.settle()
    for client in clients:
        client.check()
    for client in clients:
        cluster.hub.remove(client.watcher)
    assert cluster.hub.broadcasts == cluster.hub.watchers == 0 and not cluster.next


def test_a_header_ahead_of_the_events_loses_none() -> None:
    """A watch that catches up in parts has the revision of now in its headers."""
    cluster = Cluster()
    live = Client(cluster)
    cluster.settle()
    for _ in range(10):
        cluster.put()
    cluster.settle()
    late = Client(cluster, 2)
    cluster.create()
    broadcast = late.watcher.broadcast
    assert broadcast is not None
    cluster.step(broadcast, 3)
    assert cluster.hub.broadcasts == 2  # it may not move yet
    cluster.settle()
    assert cluster.hub.broadcasts == 1
    for client in (live, late):
        client.check()


def test_progress_goes_to_who_wants_it() -> None:
    cluster = Cluster()
    plain, curious = Client(cluster), Client(cluster, progress_notify=True)
    cluster.settle()
    cluster.revision = 5
    broadcast = plain.watcher.broadcast
    assert broadcast is not None
    cluster.next[broadcast] = 6
    cluster.progress(broadcast)
    assert len(plain.heard) == 1 and [one.header.revision for one in curious.heard] == [1, 5]
    Client(cluster, 6)
    assert not cluster.opened  # through 5 is known


def test_prev_kv_is_for_who_asked() -> None:
    cluster = Cluster()
    clients = [Client(cluster), Client(cluster, prev_kv=True), Client(cluster, filters=[NO_DELETE])]
    cluster.settle()
    cluster.put()
    cluster.settle()
    shown = [client.heard[-1].events[0].HasField("prev_kv") for client in clients]
    assert shown == [False, True, False]
    assert {one.watch_id for client in clients for one in client.heard} == {7}


def test_compaction_ends_only_who_wants_what_is_gone() -> None:
    cluster = Cluster()
    old, new = Client(cluster, 2), Client(cluster, 2)
    new.watcher.next_revision = 6  # has heard more, and joined later
    for _ in range(6):
        cluster.put()
    cluster.compacted = 5
    cluster.settle()
    assert [one.compact_revision for one in old.canceled] == [5] and not new.canceled
    assert [revision for _, revision in new.events] == [6, 7]
    assert cluster.hub.watchers == 1


def test_a_refusal_is_for_its_owner() -> None:
    cluster = Cluster()
    clients = [Client(cluster) for _ in range(3)]
    broadcast = cluster.opened.popleft()
    answer = rpc.WatchResponse(
        header=cluster.header(), watch_id=-1, created=True, canceled=True, cancel_reason="no"
    )
    cluster.say(broadcast, answer)
    assert clients[0].canceled[0].cancel_reason == "no" and clients[0].heard[0].watch_id == -1
    cluster.settle()
    cluster.put()
    cluster.settle()
    for client in clients[1:]:
        client.check()
    assert cluster.hub.watchers == 2


def test_a_break_is_not_noticed() -> None:
    cluster = Cluster()
    clients = [Client(cluster), Client(cluster, 1)]
    cluster.settle()
    cluster.put()
    cluster.breaks()
    cluster.put()
    cluster.settle()
    for client in clients:
        client.check()


@pytest.mark.parametrize("seed", range(60))
def test_as_if_alone(seed: int) -> None:
    rng = random.Random(seed)
    cluster = Cluster()
    clients: list[Client] = []
    for _ in range(rng.randrange(20, 300)):
        action = rng.randrange(12)
        if action < 3:
            cluster.put(rng.choice((PUT, DELETE)), rng.choice((1, 1, 3)))
        elif action < 5:
            start = rng.choice((0, rng.randrange(1, cluster.revision + 3)))
            filters = rng.choice(((), (), [NO_PUT], [NO_DELETE]))
            clients.append(Client(cluster, start, filters=filters))
        elif action == 5 and clients:
            cluster.hub.remove(clients.pop(rng.randrange(len(clients))).watcher)
        elif action == 6 and rng.randrange(4) == 0:
            cluster.breaks()
        elif action == 7 and cluster.next:
            cluster.progress(rng.choice(list(cluster.next)))
        elif cluster.opened and rng.randrange(2):
            cluster.create()
        elif cluster.next:
            cluster.step(rng.choice(list(cluster.next)), rng.randrange(1, 4))
    cluster.settle()
    for client in clients:
        client.check()
    assert cluster.hub.watchers == len(clients)
    # What is left beside one another is so only until the next event.
    cluster.put()
    cluster.settle()
    assert cluster.hub.broadcasts == bool(clients)
