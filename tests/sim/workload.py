"""Clients: one call at a time each, over the network, with time-outs.

A client knows nothing of members but their names. What it is answered goes to the checkers; what
it is not answered may have happened or not. Values are unique, so each write is known by its own.
"""

import random
from typing import Any

from sim.checkers import HASHED, Operation, Violation, check_access, find_hashed
from sim.handlers import handler_of
from sim.login import Login
from sim.member import Process, SimulatedMember

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.rpc_pb2 import (
    NOSPACE,
    AlarmRequest,
    AlarmResponse,
    AuthenticateRequest,
    AuthenticateResponse,
    CompactionRequest,
    CompactionResponse,
    DefragmentRequest,
    DefragmentResponse,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    TxnRequest,
    TxnResponse,
    WatchCreateRequest,
    WatchResponse,
)
from pyetcd.proto.rpc_pb2 import Compare as RpcCompare
from pyetcd.store.db import StorageFailure

# What comes of these is seen in the log, or looked at by who asked.
UNCHECKED = frozenset({
    "member_add", "member_promote", "member_remove", "member_update", "alarm", "defragment",
    "hash_kv", "move_leader", "copy", "may_watch",
})  # fmt: skip
NEVER = "context deadline exceeded"  # what a withdrawn proposal is answered with

ALL = {
    "put": 20, "put_lease": 5, "get": 12, "list": 6, "stale": 8, "old": 4, "delete": 6,
    "delete_range": 2, "txn": 10, "grant": 3, "revoke": 2, "renew": 3, "compact": 2, "read_txn": 3,
}  # fmt: skip
READS = ("get", "list", "read_txn", "stale")

# Named as in etcd's robustness tests, with their weights (tests/robustness/traffic). Streamed
# lists, which 3.5 does not have, are counted with the plain ones.
MIXES = {
    "All": ALL,
    "EtcdPutDeleteLease": {
        "put": 20, "get": 15, "stale_get": 10, "txn": 10, "list": 15, "stale": 10, "delete": 5,
        "grant": 2, "put_lease": 5, "revoke": 5, "compare_and_set": 5,
    },
    "EtcdPut": {"put": 40, "get": 15, "list": 15, "stale_get": 10, "stale": 10, "txn": 10},
    "EtcdDelete": {"put": 50, "delete": 50},
    "Kubernetes": {"page": 80, "get": 8, "update": 45, "remove": 5, "create": 5},
    "Leases": {
        "grant": 10, "renew": 40, "put_lease": 20, "put": 5, "get": 10, "revoke": 2, "delete": 3,
    },
    "KubernetesCreateDelete": {"page": 10, "create": 60, "remove": 40},
}  # fmt: skip


