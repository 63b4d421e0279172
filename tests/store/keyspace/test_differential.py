"""The same random requests to a real etcd 3.5.1 and to the store: equal answers, errors, hashes.

More: PYETCD_DIFFERENTIAL=seed:calls,seed:calls pytest tests/store/keyspace/test_differential.py

Left out are requests on which etcd 3.5.1 panics (an unknown sort target; ignore_value on a key that
the same transaction deletes), HashKV at the compact revision (an error before 3.5.10), and sorting
more than six keys, because etcd's sort is stable only up to there.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from pyetcd.proto import rpc_pb2 as pb
from pyetcd.proto.errors import EtcdError
from pyetcd.server.api import checks
from pyetcd.store.backend import Backend
from pyetcd.store.compact import CompactionJob, apply_compaction, hash_kv
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.txn import apply_delete_range, apply_put, apply_range, apply_txn

Call = Callable[[str, Message], Message]
Answer = Message | tuple[int, str]

KEYS = (b"a", b"ab", b"b", b"\x00", b"k\xff", b"\xff\xff")
ENDS = (b"", b"", b"", b"\x00", b"b", b"c", b"\xff", b"k", b"a")
VALUES = (b"", b"1", b"2", b"x" * 300, b"\x00\xff")
LEASES = (1, 7, -5)
TXN_OPS_MAX = 128

KV = "/etcdserverpb.KV/"


class Requests:
    """Random requests; about one in ten is refused."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        # etcd's sort is stable only with few keys; seeds from 100 on have many, sorted by key.
        self.many = seed >= 100
        self.keys = KEYS + tuple(b"n%02d" % number for number in range(60 * self.many))
        self.revision = 1
        self.compacted = -1

    def maybe(self, chance: float) -> bool:
        return self.rng.random() < chance

    def key(self) -> bytes:
        return b"" if self.maybe(0.01) else self.rng.choice(self.keys)

    def some_revision(self) -> int:
        pick = self.rng.random()
        if pick < 0.6:
            return 0
        if pick < 0.65:
            return self.rng.choice((-1, -7, self.revision + 1, self.revision + 50, 1))
        return self.rng.randint(max(self.compacted - 1, 0), self.revision)

    def put(self, *, ignores: bool = True) -> pb.PutRequest:
        request = pb.PutRequest(key=self.key(), prev_kv=self.maybe(0.3))
        if ignores and self.maybe(0.15):
            request.ignore_value = True
        if ignores and self.maybe(0.15):
            request.ignore_lease = True
        if not request.ignore_value or self.maybe(0.05):
            request.value = self.rng.choice(VALUES)
        if not request.ignore_lease or self.maybe(0.05):
            request.lease = self.rng.choice((0, 0, 0, *LEASES, 99 if self.maybe(0.2) else 0))
        return request

    def range(self, *, nested: bool = False) -> pb.RangeRequest:
        request = pb.RangeRequest(key=self.key(), range_end=self.rng.choice(ENDS))
        request.revision = self.some_revision()
        if self.maybe(0.3):
            request.limit = self.rng.choice((1, 2, 3, 5, 6, 20, -1, 2**63 - 1))
        if self.maybe(0.4):
            request.sort_order = self.rng.choice((0, 1, 2, 2, 1 if nested else 5))
            request.sort_target = 0 if self.many else self.rng.choice((0, 1, 2, 3, 4))
        request.serializable = self.maybe(0.1)
        request.keys_only = self.maybe(0.2)
        request.count_only = self.maybe(0.1)
        for bound in ("mod", "create"):
            for side in ("min", "max"):
                if self.maybe(0.1):
                    value = self.rng.choice((-1, self.rng.randint(0, self.revision)))
                    setattr(request, f"{side}_{bound}_revision", value)
        return request

    def delete_range(self) -> pb.DeleteRangeRequest:
        return pb.DeleteRangeRequest(
            key=self.key(), range_end=self.rng.choice(ENDS), prev_kv=self.maybe(0.4)
        )

    def compare(self) -> pb.Compare:
        compare = pb.Compare(
            result=self.rng.choice((0, 0, 1, 2, 3, 9 if self.maybe(0.1) else 0)),
            target=self.rng.choice((0, 1, 2, 3, 4, 9 if self.maybe(0.1) else 0)),
            key=self.key(),
        )
        if self.maybe(0.3):
            compare.range_end = self.rng.choice(ENDS)
        union = self.rng.choice(("version", "create_revision", "mod_revision", "value", "lease"))
        if self.maybe(0.8):
            names = ("version", "create_revision", "mod_revision", "value", "lease")
            union = names[compare.target] if compare.target < 5 else union
        if union == "value":
            compare.value = self.rng.choice(VALUES)
        elif union == "lease":
            compare.lease = self.rng.choice((0, *LEASES))
        elif union == "version":
            compare.version = self.rng.choice((0, 0, 1, 2, 3))
        elif self.maybe(0.9):
            setattr(compare, union, self.rng.choice((0, self.rng.randint(0, self.revision + 1))))
        return compare

    def txn(self, depth: int = 0) -> pb.TxnRequest:
        request = pb.TxnRequest(compare=[self.compare() for _ in range(self.rng.choice((0, 1, 2)))])
        for branch in (request.success, request.failure):
            readonly = self.maybe(0.3)
            for _ in range(self.rng.choice((0, 1, 2, 3, 4))):
                pick = self.rng.random()
                op = branch.add()
                if readonly or pick < 0.3:
                    op.request_range.CopyFrom(self.range(nested=True))
                    # Most of them would refuse the whole transaction.
                    if self.maybe(0.8):
                        op.request_range.revision = 0
                elif pick < 0.65:
                    op.request_put.CopyFrom(self.put(ignores=self.maybe(0.3)))
                elif pick < 0.8:
                    op.request_delete_range.CopyFrom(self.delete_range())
                elif pick < 0.99 and depth < 2:
                    op.request_txn.CopyFrom(self.txn(depth + 1))
        return request


