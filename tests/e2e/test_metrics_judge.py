"""The same requests to etcd and to pyetcd: the same metrics, types, labels and buckets come of it,
and where a number is one of requests, keys or events, the same number.
"""

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as rpc

# Of one side only: the runtimes, etcd's v2 store at work, and what etcd does not measure.
ONE_SIDE = re.compile(r"go_|python_|pyetcd_|etcd_debugging_store_|etcd_server_apply.*v2")
# Numbers of what was asked and of what there is, which do not depend on time or on the program.
EQUAL = [
    "etcd_mvcc_put_total",
    "etcd_mvcc_range_total",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_txn_total",
    "etcd_debugging_mvcc_range_total",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_total_put_size_in_bytes",
    "etcd_debugging_mvcc_events_total",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_db_compaction_keys_total",
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_renewed_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_debugging_lease_ttl_total_count",
    "etcd_debugging_lease_ttl_total_sum",
    "etcd_debugging_auth_revision",
    "etcd_disk_backend_defrag_duration_seconds_count",
    "etcd_disk_backend_snapshot_duration_seconds_count",
    "etcd_mvcc_hash_duration_seconds_count",
    "etcd_mvcc_hash_rev_duration_seconds_count",
    "etcd_server_client_requests_total",
    "grpc_server_started_total",
    "grpc_server_msg_received_total",
    "grpc_server_msg_sent_total",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds_count",
    "etcd_server_apply_duration_seconds_count",
]
UNMOVED = [
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_disk_defrag_inflight",
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_is_learner",
    "etcd_server_proposals_failed_total",
    "etcd_server_quota_backend_bytes",
]
V2 = 'version="v2"'
# A snapshot is sent in pieces of another size; a name and the version of the cluster are written
# by v2 requests there.
OTHERWISE = re.compile(r'msg_sent_total.*"Snapshot"|op="Cluster(MemberAttr|Version)Set"')
# To apply a compaction etcd reads some key, for the revision in the answer.
MORE = {"etcd_mvcc_range_total": 1, "etcd_debugging_mvcc_range_total": 1}


@pytest.fixture(scope="module")
def texts(machine_type: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The scrapes of etcd and of pyetcd before the traffic, then those behind it, with one watch
    still open. etcd's health check is a range: so there is none between."""
    machine = machine_type(tmp_path_factory.mktemp("nodes"))
    before, after = [], []
    for program in ("etcd", "pyetcd"):
        node = machine.single(program, "--metrics=extensive")
        while "cluster_version=" not in (text := scrape(node.endpoint)):
            time.sleep(0.02)
        before.append(text)
        with grpc.insecure_channel(node.endpoint) as channel:
            watching = traffic(channel)
            after.append(scrape(node.endpoint))
            watching.cancel()
    machine.close()
    yield [*before, *after]


def scrape(endpoint: str) -> str:
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def traffic(channel: grpc.Channel) -> Any:
    def call(method: str, request: Any, **metadata: str) -> None:
        given = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        stub = channel.unary_unary(f"/etcdserverpb.{method}")
        try:
            stub(request.SerializeToString(), timeout=10, metadata=given)
        except grpc.RpcError:
            pass  # of some of them; what came of it is in the numbers

    create = rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"k"))
    watching = channel.stream_stream("/etcdserverpb.Watch/Watch")(
        open_ended(create.SerializeToString()), metadata=(("client-api-version", "3.5"),)
    )
    next(watching)
    _keys(call)
    for _ in range(4):  # a put, a put with a lease, its revocation, a transaction
        next(watching)
    _others(call)
    renewal = rpc.LeaseKeepAliveRequest(ID=2).SerializeToString()
    list(channel.stream_stream("/etcdserverpb.Lease/LeaseKeepAlive")(iter([renewal])))
    list(channel.unary_stream("/etcdserverpb.Maintenance/Snapshot")(b""))
    return watching


def open_ended(request: bytes) -> Iterator[bytes]:
    import threading

    yield request
    threading.Event().wait(2)


