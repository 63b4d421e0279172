"""Lock and Election over gRPC, the same steps against real etcd 3.5.1 and pyetcd: equal answers.

Every step is a call in a thread, so that some of them may wait while others go on. An answer is
(code, text) or the message without ids and with leases and keys as the step knows them by name.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from pyetcd.proto import election_pb2 as election
from pyetcd.proto import lock_pb2 as lock
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.services import METHODS

LOCK = "/v3lockpb.Lock/"
ELECTION = "/v3electionpb.Election/"
KV = "/etcdserverpb.KV/"
LEASE = "/etcdserverpb.Lease/"


class Client:
    def __init__(self, endpoint: str) -> None:
        self.channel = grpc.insecure_channel(endpoint)
        self.pool = ThreadPoolExecutor(16)

    def ask(self, path: str, request: Any, timeout_s: float = 10.0) -> Any:
        method = METHODS[path]
        stub = self.channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response.FromString,
        )
        try:
            answer = stub(request, timeout=timeout_s)
        except grpc.RpcError as error:
            return error.code().name, error.details()  # type: ignore[attr-defined]
        answer.header.ClearField("cluster_id")
        answer.header.ClearField("member_id")
        answer.header.ClearField("raft_term")
        return answer

    def soon(self, path: str, request: Any, timeout_s: float = 10.0) -> "Future[Any]":
        return self.pool.submit(self.ask, path, request, timeout_s)

    def lease(self, ttl_s: int, id: int) -> None:
        self.ask(LEASE + "LeaseGrant", rpc.LeaseGrantRequest(TTL=ttl_s, ID=id))

    def keys(self, prefix: bytes) -> list[bytes]:
        request = rpc.RangeRequest(key=prefix, range_end=prefix + b"\xff", keys_only=True)
        return [kv.key for kv in self.ask(KV + "Range", request).kvs]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


def locks(client: Client) -> list[Any]:
    found: list[Any] = []
    for id in (100, 200, 300, 400):
        client.lease(60, id)
    ask = client.ask
    found.append(ask(LOCK + "Lock", lock.LockRequest(name=b"a", lease=100)))
    found.append(ask(LOCK + "Lock", lock.LockRequest(name=b"a", lease=100)))  # again
    found.append(ask(LOCK + "Lock", lock.LockRequest(name=b"a", lease=999)))  # no such lease
    found.append(ask(LOCK + "Lock", lock.LockRequest(lease=100)))  # no name
    # Two wait; the second one gives up, and leaves no key behind.
    first = client.soon(LOCK + "Lock", lock.LockRequest(name=b"a", lease=200))
    client.until(lambda: len(client.keys(b"a/")) == 2)
    given_up = ask(LOCK + "Lock", lock.LockRequest(name=b"a", lease=300), 0.5)
    found.append("deadline exceeded" in given_up[1].lower())
    client.until(lambda: len(client.keys(b"a/")) == 2)
    # A third waits behind the second; its lease is revoked while it waits.
    third = client.soon(LOCK + "Lock", lock.LockRequest(name=b"a", lease=400))
    client.until(lambda: len(client.keys(b"a/")) == 3)
    found.append(ask(LEASE + "LeaseRevoke", rpc.LeaseRevokeRequest(ID=400)))
    found.append(ask(LOCK + "Unlock", lock.UnlockRequest(key=b"a/64")))
    found.append(first.result())
    found.append(ask(LOCK + "Unlock", lock.UnlockRequest(key=b"a/c8")))
    found.append(third.result())
    found.append(client.keys(b"a/"))
    found.append(ask(LOCK + "Unlock", lock.UnlockRequest(key=b"nobody")))
    found.append(ask(LOCK + "Unlock", lock.UnlockRequest()))
    # Without a lease one is granted.
    own = ask(LOCK + "Lock", lock.LockRequest(name=b"own"))
    prefix, _, hexadecimal = own.key.partition(b"/")
    found.append(prefix)
    request = rpc.LeaseTimeToLiveRequest(ID=int(hexadecimal, 16), keys=True)
    left = ask(LEASE + "LeaseTimeToLive", request)
    found += [left.grantedTTL, len(left.keys)]
    return found


def elections(client: Client) -> list[Any]:
    found: list[Any] = []
    for id in (100, 200, 300):
        client.lease(60, id)
    ask = client.ask
    name = b"e"
    campaign = election.CampaignRequest
    found.append(ask(ELECTION + "Leader", election.LeaderRequest(name=name)))
    found.append(ask(ELECTION + "Campaign", campaign(name=name, lease=100, value=b"one")))
    leader = found[-1].leader
    found.append(ask(ELECTION + "Campaign", campaign(name=name, lease=100, value=b"uno")))
    found.append(ask(ELECTION + "Campaign", campaign(name=name, lease=999, value=b"x")))
    found.append(ask(ELECTION + "Leader", election.LeaderRequest(name=name)))
    observe = client.channel.unary_stream(
        ELECTION + "Observe",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=election.LeaderResponse.FromString,
    )
    seen: list[bytes] = []
    stream = observe(election.LeaderRequest(name=name), timeout=20)
    seen.append(next(stream).kv.value)
    found.append(ask(ELECTION + "Proclaim", election.ProclaimRequest(leader=leader, value=b"eins")))
    seen.append(next(stream).kv.value)
    found.append(ask(ELECTION + "Proclaim", election.ProclaimRequest(value=b"eins")))
    found.append(ask(ELECTION + "Resign", election.ResignRequest()))
    second = client.soon(ELECTION + "Campaign", campaign(name=name, lease=200, value=b"two"))
    client.until(lambda: len(client.keys(b"e/")) == 2)
    # Another one waits and gives up: its key goes.
    given_up = ask(ELECTION + "Campaign", campaign(name=name, lease=300, value=b"three"), 0.4)
    found.append("deadline exceeded" in given_up[1].lower())
    client.until(lambda: len(client.keys(b"e/")) == 2)
    found.append(ask(ELECTION + "Resign", election.ResignRequest(leader=leader)))
    found.append(second.result())
    seen.append(next(stream).kv.value)
    stream.cancel()
    found.append(seen)
    found.append(ask(ELECTION + "Proclaim", election.ProclaimRequest(leader=leader, value=b"no")))
    found.append(ask(ELECTION + "Resign", election.ResignRequest(leader=leader)))
    found.append(ask(ELECTION + "Leader", election.LeaderRequest(name=name)))
    # Nobody leads yet: the observer waits for the first.
    stream = observe(election.LeaderRequest(name=b"later"), timeout=20)
    first = client.pool.submit(next, stream)
    time.sleep(0.2)  # it may also come before; both are right
    ask(ELECTION + "Campaign", campaign(name=b"later", lease=200, value=b"late"))
    found.append(first.result().kv.value)
    stream.cancel()
    return found


@pytest.mark.parametrize("steps", [locks, elections])
def test_answers_are_those_of_etcd(machine: Any, steps: Callable[[Client], list[Any]]) -> None:
    answers = {}
    for program in ("etcd", "pyetcd"):
        client = Client(machine.single(program).endpoint)
        answers[program] = steps(client)
        client.pool.shutdown()
        client.channel.close()
    assert len(answers["pyetcd"]) == len(answers["etcd"])
    for step, (found, expected) in enumerate(zip(answers["pyetcd"], answers["etcd"], strict=True)):
        assert found == expected, step


def test_a_candidate_whose_lease_is_gone_does_not_lead(machine: Any) -> None:
    client = Client(machine.single().endpoint)
    for id in (100, 200):
        client.lease(60, id)
    campaign = election.CampaignRequest
    first = client.ask(ELECTION + "Campaign", campaign(name=b"e", lease=100))
    second = client.soon(ELECTION + "Campaign", campaign(name=b"e", lease=200))
    client.until(lambda: len(client.keys(b"e/")) == 2)
    client.ask(LEASE + "LeaseRevoke", rpc.LeaseRevokeRequest(ID=200))
    client.ask(ELECTION + "Resign", election.ResignRequest(leader=first.leader))
    assert second.result() == ("UNKNOWN", "election: session is expired")
    client.pool.shutdown()
    client.channel.close()
