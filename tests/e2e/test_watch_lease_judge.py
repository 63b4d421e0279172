"""The same watch, lease and alarm calls to pyetcd and to etcd 3.5.1: the same answers.

Requests go in one by one, each answered before the next, so that nothing depends on timing.
Compared is everything but who answered: ids of members and the term.
"""

import queue
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as pb
from pyetcd.proto.services import METHODS
from pyetcd.store.members import cluster_id, member_id

WAIT_S = 10.0


class Client:
    """Calls by method name; an error is its code and text."""

    def __init__(self, endpoint: str) -> None:
        self.channel = grpc.insecure_channel(endpoint)

    def __call__(self, name: str, **fields: Any) -> Any:
        try:
            return plain(self.raw(name, **fields))
        except grpc.RpcError as error:
            return error.code().value[0], error.details()  # type: ignore[attr-defined]

    def raw(self, name: str, **fields: Any) -> Any:
        method = METHODS[f"/etcdserverpb.{name}"]
        stub = self.channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return stub(method.request(**fields), timeout=WAIT_S)

    def stream(self, name: str) -> "Stream":
        return Stream(self.channel, f"/etcdserverpb.{name}")


class Stream:
    def __init__(self, channel: grpc.Channel, path: str) -> None:
        method = METHODS[path]
        self.request = method.request
        self.requests: queue.Queue[Any] = queue.Queue()
        self.answers: queue.Queue[Any] = queue.Queue()
        stub = channel.stream_stream(
            path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        self.call = stub(iter(self.requests.get, None))

    def ask(self, **fields: Any) -> None:
        self.requests.put(self.request(**fields))

    def take(self) -> Any:
        return plain(next(self.call))

    def close(self) -> None:
        self.call.cancel()


def plain(answer: Any) -> Any:
    answer.header.ClearField("cluster_id")
    answer.header.ClearField("member_id")
    answer.header.ClearField("raft_term")
    return answer


@pytest.fixture
def both(machine: Any) -> Iterator[tuple[Client, Client]]:
    clients = [Client(machine.single(program).endpoint) for program in ("pyetcd", "etcd")]
    yield clients[0], clients[1]
    for client in clients:
        client.channel.close()


def put(key: bytes, value: bytes = b"v") -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))


def watch_script(client: Client) -> list[Any]:
    seen: list[Any] = []
    stream = client.stream("Watch/Watch")

    def create(events: int = 0, **fields: Any) -> None:
        stream.ask(create_request=fields)
        seen.extend(stream.take() for _ in range(1 + events))

    def change(name: str, responses: int = 0, **fields: Any) -> None:
        seen.append(client(name, **fields))
        # Watchers of one event are told in no fixed order.
        seen.extend(sorted((stream.take() for _ in range(responses)), key=lambda r: r.watch_id))

    change("KV/Put", key=b"a", value=b"1")
    change("KV/Put", key=b"b", value=b"2", prev_kv=True)
    create(key=b"a")
    create(key=b"a", range_end=b"c", prev_kv=True, watch_id=9)
    create(key=b"a", range_end=b"\0", filters=[0])
    create(key=b"a", range_end=b"\0", filters=[1], events=1, start_revision=1)
    create(key=b"b", start_revision=8)
    create(key=b"b", range_end=b"a")
    create(key=b"b", watch_id=9)
    change("KV/Put", 3, key=b"a", value=b"3")
    change("KV/Txn", 2, success=[put(b"b"), put(b"aa", b"\0\xff"), put(b"zz")])
    change("KV/DeleteRange", 3, key=b"a", range_end=b"\0")
    change("KV/DeleteRange", 0, key=b"a", range_end=b"\0")
    change("KV/Put", 2, key=b"b", value=b"7")
    change("KV/Put", 3, key=b"b", value=b"8")
    create(key=b"", range_end=b"\0", start_revision=2, prev_kv=True, events=1)
    stream.ask(progress_request={})
    seen.append(stream.take())
    change("KV/Compact", revision=5, physical=True)
    create(key=b"a", range_end=b"\0", start_revision=5, events=1)
    create(key=b"a", range_end=b"\0", start_revision=6, prev_kv=True, events=1)
    create(key=b"a", start_revision=4, events=1)
    for id in (0, 9, 77, 1):
        stream.ask(cancel_request={"watch_id": id})
    seen.extend(stream.take() for _ in range(3))
    change("KV/Put", 5, key=b"b", value=b"9")
    stream.close()
    return seen


