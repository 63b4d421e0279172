"""The load of etcd's functional tester, and its checkers.

Stressers: writes of 100 bytes and of 32 KiB, reads of one key and of ranges, deletes of one key and
of ranges, transactions that write and delete, leases with a long and with a short life. Runners: a
lock racer, an election and a watcher. Outcomes of failed calls are unknown and nothing follows from
them. Checkers: KV_HASH, LEASE_EXPIRE, SHORT_TTL_LEASE_EXPIRE, RUNNER.
"""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from queue import SimpleQueue

import grpc
from cluster import Api, Cluster, Node

from pyetcd.proto import election_pb2, lock_pb2
from pyetcd.proto import rpc_pb2 as rpc

KEYS = 2000
TXN_KEYS = 100
TXN_OPS = 10
KEY_BYTES = 100
LARGE_BYTES = 32 * 1024 + 1
CALL_S = 2.0
PAUSE_S = 0.01
LONG_TTL_S = 60
SHORT_TTL_S = 2
LEASES_MAX = 40  # long ones at a time; more are revoked
LEASE_KEYS = 3
RUNNER_TTL_S = 5
ROUND_KEYS = 20
EXPIRED_S_MAX = 15.0
CHECK_S = 10.0


class Worker(threading.Thread):
    """Does its round again and again, through one member after the other."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        super().__init__(daemon=True)
        self.faults: list[str] = []
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.rng = random.Random(seed)
        self.halt = threading.Event()
        self.go = threading.Event()
        self.is_idle = threading.Event()
        self._apis = [Api(node.endpoint) for node in cluster.nodes]

    @property
    def api(self) -> Api:
        return self.rng.choice(self._apis)

    def run(self) -> None:
        while not self.halt.is_set():
            if not self.go.is_set():
                self.is_idle.set()
                self.go.wait(0.05)
                continue
            self.is_idle.clear()
            try:
                self.round()
            except grpc.RpcError as error:
                self.failed[error.code().name] += 1
                time.sleep(0.02)
            time.sleep(PAUSE_S)
        for api in self._apis:
            api.close()

    def round(self) -> None:
        raise NotImplementedError

    def fault(self, text: str) -> None:
        self.faults = [*self.faults[:9], f"{type(self).__name__}: {text}"]


class KeyStresser(Worker):
    """The mix of functional.yaml, with more large writes: there are fewer writes in all."""

    def round(self) -> None:
        kinds: dict[Callable[[], object], float] = {
            self._small: 35,
            self._large: 1,
            self._get: 7,
            self._get_range: 7,
            self._remove: 7,
            self._remove_range: 7,
            self._txn: 35,
        }
        action = self.rng.choices(list(kinds), list(kinds.values()))[0]
        action()
        self.done[getattr(action, "__name__", "")] += 1

    def _key(self, keys: int = KEYS) -> bytes:
        return b"foo%016x" % self.rng.randrange(keys)

    def _small(self) -> object:
        request = rpc.PutRequest(key=self._key(), value=self.rng.randbytes(KEY_BYTES))
        return self.api.put(request, timeout=CALL_S)

    def _large(self) -> object:
        request = rpc.PutRequest(key=self._key(), value=self.rng.randbytes(LARGE_BYTES))
        return self.api.put(request, timeout=CALL_S)

    def _get(self) -> object:
        return self.api.range(rpc.RangeRequest(key=self._key()), timeout=CALL_S)

    def _get_range(self) -> object:
        start = self.rng.randrange(KEYS)
        request = rpc.RangeRequest(key=b"foo%016x" % start, range_end=b"foo%016x" % (start + 100))
        return self.api.range(request, timeout=CALL_S)

    def _remove(self) -> object:
        return self.api.delete(rpc.DeleteRangeRequest(key=self._key()), timeout=CALL_S)

    def _remove_range(self) -> object:
        start = self.rng.randrange(KEYS)
        request = rpc.DeleteRangeRequest(
            key=b"foo%016x" % start, range_end=b"foo%016x" % (start + 100)
        )
        return self.api.delete(request, timeout=CALL_S)

    def _txn(self) -> object:
        """For each key: delete it if it is there, else put it."""
        request = rpc.TxnRequest()
        key = b"txn%016x" % self.rng.randrange(TXN_KEYS)
        compare = request.compare.add(key=key, version=0)
        compare.target, compare.result = rpc.Compare.VERSION, rpc.Compare.GREATER
        for number in range(TXN_OPS):
            each = key + b"/%d" % number if number else key
            request.success.add().request_delete_range.CopyFrom(rpc.DeleteRangeRequest(key=each))
            request.failure.add().request_put.CopyFrom(rpc.PutRequest(key=each, value=key))
        return self.api.txn(request, timeout=CALL_S)


class LeaseStresser(Worker):
    """Long leases are kept alive, some are revoked; short ones are left to expire."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        super().__init__(cluster, seed)
        self.alive: dict[int, float] = {}  # until when at least, unless renewed again
        self.revoked: set[int] = set()
        self.short: set[int] = set()

    def round(self) -> None:
        if len(self.alive) < LEASES_MAX and self.rng.random() < 0.3:
            self._grant(LONG_TTL_S)
        elif self.rng.random() < 0.2:
            self._grant(SHORT_TTL_S)
        elif len(self.alive) > LEASES_MAX // 2 and self.rng.random() < 0.1:
            lease = self.rng.choice(list(self.alive))
            del self.alive[lease]
            self.api.revoke(rpc.LeaseRevokeRequest(ID=lease), timeout=CALL_S)
            self.revoked.add(lease)
        elif self.alive:
            self._keep(min(self.alive, key=lambda lease: self.alive[lease]))
        self.done["lease"] += 1

    def _grant(self, ttl_s: int) -> None:
        began_s = time.monotonic()
        lease = self.api.grant(rpc.LeaseGrantRequest(TTL=ttl_s), timeout=CALL_S).ID
        if ttl_s == SHORT_TTL_S:
            self.short.add(lease)
        for number in range(LEASE_KEYS):
            request = rpc.PutRequest(key=b"lease/%x/%d" % (lease, number), value=b"", lease=lease)
            self.api.put(request, timeout=CALL_S)
        if ttl_s == LONG_TTL_S:
            self.alive[lease] = began_s + ttl_s

    def _keep(self, lease: int) -> None:
        began_s = time.monotonic()
        requests: SimpleQueue[rpc.LeaseKeepAliveRequest | None] = SimpleQueue()
        requests.put(rpc.LeaseKeepAliveRequest(ID=lease))
        stream = self.api.keep_alive(iter(requests.get, None), timeout=CALL_S)
        try:
            answer = next(stream, None)
        finally:
            requests.put(None)
            stream.cancel()
        if answer is None:
            return
        if answer.TTL > 0:
            self.alive[lease] = began_s + LONG_TTL_S
        else:
            until_s = self.alive.pop(lease)
            if began_s < until_s:
                self.fault(f"lease {lease:x} ended {until_s - began_s:.1f} s early")


