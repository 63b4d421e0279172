r"""The same random KV, txn and compact calls to real etcd 3.5.1 and to pyetcd: the same answers.

A longer run, by seeds and calls:

    PYETCD_DIFFERENTIAL_SEEDS=1,2,3 PYETCD_DIFFERENTIAL_CALLS=20000 \
        python -m pytest tests/e2e/test_differential.py
"""

import os
import random

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as rpc

CALLS = int(os.environ.get("PYETCD_DIFFERENTIAL_CALLS", "2000"))
SEEDS = [int(seed) for seed in os.environ.get("PYETCD_DIFFERENTIAL_SEEDS", "1").split(",")]
KEYS = [b"a", b"b", b"c", b"d", b"a/1", b"a/2", b"b/1", b"\xff", b"\x00k", b""]
ENDS = [b"", b"\x00", b"b", b"c", b"z", b"a", b"\xff\xff"]
PATHS = {
    rpc.RangeRequest: ("Range", rpc.RangeResponse),
    rpc.PutRequest: ("Put", rpc.PutResponse),
    rpc.DeleteRangeRequest: ("DeleteRange", rpc.DeleteRangeResponse),
    rpc.TxnRequest: ("Txn", rpc.TxnResponse),
    rpc.CompactionRequest: ("Compact", rpc.CompactionResponse),
}