def test_watch_streams_are_the_same(both: tuple[Client, Client]) -> None:
    ours, theirs = (watch_script(client) for client in both)
    for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        assert our == their, number


def lease_script(client: Client) -> list[Any]:
    seen: list[Any] = []

    def call(name: str, **fields: Any) -> None:
        seen.append(client(name, **fields))

    for ttl_s in (100, 9_000_000_000, 9_000_000_001):
        call("Lease/LeaseGrant", ID=1000 + ttl_s % 977, TTL=ttl_s)
    call("Lease/LeaseGrant", ID=1100, TTL=50)
    call("Lease/LeaseGrant", ID=-9, TTL=50)
    call("KV/Put", key=b"k2", lease=1100)
    call("KV/Put", key=b"k1", lease=1100)
    call("KV/Put", key=b"k3", lease=-9)
    call("KV/Put", key=b"k3", lease=1100)
    call("KV/Put", key=b"k4", lease=4)
    call("KV/Txn", success=[pb.RequestOp(request_put=pb.PutRequest(key=b"x", lease=4))])
    found = client("Lease/LeaseTimeToLive", ID=1100, keys=True)
    found.keys[:] = sorted(found.keys)
    seen.append(found)
    call("Lease/LeaseTimeToLive", ID=-9)
    call("Lease/LeaseTimeToLive", ID=404, keys=True)
    stream = client.stream("Lease/LeaseKeepAlive")
    for id in (1100, 404, -9):
        stream.ask(ID=id)
        seen.append(stream.take())
    stream.close()
    call("Lease/LeaseRevoke", ID=404)
    call("Lease/LeaseRevoke", ID=-9)
    call("Lease/LeaseRevoke", ID=1100)
    call("KV/Range", key=b"k", range_end=b"l")
    call("Lease/LeaseLeases")
    for ttl_s in (1, 0, -3):  # last, for these soon end
        call("Lease/LeaseGrant", ID=1000 + ttl_s % 977, TTL=ttl_s)
    return seen


def test_lease_answers_are_the_same(both: tuple[Client, Client]) -> None:
    ours, theirs = (lease_script(client) for client in both)
    for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        assert our == their, number


def alarm_script(client: Client) -> list[Any]:
    seen: list[Any] = []

    def call(name: str, **fields: Any) -> None:
        seen.append(client(name, **fields))

    read = pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))
    delete = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"a"))
    nested = pb.RequestOp(request_txn=pb.TxnRequest(success=[read]))
    call("Lease/LeaseGrant", ID=5, TTL=100)
    for alarm in (1, 2):
        call("KV/Put", key=b"a", lease=5)
        call("Maintenance/Alarm", action=1, memberID=3, alarm=alarm)
        call("Maintenance/Alarm", action=0)
        call("Maintenance/Alarm", action=0, alarm=2)
        call("KV/Put", key=b"b")
        call("KV/Range", key=b"a")
        for ops in ([read], [delete], [nested], [put(b"c")]):
            call("KV/Txn", success=ops)
        call("KV/DeleteRange", key=b"a")
        call("KV/Compact", revision=alarm)
        call("Lease/LeaseGrant", ID=6, TTL=100)
        call("Lease/LeaseRevoke", ID=5)
        call("Maintenance/Alarm", action=2, memberID=4, alarm=alarm)
        call("Maintenance/Alarm", action=2, memberID=3, alarm=alarm)
        call("Maintenance/Alarm", action=1, memberID=3, alarm=0)
        call("Lease/LeaseGrant", ID=5, TTL=100)
    return seen


def test_alarm_gates_are_the_same(both: tuple[Client, Client]) -> None:
    ours, theirs = (alarm_script(client) for client in both)
    for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        assert our == their, number