class LockRacer(Worker):
    """Counts in a key that only the holder may write; a number given twice is a fault."""

    given: set[int]  # shared by all racers

    def round(self) -> None:
        api = self.api
        lock, unlock = lock_calls(api)
        lease = api.grant(rpc.LeaseGrantRequest(TTL=RUNNER_TTL_S), timeout=CALL_S).ID
        key = lock(lock_pb2.LockRequest(name=b"lock", lease=lease), timeout=2 * CALL_S).key
        kvs = api.range(rpc.RangeRequest(key=b"counted"), timeout=CALL_S).kvs
        number = int(kvs[0].value) + 1 if kvs else 1
        if fenced(api, key, b"counted", b"%d" % number, revision=0) is not None:
            if number in self.given:
                self.fault(f"two held the lock for {number}")
            self.given.add(number)
            self.done["lock"] += 1
        unlock(lock_pb2.UnlockRequest(key=key), timeout=CALL_S)
        api.revoke(rpc.LeaseRevokeRequest(ID=lease), timeout=CALL_S)


class Candidate(Worker):
    """Leaders follow each other in the order of their keys, and all are told of the same one."""

    def round(self) -> None:
        api = self.api
        campaign, leader_of, resign = election_calls(api)
        lease = api.grant(rpc.LeaseGrantRequest(TTL=RUNNER_TTL_S), timeout=CALL_S).ID
        value = self.rng.randbytes(8)
        request = election_pb2.CampaignRequest(name=b"election", lease=lease, value=value)
        mine = campaign(request, timeout=2 * CALL_S).leader
        told = leader_of(election_pb2.LeaderRequest(name=b"election"), timeout=CALL_S).kv
        if told.create_revision < mine.rev:
            self.fault(f"{mine.rev} was elected, {told.create_revision} is still said to lead")
        if told.create_revision == mine.rev and told.value != value:
            self.fault(f"the leader of {mine.rev} is said to be another")
        before = fenced(api, mine.key, b"elected", b"%d" % mine.rev, revision=mine.rev)
        if before is not None:
            if before > mine.rev:
                self.fault(f"{before} led before {mine.rev}")
            self.done["election"] += 1
        resign(election_pb2.ResignRequest(leader=mine), timeout=CALL_S)
        api.revoke(rpc.LeaseRevokeRequest(ID=lease), timeout=CALL_S)


