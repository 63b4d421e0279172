r"""The same random KV, txn and compact calls to real etcd 3.5.1 and to pyetcd: the same answers.

A longer run, by seeds and calls:

    PYETCD_DIFFERENTIAL_SEEDS=1,2,3 PYETCD_DIFFERENTIAL_CALLS=20000 \
        python -m pytest tests/differential/test_kv.py
"""

import os

import grpc
import pytest
from differential.draw_kv import Calls, ops_of

from pyetcd.proto import rpc_pb2 as rpc

CALLS = int(os.environ.get("PYETCD_DIFFERENTIAL_CALLS", "2000"))
SEEDS = [int(seed) for seed in os.environ.get("PYETCD_DIFFERENTIAL_SEEDS", "1").split(",")]
PATHS = {
    rpc.RangeRequest: ("Range", rpc.RangeResponse),
    rpc.PutRequest: ("Put", rpc.PutResponse),
    rpc.DeleteRangeRequest: ("DeleteRange", rpc.DeleteRangeResponse),
    rpc.TxnRequest: ("Txn", rpc.TxnResponse),
    rpc.CompactionRequest: ("Compact", rpc.CompactionResponse),
}


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
    """Without local reads, which a follower may answer with what was; a transaction that does
    nothing is one, too. And without revisions in transactions: when one fails for that, the
    members of real etcd 3.5.1 disagree afterwards."""
    if isinstance(request, rpc.RangeRequest):
        request.serializable = False
    elif isinstance(request, rpc.TxnRequest):
        if not request.success and not request.failure:
            request.success.add().request_range.key = b"a"
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
