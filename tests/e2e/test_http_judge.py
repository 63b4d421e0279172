"""HTTP on both ports beside real etcd 3.5.1, and what a live cluster counts."""

import json
import re
import urllib.error
import urllib.request
from typing import Any

import grpc

from pyetcd.proto import rpc_pb2 as rpc

Answer = tuple[int, str, dict[str, str]]

CLIENT_PATHS = (
    "/health",
    "/health?exclude=NOSPACE",
    "/health/",
    "//health",
    "/version",
    "/foo",
    "/",
    "/members",
    "/v2/keys",
    "/metrics/",
)
PEER_PATHS = (
    "/version",
    "/members",
    "/members/",
    "/members/hashkv",
    "/downgrade/enabled",
    "/raft/probing",
    "/raft/stream/message/1",
    "/raft/snapshot",
    "/raft",
    "/foo",
    "/health",
    "/metrics",
)
HASH_BODIES = (
    b'{"revision":3}',
    b'{"revision":0}',
    b"{}",
    b"{",
    b"[]",
    b'{"revision":"3"}',
    b'{"revision":9999}',
    b'{"revision":1}',
)


def http(port: int, method: str, path: str, body: bytes | None = None) -> Answer:
    url = f"http://127.0.0.1:{port}{path}"
    request = urllib.request.Request(url, method=method, data=body)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            status, text, headers = answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            status, text, headers = error.code, error.read(), error.headers
    kept = {key.lower(): value for key, value in headers.items()}
    for key in ("date", "content-length", "x-pyetcd-version"):
        kept.pop(key, None)
    return status, blank(text.decode()), {key: blank(value) for key, value in kept.items()}


def blank(text: str) -> str:
    text = re.sub(r"(pyetcd|etcd)-\d+", "NAME", text)
    text = re.sub(r"\b\d{12,20}\b|\b[0-9a-f]{13,16}\b", "ID", text)
    text = re.sub(r'"Now":"[^"]*"', '"Now":T', text)
    return re.sub(r":\d{4,5}\b", ":PORT", text)


def ports(process: Any) -> tuple[int, int]:
    flag = "--listen-peer-urls=http://127.0.0.1:"
    (peer,) = (arg.removeprefix(flag) for arg in process.argv if arg.startswith(flag))
    return process.client_port, int(peer)


def put(endpoint: str, *, count: int) -> None:
    with grpc.insecure_channel(endpoint) as channel:
        call = channel.unary_unary("/etcdserverpb.KV/Put")
        for number in range(count):
            call(rpc.PutRequest(key=b"k%d" % number, value=b"v").SerializeToString(), timeout=10)


def test_the_same_answers(machine: Any) -> None:
    both = [machine.single(program) for program in ("pyetcd", "etcd")]
    for process in both:
        put(process.endpoint, count=6)
        with grpc.insecure_channel(process.endpoint) as channel:
            compaction = rpc.CompactionRequest(revision=2, physical=True).SerializeToString()
            channel.unary_unary("/etcdserverpb.KV/Compact")(compaction, timeout=10)
    for side, paths in enumerate((CLIENT_PATHS, PEER_PATHS)):
        for path in paths:
            # A 301 to another method than GET has a body here and none in Go.
            methods = ("GET",) if path.startswith("//") else ("GET", "POST", "PUT", "DELETE")
            if path == "/raft/snapshot" or path == "/raft":
                methods = ("GET", "PUT", "DELETE")
            for method in methods:
                body = b"" if method in ("POST", "PUT") else None
                ours, real = (http(ports(each)[side], method, path, body) for each in both)
                assert ours == real, (method, path)
    for body in HASH_BODIES:
        ours, real = (http(ports(each)[1], "GET", "/members/hashkv", body) for each in both)
        assert ours == real, body


def samples(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        rows = [row for row in answer.read().decode().splitlines() if not row.startswith("#")]
    return {name: float(value) for name, _, value in (row.rpartition(" ") for row in rows)}


def test_what_a_cluster_counts(machine: Any, wait_until: Any) -> None:
    nodes = [node.wait_healthy() for node in machine.cluster(3)]
    before = [samples(node.client_port) for node in nodes]
    for at in before:
        assert at["etcd_server_has_leader"] == 1
        assert at["etcd_server_leader_changes_seen_total"] >= 1
        active = [value for name, value in at.items() if "network_active_peers{" in name]
        assert active == [1, 1]
    assert sorted(at["etcd_server_is_leader"] for at in before) == [0, 0, 1]
    put(nodes[0].endpoint, count=25)

    def applied(port: int) -> float:
        return samples(port)["etcd_server_proposals_applied_total"]

    for node, at in zip(nodes, before, strict=True):
        wanted = at["etcd_server_proposals_applied_total"] + 25
        wait_until(lambda node=node, wanted=wanted: applied(node.client_port) >= wanted, "the puts")
    after = [samples(node.client_port) for node in nodes]
    label = '{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}'
    assert after[0][f"grpc_server_handled_total{label}"] == 25
    for old, new in zip(before, after, strict=True):
        assert new["etcd_server_proposals_committed_total"] >= 25
        assert new["etcd_server_proposals_pending"] == 0
        assert new["etcd_debugging_mvcc_current_revision"] == 26
        sent = "etcd_network_peer_sent_bytes_total{"
        grown = [new[name] - old.get(name, 0) for name in new if name.startswith(sent)]
        assert grown and max(grown) > 0
    (leader,) = (i for i, at in enumerate(after) if at["etcd_server_is_leader"] == 1)
    nodes[leader].kill()
    rest = [node for i, node in enumerate(nodes) if i != leader]

    def moved() -> bool:
        found = [samples(node.client_port) for node in rest]
        changes = [at["etcd_server_leader_changes_seen_total"] for at in found]
        return sum(at["etcd_server_is_leader"] for at in found) == 1 and min(changes) >= 2

    wait_until(moved, "another leader")
    for node in rest:
        at = samples(node.client_port)
        active = [value for name, value in at.items() if "network_active_peers{" in name]
        assert sorted(active) == [0, 1]
        assert json.loads(http(node.client_port, "GET", "/health")[1])["health"] == "true"
