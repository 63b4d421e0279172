"""THE table of metrics: etcd 3.5.1's names, types, labels and buckets, and who feeds each.

Fed: a word for the code that counts it (`replica`, `listener`, ...), or `later: X` for what belongs
to a part that does not exist yet; such a metric is exported as etcd exports it while X is idle: 0,
or nothing when it has labels. `unused` is what only etcd can have (bbolt, the v2 proxy), or
has and never shows.
"""

from dataclasses import dataclass

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    kind: str
    fed: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _exponential(start: float, factor: float, count: int) -> tuple[float, ...]:
    bounds = [start]
    for _ in range(count - 1):
        bounds.append(bounds[-1] * factor)  # by steps, as Go does: the last digits are the same
    return tuple(bounds)


def _counter(name: str, fed: str, help: str, *labels: str) -> Row:
    return Row(name, COUNTER, fed, help, labels)


def _gauge(name: str, fed: str, help: str, *labels: str) -> Row:
    return Row(name, GAUGE, fed, help, labels)


def _histogram(
    name: str, fed: str, help: str, buckets: tuple[float, float, int], *labels: str
) -> Row:
    return Row(name, HISTOGRAM, fed, help, labels, _exponential(*buckets))


_DISK = (0.001, 2, 14)
_HTTP = (0.0005, 2, 13)
_PEER_SNAP = (0.1, 2, 10)
_D, _N, _S = "etcd_debugging_", "etcd_network_", "etcd_server_"

_COUNTERS = (
    _counter(_D + "lease_granted_total", "apply", "Leases granted."),
    _counter(_D + "lease_renewed_total", "lease api", "Leases renewed while this member led."),
    _counter(_D + "lease_revoked_total", "apply", "Leases revoked."),
    _counter(_D + "mvcc_db_compaction_keys_total", "chores", "Revisions removed by compaction."),
    _counter(_D + "mvcc_events_total", "watch", "Events sent to watchers."),
    _counter(_D + "mvcc_range_total", "apply", "Ranges read, under the name before 3.4."),
    _counter(_D + "server_lease_expired_total", "chores", "Leases that ran out."),
    _counter(_D + "store_expires_total", "v2", "v2 keys that ran out."),
    _counter(_D + "store_reads_failed_total", "unused", "v2 reads that failed.", "action"),
    _counter(_D + "store_reads_total", "v2", "v2 reads.", "action"),
    _counter(_D + "store_watch_requests_total", "v2", "v2 watches."),
    _counter(_D + "store_writes_failed_total", "unused", "v2 writes that failed.", "action"),
    _counter(_D + "store_writes_total", "v2", "v2 writes.", "action"),
    _counter("etcd_grpc_proxy_events_coalescing_total", "unused", "Events merged by a gRPC proxy."),
    _counter("etcd_http_failed_total", "v2", "v2 requests that failed.", "method", "code"),
    _counter("etcd_http_received_total", "v2", "v2 requests.", "method"),
    _counter("etcd_mvcc_delete_total", "apply", "Deletions."),
    _counter("etcd_mvcc_put_total", "apply", "Puts."),
    _counter("etcd_mvcc_range_total", "apply", "Ranges read."),
    _counter("etcd_mvcc_txn_total", "apply", "Transactions."),
    _counter("pyetcd_disk_stalls_total", "driver", "Such commits."),
    _counter(_N + "client_grpc_received_bytes_total", "listener", "Bytes from gRPC clients."),
    _counter(_N + "client_grpc_sent_bytes_total", "listener", "Bytes to gRPC clients."),
    _counter(_N + "disconnected_peers_total", "transport", "Peers lost.", "Local", "Remote"),
    _counter(_N + "peer_received_bytes_total", "transport", "Bytes from a peer.", "From"),
    _counter(_N + "peer_received_failures_total", "transport", "Receipts that failed.", "From"),
    _counter(_N + "peer_sent_bytes_total", "transport", "Bytes to a peer.", "To"),
    _counter(_N + "peer_sent_failures_total", "transport", "Sends that failed.", "To"),
    _counter(
        _N + "server_stream_failures_total", "listener", "Streams that broke here.", "Type", "API"
    ),
    _counter(_N + "snapshot_receive_failures", "transport", "Snapshots not received.", "From"),
    _counter(_N + "snapshot_receive_success", "transport", "Snapshots received.", "From"),
    _counter(_N + "snapshot_send_failures", "transport", "Snapshots not sent.", "To"),
    _counter(_N + "snapshot_send_success", "transport", "Snapshots sent.", "To"),
    _counter(
        "etcd_proxy_dropped_total", "unused", "v2 proxy: dropped.", "method", "proxying_error"
    ),
    _counter("etcd_proxy_handled_total", "unused", "v2 proxy: answered.", "method", "code"),
    _counter("etcd_proxy_requests_total", "unused", "v2 proxy: asked.", "method"),
    _counter(
        _S + "client_requests_total",
        "listener",
        "Requests by the version that the client says it is.",
        "type",
        "client_api_version",
    ),
    _counter(_S + "health_failures", "ops", "Answers of /health that were false."),
    _counter(_S + "health_success", "ops", "Answers of /health that were true."),
    _counter(_S + "heartbeat_send_failures_total", "loop", "Heartbeats that left too late."),
    _counter(_S + "leader_changes_seen_total", "replica", "Changes of leader."),
    _counter(_S + "learner_promote_failures", "cluster api", "Promotions refused.", "Reason"),
    _counter(_S + "learner_promote_successes", "cluster api", "Learners promoted by this leader."),
    _counter(_S + "proposals_failed_total", "propose", "Proposals that failed."),
    _counter(_S + "read_indexes_failed_total", "reads", "Read indexes that failed."),
    _counter(_S + "slow_apply_total", "replica", "Entries that took long to apply."),
    _counter(_S + "slow_read_indexes_total", "reads", "Read indexes that took too long."),
)

