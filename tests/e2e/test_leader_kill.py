"""SIGKILL of the leader under load: nothing acknowledged is lost, all three end up equal."""

import threading
import time

import grpc

from pyetcd.proto import rpc_pb2 as rpc

CLIENTS = 8
KILLS = 2


class Kv:
    """Blocking calls to one endpoint."""

    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(endpoint, [("grpc.enable_http_proxy", 0)])
        self.put = self._unary("/etcdserverpb.KV/Put", rpc.PutRequest, rpc.PutResponse)
        self.range = self._unary("/etcdserverpb.KV/Range", rpc.RangeRequest, rpc.RangeResponse)
        maintenance = "/etcdserverpb.Maintenance"
        self.status = self._unary(f"{maintenance}/Status", rpc.StatusRequest, rpc.StatusResponse)
        self.hash_kv = self._unary(f"{maintenance}/HashKV", rpc.HashKVRequest, rpc.HashKVResponse)

    def _unary(self, path, request, response):
        return self.channel.unary_unary(
            path,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )


def writer(number, endpoints, acknowledged, stop):
    """Puts ever new keys, moving on to the next endpoint when one fails."""
    kvs = [Kv(endpoint) for endpoint in endpoints]
    at = number
    sequence = 0
    while not stop.is_set():
        key = b"w%d/%06d" % (number, sequence)
        sequence += 1
        try:
            answer = kvs[at % len(kvs)].put(rpc.PutRequest(key=key, value=key), timeout=2)
            acknowledged[key] = answer.header.revision
        except grpc.RpcError:
            at += 1  # unknown outcome: the key is not counted, the write not repeated
    for kv in kvs:
        kv.channel.close()


def leader_of(nodes, kvs):
    for kv in kvs.values():
        try:
            leader = kv.status(rpc.StatusRequest(), timeout=1).leader
        except grpc.RpcError:
            continue
        for name, other in kvs.items():
            try:
                if (
                    leader
                    and other.status(rpc.StatusRequest(), timeout=1).header.member_id == leader
                ):
                    return name
            except grpc.RpcError:
                continue
    return None


def test_acknowledged_writes_survive_the_leader(machine, wait_until):
    nodes = {node.name: node for node in machine.cluster(3)}
    for node in nodes.values():
        node.wait_healthy()
    kvs = {name: Kv(node.endpoint) for name, node in nodes.items()}
    acknowledged: dict[bytes, int] = {}
    stop = threading.Event()
    endpoints = [node.endpoint for node in nodes.values()]
    threads = [
        threading.Thread(target=writer, args=(n, endpoints, acknowledged, stop))
        for n in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(KILLS):
            before = len(acknowledged)
            wait_until(lambda before=before: len(acknowledged) > before + 200, "load")
            leader = leader_of(nodes, kvs)
            assert leader is not None
            nodes[leader].kill()
            rest = [kv for name, kv in kvs.items() if name != leader]

            def healthy(kv=rest[0]):
                try:
                    kv.range(rpc.RangeRequest(key=b"health"), timeout=1)
                except grpc.RpcError:
                    return False
                return True

            killed_s = time.monotonic()
            wait_until(healthy, "the two that are left to serve")
            print(f"healthy {time.monotonic() - killed_s:.2f} s after the kill")
            nodes[leader].start().wait_healthy()
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    newest = max(acknowledged.values())
    for name, kv in kvs.items():
        got = kv.range(rpc.RangeRequest(key=b"w", range_end=b"x", keys_only=True), timeout=10)
        revisions = {pair.key: pair.mod_revision for pair in got.kvs}
        lost = {key for key, revision in acknowledged.items() if revisions.get(key) != revision}
        assert not lost, (name, len(lost), len(acknowledged))
    assert len(acknowledged) > 400
    wait_until(
        lambda: (
            len({kv.hash_kv(rpc.HashKVRequest(revision=newest)).hash for kv in kvs.values()}) == 1
        ),
        "equal hashes",
    )
    for kv in kvs.values():
        kv.channel.close()
    for node in nodes.values():
        assert "Traceback" not in node.log
