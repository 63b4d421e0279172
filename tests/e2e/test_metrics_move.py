"""Each metric that is fed moves when what it tells of happens: MOVERS says what makes it move.

One node is made slow by failpoints, so that what is over at once elsewhere can be seen; three
nodes lose members. What is asked of the numbers is that they move, or have the one value they can
have; that they are those of etcd is in test_metrics_judge.py.
"""

import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.server.metrics_tables import ROWS

D, N, S, K = "etcd_debugging_", "etcd_network_", "etcd_server_", "etcd_disk_"

# Of one node: what happened between two scrapes.
SINGLE = {
    D + "lease_granted_total", D + "lease_renewed_total", D + "lease_revoked_total",
    D + "server_lease_expired_total", D + "lease_ttl_total",
    D + "mvcc_db_compaction_keys_total", D + "mvcc_db_compaction_last",
    D + "mvcc_db_compaction_pause_duration_milliseconds",
    D + "mvcc_db_compaction_total_duration_milliseconds",
    D + "mvcc_compact_revision", D + "mvcc_current_revision", D + "mvcc_keys_total",
    D + "mvcc_total_put_size_in_bytes", D + "mvcc_events_total", D + "mvcc_range_total",
    D + "auth_revision", D + "disk_backend_commit_write_duration_seconds",
    D + "snap_save_total_duration_seconds", "etcd_snap_fsync_duration_seconds",
    "etcd_mvcc_delete_total", "etcd_mvcc_put_total", "etcd_mvcc_range_total",
    "etcd_mvcc_txn_total", "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes", "etcd_mvcc_hash_duration_seconds",
    "etcd_mvcc_hash_rev_duration_seconds",
    K + "backend_commit_duration_seconds", K + "backend_defrag_duration_seconds",
    K + "backend_snapshot_duration_seconds", K + "wal_fsync_duration_seconds",
    K + "wal_write_bytes_total",
    N + "client_grpc_received_bytes_total", N + "client_grpc_sent_bytes_total",
    N + "server_stream_failures_total",
    S + "apply_duration_seconds", S + "client_requests_total", S + "health_failures",
    S + "health_success", S + "heartbeat_send_failures_total", S + "learner_promote_failures",
    S + "proposals_applied_total", S + "proposals_committed_total", S + "slow_apply_total",
    "pyetcd_disk_stalls_total", "pyetcd_loop_lag_seconds_max",
}  # fmt: skip
# Of one node: seen above zero while something is under way.
UNDER_WAY = {
    D + "mvcc_watch_stream_total", D + "mvcc_watcher_total", D + "mvcc_slow_watcher_total",
    D + "mvcc_pending_events_total", K + "defrag_inflight", "etcd_mvcc_db_open_read_transactions",
    S + "proposals_pending", "os_fd_used",
}  # fmt: skip
CONSTANT = {
    "etcd_cluster_version": 1, S + "go_version": 1, S + "id": 1, S + "version": 1,
    S + "has_leader": 1, S + "is_leader": 1, S + "is_learner": 0,
    S + "quota_backend_bytes": 2 * 1024**3, "os_fd_limit": None,
}  # fmt: skip
CLUSTER = {
    N + "active_peers", N + "disconnected_peers_total", N + "peer_received_bytes_total",
    N + "peer_sent_bytes_total", N + "peer_sent_failures_total",
    N + "peer_round_trip_time_seconds", N + "snapshot_receive_success",
    N + "snapshot_send_success", N + "snapshot_receive_total_duration_seconds",
    N + "snapshot_send_total_duration_seconds", "etcd_snap_db_fsync_duration_seconds",
    "etcd_snap_db_save_total_duration_seconds", S + "leader_changes_seen_total",
}  # fmt: skip
# A scrape cannot meet them, or only after seconds of waiting.
ELSEWHERE = {
    S + "proposals_failed_total": "tests/server/test_feeds.py",
    S + "read_indexes_failed_total": "tests/server/test_feeds.py",
    S + "slow_read_indexes_total": "tests/server/test_feeds.py",
    S + "learner_promote_successes": "tests/server/test_feeds.py",
    S + "snapshot_apply_in_progress_total": "tests/server/test_feeds.py",
    N + "peer_received_failures_total": "tests/server/test_feeds.py",
    N + "snapshot_receive_failures": "tests/server/test_feeds.py",
    N + "snapshot_send_failures": "tests/server/test_feeds.py",
    N + "snapshot_send_inflights_total": "tests/server/test_feeds.py",
    N + "snapshot_receive_inflights_total": "tests/server/test_feeds.py",
    "pyetcd_log_lost": "tests/server/test_feeds.py",
    "pyetcd_disk_stalled": "tests/server/test_feeds.py",
    D + "store_expires_total": "tests/e2e/test_v2_judge.py",
    D + "store_reads_total": "tests/e2e/test_v2_judge.py",
    D + "store_watch_requests_total": "tests/e2e/test_v2_judge.py",
    D + "store_watchers": "tests/e2e/test_v2_judge.py",
    D + "store_writes_total": "tests/e2e/test_v2_judge.py",
    "etcd_http_failed_total": "tests/e2e/test_v2_judge.py",
    "etcd_http_received_total": "tests/e2e/test_v2_judge.py",
    "etcd_http_successful_duration_seconds": "tests/e2e/test_v2_judge.py",
}


