"""Takes each step on both servers, and compares what came of it.

Events are compared whenever a step could change what a watcher gets (a compaction, a cancel, a
progress request, the end of a stream), and at the end. How many events each watcher is due says a
monitor: a watcher of everything, on each server, from before the first step. So neither server is
hurried nor trusted: what is missing is waited for, what is too much is seen the next time.
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from differential.draw import CLUSTER, Draw, Step
from differential.draw_auth import AUTH, KV, MAINTENANCE, NOBODY
from differential.sides import CN, WAIT_S, Side, WatchStream

from pyetcd.proto import rpc_pb2 as rpc

MONITOR = 0
HASH_KV = MAINTENANCE + "HashKV"
COMPACTED = "OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted"
QUIET_S = 0.3  # after the last step: what comes now is too much
SETTLE = rpc.PutRequest(key=b"a")
BIG = bytes(700_000)


VERBOSE = bool(os.environ.get("PYETCD_EVERYTHING_VERBOSE"))


class Difference(AssertionError):
    pass


@dataclass(slots=True)
class Watcher:
    request: rpc.WatchCreateRequest
    from_revision: int
    looked_at: int = 0  # of the history
    compared: int = 0

    def due(self, history: list[Any]) -> int:
        """How many events of what is new in the history."""
        new = history[self.looked_at :]
        self.looked_at = len(history)
        return sum(self._is_due(event) for event in new)

    def _is_due(self, event: Any) -> bool:
        key, end = self.request.key or b"\0", self.request.range_end
        if event.kv.mod_revision < self.from_revision or event.type in self.request.filters:
            return False
        if end == b"\0":
            return bool(event.kv.key >= key)
        return bool(key <= event.kv.key < end if end else event.kv.key == key)


class Run:
    def __init__(self, etcd: Side, pyetcd: Side, draw: Draw) -> None:
        self.sides = (etcd, pyetcd)
        self.draw = draw
        self.counts: Counter[str] = Counter()
        self.revision = 1
        self.history: list[Any] = []  # every event so far, as the monitors saw it
        self.watchers: dict[tuple[int, int], Watcher] = {}
        self.events_count = 0
        self._open(Step("open", stream=MONITOR))
        everything = rpc.WatchCreateRequest(range_end=b"\0", prev_kv=True, start_revision=1)
        request = rpc.WatchRequest(create_request=everything)
        self.monitor = self._reply(Step("ask", request, stream=MONITOR)).watch_id

    def step(self) -> None:
        step = self.draw.next()
        if VERBOSE:
            print(step.path, step.stream, step.name, " ".join(str(step.request).split()))
        self.counts[step.path] += 1
        if step.path == "open":
            self._open(step)
            self.draw.opened_by(step.stream, step.name)
        elif step.path == "close":
            self.sync()
            self._close(step.stream)
        elif step.path == "ask":
            self._ask(step)
        elif step.path == "big":
            self._big(step)
        elif step.path == "keepalive":
            self._same(step, lambda side: side.keep_alive(step.request, step.name))
        else:
            self._call(step)

    def end(self) -> None:
        self.sync()
        time.sleep(QUIET_S)
        for side in self.sides:
            for label, stream in side.watches.items():
                left = [stream.unexpected(), dict(stream.events)]
                if left != [[], {}]:
                    raise Difference(f"more on stream {label} than was due: {left}")

    def _same(self, step: Step, do: Callable[[Side], Any]) -> Any:
        etcd, pyetcd = (do(side) for side in self.sides)
        if isinstance(etcd, tuple):
            self.counts[" ".join(etcd[:2]).strip()] += 1
        if pyetcd != etcd:
            raise Difference(f"{step}\netcd   {etcd}\npyetcd {pyetcd}")
        return etcd

    # -- calls

    def _call(self, step: Step) -> None:
        if isinstance(step.request, rpc.CompactionRequest):
            self.sync()
            self._all_synced()
        if step.path.startswith(CLUSTER) and not step.path.endswith("List"):
            # 3.5.1 drops a member change that comes before it knows the last one as applied.
            self._call(Step(KV + "Put", SETTLE, step.name))
        told = self._same(step, lambda side: side.call(step.path, step.request, step.name))
        code, _, answer = told
        if step.name.startswith(CN):
            self.counts[f"as a certificate's user: {code}"] += 1
        if code == "OK":
            if answer.HasField("header"):
                self.revision = max(self.revision, answer.header.revision)
            self.draw.learn(step, answer)
            if isinstance(step.request, rpc.CompactionRequest) and not step.request.physical:
                self._end_compaction(step.request)
            if step.path.startswith(AUTH + "Role") and hasattr(step.request, "perm"):
                look = rpc.AuthRoleGetRequest(role=step.request.name)
                self._call(Step(AUTH + "RoleGet", look, step.name))

    def _all_synced(self) -> None:
        """Also those that nothing has happened to: otherwise the compaction would end them."""
        deadline_s = time.monotonic() + WAIT_S
        for side in self.sides:
            while side.unsynced():
                assert time.monotonic() < deadline_s, "a watcher is never synced"
                time.sleep(0.02)

    def _end_compaction(self, request: rpc.CompactionRequest) -> None:
        """What 3.5.1 hashes depends on how far a compaction has come, if no key lives at that
        revision. Asked for a physical one at the same revision it refuses, when it is done."""
        again = rpc.CompactionRequest(revision=request.revision, physical=True)
        code, text, _ = self.sides[0].call(KV + "Compact", again, NOBODY)
        assert (code, text) == COMPACTED

    def compare_hashes(self) -> None:
        """In nobody's name: while auth is on they are drawn like everything else."""
        if not self.draw.auth.enabled:
            for revision in (0, self.revision, self.revision - 5, self.revision + 1):
                if revision != self.draw.compacted:
                    self._call(Step(HASH_KV, rpc.HashKVRequest(revision=revision)))

    def _big(self, step: Step) -> None:
        """More than one response can hold, in one piece and in fragments."""
        keys = (b"a", b"b", b"c")
        for key in keys:
            self._call(Step(KV + "Put", rpc.PutRequest(key=key, value=BIG), step.name))
        self._open(step)
        self.draw.opened_by(step.stream, step.name)
        before = [side.watches[step.stream].fragments_count for side in self.sides]
        for fragment in (False, True):
            create = rpc.WatchCreateRequest(
                key=b"a", range_end=b"d", start_revision=self.revision - 2, fragment=fragment
            )
            self._ask(Step("ask", rpc.WatchRequest(create_request=create), step.name, step.stream))
        self.sync()
        after = [side.watches[step.stream].fragments_count for side in self.sides]
        assert all(a > b for a, b in zip(after, before, strict=True)), "nobody sent fragments"
        self._close(step.stream)
        for key in keys:
            self._call(Step(KV + "DeleteRange", rpc.DeleteRangeRequest(key=key), step.name))

    # -- watches

    def _open(self, step: Step) -> None:
        for side in self.sides:
            side.open(step.stream, step.name)

    def _close(self, label: int) -> None:
        for side in self.sides:
            side.close_stream(label)
        self.watchers = {at: each for at, each in self.watchers.items() if at[0] != label}
        self.draw.closed(label)

    def _reply(self, step: Step) -> Any:
        for side in self.sides:
            side.watches[step.stream].send(step.request)
        return self._same(step, lambda side: side.watches[step.stream].reply())

    def _ask(self, step: Step) -> None:
        kind = step.request.WhichOneof("request_union")
        self.counts[kind] += 1
        if kind == "create_request":
            self._create(step)
            return
        self.sync()
        if kind == "cancel_request":
            id = step.request.cancel_request.watch_id
            if id not in self.draw.streams[step.stream]:  # not answered
                for side in self.sides:
                    side.watches[step.stream].send(step.request)
                return
            self.watchers.pop((step.stream, id), None)
            self.draw.streams[step.stream].remove(id)
            self.draw.live[step.stream].pop(id, None)
        self._reply(step)

    def _create(self, step: Step) -> None:
        wanted = step.request.create_request
        reply = self._reply(step)
        assert reply.created
        if reply.canceled:
            self.counts[f"watch: {reply.cancel_reason}"] += 1
            return
        id = reply.watch_id
        self.draw.streams[step.stream].add(id)
        if 0 < wanted.start_revision < self.draw.compacted:
            cancelled = self._same(step, lambda side: side.watches[step.stream].reply())
            assert cancelled.canceled and cancelled.compact_revision == self.draw.compacted
            self.counts["watch: compacted"] += 1
            return
        self.draw.live[step.stream][id] = wanted.start_revision
        first = wanted.start_revision or reply.header.revision + 1
        self.watchers[step.stream, id] = Watcher(wanted, first)

    def sync(self) -> None:
        """Every event up to now has reached every watcher, on both sides; and is the same."""
        news = self._news()
        self.history += news
        self.events_count += len(news)
        for (label, id), watcher in self.watchers.items():
            count = watcher.due(self.history)
            events = [self._events(side, label, id, count) for side in self.sides]
            if events[0] != events[1] or len(events[0]) != count:
                raise Difference(f"watcher {id} of stream {label}, {count} events are due "
                                 f"from {watcher.from_revision} of {watcher.request} "
                                 f"(compared: {watcher.compared})\n" + shown(events))  # fmt: skip
            watcher.compared += count
            for side in self.sides:
                fragmented = side.watches[label].fragmented
                assert watcher.request.fragment or id not in fragmented, "fragments not asked for"

    def _news(self) -> list[Any]:
        """From the monitors."""
        last = self.history[-1].kv.mod_revision if self.history else 1
        if self.revision <= last:
            return []
        for side in self.sides:
            stream = side.watches[MONITOR]
            stream.wait_events(partial(self._has_come_to_now, stream))
        news = [side.watches[MONITOR].take_events(self.monitor) for side in self.sides]
        if news[0] != news[1] or news[0][-1].kv.mod_revision != self.revision:
            raise Difference(f"all events up to {self.revision}\n" + shown(news))
        return news[0]

    def _has_come_to_now(self, stream: WatchStream) -> bool:
        events = stream.events[self.monitor]
        return bool(events) and events[-1].kv.mod_revision >= self.revision

    def _events(self, side: Side, label: int, id: int, count: int) -> list[Any]:
        stream = side.watches[label]
        stream.wait_events(lambda: len(stream.events.get(id, ())) >= count)
        return stream.take_events(id)


def shown(events: list[list[Any]]) -> str:
    def lines(side: list[Any]) -> list[str]:
        return [f"{e.type} {e.kv.key!r} {e.kv.mod_revision} {len(e.kv.value)} "
                f"lease {e.kv.lease} prev {e.prev_kv.mod_revision}" for e in side]  # fmt: skip

    return f"etcd   {lines(events[0])}\npyetcd {lines(events[1])}"
