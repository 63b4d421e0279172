"""Clients: one call at a time each, over the network, with time-outs; watchers that resume.

A client knows nothing of members but their names. What it is answered goes to the checkers; what
it is not answered may have happened or not. Values are unique, so each write is known by its own.
"""

import random
from collections.abc import AsyncIterator
from typing import Any

from sim.checkers import Operation, Violation, Watch
from sim.member import Process, SimulatedMember

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    MemberAddRequest,
    MemberAddResponse,
    MemberPromoteRequest,
    MemberPromoteResponse,
    MemberRemoveRequest,
    MemberRemoveResponse,
    MemberUpdateRequest,
    MemberUpdateResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    TxnRequest,
    TxnResponse,
    WatchCreateRequest,
    WatchRequest,
    WatchResponse,
)
from pyetcd.proto.rpc_pb2 import Compare as RpcCompare

NEVER = "context deadline exceeded"  # what a withdrawn proposal is answered with

MIX = {
    "put": 20, "put_lease": 5, "get": 12, "list": 6, "stale": 8, "old": 4, "delete": 6,
    "delete_range": 2, "txn": 10, "grant": 3, "revoke": 2, "renew": 3, "compact": 2, "read_txn": 3,
}  # fmt: skip


class Call:
    """The UnaryCall that production handlers answer."""

    metadata: dict[str, str] = {}  # noqa: RUF012
    peer = "sim"

    def __init__(self, client: "Client", op: Operation, response: Any, process: Process) -> None:
        self._client = client
        self._op = op
        self._response = response
        self._process = process
        self._answered = False
        self.on_cancel = None

    def reply(self, payload: bytes) -> None:
        self._answer(payload)

    def fail(self, code: int, text: str) -> None:
        self._answer((code, text))

    def _answer(self, answer: Any) -> None:
        if self._answered:
            raise Violation("answers", f"{self._op} was answered twice")
        self._answered = True
        client, process = self._client, self._process
        delay_s = client.delay_s()

        def arrive() -> None:
            client.answered(self._op, answer, self._response)

        if process.loop.is_alive:
            client.world.clock.after(delay_s, arrive)