class RoundWatcher(Worker):
    """Puts some keys and watches from the first on: all of them, once, in order."""

    rounds = 0

    def round(self) -> None:
        self.rounds += 1
        prefix = b"watch/%d/" % self.rounds
        acks: dict[bytes, int] = {}
        for number in range(ROUND_KEYS):
            key = prefix + b"%d" % number
            with contextlib.suppress(grpc.RpcError):
                put = self.api.put(rpc.PutRequest(key=key, value=b""), timeout=CALL_S)
                acks[key] = put.header.revision
        if not acks:
            return
        request = rpc.WatchRequest()
        create = request.create_request
        create.key, create.range_end = prefix, prefix[:-1] + b"0"
        create.start_revision = min(acks.values())
        seen = self._watch(request, max(acks.values()))
        revisions = [revision for _, revision in seen]
        if revisions != sorted(set(revisions)):
            self.fault(f"not in order, or twice: {seen}")
        last = max(revisions, default=0)
        missed = [item for item in acks.items() if item[1] <= last and item not in seen]
        if missed:
            self.fault(f"missed {missed} in {seen}")
        self.done["watch"] += len(revisions)

    def _watch(self, request: rpc.WatchRequest, last: int) -> list[tuple[bytes, int]]:
        """What came until `last`, or until the member was gone."""
        requests: SimpleQueue[rpc.WatchRequest | None] = SimpleQueue()
        requests.put(request)
        stream = self.api.watch(iter(requests.get, None), timeout=CALL_S)
        seen: list[tuple[bytes, int]] = []
        try:
            for answer in stream:
                seen += [(event.kv.key, event.kv.mod_revision) for event in answer.events]
                if answer.canceled or (seen and seen[-1][1] >= last):
                    break
        except grpc.RpcError as error:
            self.failed[error.code().name] += 1
        finally:
            requests.put(None)
            stream.cancel()
        return seen


def fenced(api: Api, owner: bytes, key: bytes, value: bytes, *, revision: int) -> int | None:
    """Put if the owner's key is still there (of this revision); the number that was there."""
    request = rpc.TxnRequest()
    compare = request.compare.add(key=owner, create_revision=revision)
    compare.target = rpc.Compare.CREATE
    compare.result = rpc.Compare.EQUAL if revision else rpc.Compare.GREATER
    put = rpc.PutRequest(key=key, value=value, prev_kv=True)
    request.success.add().request_put.CopyFrom(put)
    answer = api.txn(request, timeout=CALL_S)
    if not answer.succeeded:
        return None
    before = answer.responses[0].response_put.prev_kv.value
    return int(before) if before else 0


def lock_calls(api: Api):
    path = "/v3lockpb.Lock"
    return (
        api.unary(f"{path}/Lock", lock_pb2.LockRequest, lock_pb2.LockResponse),
        api.unary(f"{path}/Unlock", lock_pb2.UnlockRequest, lock_pb2.UnlockResponse),
    )


def election_calls(api: Api):
    path = "/v3electionpb.Election"
    return tuple(
        api.unary(
            f"{path}/{name}",
            getattr(election_pb2, f"{name}Request"),
            getattr(election_pb2, f"{name}Response"),
        )
        for name in ("Campaign", "Leader", "Resign")
    )