def test_every_metric_has_a_mover() -> None:
    fed = {row.name for row in ROWS.values() if not re.match(r"later|unused", row.fed)}
    assert SINGLE | UNDER_WAY | set(CONSTANT) | CLUSTER | set(ELSEWHERE) == fed


Scrape = dict[str, dict[str, float]]


def scrape(node: Any) -> Scrape:
    """Values by name and labels; a histogram is told by its _count."""
    url = f"http://{node.endpoint}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found: Scrape = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name, _, labels = series.partition("{")
            found.setdefault(name.removesuffix("_count"), {})[labels] = float(value)
    return found


def total(found: Scrape, name: str) -> float:
    return sum(found.get(name, {}).values())


class Caller:
    """Requests by path, over one channel."""

    def __init__(self, endpoint: str) -> None:
        self.channel = grpc.insecure_channel(endpoint)

    def __call__(self, method: str, request: Any, **metadata: str) -> bytes:
        call = self.channel.unary_unary(f"/etcdserverpb.{method}")
        given = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        answer: bytes = call(request.SerializeToString(), timeout=20, metadata=given)
        return answer

    def stream(self, method: str, *requests: bytes, hold: threading.Event | None = None) -> Any:
        def given() -> Iterator[bytes]:
            yield from requests
            if hold is not None:
                hold.wait(30)

        return self.channel.stream_stream(f"/etcdserverpb.{method}")(given(), timeout=30)


def put(key: str, value: bytes = b"v") -> rpc.PutRequest:
    return rpc.PutRequest(key=key.encode(), value=value)


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Run it again and again in a thread meanwhile."""
    ended = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            while not ended.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert not errors


def rises(node: Any, wait_until: Any, *names: str) -> None:
    for name in names:
        wait_until(lambda name=name: total(scrape(node), name) > 0, name)


@pytest.fixture
def slow_node(machine: Any) -> Any:
    """Writing takes longer than a heartbeat, and than an election timeout."""
    node = machine.single(
        "pyetcd",
        "--metrics=extensive",
        "--snapshot-count=20",
        "--experimental-warning-apply-duration=1us",
        "--heartbeat-interval=10",
        "--election-timeout=50",
    )
    node.signal(15)
    node.wait()
    points = "beforeCommit=sleep(15)@4;walBeforeSync=sleep(60)@30;"
    points += "snapshotBeforeCopy=sleep(200);defragBeforeSlice=sleep(60)"
    node.environment["PYETCD_FAILPOINTS"] = points
    return node.start().wait_healthy()


def test_one_node(slow_node: Any, wait_until: Any) -> None:
    node = slow_node
    call = Caller(node.endpoint)
    before = scrape(node)
    _keys(call)
    _leases(call, node, wait_until)
    _streams(call, node, wait_until)
    _upkeep(call, node, wait_until)
    _health(call, node)
    assert len(node.log) < 1 << 20
    after = scrape(node)
    still = {name for name in SINGLE if after.get(name) == before.get(name)}
    latest = "pyetcd_loop_lag_seconds_max"  # of a tick: the start may have been the worst moment
    assert not still - {latest} and total(after, latest) > 0
    for name, value in CONSTANT.items():
        assert name in after and value in (None, total(after, name)), name
    labels = {"stream", "unary"}
    told = re.findall(r'client_api_version="([^"]+)",type="(\w+)"', str(after))
    assert {version for version, _ in told} == {"3.5", "unknown"}
    assert {kind for _, kind in told} == labels
    handled = total(after, "grpc_server_handling_seconds")
    assert handled == total(after, "grpc_server_handled_total") > 0
    call.channel.close()


def _keys(call: Caller) -> None:
    for number in range(10):
        call("KV/Put", put(f"k{number}"), client_api_version="3.5")
    call("KV/Range", rpc.RangeRequest(key=b"k", range_end=b"l"))
    call("KV/DeleteRange", rpc.DeleteRangeRequest(key=b"k9"))
    txn = rpc.TxnRequest()
    txn.success.add().request_put.CopyFrom(put("a"))
    txn.success.add().request_put.CopyFrom(put("b"))
    call("KV/Txn", txn)
    call("Auth/RoleAdd", rpc.AuthRoleAddRequest(name="r"))
    with pytest.raises(grpc.RpcError):
        call("Cluster/MemberPromote", rpc.MemberPromoteRequest(ID=7))


def _leases(call: Caller, node: Any, wait_until: Any) -> None:
    for id in (1, 2):
        call("Lease/LeaseGrant", rpc.LeaseGrantRequest(ID=id, TTL=1))
    renewal = rpc.LeaseKeepAliveRequest(ID=1).SerializeToString()
    assert list(call.stream("Lease/LeaseKeepAlive", renewal))
    call("Lease/LeaseRevoke", rpc.LeaseRevokeRequest(ID=2))
    rises(node, wait_until, D + "server_lease_expired_total")


def _streams(call: Caller, node: Any, wait_until: Any) -> None:
    """A watcher whose client does not read, and one that says what is no request."""
    hold = threading.Event()
    create = rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"big"))
    watching = call.stream("Watch/Watch", create.SerializeToString(), hold=hold)
    rises(node, wait_until, D + "mvcc_watch_stream_total", D + "mvcc_watcher_total")
    for _ in range(12):
        call("KV/Put", put("big", bytes(1 << 20)))
    rises(node, wait_until, D + "mvcc_pending_events_total", D + "mvcc_slow_watcher_total")
    watching.cancel()
    hold.set()
    with pytest.raises(grpc.RpcError):
        list(call.stream("Watch/Watch", b"\xff"))
    with beside(lambda: call("KV/Put", put("p"))):
        rises(node, wait_until, S + "proposals_pending", "os_fd_used")


def _upkeep(call: Caller, node: Any, wait_until: Any) -> None:
    """Twelve large values were written over each other: there is much to give back."""
    revision = int(total(scrape(node), D + "mvcc_current_revision"))
    call("KV/Compact", rpc.CompactionRequest(revision=revision, physical=True))
    snapshot = call.channel.unary_stream("/etcdserverpb.Maintenance/Snapshot")
    with beside(lambda: list(snapshot(b""))):
        rises(node, wait_until, "etcd_mvcc_db_open_read_transactions")
    thread = threading.Thread(
        target=lambda: call("Maintenance/Defragment", rpc.DefragmentRequest())
    )
    thread.start()
    rises(node, wait_until, K + "defrag_inflight")
    thread.join()
    call("Maintenance/Hash", rpc.HashRequest())
    call("Maintenance/HashKV", rpc.HashKVRequest())


def _health(call: Caller, node: Any) -> None:
    assert node.health()
    member = rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, memberID=1, alarm=rpc.NOSPACE)
    call("Maintenance/Alarm", member)
    with pytest.raises(urllib.error.HTTPError):
        node.health()


def test_three_nodes(machine: Any, wait_until: Any) -> None:
    """One misses so much that it needs a snapshot; then another one is killed."""
    flags = ("--snapshot-count=10", "--experimental-snapshot-catchup-entries=5")
    nodes = [node.wait_healthy() for node in machine.cluster(3, *flags)]
    seen: Scrape = {}
    behind = nodes[0]
    behind.kill()
    leader = None
    end_s = time.monotonic() + 30
    while leader is None and time.monotonic() < end_s:
        leader = next((n for n in nodes[1:] if total(scrape(n), S + "is_leader")), None)
    assert leader is not None
    call = Caller(leader.endpoint)
    for number in range(40):
        call("KV/Put", put(f"k{number}", bytes(100_000)))
    wait_until(lambda: "compacted Raft logs" in leader.log, "the log to be cut")
    behind.start()
    rises(behind, wait_until, N + "snapshot_receive_success")
    other = next(node for node in nodes[1:] if node is not leader)
    assert total(scrape(leader), N + "active_peers") == 2
    other.kill()
    wait_until(lambda: total(scrape(leader), N + "active_peers") == 1, "the peer to be missed")
    for node in (leader, behind):
        for name, series in scrape(node).items():
            seen.setdefault(name, {}).update(series)
    assert not {name for name in CLUSTER if not total(seen, name)}
    call.channel.close()