class Calls:
    """Draws requests; remembers how far the revision has come so that revisions are near it."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.revision = 1

    def revision_near(self):
        choice = self.random.random()
        if choice < 0.6:
            return 0
        if choice < 0.65:
            return -self.random.randint(1, 3)
        return max(0, self.revision + self.random.randint(-12, 2))

    def range(self):
        draw = self.random
        return rpc.RangeRequest(
            key=draw.choice(KEYS),
            range_end=draw.choice(ENDS),
            limit=draw.choice([0, 0, 0, 1, 2, 3, -1]),
            revision=self.revision_near(),
            sort_order=draw.choice([0, 0, 1, 2]),
            sort_target=draw.randrange(5),
            serializable=draw.random() < 0.2,
            keys_only=draw.random() < 0.2,
            count_only=draw.random() < 0.15,
            min_mod_revision=self.bound(),
            max_mod_revision=self.bound(),
            min_create_revision=self.bound(),
            max_create_revision=self.bound(),
        )

    def bound(self):
        return self.random.choice([0] * 9 + [max(0, self.revision - self.random.randint(0, 9))])

    def put(self):
        draw = self.random
        return rpc.PutRequest(
            key=draw.choice(KEYS),
            value=b"v%d" % draw.randrange(5) if draw.random() < 0.8 else b"",
            prev_kv=draw.random() < 0.3,
            ignore_value=draw.random() < 0.1,
            ignore_lease=draw.random() < 0.1,
            lease=draw.choice([0] * 20 + [77]),
        )

    def delete(self):
        draw = self.random
        return rpc.DeleteRangeRequest(
            key=draw.choice(KEYS), range_end=draw.choice(ENDS), prev_kv=draw.random() < 0.3
        )

    def compare(self):
        draw = self.random
        target = draw.randrange(5)
        made = rpc.Compare(result=draw.randrange(4), target=target, key=draw.choice(KEYS[:-1]))
        if draw.random() < 0.15:
            made.range_end = draw.choice(ENDS)
        near = max(0, self.revision - draw.randint(0, 9))
        if target == 0:
            made.version = draw.randrange(4)
        elif target == 1:
            made.create_revision = draw.choice([0, near])
        elif target == 2:
            made.mod_revision = draw.choice([0, near])
        elif target == 3:
            made.value = b"v%d" % draw.randrange(5)
        else:
            made.lease = 0
        return made

    def op(self, depth):
        choice = self.random.random()
        if choice < 0.35:
            return rpc.RequestOp(request_put=self.put())
        if choice < 0.6:
            return rpc.RequestOp(request_range=self.range())
        if choice < 0.8:
            return rpc.RequestOp(request_delete_range=self.delete())
        if choice < 0.98 and depth < 2:
            return rpc.RequestOp(request_txn=self.txn(depth + 1))
        return rpc.RequestOp() if choice > 0.995 else rpc.RequestOp(request_put=self.put())

    def txn(self, depth=0):
        size = self.random.randrange
        return rpc.TxnRequest(
            compare=[self.compare() for _ in range(size(3))],
            success=[self.op(depth) for _ in range(size(4))],
            failure=[self.op(depth) for _ in range(size(3))],
        )

    def next(self):
        choice = self.random.random()
        if choice < 0.3:
            return self.put()
        if choice < 0.55:
            return self.range()
        if choice < 0.65:
            return self.delete()
        if choice < 0.98:
            return survivable(self.txn())
        return rpc.CompactionRequest(
            revision=max(-1, self.revision + self.random.randint(-30, 3)),
            physical=self.random.random() < 0.5,
        )


def ops_of(txn):
    for op in (*txn.success, *txn.failure):
        yield op
        if op.HasField("request_txn"):
            yield from ops_of(op.request_txn)


def survivable(txn):
    """etcd 3.5.1 panics on a put that keeps the value of a key deleted earlier in the transaction;
    pyetcd refuses it (tests/store/test_txn.py). The comparison goes on without."""
    ops = list(ops_of(txn))
    if any(op.HasField("request_delete_range") for op in ops):
        for op in ops:
            if op.HasField("request_put"):
                op.request_put.ignore_value = op.request_put.ignore_lease = False
    return txn


class Server:
    """One endpoint: a call in, what can be compared out."""

    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(endpoint, [("grpc.enable_http_proxy", 0)])
        self.calls = {
            request: self.channel.unary_unary(
                f"/etcdserverpb.KV/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for request, (name, response) in PATHS.items()
        }
        self.hash_kv_call = self.channel.unary_unary(
            "/etcdserverpb.Maintenance/HashKV",
            request_serializer=rpc.HashKVRequest.SerializeToString,
            response_deserializer=rpc.HashKVResponse.FromString,
        )

    def call(self, request):
        return self._blank(self.calls[type(request)], request)

    def hash_kv(self, revision=0):
        return self._blank(self.hash_kv_call, rpc.HashKVRequest(revision=revision))

    def _blank(self, call, request):
        try:
            answer = call(request, timeout=10)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        answer.header.cluster_id = answer.header.member_id = answer.header.raft_term = 0
        if isinstance(answer, rpc.HashKVResponse):
            answer.hash_revision = 0  # came with etcd 3.6
        return answer


@pytest.mark.parametrize("seed", SEEDS)
def test_same_calls_same_answers(machine, seed):
    servers = [Server(machine.single(program).endpoint) for program in ("etcd", "pyetcd")]
    etcd, pyetcd = servers
    calls = Calls(seed)
    errors = 0
    for number in range(CALLS):
        request = calls.next()
        expected, got = etcd.call(request), pyetcd.call(request)
        assert got == expected, f"seed {seed} call {number}: {request}"
        if isinstance(expected, tuple):
            errors += 1
        else:
            calls.revision = max(calls.revision, expected.header.revision)
        if number % 100 == 99:
            compacted = etcd.hash_kv().compact_revision
            for revision in (0, calls.revision, calls.revision - 3, calls.revision + 1):
                if revision != compacted:  # refused by 3.5.1, allowed from 3.5.10 on and here
                    hashed = pyetcd.hash_kv(revision)
                    assert hashed == etcd.hash_kv(revision), (seed, number, revision)
    assert 0 < errors < CALLS / 2 and calls.revision > CALLS / 10
    for server in servers:
        server.channel.close()


class Cluster:
    """Three members; a call goes to the one that is named by its number."""

    def __init__(self, processes):
        self.members = [Server(process.wait_healthy().endpoint) for process in processes]

    def move_leader(self, *, steps):
        """To the member so many places behind the leader, counted in the order of the members."""
        statuses = [self.status(member) for member in self.members]
        ids = [status.header.member_id for status in statuses]
        at = ids.index(statuses[0].leader)
        target = ids[(at + steps) % len(ids)]
        move = self.members[at].channel.unary_unary("/etcdserverpb.Maintenance/MoveLeader")
        move(rpc.MoveLeaderRequest(targetID=target).SerializeToString(), timeout=10)
        return target

    def status(self, member):
        answer = member.channel.unary_unary("/etcdserverpb.Maintenance/Status")(b"", timeout=10)
        return rpc.StatusResponse.FromString(answer)


def linearizable(request):
    """Without local reads, which a follower may answer with what was. And without revisions in
    transactions: when one fails for that, the members of real etcd 3.5.1 disagree afterwards."""
    if isinstance(request, rpc.RangeRequest):
        request.serializable = False
    elif isinstance(request, rpc.TxnRequest):
        for op in ops_of(request):
            if op.HasField("request_range"):
                op.request_range.serializable = False
                op.request_range.revision = 0
    return request


def test_same_answers_from_any_member_and_through_leader_transfers(machine, wait_until):
    etcd, pyetcd = (Cluster(machine.cluster(3, program=each)) for each in ("etcd", "pyetcd"))
    calls = Calls(SEEDS[0])
    total = max(400, CALLS // 4)
    for number in range(total):
        if number % (total // 4) == total // 8:
            steps = calls.random.choice([1, 2])
            for cluster in (etcd, pyetcd):
                target = cluster.move_leader(steps=steps)
                wait_until(
                    lambda cluster=cluster, target=target: all(
                        cluster.status(member).leader == target for member in cluster.members
                    ),
                    "everyone to know the new leader",
                )
        request, place = linearizable(calls.next()), calls.random.randrange(3)
        expected, got = (each.members[place].call(request) for each in (etcd, pyetcd))
        assert got == expected, f"call {number} to member {place}: {request}"
        if not isinstance(expected, tuple):
            calls.revision = max(calls.revision, expected.header.revision)
    hashes = [member.hash_kv() for member in (*etcd.members, *pyetcd.members)]
    assert all(each.hash == hashes[0].hash for each in hashes), hashes
    for member in (*etcd.members, *pyetcd.members):
        member.channel.close()