class Ours:
    """The store behind the API's checks, as a server calls it."""

    def __init__(self, path: Path, lessor: Any) -> None:
        self.path = path
        self.lessor = lessor
        self.backend = Backend.open(str(path), create=True)
        self.keyspace = Keyspace(self.backend)
        self.job = CompactionJob(self.keyspace)

    def restart(self) -> None:
        self.backend.commit()
        self.backend.close()
        self.backend = Backend.open(str(self.path), create=False)
        self.keyspace = Keyspace(self.backend)
        self.job = CompactionJob(self.keyspace)

    def call(self, name: str, request: Message) -> Answer:
        try:
            return self._apply(name, request)
        except EtcdError as error:
            return int(error.code), error.text

    def _apply(self, name: str, request: Message) -> Message:
        keyspace = self.keyspace
        if isinstance(request, pb.PutRequest):
            _require(checks.check_put(request))
            return apply_put(keyspace, self.lessor, request)
        if isinstance(request, pb.RangeRequest):
            # 3.6 refuses an unknown order, 3.5 ignores it.
            known = pb.RangeRequest()
            known.CopyFrom(request)
            known.sort_order = pb.RangeRequest.NONE
            _require(checks.check_range(known))
            return apply_range(keyspace, request)
        if isinstance(request, pb.DeleteRangeRequest):
            _require(checks.check_delete_range(request))
            return apply_delete_range(keyspace, self.lessor, request)
        if isinstance(request, pb.TxnRequest):
            _require(checks.check_txn(request, TXN_OPS_MAX))
            return apply_txn(keyspace, self.lessor, request)
        if isinstance(request, pb.CompactionRequest):
            return apply_compaction(keyspace, request)
        assert isinstance(request, pb.HashKVRequest)
        result = hash_kv(keyspace, request.revision)
        response = pb.HashKVResponse(hash=result.hash, compact_revision=result.compact_revision)
        response.header.revision = result.current_revision
        return response

    def revoke(self, id: int) -> None:
        txn = self.keyspace.begin(self.lessor)
        for key in sorted(self.lessor.keys[id]):
            txn.delete_range(key)
        txn.end()
        del self.lessor.keys[id]


def _require(error: EtcdError | None) -> None:
    if error is not None:
        raise error