class Client:
    def __init__(self, world: Any, number: int) -> None:
        self.world = world
        self.name = f"c{number}"
        self.rng: random.Random = world.rng_for(self.name)
        self.answers: dict[str, int] = {}
        self.is_stopped = False
        self._sequence = 0
        self._leases: list[int] = []
        self._current: Operation | None = None
        self._at: SimulatedMember = self.rng.choice(list(world.members.values()))
        names = list(MIX)
        # Some only read, fast: writes would hold them up just when there is something to see.
        self._reads_only = self.rng.random() < 0.35
        if self._reads_only:
            names = ["get", "list", "read_txn", "stale"]
        keep = self.rng.sample(names, self.rng.randint(min(6, len(names)), len(names)))
        self._kinds = [name for name in names if name in keep or name == "put"]
        self._weights = [MIX[name] for name in self._kinds]
        world.clock.after(self.rng.random(), self.next)

    def delay_s(self) -> float:
        return self.rng.random() ** 3 * 0.02

    # One call after the other

    def next(self) -> None:
        if self.is_stopped:
            return
        if self.rng.random() < 0.05:
            self._at = self.rng.choice(list(self.world.members.values()))
        kind = self.rng.choices(self._kinds, self._weights)[0]
        self.call(kind, self._at)

    def call(self, kind: str, member: SimulatedMember) -> Operation:
        name, request, response = getattr(self, f"_{kind}")()
        world = self.world
        op = Operation(
            self.name, name, request, world.clock.now_s, world.history.last_index,
            world.history.model.revision, member.name,
        )  # fmt: skip
        self._current = op
        world.clock.after(world.shape.client_timeout_s, lambda: self._timed_out(op))
        world.clock.after(self.delay_s(), lambda: self._arrive(op, member, response))
        return op

    def _arrive(self, op: Operation, member: SimulatedMember, response: Any) -> None:
        process = member.process
        if process is None or not process.is_serving or process.facts.is_learner:
            self.world.clock.after(0.05, lambda: self._refused(op))
            return
        process.loop.call_soon(self._serve, op, process, response)

    def _serve(self, op: Operation, process: Process, response: Any) -> None:
        call: Any = Call(self, op, response, process)

        def told(id: int) -> None:
            op.request_id = id

        process.tap.told = told
        try:
            if op.kind == "renew":
                process.loop.create_task(self._keep_alive(op, process))
            elif op.kind.startswith("member_"):
                getattr(process.cluster, op.kind)(call, op.request)
            elif op.kind in ("range", "put", "delete_range", "txn", "compact"):
                getattr(process.kv, op.kind)(call, op.request)
            else:
                getattr(process.lease, op.kind)(call, op.request)
        finally:
            process.tap.told = lambda id: None

    async def _keep_alive(self, op: Operation, process: Process) -> None:
        try:
            ttl_s = await process.lease.renew(op.request)
        except EtcdError as error:
            found: Any = (error.code, error.text)
        else:
            found = ttl_s
        if process.loop.is_alive:
            self.world.clock.after(self.delay_s(), lambda: self.answered(op, found, None))

    def answered(self, op: Operation, answer: Any, response: Any) -> None:
        world = self.world
        op.ended_s = world.clock.now_s
        if isinstance(answer, bytes):
            answer = response.FromString(answer)
        op.answer = answer
        failed = isinstance(answer, tuple)
        text = f"{op.kind}: {answer[1]}" if failed else op.kind
        self.answers[text] = self.answers.get(text, 0) + 1
        if op.kind.startswith("member_"):
            pass  # what comes of it is seen in the log
        elif op.kind == "renew":
            if not failed:
                world.lease_checker.renewed(op.request, op.began_s, answer)
        else:
            world.history.answered(op)
        if failed and answer[1] == NEVER and op.request_id:
            world.never.append(op)
        if op.kind == "lease_grant" and not failed:
            self._leases.append(answer.ID)
            world.lease_checker.renewed(answer.ID, op.began_s, answer.TTL)
        if op is self._current:
            self._current = None
            if failed and "not found" not in answer[1] and "compacted" not in answer[1]:
                self._at = self.rng.choice(list(world.members.values()))
            think_s = world.shape.think_s / (3 if self._reads_only else 1)
            world.clock.after(self.rng.expovariate(1 / think_s), self.next)

    def _refused(self, op: Operation) -> None:
        if op is self._current:
            self._current = None
            self._at = self.rng.choice(list(self.world.members.values()))
            self.world.clock.after(0.05, self.next)

    def _timed_out(self, op: Operation) -> None:
        if op is self._current:
            self.answers["gave up"] = self.answers.get("gave up", 0) + 1
            self._refused(op)

    # Requests: (handler, request, response type)

    def _key(self) -> bytes:
        return b"k%d" % self.rng.randrange(self.world.shape.keys)

    def _value(self) -> bytes:
        self._sequence += 1
        value = b"%s-%d" % (self.name.encode(), self._sequence)
        if self.rng.random() < self.world.shape.large_values:
            value += b"." * self.rng.choice((500, 5000, 20000))
        return value

    def _span(self) -> tuple[bytes, bytes]:
        if self.rng.random() < 0.3:
            return b"\0", b"\0"
        first, last = sorted((self._key(), self._key()))
        return first, last + b"\0"

    def _put(self) -> tuple[str, Any, Any]:
        previous = self.rng.random() < 0.2
        return (
            "put",
            PutRequest(key=self._key(), value=self._value(), prev_kv=previous),
            PutResponse,
        )

    def _put_lease(self) -> tuple[str, Any, Any]:
        name, request, response = self._put()
        if self._leases:
            request.lease = self.rng.choice(self._leases)
        return name, request, response

    def _get(self) -> tuple[str, Any, Any]:
        return "range", RangeRequest(key=self._key()), RangeResponse

    def _list(self) -> tuple[str, Any, Any]:
        first, end = self._span()
        limit = self.rng.choice((0, 0, 1, 3))
        return "range", RangeRequest(key=first, range_end=end, limit=limit), RangeResponse

    def _stale(self) -> tuple[str, Any, Any]:
        first, end = self._span()
        return "range", RangeRequest(key=first, range_end=end, serializable=True), RangeResponse

    def _old(self) -> tuple[str, Any, Any]:
        name, request, response = self._list()
        request.serializable = self.rng.random() < 0.5
        around = self.world.history.model.revision + self.rng.randint(-30, 3)
        request.revision = max(1, around)
        return name, request, response

    def _delete(self) -> tuple[str, Any, Any]:
        previous = self.rng.random() < 0.3
        return (
            "delete_range",
            DeleteRangeRequest(key=self._key(), prev_kv=previous),
            DeleteRangeResponse,
        )

    def _delete_range(self) -> tuple[str, Any, Any]:
        first, end = self._span()
        return "delete_range", DeleteRangeRequest(key=first, range_end=end), DeleteRangeResponse

    def _txn(self) -> tuple[str, Any, Any]:
        request = TxnRequest()
        key = self._key()
        compare = request.compare.add(key=key, result=self.rng.choice((0, 0, 1, 2, 3)))
        kind = self.rng.randrange(3)
        if kind == 0:
            compare.target = RpcCompare.VERSION
            compare.version = self.rng.randrange(3)
        elif kind == 1:
            compare.target = RpcCompare.MOD
            compare.mod_revision = max(0, self.world.history.model.revision - self.rng.randrange(9))
        else:
            compare.target = RpcCompare.VALUE
            compare.value = b"c1-%d" % self.rng.randrange(50)
        for operations in (request.success, request.failure):
            keys = [b"k%d" % n for n in range(self.world.shape.keys)]
            self.rng.shuffle(keys)
            for key in keys[: self.rng.randint(0, 3)]:
                each = operations.add()
                choice = self.rng.random()
                if choice < 0.5:
                    each.request_put.key = key
                    each.request_put.value = self._value()
                    each.request_put.prev_kv = self.rng.random() < 0.3
                    if self._leases and self.rng.random() < 0.2:
                        each.request_put.lease = self.rng.choice(self._leases)
                elif choice < 0.7:
                    each.request_delete_range.key = key
                else:
                    each.request_range.key = key
        return "txn", request, TxnResponse

    def _read_txn(self) -> tuple[str, Any, Any]:
        request = TxnRequest()
        request.compare.add(key=self._key(), target=RpcCompare.VERSION, version=1)
        for operations in (request.success, request.failure):
            for _ in range(self.rng.randint(0, 2)):
                first, end = self._span()
                operations.add().request_range.CopyFrom(RangeRequest(key=first, range_end=end))
        return "txn", request, TxnResponse

    def _compact(self) -> tuple[str, Any, Any]:
        model = self.world.history.model
        revision = max(1, model.revision + self.rng.randint(-40, 2))
        physical = self.rng.random() < 0.5
        return (
            "compact",
            CompactionRequest(revision=revision, physical=physical),
            CompactionResponse,
        )

    def _grant(self) -> tuple[str, Any, Any]:
        ttl_s = self.rng.choice((1, 2, 3, 5, 30))
        return "lease_grant", LeaseGrantRequest(TTL=ttl_s), LeaseGrantResponse

    def _revoke(self) -> tuple[str, Any, Any]:
        if not self._leases:
            return self._grant()
        id = self._leases.pop(self.rng.randrange(len(self._leases)))
        self.world.lease_checker.revoked_by_client(id)
        return "lease_revoke", LeaseRevokeRequest(ID=id), LeaseRevokeResponse

    def _renew(self) -> tuple[str, Any, Any]:
        if not self._leases:
            return self._grant()
        return "renew", self.rng.choice(self._leases), None