class Call:
    """The UnaryCall that production handlers answer."""

    peer = "sim"
    cancelled = False

    def __init__(self, client: "Client", op: Operation, response: Any, process: Process) -> None:
        self._client = client
        self._op = op
        self._response = response
        self._process = process
        self._answered = False
        self.on_cancel = None
        self.common_name = op.common_name
        self.metadata = {"token": op.token} if op.token else {}

    def reply(self, payload: bytes) -> None:
        self._answer(payload)

    def fail(self, code: int, text: str) -> None:
        self._answer((code, text))

    def _answer(self, answer: Any) -> None:
        if self._answered:
            raise Violation("answers", f"{self._op} was answered twice")
        self._answered = True
        client, process = self._client, self._process
        client.note(self._op, process)
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
        self._seen: dict[bytes, int] = {}  # the mod revisions that it knows of
        self._current: Operation | None = None
        self._at: SimulatedMember = self.rng.choice(list(world.members.values()))
        self.login: Login | None = None
        if world.shape.auth:
            self.login = Login(world, self.name, is_operator=number == 0)
        mix = MIXES[world.shape.mix]
        names = list(mix)
        # Some only read, fast: writes would hold them up just when there is something to see.
        self._reads_only = self.rng.random() < 0.35
        if self._reads_only:
            mix, names = ALL, list(READS)
        if mix is ALL:
            keep = self.rng.sample(names, self.rng.randint(min(6, len(names)), len(names)))
            names = [name for name in names if name in keep or name == "put"]
        self._kinds = names
        self._weights = [mix[name] for name in names]
        world.clock.after(self.rng.random(), self.next)

    def delay_s(self) -> float:
        return self.rng.random() ** 3 * 0.02

    def think_s(self) -> float:
        mean_s = self.world.shape.think_s / (3 if self._reads_only else 1)
        return self.rng.expovariate(1 / mean_s)

    # One call after the other

    def next(self) -> None:
        if self.is_stopped:
            return
        if self.rng.random() < 0.05:
            self._at = self.rng.choice(list(self.world.members.values()))
        kind = self.rng.choices(self._kinds, self._weights)[0]
        if self.login is not None:
            kind = self.login.instead(kind)
        self.call(kind, self._at)

    def call(self, kind: str, member: SimulatedMember) -> Operation:
        name, request, response = getattr(self, f"_{kind}")()
        world = self.world
        op = Operation(
            self.name, name, request, world.clock.now_s, world.history.last_index,
            world.history.model.revision, member.name, world.history.model.compacted,
        )  # fmt: skip
        if self.login is not None:
            op.token, op.common_name = self.login.token, self.login.common_name
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
        op.served_index = process.machine.applied_index

        def told(id: int) -> None:
            op.request_id = id

        if op.kind == "renew":
            process.loop.create_task(self._keep_alive(call, op, process))
        elif op.kind == "copy":
            op.request(call, process)
        elif op.kind == "may_watch":  # as WatchApi asks; the stream itself is a Watcher's
            refusal = process.core.access.refusal_of_watch(call, op.request)
            call.fail(0, refusal.rpartition(" desc = ")[2]) if refusal else call.reply(b"")
        else:
            request = op.request
            if self.login is not None:  # a handler wipes passwords
                request = type(request).FromString(request.SerializeToString())
            handler = handler_of(process, op.kind, told, is_gated=self.login is not None)
            handler(call, request)

    def note(self, op: Operation, process: Process) -> None:
        """The state that the answer is of."""
        op.answered_index = process.machine.applied_index
        op.tokens_since = process.tokens_since

    async def _keep_alive(self, call: Any, op: Operation, process: Process) -> None:
        access = process.core.access
        try:
            if access.auth.enabled:
                access.permit_renewal(call, op.request)
            ttl_s = await process.lease.renew(op.request)
        except EtcdError as error:
            found: Any = (error.code, error.text)
        except StorageFailure as error:  # as Member.bug
            process.fail(error)
            return
        else:
            found = ttl_s
        self.note(op, process)
        if process.loop.is_alive:
            self.world.clock.after(self.delay_s(), lambda: self.answered(op, found, None))

    def answered(self, op: Operation, answer: Any, response: Any) -> None:
        world = self.world
        if op.began_s <= world.rebased_s:
            self._refused(op)
            return
        op.ended_s = world.clock.now_s
        if isinstance(answer, bytes):
            answer = response.FromString(answer)
        op.answer = answer
        if self.login is not None:
            if op.kind in HASHED and not op.request_id:
                op.request_id = find_hashed(world.history, op)
            check_access(world.history, op)
            self.login.answered(op)
        failed = isinstance(answer, tuple)
        text = f"{op.kind}: {answer[1]}" if failed else op.kind
        self.answers[text] = self.answers.get(text, 0) + 1
        if op.kind in UNCHECKED:
            pass
        elif op.kind == "renew":
            if not failed:
                world.lease_checker.renewed(
                    op.request, op.began_s, answer / (1 + world.shape.drift)
                )
        else:
            world.history.answered(op)
            self._learn(op)
        # Tries of an administrator have one password, by which the entry may be another one's.
        if failed and answer[1] == NEVER and op.request_id and op.kind not in HASHED:
            world.never.append(op)
        if op.kind == "lease_grant" and not failed:
            self._leases.append(answer.ID)
            promised_s = answer.TTL / (1 + world.shape.drift)
            world.lease_checker.renewed(answer.ID, op.began_s, promised_s)
        if op is self._current:
            self._current = None
            if failed and "not found" not in answer[1] and "compacted" not in answer[1]:
                self._at = self.rng.choice(list(world.members.values()))
            world.clock.after(self.think_s(), self.next)

    def _learn(self, op: Operation) -> None:
        """What a client with optimistic locking keeps."""
        if isinstance(op.answer, tuple):
            return
        found = []
        if op.kind == "range":
            found = list(op.answer.kvs)
        elif op.kind == "txn":
            for each in op.answer.responses:
                found += each.response_range.kvs
            if op.answer.succeeded and len(op.request.success) == 1:
                put = op.request.success[0].request_put
                if put.key:
                    self._seen[put.key] = op.answer.header.revision
                self._seen.pop(op.request.success[0].request_delete_range.key, None)
        for kv in found:
            self._seen[kv.key] = kv.mod_revision

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

    def _stale_get(self) -> tuple[str, Any, Any]:
        return "range", RangeRequest(key=self._key(), serializable=True), RangeResponse

    def _page(self) -> tuple[str, Any, Any]:
        """All keys, a page at a time, as of the revision of the first page."""
        request = RangeRequest(key=b"k", range_end=b"l", limit=self.rng.choice((0, 2, 5)))
        if self._seen and self.rng.random() < 0.3:
            request.key = self.rng.choice(sorted(self._seen)) + b"\0"
            request.revision = max(self._seen.values())
        return "range", request, RangeResponse

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

    def _guarded(self, key: bytes, revision: int) -> Any:
        """A transaction that goes on if the key is as it was seen, and else looks at it."""
        request = TxnRequest()
        request.compare.add(key=key, target=RpcCompare.MOD, mod_revision=revision)
        request.failure.add().request_range.key = key
        return request

    def _create(self) -> tuple[str, Any, Any]:
        key = self._key()
        request = self._guarded(key, 0)
        request.success.add().request_put.CopyFrom(PutRequest(key=key, value=self._value()))
        return "txn", request, TxnResponse

    def _update(self) -> tuple[str, Any, Any]:
        if not self._seen:
            return self._create()
        key = self.rng.choice(sorted(self._seen))
        request = self._guarded(key, self._seen[key])
        request.success.add().request_put.CopyFrom(PutRequest(key=key, value=self._value()))
        return "txn", request, TxnResponse

    def _remove(self) -> tuple[str, Any, Any]:
        if not self._seen:
            return self._create()
        key = self.rng.choice(sorted(self._seen))
        request = self._guarded(key, self._seen[key])
        request.success.add().request_delete_range.key = key
        return "txn", request, TxnResponse

    def _compare_and_set(self) -> tuple[str, Any, Any]:
        return self._update()

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

    def _authenticate(self) -> tuple[str, Any, Any]:
        assert self.login is not None
        request = AuthenticateRequest(name=self.login.user, password=self.login.password())
        return "authenticate", request, AuthenticateResponse

    def _may_watch(self) -> tuple[str, Any, Any]:
        first, end = self._span()
        return "may_watch", WatchCreateRequest(key=first, range_end=end), WatchResponse

    # For who looks after a cluster

    def _defragment(self) -> tuple[str, Any, Any]:
        return "defragment", DefragmentRequest(), DefragmentResponse

    def _compact_all(self) -> tuple[str, Any, Any]:
        revision = self.world.history.model.revision
        return "compact", CompactionRequest(revision=revision, physical=True), CompactionResponse

    def _disarm(self) -> tuple[str, Any, Any]:
        id = min(self.world.history.model.nospace, default=0)
        request = AlarmRequest(action=AlarmRequest.DEACTIVATE, memberID=id, alarm=NOSPACE)
        return "alarm", request, AlarmResponse
