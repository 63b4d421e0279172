"""A member that was away too long for the log gets a copy of the keyspace, and goes on from it."""

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as rpc


@pytest.fixture
def kv():
    channels = []

    def make(endpoint, path, request, response):
        channel = grpc.insecure_channel(endpoint, [("grpc.enable_http_proxy", 0)])
        channels.append(channel)
        return channel.unary_unary(
            path,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    yield make
    for channel in channels:
        channel.close()


def test_a_member_far_behind_is_sent_a_snapshot(machine, kv, wait_until):
    nodes = machine.cluster(3, "--snapshot-count=100", "--experimental-snapshot-catchup-entries=50")
    for node in nodes:
        node.wait_healthy()
    ask = [
        kv(node.endpoint, "/etcdserverpb.Maintenance/Status", rpc.StatusRequest, rpc.StatusResponse)
        for node in nodes
    ]
    # A follower goes away: what is on its way to a killed leader would be lost.
    nodes_at = {node.name: at for at, node in enumerate(nodes)}
    states = [each(rpc.StatusRequest(), timeout=5) for each in ask]
    nodes = sorted(
        nodes, key=lambda node: states[nodes_at[node.name]].header.member_id != states[0].leader
    )
    txn = kv(nodes[0].endpoint, "/etcdserverpb.KV/Txn", rpc.TxnRequest, rpc.TxnResponse)
    put = kv(nodes[0].endpoint, "/etcdserverpb.KV/Put", rpc.PutRequest, rpc.PutResponse)
    put(rpc.PutRequest(key=b"before", value=b"x"), wait_for_ready=True, timeout=10)
    nodes[2].kill()
    pending = [
        put.future(
            rpc.PutRequest(key=b"k%05d" % n, value=b"v%d" % n), timeout=60, wait_for_ready=True
        )
        for n in range(1500)
    ]
    revision = max(each.result().header.revision for each in pending)
    assert txn(rpc.TxnRequest(), timeout=5).header.revision == revision
    # Until the two have cut their logs behind what the third has, it could still catch up by log.
    wait_until(lambda: all("compacted Raft logs" in node.log for node in nodes[:2]), "the cut")

    nodes[2].start().wait_healthy()
    hashes = [
        kv(node.endpoint, "/etcdserverpb.Maintenance/HashKV", rpc.HashKVRequest, rpc.HashKVResponse)
        for node in nodes
    ]
    status = kv(
        nodes[2].endpoint, "/etcdserverpb.Maintenance/Status", rpc.StatusRequest, rpc.StatusResponse
    )
    wait_until(
        lambda: status(rpc.StatusRequest(), timeout=5).header.revision >= revision, "the third"
    )
    request = rpc.HashKVRequest(revision=revision)
    assert len({each(request, timeout=10).hash for each in hashes}) == 1
    assert "database snapshot" in nodes[2].log

    # It is a full member again: it takes writes, and survives a restart with what it was sent.
    put_third = kv(nodes[2].endpoint, "/etcdserverpb.KV/Put", rpc.PutRequest, rpc.PutResponse)
    after = put_third(rpc.PutRequest(key=b"after", value=b"y"), timeout=10).header.revision
    nodes[2].kill()
    nodes[2].start().wait_healthy()
    wait_until(
        lambda: status(rpc.StatusRequest(), timeout=5).header.revision >= after, "the restart"
    )
    request = rpc.HashKVRequest(revision=after)
    assert len({each(request, timeout=10).hash for each in hashes}) == 1
    for node in nodes:
        assert "Traceback" not in node.log and '"level":"fatal"' not in node.log
