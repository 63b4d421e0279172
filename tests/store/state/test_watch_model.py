"""The watch hub against a dumb replay of history: etcd's watch promises, with slow clients,
compactions, cancels and snapshots thrown in (RELIABILITY 1.1).

The model is a list of (revision, key, is_delete). A watcher must have got exactly the matching
part of it, from its start on, in order, each revision in one response; or end in a compaction that
really lay ahead of what it had got."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyetcd.proto.keys import contains
from pyetcd.proto.kv_pb2 import Event
from pyetcd.proto.rpc_pb2 import DeleteRangeRequest, PutRequest, RequestOp, TxnRequest
from pyetcd.store import streams, watch

KEYS = ["a", "b", "c"]
key = st.sampled_from(KEYS)
# "-d" as an end lies below every key, so the range is empty; "\0" has no end.
end = st.sampled_from(["", "", "c", "e", "\0", "-d"])
step = st.one_of(
    *[st.tuples(st.just("put"), key)] * 5,
    st.tuples(st.just("txn"), st.lists(key, min_size=1, max_size=4, unique=True)),
    st.tuples(st.just("delete"), key, end),
    *[
        st.tuples(
            st.just("watch"), st.integers(0, 1), key, end, st.integers(-9, 3), st.integers(0, 5)
        )
    ]
    * 3,
    st.tuples(st.just("cancel"), st.integers(0, 1), st.integers(0, 4)),
    st.tuples(st.just("progress"), st.integers(0, 1)),
    st.tuples(st.just("notify"), st.integers(0, 1)),
    st.tuples(st.just("slow"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("take"), st.integers(0, 1)),
    st.tuples(st.just("step"), st.integers(1, 3)),
    st.tuples(st.just("compact"), st.integers(0, 4), st.booleans()),
    st.tuples(st.just("restore"), st.lists(key, max_size=5)),
)


class Model:
    """What was written, and what each watcher has got of it."""

    def __init__(self) -> None:
        self.history: list[tuple[int, str, bool]] = []
        self.watchers: dict[tuple[int, int], Watched] = {}


class Watched:
    def __init__(self, key: str, end: str, start: int, filters: int) -> None:
        self.key, self.end, self.start, self.filters = key.encode(), end.encode(), start, filters
        self.asked = 0
        self.is_announced = False
        self.got: list[tuple[int, str, bool]] = []
        self.next_revision = start
        self.ended = ""
        self.compact_revision = 0

    def wanted(self, model: Model, low: int, high: int) -> list[tuple[int, str, bool]]:
        return [
            (revision, key, is_delete)
            for revision, key, is_delete in model.history
            if low <= revision <= high
            and contains(self.key, self.end, key.encode())
            and not (is_delete and self.filters & 2)
            and not (not is_delete and self.filters & 1)
        ]


class World:
    """Runs the steps on the hub and on the model."""

    def __init__(self, make: Callable[[], Any], make_client: Any, decode: Any) -> None:
        self.make, self.decode = make, decode
        self.machine = make()
        self.hub = self.machine.hub
        self.clients = [make_client(self.hub), make_client(self.hub)]
        self.model = Model()

    @property
    def revision(self) -> int:
        return int(self.machine.keyspace.revision)

    def run(self, action: str, *args: Any) -> None:
        getattr(self, f"do_{action}")(*args)

    def do_put(self, key: str) -> None:
        self.machine.put(key)
        self.model.history.append((self.revision, key, False))

    def do_txn(self, keys: list[str]) -> None:
        ops = [RequestOp(request_put=PutRequest(key=key.encode())) for key in keys]
        self.machine.do(txn=TxnRequest(success=ops))
        self.model.history += [(self.revision, key, False) for key in keys]

    def do_delete(self, key: str, end: str) -> None:
        live = self.live()
        request = DeleteRangeRequest(key=key.encode(), range_end=end.encode())
        self.machine.do(delete_range=request)
        gone = [k for k in sorted(live) if contains(key.encode(), end.encode(), k.encode())]
        if end == "-d":
            gone = []
        self.model.history += [(self.revision, k, True) for k in gone]

    def live(self) -> set[str]:
        last = {key: is_delete for _, key, is_delete in self.model.history}
        return {key for key, is_delete in last.items() if not is_delete}

    def do_watch(self, who: int, key: str, end: str, offset: int, filters: int) -> None:
        start = max(self.revision + offset, 0)
        filters = filters if filters < 4 else 0
        chosen = [bit - 1 for bit in (1, 2) if filters & bit]
        id = self.clients[who].watch(key, end, start=start, filters=chosen)
        if id >= 0:
            watched = Watched(key, end, start or self.revision + 1, filters)
            watched.asked = start
            self.model.watchers[who, id] = watched

    def do_cancel(self, who: int, id: int) -> None:
        self.clients[who].stream.cancel(id)

    def do_progress(self, who: int) -> None:
        self.clients[who].stream.request_progress()

    def do_notify(self, who: int) -> None:
        self.clients[who].stream.notify_progress()

    def do_slow(self, who: int, slow: bool) -> None:
        self.clients[who].slow = slow
        if not slow:
            self.do_take(who)

    def do_take(self, who: int) -> None:
        self.clients[who].replies += self.clients[who].stream.take(40)
        self.check(who)

    def do_step(self, times: int) -> None:
        for _ in range(times):
            self.hub.step()
        for who in (0, 1):
            self.check(who)

    def do_compact(self, back: int, physically: bool) -> None:
        target = self.revision - back
        if target > self.machine.keyspace.compact_revision:
            self.machine.compact(target, physically=physically)

    def do_restore(self, keys: list[str]) -> None:
        """The same history and a little more, in another file that arrives as a snapshot."""
        other = self.make()
        revision = 1
        replayed: dict[int, list[tuple[str, bool]]] = {}
        for revision, key, is_delete in self.model.history:
            replayed.setdefault(revision, []).append((key, is_delete))
        for changes in replayed.values():
            txn = other.keyspace.begin()
            for key, is_delete in changes:
                if is_delete:
                    txn.delete_range(key.encode())
                else:
                    txn.put(key.encode(), b"")
            txn.end()
        for key in keys:
            other.put(key)
            self.model.history.append((other.keyspace.revision, key, False))
        compacted = self.machine.keyspace.compact_revision
        if compacted > 0:
            other.compact(compacted)
        self.machine.keyspace.listener = None
        other.hub = self.hub
        other.keyspace.listener = self.hub
        self.machine = other
        self.hub.restore(other.keyspace)

    # -- the promises

    def check(self, who: int) -> None:
        client = self.clients[who]
        replies, client.replies = client.replies, []
        for reply in replies:
            self.check_reply(who, reply)

    def check_reply(self, who: int, reply: Any) -> None:
        watchers = self.model.watchers
        if reply.watch_id == -1:
            if not reply.created:  # Bookmarkable, for every watcher of the stream
                for (owner, _), watched in watchers.items():
                    if owner == who and watched.is_announced and not watched.ended:
                        self.check_bookmark(watched, reply.revision)
            return
        watched = watchers[who, reply.watch_id]
        if reply.created:
            watched.is_announced = True
            return
        assert watched.is_announced
        if reply.canceled:
            assert watched.ended != "canceled"
            watched.ended = "compacted" if reply.compact_revision else "canceled"
            watched.compact_revision = reply.compact_revision or watched.compact_revision
            return
        assert not watched.ended, "events after the end"
        events = [
            (event.kv.mod_revision, event.kv.key.decode(), event.type == Event.DELETE)
            for event in self.decode(reply)
        ]
        if not events:
            self.check_bookmark(watched, reply.revision)
            return
        assert events[-1][0] <= reply.revision
        # Ordered, Unique, Reliable and Atomic at once: exactly what the model has for the
        # revisions from where the watcher stood to the last one of this response.
        assert events == watched.wanted(self.model, watched.next_revision, events[-1][0])
        assert len({revision for revision, _, _ in events}) <= watch.REVISIONS_MAX
        watched.got += events
        watched.next_revision = events[-1][0] + 1

    def check_bookmark(self, watched: Watched, revision: int) -> None:
        assert revision >= watched.asked, "progress of a watch that starts later"
        assert watched.wanted(self.model, watched.next_revision, revision) == []

    def finish(self) -> None:
        """Everyone reads on: then each has all of it, or was told of a compaction."""
        for client in self.clients:
            client.slow = False
        while self.hub.step() or any(client.stream.has_replies for client in self.clients):
            for client in self.clients:
                client.replies += client.stream.take()
        for who in (0, 1):
            self.check(who)
        for watched in self.model.watchers.values():
            if watched.ended == "compacted":
                # Resumable: the cancel is true, what it had not got reaches below it.
                assert watched.next_revision < watched.compact_revision
            elif not watched.ended:
                assert watched.got == watched.wanted(self.model, watched.start, self.revision)
        assert self.hub.slow == 0
        for client in self.clients:
            client.stream.close()
        assert (self.hub.watchers, self.hub.wanted) == (0, False)


@pytest.mark.parametrize("bounds", [(2, 3, 1), (3, 1000, 4), (1024, 2, 16)])
def test_the_hub_keeps_every_promise(
    bounds: tuple[int, int, int],
    make_machine: Callable[..., Any],
    make_client: Any,
    decode: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replies_max, revisions_max, changes_max = bounds
    monkeypatch.setattr(streams, "REPLIES_MAX", replies_max)
    monkeypatch.setattr(watch, "REVISIONS_MAX", revisions_max)
    monkeypatch.setattr(watch, "CHANGES_MAX", changes_max)
    monkeypatch.setattr(watch, "_PAGE_CHANGES", 1)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.lists(step, min_size=20, max_size=60))
    def run(steps: list[tuple[Any, ...]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            machines: list[Any] = []

            def make() -> Any:
                name = Path(folder) / f"{len(machines)}.db"
                machines.append(make_machine(str(name)))
                return machines[-1]

            world = World(make, make_client, decode)
            try:
                for action, *args in steps:
                    world.run(action, *args)
                world.finish()
            finally:
                for machine in machines:
                    machine.close()

    run()