def test_item_54_ids_are_derived_as_etcd_derives_them(both: tuple[Client, Client]) -> None:
    for client in both:
        header = client.raw("KV/Range", key=b"a").header
        (first,) = client.raw("Cluster/MemberList").members
        assert first.ID == header.member_id == member_id(first.peerURLs, "etcd-cluster")
        assert header.cluster_id == cluster_id([first.ID])
        urls = ["http://127.0.0.1:7", "http://127.0.0.1:6"]
        now_s = int(time.time())
        added = client.raw("Cluster/MemberAdd", peerURLs=urls, isLearner=True).member
        late_s = int(time.time())
        assert added.ID in [
            member_id(urls, "", unix_seconds=second) for second in range(now_s, late_s + 1)
        ]
        # Raft drops a change that comes before it knows the last one as applied; a write in
        # between makes sure that it does.
        client.raw("KV/Put", key=b"a")
        assert client("Cluster/MemberRemove", ID=added.ID).members[0].ID == first.ID
        client.raw("KV/Put", key=b"a")
        again = client("Cluster/MemberRemove", ID=added.ID)
        assert again == (5, "etcdserver: member not found")


def post(port: int, path: str, body: bytes | None) -> tuple[int, str, bytes]:
    url = f"http://127.0.0.1:{port}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def test_item_39_a_member_is_asked_for_leases_as_etcd_is(machine: Any) -> None:
    seen = []
    for program in ("pyetcd", "etcd"):
        process = machine.single(program)
        flag = "--listen-peer-urls=http://127.0.0.1:"
        (peer,) = (int(arg.removeprefix(flag)) for arg in process.argv if arg.startswith(flag))
        client = Client(process.endpoint)
        client.raw("Lease/LeaseGrant", ID=6, TTL=100)
        client.raw("Lease/LeaseTimeToLive", ID=6)  # answered once the lessor is primary
        client.raw("Lease/LeaseGrant", ID=7, TTL=100)
        client.raw("KV/Put", key=b"k", lease=7)
        seen.append(
            [
                post(peer, "/leases", pb.LeaseKeepAliveRequest(ID=7).SerializeToString()),
                post(peer, "/leases", pb.LeaseKeepAliveRequest(ID=8).SerializeToString()),
                post(peer, "/leases", b"\xff"),
                post(peer, "/leases", None),
                post(peer, "/leases/internal", b"\x0a\x04\x08\x07\x10\x01"),
                post(peer, "/leases/internal", b"\x0a\x02\x08\x08"),
                post(peer, "/leases/internal", b"\x08"),
            ]
        )
        client.channel.close()
    for number, (ours, theirs) in enumerate(zip(*seen, strict=True)):
        assert ours == theirs, number


def test_a_lease_lives_while_a_follower_renews_it_and_dies_after(machine: Any) -> None:
    """Items 39 and 40 on three members: renewed through each of them, it outlives its TTL; then
    the leader expires it, and a watch on every member sees the delete in one revision."""
    nodes = [node.wait_healthy() for node in machine.cluster(3)]
    clients = [Client(node.endpoint) for node in nodes]
    clients[0].raw("Lease/LeaseGrant", ID=7, TTL=2)
    for key in (b"b", b"a"):
        clients[1].raw("KV/Put", key=key, lease=7)
    watches = [client.stream("Watch/Watch") for client in clients]
    for watch in watches:
        watch.ask(create_request={"key": b"a", "range_end": b"c", "start_revision": 4})
        assert watch.take().created
    keepers = [client.stream("Lease/LeaseKeepAlive") for client in clients]
    started_s = time.monotonic()
    while time.monotonic() < started_s + 3:
        for keeper in keepers:
            keeper.ask(ID=7)
            assert keeper.take().TTL == 2
        time.sleep(0.2)
    for watch in watches:
        events = watch.take().events
        assert [(e.type, e.kv.key, e.kv.mod_revision) for e in events] == [
            (1, b"a", 4),
            (1, b"b", 4),
        ]
    assert time.monotonic() > started_s + 4
    for keeper, client in zip(keepers, clients, strict=True):
        keeper.ask(ID=7)
        assert keeper.take().TTL == 0
        keeper.close()
        client.channel.close()
