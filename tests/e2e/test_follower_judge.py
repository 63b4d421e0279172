"""Requests through a follower are answered as by the leader, and both as by real etcd's.

The same calls go to the leader and to a follower of three members, of etcd and of pyetcd; revisions
are told from where the calls began, so that all four transcripts have to be equal.
"""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from pyetcd.proto import lock_pb2
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.services import METHODS

KV, LEASE, CLUSTER = "/etcdserverpb.KV", "/etcdserverpb.Lease", "/etcdserverpb.Cluster"
MAINTENANCE, WATCH = "/etcdserverpb.Maintenance", "/etcdserverpb.Watch/Watch"


class Caller:
    """Calls to one member; what comes back is noted, without what tells members apart."""

    def __init__(self, endpoint: str, prefix: bytes) -> None:
        self.channel = grpc.insecure_channel(endpoint, [("grpc.enable_http_proxy", 0)])
        self.prefix = prefix
        self.seen: list[Any] = []
        self.base = 0
        self.base = self.ask(f"{KV}/Range", rpc.RangeRequest(key=b"x")).header.revision

    def ask(self, path: str, request: Any, **more: Any) -> Any:
        method = METHODS[path]
        stub = self.channel.unary_unary(
            path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        try:
            return stub(request, timeout=15, **more)
        except grpc.RpcError as error:
            return error.code().name, error.details()

    def note(self, path: str, request: Any, **more: Any) -> Any:
        answer = self.ask(path, request, **more)
        self.seen.append((path, self.plain(answer)))
        return answer

    def plain(self, answer: Any) -> str:
        if isinstance(answer, tuple):
            return repr(answer)
        copy = type(answer)()
        copy.CopyFrom(answer)
        header = copy.header
        present = bool(header.cluster_id), bool(header.member_id), bool(header.raft_term)
        revision = header.revision - self.base if header.revision else None
        copy.ClearField("header")
        for part in parts(copy):
            for name in ("revision", "mod_revision", "create_revision"):
                if getattr(part, name, 0):
                    setattr(part, name, getattr(part, name) - self.base)
        return f"{present} {revision} {copy}".replace(self.prefix.decode(), "")

    def stream(self, path: str, *requests: Any, answers: int, **more: Any) -> None:
        method = METHODS[path]
        ended = threading.Event()

        def feed() -> Any:
            yield from requests
            ended.wait()

        call = self.channel.stream_stream(
            path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )(feed(), timeout=15, **more)
        try:
            for _ in range(answers):
                self.seen.append((path, self.plain(next(call))))
        except grpc.RpcError as error:
            self.seen.append((path, (error.code().name, error.details())))
        finally:
            ended.set()
            call.cancel()


def parts(message: Any) -> Iterator[Any]:
    """Every message in a message."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                yield each
                yield from parts(each)


def transcript(endpoint: str, prefix: bytes, lease: int) -> list[Any]:
    caller = Caller(endpoint, prefix)
    note, key = caller.note, prefix + b"k"
    note(f"{KV}/Put", rpc.PutRequest(key=key, value=b"1"))
    note(f"{KV}/Put", rpc.PutRequest(key=key, value=b"2", prev_kv=True))
    note(f"{KV}/Put", rpc.PutRequest(key=b""))
    note(f"{KV}/Put", rpc.PutRequest(key=key, value=b"2", lease=lease + 5))
    note(f"{KV}/Put", rpc.PutRequest(key=key, value=bytes(2 << 20)))
    note(f"{KV}/Put", rpc.PutRequest(key=prefix + b"none", ignore_value=True))
    note(f"{KV}/Range", rpc.RangeRequest(key=key))
    note(f"{KV}/Range", rpc.RangeRequest(key=key, revision=caller.base + 1))
    note(f"{KV}/Range", rpc.RangeRequest(key=key, revision=caller.base + 99))
    txn = rpc.TxnRequest()
    compare = txn.compare.add(key=key, value=b"2", target=rpc.Compare.VALUE)
    compare.result = rpc.Compare.EQUAL
    txn.success.add().request_range.key = key
    txn.success.add().request_delete_range.CopyFrom(rpc.DeleteRangeRequest(key=key, prev_kv=True))
    txn.failure.add().request_range.key = key
    note(f"{KV}/Txn", txn)
    note(f"{KV}/Txn", txn)
    note(f"{LEASE}/LeaseGrant", rpc.LeaseGrantRequest(ID=lease, TTL=100))
    note(f"{LEASE}/LeaseGrant", rpc.LeaseGrantRequest(ID=lease, TTL=100))
    note(f"{LEASE}/LeaseGrant", rpc.LeaseGrantRequest(ID=lease + 1, TTL=9_000_000_001))
    note(f"{KV}/Put", rpc.PutRequest(key=key, value=b"3", lease=lease))
    renewals = [rpc.LeaseKeepAliveRequest(ID=id) for id in (lease, lease + 5, lease)]
    caller.stream(f"{LEASE}/LeaseKeepAlive", *renewals, answers=3)
    for keys in (False, True):
        request = rpc.LeaseTimeToLiveRequest(ID=lease, keys=keys)
        note(f"{LEASE}/LeaseTimeToLive", request, metadata=[("hasleader", "true")])
    note(f"{LEASE}/LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=lease + 5, keys=True))
    watch = rpc.WatchRequest()
    watch.create_request.key, watch.create_request.start_revision = key, caller.base + 1
    caller.stream(WATCH, watch, answers=2, metadata=[("hasleader", "true")])
    note(f"{LEASE}/LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
    note(f"{LEASE}/LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
    note(f"{LEASE}/LeaseLeases", rpc.LeaseLeasesRequest())
    note(f"{KV}/Range", rpc.RangeRequest(key=key))
    last = caller.ask(f"{KV}/Range", rpc.RangeRequest(key=key)).header.revision
    note(f"{KV}/Compact", rpc.CompactionRequest(revision=last, physical=True))
    note(f"{KV}/Compact", rpc.CompactionRequest(revision=last))
    note(f"{KV}/Compact", rpc.CompactionRequest(revision=last + 99))
    note(f"{KV}/Range", rpc.RangeRequest(key=key, revision=last - 1))
    note(f"{MAINTENANCE}/Alarm", rpc.AlarmRequest(action=rpc.AlarmRequest.GET))
    note("/etcdserverpb.Auth/AuthStatus", rpc.AuthStatusRequest())
    note("/etcdserverpb.Auth/UserAdd", rpc.AuthUserAddRequest(name=""))
    note("/etcdserverpb.Auth/UserGet", rpc.AuthUserGetRequest(name="nobody"))
    note("/etcdserverpb.Auth/RoleGet", rpc.AuthRoleGetRequest(role="nobody"))
    note(f"{CLUSTER}/MemberRemove", rpc.MemberRemoveRequest(ID=1))
    note(f"{CLUSTER}/MemberPromote", rpc.MemberPromoteRequest(ID=1))
    note(f"{CLUSTER}/MemberAdd", rpc.MemberAddRequest(peerURLs=["nowhere"]))
    caller.ask(f"{LEASE}/LeaseGrant", rpc.LeaseGrantRequest(ID=lease, TTL=100))
    locked = lock_pb2.LockRequest(name=prefix + b"lock", lease=lease)
    answer = caller.note("/v3lockpb.Lock/Lock", locked)
    note("/v3lockpb.Lock/Unlock", lock_pb2.UnlockRequest(key=answer.key))
    caller.ask(f"{LEASE}/LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
    caller.channel.close()
    return caller.seen


def by_role(nodes: list[Any]) -> tuple[str, str]:
    """Endpoints of the leader and of a follower."""
    leads = {}
    for node in nodes:
        with grpc.insecure_channel(node.endpoint) as channel:
            status = channel.unary_unary(
                f"{MAINTENANCE}/Status",
                request_serializer=rpc.StatusRequest.SerializeToString,
                response_deserializer=rpc.StatusResponse.FromString,
            )(rpc.StatusRequest(), timeout=10)
            leads[status.leader == status.header.member_id] = node.endpoint
    return leads[True], leads[False]


@pytest.fixture(scope="module")
def transcripts(machine_type: Any, tmp_path_factory: Any) -> Any:
    machine = machine_type(tmp_path_factory.mktemp("followers"))
    found: dict[str, list[Any]] = {}
    try:
        for program in ("etcd", "pyetcd"):
            nodes = machine.cluster(3, program=program)
            for node in nodes:
                node.wait_healthy()
            for turn, (role, endpoint) in enumerate(
                zip(("leader", "follower"), by_role(nodes), strict=True)
            ):
                found[f"{program} {role}"] = transcript(endpoint, b"t%d/" % turn, 7000)
            for node in nodes:
                node.kill()
        yield found
    finally:
        machine.close()


@pytest.mark.parametrize("who", ["etcd follower", "pyetcd leader", "pyetcd follower"])
def test_as_etcd_s_leader(transcripts: Any, who: str) -> None:
    wanted, found = transcripts["etcd leader"], transcripts[who]
    assert len(wanted) == len(found)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine == theirs
