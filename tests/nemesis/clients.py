"""Clients that do one thing after the other and note when it began, ended and what it brought."""

import math
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue

import grpc
from cluster import Api

from pyetcd.proto import rpc_pb2 as rpc

KEYS = [b"k/%02d" % i for i in range(12)]
PREFIX = (b"k/", b"k0")
LEASED = (b"l/", b"l0")
LEASE_TTL_S = 4
Version = tuple[bytes, bytes, int, int, int, int]  # key, value, create, mod, version, lease


def version_of(kv) -> Version:
    return (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


@dataclass(slots=True)
class Op:
    """`end_s` is inf while nothing is known of the outcome."""

    kind: str
    node: int
    start_s: float
    end_s: float = math.inf
    revision: int = 0
    # What it wrote: key -> value, None for a delete; in a txn several.
    writes: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    wrote: bool = False  # whether the answer says that something changed
    key: bytes = b""
    range_end: bytes = b""
    seen: list[Version] | None = None  # what it read, at `revision`
    previous: list[Version] | None = None  # what it replaced, at `revision` - 1
    lease: int = 0
    error: str = ""


class Client(threading.Thread):
    """One sequential client that moves to another member when a call fails."""

    def __init__(self, number: int, endpoints: list[str], seed: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.ops: list[Op] = []
        self.leases: dict[int, float] = {}  # lease -> monotonic second until which it must live
        self.lease_acks: list[tuple[int, float, float]] = []  # lease, end of call, lives until
        self.revoked: set[int] = set()
        self._number = number
        self._apis = [Api(endpoint) for endpoint in endpoints]
        self._left: list[Api] = []
        self._at = number
        self._rng = random.Random(seed)
        self._halt = stop
        self._sequence = 0
        self._last_seen: dict[bytes, int] = {}

    def run(self) -> None:
        kinds = {
            self._put: 30,
            self._remove: 8,
            self._cas: 15,
            self._txn: 10,
            self._read: 20,
            self._stale_read: 8,
            self._lease_put: 4,
            self._lease_keep: 4,
            self._lease_revoke: 2,
        }
        actions, weights = list(kinds), list(kinds.values())
        while not self._halt.is_set():
            action = self._rng.choices(actions, weights)[0]
            self._sequence += 1
            try:
                action()
            except grpc.RpcError as error:
                # Unknown outcome: never repeated, and nothing is concluded from it.
                self.ops[-1].error = f"{error.code().name}: {error.details()}"
                self._at += 1
                time.sleep(0.01)
        for api in self._apis + self._left:
            api.close()

    def know(self, endpoint: str) -> None:
        """A member more to talk to; from any thread."""
        self._apis = [*self._apis, Api(endpoint)]

    def forget(self, endpoint: str) -> None:
        """A member less; a call under way goes on."""
        self._left += [api for api in self._apis if api.endpoint == endpoint]
        self._apis = [api for api in self._apis if api.endpoint != endpoint]

    @property
    def _api(self) -> Api:
        apis = self._apis  # may be replaced meanwhile
        return apis[self._at % len(apis)]

    def _begin(self, kind: str, **facts) -> Op:
        op = Op(kind, self._at % len(self._apis), time.monotonic(), **facts)
        self.ops.append(op)
        return op

    def _call(self, op: Op, method: str, request):
        answer = getattr(self._api, method)(request, timeout=self._timeout_s())
        op.end_s = time.monotonic()
        op.revision = answer.header.revision
        return answer

    def _timeout_s(self) -> float:
        return self._rng.choice((1.0, 2.0, 9.0))

    def _value(self) -> bytes:
        return b"%d.%d" % (self._number, self._sequence)

    def _put(self) -> None:
        key, value = self._rng.choice(KEYS), self._value()
        op = self._begin("put", writes=[(key, value)])
        answer = self._call(op, "put", rpc.PutRequest(key=key, value=value, prev_kv=True))
        op.wrote, op.key = True, key
        op.previous = [version_of(answer.prev_kv)] if answer.HasField("prev_kv") else []
        self._last_seen[key] = answer.header.revision

    def _remove(self) -> None:
        key = self._rng.choice(KEYS)
        op = self._begin("delete", writes=[(key, None)], key=key)
        answer = self._call(op, "delete", rpc.DeleteRangeRequest(key=key, prev_kv=True))
        op.wrote = answer.deleted > 0
        found = [version_of(kv) for kv in answer.prev_kvs]
        if op.wrote:
            op.previous = found
        else:
            op.seen = found

    def _cas(self) -> None:
        key, value = self._rng.choice(KEYS), self._value()
        op = self._begin("cas", writes=[(key, value)], key=key)
        request = rpc.TxnRequest()
        compare = request.compare.add(key=key, mod_revision=self._last_seen.get(key, 0))
        compare.target, compare.result = rpc.Compare.MOD, rpc.Compare.EQUAL
        request.success.add().request_put.CopyFrom(rpc.PutRequest(key=key, value=value))
        request.failure.add().request_range.CopyFrom(rpc.RangeRequest(key=key))
        answer = self._call(op, "txn", request)
        op.wrote = answer.succeeded
        if not answer.succeeded:
            op.seen = [version_of(kv) for kv in answer.responses[0].response_range.kvs]
            self._last_seen[key] = op.seen[0][3] if op.seen else 0
        else:
            self._last_seen[key] = answer.header.revision

    def _txn(self) -> None:
        first, second, third = self._rng.sample(KEYS, 3)
        value = self._value()
        op = self._begin("txn", writes=[(first, value), (second, value), (third, None)])
        request = rpc.TxnRequest()
        for key in (first, second):
            request.success.add().request_put.CopyFrom(rpc.PutRequest(key=key, value=value))
        request.success.add().request_delete_range.CopyFrom(rpc.DeleteRangeRequest(key=third))
        request.success.add().request_range.CopyFrom(
            rpc.RangeRequest(key=PREFIX[0], range_end=PREFIX[1])
        )
        answer = self._call(op, "txn", request)
        op.wrote = True
        op.key, op.range_end = PREFIX
        op.seen = [version_of(kv) for kv in answer.responses[3].response_range.kvs]

    def _read(self, kind: str = "read") -> None:
        if self._rng.random() < 0.5:
            key, range_end = self._rng.choice(KEYS), b""
        else:
            key, range_end = PREFIX
        op = self._begin(kind, key=key, range_end=range_end)
        request = rpc.RangeRequest(key=key, range_end=range_end, serializable=kind == "stale")
        answer = self._call(op, "range", request)
        op.seen = [version_of(kv) for kv in answer.kvs]
        for kv in answer.kvs:
            self._last_seen[kv.key] = kv.mod_revision

    def _stale_read(self) -> None:
        self._read("stale")

    def _lease_put(self) -> None:
        op = self._begin("grant")
        granted = self._call(op, "grant", rpc.LeaseGrantRequest(TTL=LEASE_TTL_S))
        op.lease = granted.ID
        self._lives(granted.ID, op)
        key, value = b"l/%x" % granted.ID, self._value()
        op = self._begin("put", writes=[(key, value)], lease=granted.ID)
        try:
            request = rpc.PutRequest(key=key, value=value, lease=granted.ID)
            self._call(op, "put", request)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            op.error = "lease not found"
            return
        op.wrote, op.key = True, key

    def _lives(self, lease: int, op: Op) -> None:
        self.leases[lease] = op.start_s + LEASE_TTL_S
        self.lease_acks.append((lease, op.end_s, op.start_s + LEASE_TTL_S))

    def _lease_keep(self) -> None:
        if not self.leases:
            return
        lease = self._rng.choice(list(self.leases))
        op = self._begin("keep", lease=lease)
        requests: SimpleQueue[rpc.LeaseKeepAliveRequest | None] = SimpleQueue()
        requests.put(rpc.LeaseKeepAliveRequest(ID=lease))
        stream = self._api.keep_alive(iter(requests.get, None), timeout=3)
        try:
            answer = next(stream)
        except StopIteration:
            op.error = "the stream ended"
            return
        finally:
            requests.put(None)
            stream.cancel()
        op.end_s = time.monotonic()
        if answer.TTL > 0:
            self._lives(lease, op)
        else:
            del self.leases[lease]

    def _lease_revoke(self) -> None:
        if not self.leases:
            return
        lease = self._rng.choice(list(self.leases))
        op = self._begin("revoke", lease=lease)
        del self.leases[lease]
        self.revoked.add(lease)
        try:
            self._call(op, "revoke", rpc.LeaseRevokeRequest(ID=lease))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            op.error = "lease not found"


class Prober(threading.Thread):
    """Puts through one member as often as it can: the measure of how soon writes work again."""

    def __init__(
        self, number: int, endpoint: str, stop: threading.Event, *, timeout_s: float = 0.5
    ) -> None:
        super().__init__(daemon=True)
        self._timeout_s = timeout_s
        self.acks: list[tuple[float, float]] = []
        self.ops: list[Op] = []
        self._number = number
        self._api = Api(endpoint)
        self._halt = stop

    def run(self) -> None:
        sequence = 0
        while not self._halt.is_set():
            sequence += 1
            key, value = b"p/%d" % self._number, b"p%d.%d" % (self._number, sequence)
            op = Op("put", self._number, time.monotonic(), writes=[(key, value)])
            self.ops.append(op)
            try:
                answer = self._api.put(
                    rpc.PutRequest(key=key, value=value), timeout=self._timeout_s
                )
                op.end_s, op.revision = time.monotonic(), answer.header.revision
                op.wrote, op.key = True, key
                self.acks.append((op.start_s, op.end_s))
            except grpc.RpcError as error:
                op.error = f"{error.code().name}: {error.details()}"
            time.sleep(0.03)
        self._api.close()


@dataclass(slots=True)
class Seen:
    """One watch: what it asked for and every response's events."""

    key: bytes
    range_end: bytes
    start_revision: int
    prev_kv: bool
    node: int
    batches: list[tuple[float, list]] = field(default_factory=list)
    progress: list[tuple[int, int]] = field(default_factory=list)  # batches so far, revision


class Watcher(threading.Thread):
    """Watches from the past or from now, through one member after the other."""

    def __init__(self, number: int, endpoints: list[str], seed: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.seen: list[Seen] = []
        self.errors: list[str] = []
        self.ended: list[str] = []  # why streams ended, besides by their deadline
        self._number = number
        self._endpoints = endpoints
        self._rng = random.Random(seed)
        self._halt = stop
        self._newest = 1
        self._stream = None

    def end(self) -> None:
        """Nothing more is wanted of the present stream; from any thread."""
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def run(self) -> None:
        while not self._halt.is_set():
            endpoints = list(self._endpoints)  # may be changed meanwhile
            node = self._rng.randrange(len(endpoints))
            api = Api(endpoints[node])
            try:
                self._watch(api, node, self._rng.uniform(1, 20))
            except grpc.RpcError as error:
                if error.code() not in (
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    grpc.StatusCode.CANCELLED,
                ):
                    self.ended.append(f"{error.code().name}: {error.details()}")
                time.sleep(0.05)
            finally:
                api.close()

    def _watch(self, api: Api, node: int, seconds: float) -> None:
        key, range_end = self._rng.choice(
            [PREFIX, LEASED, (b"\0", b"\0"), (self._rng.choice(KEYS), b"")]
        )
        start = self._rng.choice((0, max(1, self._newest - self._rng.randrange(3000))))
        request = rpc.WatchRequest()
        create = request.create_request
        create.key, create.range_end, create.start_revision = key, range_end, start
        create.prev_kv = self._rng.random() < 0.5
        requests: SimpleQueue[rpc.WatchRequest | None] = SimpleQueue()
        requests.put(request)
        stream = self._stream = api.watch(iter(requests.get, None), timeout=seconds)
        seen = Seen(key, range_end, start, create.prev_kv, node)
        try:
            for answer in stream:
                if answer.compact_revision > start > 0:
                    return  # what it asked for is gone
                if answer.canceled:
                    self.errors.append(f"canceled: {answer.cancel_reason}")
                    return
                if answer.created:
                    if not start:
                        seen.start_revision = answer.header.revision + 1
                    self.seen.append(seen)
                elif answer.events:
                    events = [event_of(event) for event in answer.events]
                    seen.batches.append((time.monotonic(), events))
                    self._newest = max(self._newest, events[-1][1][3])
                else:
                    seen.progress.append((len(seen.batches), answer.header.revision))
                if self._rng.random() < 0.02:
                    requests.put(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
        finally:
            requests.put(None)
            stream.cancel()


Event = tuple[int, Version, Version | None]  # 0 put or 1 delete, the version, what was before


def event_of(event) -> Event:
    before = version_of(event.prev_kv) if event.HasField("prev_kv") else None
    return (event.type, version_of(event.kv), before)


def replay(api: Api, last: int, timeout_s: float, first: int = 1) -> Iterator[Event]:
    """Every event from revision `first` to `last`, with prev_kv."""
    request = rpc.WatchRequest()
    create = request.create_request
    create.key, create.range_end = b"\0", b"\0"
    create.start_revision, create.prev_kv = first, True
    requests: SimpleQueue[rpc.WatchRequest | None] = SimpleQueue()
    requests.put(request)
    stream = api.watch(iter(requests.get, None), timeout=timeout_s)
    try:
        for answer in stream:
            assert not answer.canceled, answer.cancel_reason
            for event in answer.events:
                yield event_of(event)
            if answer.events and answer.events[-1].kv.mod_revision >= last:
                return
    finally:
        requests.put(None)
        stream.cancel()