class Operator(Client):
    """Adds learners and voters, promotes, moves and removes members, one change after another."""

    def __init__(self, world: Any) -> None:
        super().__init__(world, 0)
        self.name = "op"
        self._reads_only = False
        self._kinds = ["add", "promote", "remove", "update"]
        self._weights = [4, 4, 3, 1]
        self._names = world.shape.members

    def next(self) -> None:
        if self.is_stopped:
            return
        voters, learners = self.world.voters, self.world.learners
        kind = self.rng.choices(self._kinds, self._weights)[0]
        if (kind == "add" and len(voters) + len(learners) >= 6) or (
            (kind == "promote" and not learners) or (kind == "remove" and len(voters) < 3)
        ):
            self.world.clock.after(0.5, self.next)
            return
        at = self.rng.choice(list(self.world.members.values()))
        leaders = [m for m in self.world.members.values() if m.process and m.process.node.is_leader]
        if leaders and self.rng.random() < 0.8:
            at = leaders[0]
        op = self.call(kind, at)
        self.world.say("op", f"asks {at.name}: {op.kind} {str(op.request).split()}")

    def answered(self, op: Operation, answer: Any, response: Any) -> None:
        what = answer[1] if isinstance(answer, tuple) else "done"
        self.world.say("op", f"{op.kind}: {what}")
        super().answered(op, answer, response)

    def _add(self) -> tuple[str, Any, Any]:
        self._names += 1
        is_learner = self.rng.random() < 0.7
        request = MemberAddRequest(peerURLs=[f"http://m{self._names}:1"], isLearner=is_learner)
        return "member_add", request, MemberAddResponse

    def _promote(self) -> tuple[str, Any, Any]:
        id = self.rng.choice(sorted(self.world.learners))
        return "member_promote", MemberPromoteRequest(ID=id), MemberPromoteResponse

    def _remove(self) -> tuple[str, Any, Any]:
        id = self.rng.choice(sorted([*self.world.voters, *self.world.learners]))
        return "member_remove", MemberRemoveRequest(ID=id), MemberRemoveResponse

    def _update(self) -> tuple[str, Any, Any]:
        id = self.rng.choice(sorted(self.world.voters))
        name = self.world.members[id].name if id in self.world.members else "nobody"
        request = MemberUpdateRequest(ID=id, peerURLs=[f"http://{name}:1"])
        return "member_update", request, MemberUpdateResponse


class Stream:
    """The ServerStream that the watch handler serves, and the client's end of it."""

    peer = "sim"

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
            start = max(1, model.revision + rng.randint(-100, 20))
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