def _keys(call: Callable[..., None]) -> None:
    put = rpc.PutRequest(key=b"k", value=b"v" * 10)
    call("KV/Put", put, client_api_version="3.5")
    call("KV/Put", rpc.PutRequest(key=b"", value=b"v"))  # refused
    call("KV/Put", rpc.PutRequest(key=b"a", value=b"v", prev_kv=True))
    call("KV/Range", rpc.RangeRequest(key=b"k"))
    call("KV/Range", rpc.RangeRequest(key=b"k", serializable=True, count_only=True))
    call("KV/Range", rpc.RangeRequest(key=b"k", revision=1000))  # refused
    call("KV/DeleteRange", rpc.DeleteRangeRequest(key=b"a", range_end=b"b", prev_kv=True))
    call("KV/DeleteRange", rpc.DeleteRangeRequest(key=b"nothing"))
    for id in (1, 2):
        call("Lease/LeaseGrant", rpc.LeaseGrantRequest(ID=id, TTL=1000))
    call("Lease/LeaseGrant", rpc.LeaseGrantRequest(ID=1, TTL=1000))  # refused
    for key in (b"k", b"l", b"m"):
        call("KV/Put", rpc.PutRequest(key=key, value=b"leased", lease=1))
    call("Lease/LeaseRevoke", rpc.LeaseRevokeRequest(ID=1))
    call("Lease/LeaseRevoke", rpc.LeaseRevokeRequest(ID=77))  # refused
    txn = rpc.TxnRequest()
    for key in (b"k", b"n"):
        txn.compare.add(key=key, target=rpc.Compare.VERSION, version=0)
    txn.success.add().request_put.CopyFrom(put)
    txn.success.add().request_range.key = b"k"
    nested = txn.success.add().request_txn
    nested.compare.add(key=b"k", target=rpc.Compare.VERSION, version=5)
    nested.failure.add().request_put.key = b"nested"
    nested.failure.add().request_delete_range.key = b"nothing"
    call("KV/Txn", txn)
    reading = rpc.TxnRequest()
    reading.success.add().request_range.key = b"k"
    reading.success.add().request_range.key = b"n"
    call("KV/Txn", reading)


def _others(call: Callable[..., None]) -> None:
    call("KV/Compact", rpc.CompactionRequest(revision=6, physical=True))
    call("KV/Compact", rpc.CompactionRequest(revision=2))  # refused
    call("Auth/RoleAdd", rpc.AuthRoleAddRequest(name="r"))
    call("Auth/RoleGet", rpc.AuthRoleGetRequest(role="nobody"))  # refused
    call("Maintenance/Defragment", rpc.DefragmentRequest())
    call("Maintenance/Hash", rpc.HashRequest())
    call("Maintenance/HashKV", rpc.HashKVRequest())
    call("Maintenance/Status", rpc.StatusRequest())
    call("Cluster/MemberList", rpc.MemberListRequest(linearizable=True))


def lines(text: str) -> list[str]:
    return [
        line
        for line in text.splitlines()
        if not (line.startswith("#") or ONE_SIDE.match(line) or V2 in line)
    ]


def series(text: str) -> set[str]:
    """Names with labels, ids and versions made equal; buckets are among the labels."""
    names = {line.rpartition(" ")[0] for line in lines(text) if 'op="Cluster' not in line}
    return {re.sub(r'(server_id|server_go_version)="[^"]*"', r"\1", name) for name in names}


def values(text: str, wanted: str) -> dict[str, float]:
    found = {}
    for line in lines(text):
        name, _, value = line.rpartition(" ")
        if name.partition("{")[0] == wanted and not OTHERWISE.search(name):
            found[name] = float(value)
    return found


def risen(before: str, after: str, name: str) -> dict[str, float]:
    began = values(before, name)
    rises = {labels: now - began.get(labels, 0) for labels, now in values(after, name).items()}
    return {labels: rise for labels, rise in rises.items() if rise}


def test_types(texts: list[str]) -> None:
    kinds = []
    for text in texts[2:]:
        found = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
        kinds.append({name: kind for name, kind in found if not ONE_SIDE.match(name)})
    assert kinds[0] == kinds[1]


def test_labels_and_buckets(texts: list[str]) -> None:
    theirs, ours = map(series, texts[2:])
    assert theirs - ours == set()
    assert ours - theirs == set()


@pytest.mark.parametrize("name", EQUAL)
def test_numbers(texts: list[str], name: str) -> None:
    theirs, ours = (risen(texts[side], texts[side + 2], name) for side in (0, 1))
    assert theirs, "the traffic does not move it"
    assert {labels: rise + MORE.get(name, 0) for labels, rise in ours.items()} == theirs


@pytest.mark.parametrize("name", UNMOVED)
def test_numbers_that_stay(texts: list[str], name: str) -> None:
    theirs, ours = (values(text, name) for text in texts[2:])
    assert theirs and ours == theirs
