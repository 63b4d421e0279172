"""Stopped, killed and interrupted, then started again: what is left is what real etcd has left."""

import signal
from typing import Any

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.services import METHODS

Plain = list[Any]


class Client:
    """Calls by method name; answers without who gave them."""

    def __init__(self, endpoint: str) -> None:
        self.channel = grpc.insecure_channel(endpoint)

    def __call__(self, name: str, **fields: Any) -> Any:
        method = METHODS[f"/etcdserverpb.{name}"]
        call = self.channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        try:
            answer = call(method.request(**fields), timeout=10)
        except grpc.RpcError as error:
            return error.code().value[0], error.details()  # type: ignore[attr-defined]
        answer.header.cluster_id = answer.header.member_id = 0
        return answer

    def history(self, start_revision: int) -> Plain:
        """What a watch of all keys replays, up to the current revision."""
        create = rpc.WatchCreateRequest(
            key=b"\0", range_end=b"\0", start_revision=start_revision, prev_kv=True
        )
        call = self.channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )(iter([rpc.WatchRequest(create_request=create)]), timeout=10)
        events: Plain = []
        revision = next(call).header.revision
        while not events or events[-1].kv.mod_revision < revision:
            answer = next(call)
            events += answer.events
            if answer.canceled:
                return [answer.canceled, answer.compact_revision]
        call.cancel()
        return events


def fill(client: Client) -> None:
    for number in range(30):
        client("KV/Put", key=b"k%d" % (number % 7), value=b"%d" % number)
    client("KV/DeleteRange", key=b"k3")
    for lease in (5, 6):
        client("Lease/LeaseGrant", ID=lease, TTL=300)
    client("KV/Put", key=b"l", value=b"x", lease=5)
    client("KV/Put", key=b"l2", value=b"x", lease=6)
    client("Lease/LeaseRevoke", ID=6)
    client("KV/Compact", revision=20, physical=True)
    client("Maintenance/Alarm", action=1, memberID=9, alarm=1)
    client("KV/DeleteRange", key=b"k4")


def look(client: Client) -> Plain:
    seen: Plain = [
        client("KV/Range", key=b"\0", range_end=b"\0"),
        *(client("KV/Range", key=b"k1", revision=revision) for revision in (19, 20, 25)),
        *((found.hash, found.compact_revision) for found in hashes(client)),
        client("Lease/LeaseTimeToLive", ID=6),
        client("Lease/LeaseLeases"),
        client("Maintenance/Alarm"),
        client("KV/Put", key=b"z"),
        client.history(21),
        client.history(3),
    ]
    kept = client("Lease/LeaseTimeToLive", ID=5, keys=True)
    assert kept.TTL >= 290  # a restart gives a lease its whole time again
    status = client("Maintenance/Status")
    seen += [kept.grantedTTL, list(kept.keys), status.raftTerm, list(status.errors)]
    # The next round has something new to keep.
    seen.append(client("Maintenance/Alarm", action=2, memberID=9, alarm=1))
    seen.append(client("KV/Put", key=b"z", prev_kv=True))
    seen.append(client("Maintenance/Alarm", action=1, memberID=9, alarm=1))
    return seen


def hashes(client: Client) -> Plain:
    return [client("Maintenance/HashKV", revision=revision) for revision in (0, 25)]


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGKILL, signal.SIGINT))
def test_what_is_left(machine: Any, wait_until: Any, number: signal.Signals) -> None:
    seen = []
    for program in ("pyetcd", "etcd"):
        process = machine.single(program)
        client = Client(process.endpoint)
        fill(client)
        process.signal(number)
        code = process.wait()
        client.channel.close()
        process.start()
        client = Client(process.endpoint)
        wait_until(
            lambda client=client: not isinstance(client("KV/Range", key=b"a"), tuple), "a start"
        )
        seen.append([code, *look(client)])
        client.channel.close()
    ours, theirs = seen
    for at, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        assert our == their, at