_GAUGES = (
    _gauge("etcd_cluster_version", "members", "1 for the cluster's version.", "cluster_version"),
    _gauge(_D + "auth_revision", "auth", "Revision of users and roles."),
    _gauge(_D + "mvcc_compact_revision", "keyspace", "Revision of the last compaction."),
    _gauge(_D + "mvcc_current_revision", "keyspace", "Revision now."),
    _gauge(_D + "mvcc_db_compaction_last", "chores", "Unix time of the last compaction, or 0."),
    _gauge(_D + "mvcc_keys_total", "keyspace", "Keys."),
    _gauge(_D + "mvcc_pending_events_total", "watch", "Events that wait for slow watchers."),
    _gauge(_D + "mvcc_slow_watcher_total", "watch", "Watchers that are behind."),
    _gauge(_D + "mvcc_total_put_size_in_bytes", "apply", "Bytes of all puts so far."),
    _gauge(_D + "mvcc_watch_stream_total", "watch", "Watch streams."),
    _gauge(_D + "mvcc_watcher_total", "watch", "Watchers."),
    _gauge(_D + "store_watchers", "v2", "v2 watchers."),
    _gauge("etcd_disk_defrag_inflight", "facts", "1 while a defragmentation runs."),
    _gauge("etcd_disk_wal_write_bytes_total", "wal", "Bytes written to the log."),
    _gauge("etcd_grpc_proxy_cache_hits_total", "unused", "gRPC proxy: hits."),
    _gauge("etcd_grpc_proxy_cache_keys_total", "unused", "gRPC proxy: cached ranges."),
    _gauge("etcd_grpc_proxy_cache_misses_total", "unused", "gRPC proxy: misses."),
    _gauge("etcd_grpc_proxy_watchers_coalescing_total", "unused", "gRPC proxy: merged watchers."),
    _gauge("pyetcd_disk_stalled", "driver", "1 while a commit of the log outlasts an election."),
    _gauge("pyetcd_log_lost", "member", "1 while a member whose log was lost comes back."),
    _gauge("pyetcd_loop_lag_seconds_max", "driver", "The latest a tick has been."),
    _gauge("etcd_mvcc_db_open_read_transactions", "backend", "Open read transactions."),
    _gauge("etcd_mvcc_db_total_size_in_bytes", "backend", "Size of the keyspace file."),
    _gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "backend", "Of that, in use."),
    _gauge(_N + "active_peers", "transport", "1 for each peer in contact.", "Local", "Remote"),
    _gauge(_N + "snapshot_receive_inflights_total", "transport", "Being received.", "From"),
    _gauge(_N + "snapshot_send_inflights_total", "transport", "Being sent.", "To"),
    _gauge(_S + "go_version", "member", "1 for the runtime's version.", "server_go_version"),
    _gauge(_S + "has_leader", "replica", "1 while a leader is known."),
    _gauge(_S + "id", "member", "1 for this member's id.", "server_id"),
    _gauge(_S + "is_leader", "replica", "1 while this member leads."),
    _gauge(_S + "is_learner", "members", "1 while this member is a learner."),
    _gauge(_S + "proposals_applied_total", "replica", "Index of the last applied entry."),
    _gauge(_S + "proposals_committed_total", "replica", "Index of the last committed entry."),
    _gauge(_S + "proposals_pending", "propose", "Proposals without an answer yet."),
    _gauge(_S + "quota_backend_bytes", "config", "Size at which writes stop."),
    _gauge(_S + "snapshot_apply_in_progress_total", "replica", "1 while one is installed."),
    _gauge(_S + "version", "member", "1 for this server's version.", "server_version"),
    _gauge("os_fd_limit", "process", "Most open files."),
    _gauge("os_fd_used", "process", "Open files."),
)

