"""Where the metrics come from: numbers that the parts of a member keep anyway, read at a scrape.

Nothing here runs between scrapes. What has no line here and no other writer stays at zero; the
metrics table says of each row who feeds it.
"""

from pyetcd.server.core import Core
from pyetcd.server.listen import Listener
from pyetcd.server.loop import LogThread
from pyetcd.server.metrics import Metrics
from pyetcd.server.peer.transport import PeerTransport
from pyetcd.server.version import SERVER_VERSION, runtime_version

_NETWORK = "etcd_network_"


def feed(metrics: Metrics, core: Core, *, client_listener: Listener) -> None:
    """Bind every metric whose value lives in one of these parts."""
    machine, facts, proposer = core.machine, core.facts, core.proposer
    keyspace, backend, hub = machine.keyspace, machine.backend, machine.hub
    numbers = {
        "etcd_server_has_leader": lambda: facts.has_leader,
        "etcd_server_is_leader": lambda: facts.is_leader,
        "etcd_server_is_learner": lambda: facts.is_learner,
        "etcd_server_proposals_applied_total": lambda: facts.applied_index,
        "etcd_server_proposals_committed_total": lambda: facts.committed_index,
        "etcd_server_proposals_pending": lambda: proposer.pending,
        "etcd_server_quota_backend_bytes": lambda: core.tuning.quota_bytes,
        "etcd_mvcc_db_total_size_in_bytes": lambda: backend.size_bytes,
        "etcd_mvcc_db_total_size_in_use_in_bytes": lambda: backend.in_use_bytes,
        "pyetcd_log_lost": lambda: facts.is_log_lost,
        "pyetcd_disk_stalled": lambda: facts.is_disk_stalled,
        "pyetcd_disk_stalls_total": lambda: core.driver.disk_stalls_total,
        "pyetcd_loop_lag_seconds_max": lambda: core.driver.loop_lag_s_max,
        "etcd_debugging_auth_revision": lambda: machine.auth.revision,
        "etcd_debugging_mvcc_current_revision": lambda: keyspace.revision,
        "etcd_debugging_mvcc_compact_revision": lambda: keyspace.compact_revision,
        "etcd_debugging_mvcc_watch_stream_total": lambda: hub.streams,
        "etcd_debugging_mvcc_watcher_total": lambda: hub.watchers,
        "etcd_debugging_mvcc_slow_watcher_total": lambda: hub.slow,
        "etcd_network_client_grpc_received_bytes_total": (
            lambda: client_listener.received_bytes_total
        ),
        "etcd_network_client_grpc_sent_bytes_total": lambda: client_listener.sent_bytes_total,
    }
    if isinstance(core.driver.commits, LogThread):
        core.driver.commits.took = metrics.histogram("etcd_disk_wal_fsync_duration_seconds").observe
    machine.committed = metrics.histogram("etcd_disk_backend_commit_duration_seconds").observe
    for name, read in numbers.items():
        metrics.bind(name, read)
    metrics.vector("etcd_server_id").set((f"{facts.member_id:x}",), 1)
    metrics.vector("etcd_server_version").set((SERVER_VERSION,), 1)
    metrics.vector("etcd_server_go_version").set((runtime_version(),), 1)
    assert client_listener.dispatcher is not None
    dispatcher = client_listener.dispatcher

    def refresh() -> None:
        counters, lessor = metrics.counters, machine.lessor
        counters.lease_granted = lessor.granted_total
        counters.lease_renewed = lessor.renewed_total
        counters.lease_revoked = lessor.revoked_total
        counters.lease_expired = core.chores.lease_expired_total
        counters.compaction_keys = machine.compaction.deleted
        counters.watch_events = hub.events_total
        counters.heartbeat_send_failures = core.driver.heartbeat_late_total
        counters.leader_changes_seen = core.turns.leader_changes_total
        counters.proposals_failed = proposer.failed_total
        counters.read_indexes_failed = core.reads.failed_total
        counters.slow_read_indexes = core.reads.slow_total
        version = machine.members.version
        if version:
            metrics.vector("etcd_cluster_version").set((version.rpartition(".")[0],), 1)
        _feed_peers(metrics, core.transport)
        for path, counted in dispatcher.counters.items():
            stats = metrics.grpc.get(path)
            if stats is not None:
                stats.started, stats.received, stats.sent = (
                    counted.started,
                    counted.received,
                    counted.sent,
                )
                stats.handled = counted.handled
        for name, bucket in (("Range", "range"), ("Put", "put"), ("Txn", "txn")):
            setattr(counters, bucket, metrics.grpc[f"/etcdserverpb.KV/{name}"].handled[0])
        counters.delete = metrics.grpc["/etcdserverpb.KV/DeleteRange"].handled[0]

    metrics.refresh = refresh


def _feed_peers(metrics: Metrics, transport: PeerTransport) -> None:
    """The etcd_network_* rows that have a peer in their labels."""
    local = f"{transport.identity.member_id:x}"
    active = metrics.vector(_NETWORK + "active_peers")
    active.values.clear()  # those of removed members go
    for id in transport.peer_ids:
        active.set((local, f"{id:x}"), transport.is_active(id))
    for id, counted in transport.counters.items():
        remote = f"{id:x}"
        for name, value in (
            ("peer_sent_bytes_total", counted.sent_bytes_total),
            ("peer_received_bytes_total", counted.received_bytes_total),
            ("peer_sent_failures_total", counted.sent_failures_total),
            ("peer_received_failures_total", counted.received_failures_total),
            ("snapshot_send_success", counted.snapshot_sent_total),
            ("snapshot_send_failures", counted.snapshot_send_failures_total),
            ("snapshot_receive_success", counted.snapshot_received_total),
            ("snapshot_receive_failures", counted.snapshot_receive_failures_total),
        ):
            if value:  # etcd shows none that has not happened yet
                metrics.vector(_NETWORK + name).set((remote,), value)
        if counted.disconnected_total:
            lost = metrics.vector(_NETWORK + "disconnected_peers_total")
            lost.set((local, remote), counted.disconnected_total)
        round_trips = metrics.histogram(_NETWORK + "peer_round_trip_time_seconds", remote)
        round_trips.counts[:] = counted.rtt.counts
        round_trips.total = counted.rtt.sum_s