def _theirs(etcd: Call, path: str, request: Message) -> Answer:
    try:
        answer: Any = etcd(path, request)
    except grpc.RpcError as error:
        return error.code().value[0], error.details()
    for field in ("cluster_id", "member_id", "raft_term"):
        answer.header.ClearField(field)
    return answer


class Twins:
    """One request to both, and a failure that prints it."""

    def __init__(self, etcd: Call, ours: Ours, requests: Requests) -> None:
        self.etcd = etcd
        self.ours = ours
        self.requests = requests
        self.refused = 0

    def call(self, path: str, request: Message) -> Answer:
        theirs = _theirs(self.etcd, path, request)
        mine = self.ours.call(path, request)
        assert mine == theirs, f"{path}\n{request}\nours:\n{mine}\ntheirs:\n{theirs}"
        self.requests.revision = self.ours.keyspace.revision
        self.requests.compacted = self.ours.keyspace.compact_revision
        self.refused += isinstance(mine, tuple)
        return mine

    def step(self) -> None:
        requests = self.requests
        pick = requests.rng.random()
        if pick < 0.3:
            self.call(KV + "Put", requests.put())
        elif pick < 0.5:
            self.call(KV + "Range", requests.range())
        elif pick < 0.58:
            self.call(KV + "DeleteRange", requests.delete_range())
        elif pick < 0.85:
            request = requests.txn()
            if not _may_panic(request):
                self.call(KV + "Txn", request)
        elif pick < 0.88:
            self.compact()
        elif pick < 0.9:
            self.revoke()
        elif pick < 0.91:
            self.ours.restart()
        elif pick < 0.95:
            self.ours.job.step()
        else:
            self.hash()

    def compact(self) -> None:
        rng = self.requests.rng
        revision = max(self.requests.compacted, 0) + rng.choice((0, 1, 1, 5, 20, -3))
        if rng.random() < 0.3:
            revision = self.requests.revision + rng.choice((0, 0, -1, 1))
        # Physical, so that the hash of a real etcd is settled.
        self.call(KV + "Compact", pb.CompactionRequest(revision=revision, physical=True))

    def hash(self) -> None:
        revision = self.requests.some_revision()
        if revision != self.requests.compacted:
            self.call("/etcdserverpb.Maintenance/HashKV", pb.HashKVRequest(revision=revision))

    def grant(self, id: int) -> None:
        self.etcd("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(ID=id, TTL=100_000))
        self.ours.lessor.grant(id)

    def revoke(self) -> None:
        id = self.requests.rng.choice(LEASES)
        self.etcd("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=id))
        self.ours.revoke(id)
        self.grant(id)

    def compare_all(self) -> None:
        """Every key at every revision, and every hash."""
        for revision in range(max(self.ours.keyspace.compact_revision, 1), self.requests.revision):
            everything = pb.RangeRequest(key=b"\x00", range_end=b"\x00", revision=revision)
            self.call(KV + "Range", everything)
            if revision > self.ours.keyspace.compact_revision:
                request = pb.HashKVRequest(revision=revision)
                self.call("/etcdserverpb.Maintenance/HashKV", request)


def _may_panic(request: pb.TxnRequest) -> bool:
    """A delete "from key" is no duplicate of a put, so the put may find its key gone."""
    text = str(request)
    return "ignore_" in text and 'range_end: "\\000"' in text


def _runs() -> list[tuple[int, int]]:
    runs = os.environ.get("PYETCD_DIFFERENTIAL", "1:300,100:300")
    return [(int(seed), int(calls)) for seed, calls in (run.split(":") for run in runs.split(","))]


@pytest.mark.parametrize(("seed", "calls"), _runs())
def test_same_answers_as_etcd(
    seed: int, calls: int, etcd: Call, lessor: Any, tmp_path: Path
) -> None:
    ours = Ours(tmp_path / "kv.db", lessor)
    twins = Twins(etcd, ours, Requests(seed))
    for id in LEASES:
        twins.grant(id)
    for _ in range(calls):
        twins.step()
    twins.compare_all()
    while ours.job.step():
        pass
    twins.compare_all()
    assert twins.refused < calls / 2, "most requests were refused: nothing was compared"
    assert ours.keyspace.revision > calls / 10
    ours.backend.close()