class Stress:
    """All of them together: started, paused, ended."""

    def __init__(self, cluster: Cluster, seed: int, clients: int = 8) -> None:
        racers = [LockRacer(cluster, seed + 200 + i) for i in range(3)]
        LockRacer.given = set()
        self.leases = LeaseStresser(cluster, seed + 100)
        self.keys = [KeyStresser(cluster, seed + i) for i in range(clients)]
        runners = [*racers, *(Candidate(cluster, seed + 300 + i) for i in range(2))]
        self.workers: list[Worker] = [
            *self.keys,
            self.leases,
            *runners,
            RoundWatcher(cluster, seed + 400),
        ]
        for worker in self.workers:
            worker.start()

    def start(self) -> None:
        for worker in self.workers:
            worker.is_idle.clear()
            worker.go.set()

    def pause(self) -> None:
        for worker in self.workers:
            worker.go.clear()
        for worker in self.workers:
            assert worker.is_idle.wait(60), f"{type(worker).__name__} hangs"

    def close(self) -> None:
        for worker in self.workers:
            worker.halt.set()
            worker.go.clear()
        for worker in self.workers:
            worker.join(60)

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        done: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        for worker in self.workers:
            done += worker.done
            failed += worker.failed
        return done, failed


def check_hash(nodes: list[Node]) -> list[str]:
    """KV_HASH; load may go on meanwhile, compactions may come between."""
    deadline_s = time.monotonic() + CHECK_S
    found: set[tuple[int, int]] = set()
    error = ""
    while time.monotonic() < deadline_s:
        try:
            at = nodes[0].api.range(rpc.RangeRequest(key=b"h"), timeout=CALL_S).header.revision
            found = set()
            for node in nodes:
                node.api.range(rpc.RangeRequest(key=b"h"), timeout=CALL_S)  # has applied it
                hashed = node.api.hash_kv(rpc.HashKVRequest(revision=at), timeout=CHECK_S)
                found.add((hashed.hash, hashed.compact_revision))
            if len(found) == 1:
                return []
            error = f"{sorted(found)} at revision {at}"
            if len({compacted for _, compacted in found}) == 1:
                break  # not for a compaction between
        except grpc.RpcError as failure:
            error = f"{failure.code().name}: {failure.details()}"
        time.sleep(0.1)
    return [f"KV_HASH: {error}"]


def check_leases(nodes: list[Node], leases: LeaseStresser) -> list[str]:
    """LEASE_EXPIRE and SHORT_TTL_LEASE_EXPIRE, on every member."""
    deadline_s = time.monotonic() + EXPIRED_S_MAX
    faults: list[str] = []
    while time.monotonic() < deadline_s:
        faults = []
        for node in nodes:
            try:
                faults += check_leases_of(node, leases)
            except grpc.RpcError as error:
                faults.append(f"leases of {node.name}: {error.code().name} {error.details()}")
        if not faults:
            leases.short.clear()
            leases.revoked.clear()
            break
        time.sleep(0.2)
    return faults


def check_leases_of(node: Node, leases: LeaseStresser) -> list[str]:
    node.api.range(rpc.RangeRequest(key=b"h"), timeout=CALL_S)
    there = {each.ID for each in node.api.leases(rpc.LeaseLeasesRequest(), timeout=CALL_S).leases}
    every = rpc.RangeRequest(key=b"lease/", range_end=b"lease0", keys_only=True, serializable=True)
    keys = Counter(
        int(kv.key.split(b"/")[1], 16) for kv in node.api.range(every, timeout=CALL_S).kvs
    )
    now_s = time.monotonic()
    faults = [
        f"LEASE_EXPIRE: {node.name} has lost lease {lease:x} or its keys"
        for lease, until_s in leases.alive.items()
        if until_s > now_s and (lease not in there or keys[lease] != LEASE_KEYS)
    ]
    for name, gone in (("LEASE_EXPIRE", leases.revoked), ("SHORT_TTL", leases.short)):
        left = [f"{lease:x}" for lease in gone if lease in there or keys[lease]]
        if left:
            faults.append(f"{name}: {node.name} still has {left[:5]}")
    return faults