_HISTOGRAMS = (
    _histogram(
        _D + "disk_backend_commit_rebalance_duration_seconds", "unused", "bbolt: rebalance.", _DISK
    ),
    _histogram(
        _D + "disk_backend_commit_spill_duration_seconds", "unused", "bbolt: spill.", _DISK
    ),
    _histogram(
        _D + "disk_backend_commit_write_duration_seconds", "machine", "Commits: write.", _DISK
    ),
    _histogram(_D + "lease_ttl_total", "apply", "TTLs of granted leases.", (1, 2, 24)),
    _histogram(
        _D + "mvcc_db_compaction_pause_duration_milliseconds",
        "chores",
        "One step of a compaction.",
        (1, 2, 13),
    ),
    _histogram(
        _D + "mvcc_db_compaction_total_duration_milliseconds",
        "chores",
        "A whole compaction.",
        (100, 2, 14),
    ),
    _histogram(
        _D + "mvcc_index_compaction_pause_duration_milliseconds",
        "unused",
        "Compaction of etcd's index in memory.",
        (0.5, 2, 14),
    ),
    _histogram(
        _D + "snap_save_marshalling_duration_seconds", "unused", "v2 snapshot: encode.", _DISK
    ),
    _histogram(_D + "snap_save_total_duration_seconds", "machine", "Checkpoints.", _DISK),
    _histogram("etcd_disk_backend_commit_duration_seconds", "machine", "Commits.", _DISK),
    _histogram(
        "etcd_disk_backend_defrag_duration_seconds", "facts", "Defragments.", (0.1, 2, 13)
    ),
    _histogram(
        "etcd_disk_backend_snapshot_duration_seconds", "machine", "Copies.", (0.01, 2, 17)
    ),
    _histogram("etcd_disk_wal_fsync_duration_seconds", "wal", "Commits of the log.", _DISK),
    _histogram(
        "etcd_http_successful_duration_seconds", "v2", "v2 requests.", _HTTP, "method"
    ),
    _histogram("etcd_mvcc_hash_duration_seconds", "machine", "Hash.", (0.01, 2, 15)),
    _histogram("etcd_mvcc_hash_rev_duration_seconds", "machine", "HashKV.", (0.01, 2, 15)),
    _histogram(
        _N + "peer_round_trip_time_seconds", "transport", "To a peer and back.", (0.0001, 2, 16),
        "To",
    ),
    _histogram(
        _N + "snapshot_receive_total_duration_seconds", "transport", "Received.", _PEER_SNAP, "From"
    ),
    _histogram(
        _N + "snapshot_send_total_duration_seconds", "transport", "Sent.", _PEER_SNAP, "To"
    ),
    _histogram("etcd_proxy_handling_duration_seconds", "unused", "v2 proxy.", _HTTP, "method"),
    _histogram(
        _S + "apply_duration_seconds", "replica", "Entries applied.", (0.0001, 2, 20), "version",
        "op", "success",
    ),
    _histogram("etcd_snap_db_fsync_duration_seconds", "transport", "Received: fsync.", _DISK),
    _histogram(
        "etcd_snap_db_save_total_duration_seconds", "transport", "Received: save.", (0.1, 2, 10)
    ),
    _histogram("etcd_snap_fsync_duration_seconds", "machine", "Checkpoints: fsync.", _DISK),
)  # fmt: skip

ROWS: dict[str, Row] = {
    row.name: row for row in sorted((*_COUNTERS, *_GAUGES, *_HISTOGRAMS), key=lambda row: row.name)
}

# grpc_prometheus.DefBuckets of the Go client library.
GRPC_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
