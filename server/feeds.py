"""Where the metrics come from: numbers that the parts of a member keep anyway, read at a scrape.

Almost nothing here runs between scrapes: durations are told when something long is over, and each
batch of entries is counted once (`_ApplyMeter`). What has no line here and no other writer stays at
zero; the metrics table says of each row who feeds it.
"""

import time
from collections import Counter

from pyetcd.proto.errors import Compacted, EtcdError
from pyetcd.server.core import Core
from pyetcd.server.listen import Listener
from pyetcd.server.loop import LogThread
from pyetcd.server.metrics import Histogram, Metrics
from pyetcd.server.peer.transport import PeerTransport
from pyetcd.server.turns import Turns
from pyetcd.server.version import SERVER_VERSION, runtime_version

_DEBUGGING, _NETWORK, _DISK = "etcd_debugging_", "etcd_network_", "etcd_disk_"
_HTTP_TOOK = "etcd_http_successful_duration_seconds"
_STREAMS = {
    "/etcdserverpb.Watch/Watch": "watch",
    "/etcdserverpb.Lease/LeaseKeepAlive": "lease-keepalive",
}


def feed(metrics: Metrics, core: Core, *, client_listener: Listener) -> None:
    """Bind every metric whose value lives in one of these parts."""
    _bind_numbers(metrics, core, client_listener)
    _time(metrics, core)
    metrics.vector("etcd_server_id").set((f"{core.facts.member_id:x}",), 1)
    metrics.vector("etcd_server_version").set((SERVER_VERSION,), 1)
    metrics.vector("etcd_server_go_version").set((runtime_version(),), 1)
    if core.v2_base is not None:

        def took(method: str, seconds: float) -> None:
            metrics.histogram(_HTTP_TOOK, method).observe(seconds)

        core.v2_base.took = took
    keys = _KeyCount(core)
    metrics.bind(_DEBUGGING + "mvcc_keys_total", keys.read)

    def refresh() -> None:
        keys.refresh()
        _copy_counters(metrics, core)
        _copy_v2(metrics, core)
        _copy_calls(metrics, client_listener)
        _copy_peers(metrics, core.transport)
        version = core.machine.members.version
        if version:
            metrics.vector("etcd_cluster_version").set((version.rpartition(".")[0],), 1)

    metrics.refresh = refresh


def _bind_numbers(metrics: Metrics, core: Core, client_listener: Listener) -> None:
    machine, facts, driver, proposer = core.machine, core.facts, core.driver, core.proposer
    keyspace, backend, hub = machine.keyspace, machine.backend, machine.hub
    numbers = {
        "etcd_server_has_leader": lambda: facts.has_leader,
        "etcd_server_is_leader": lambda: facts.is_leader,
        "etcd_server_is_learner": lambda: facts.is_learner,
        "etcd_server_proposals_applied_total": lambda: facts.applied_index,
        "etcd_server_proposals_committed_total": lambda: facts.committed_index,
        "etcd_server_proposals_pending": lambda: proposer.pending,
        "etcd_server_quota_backend_bytes": lambda: core.tuning.quota_bytes,
        "etcd_server_snapshot_apply_in_progress_total": lambda: machine.is_installing,
        "etcd_mvcc_db_total_size_in_bytes": lambda: backend.size_bytes,
        "etcd_mvcc_db_total_size_in_use_in_bytes": lambda: backend.in_use_bytes,
        "etcd_mvcc_db_open_read_transactions": lambda: machine.readers_open,
        "etcd_disk_defrag_inflight": lambda: facts.defragmenting,
        "etcd_disk_wal_write_bytes_total": lambda: machine.wal.written_bytes_total,
        "etcd_debugging_auth_revision": lambda: machine.auth.revision,
        "etcd_debugging_mvcc_current_revision": lambda: keyspace.revision,
        "etcd_debugging_mvcc_compact_revision": lambda: keyspace.compact_revision,
        "etcd_debugging_mvcc_total_put_size_in_bytes": lambda: keyspace.tally.put_bytes,
        "etcd_debugging_mvcc_pending_events_total": lambda: hub.pending_events,
        "etcd_debugging_mvcc_watch_stream_total": lambda: hub.streams,
        "etcd_debugging_mvcc_watcher_total": lambda: hub.watchers,
        "etcd_debugging_mvcc_slow_watcher_total": lambda: hub.slow,
        "etcd_network_client_grpc_received_bytes_total": (
            lambda: client_listener.received_bytes_total
        ),
        "etcd_network_client_grpc_sent_bytes_total": lambda: client_listener.sent_bytes_total,
        "pyetcd_log_lost": lambda: facts.is_log_lost,
        "pyetcd_disk_stalled": lambda: facts.is_disk_stalled,
        "pyetcd_disk_stalls_total": lambda: driver.disk_stalls_total,
        "pyetcd_loop_lag_seconds_max": lambda: driver.loop_lag_s_max,
    }
    tree = machine.v2.tree
    numbers |= {
        "etcd_debugging_store_watchers": lambda: tree.hub.count,
        "etcd_debugging_store_expires_total": lambda: tree.stats.expired,
        "etcd_debugging_store_watch_requests_total": lambda: tree.hub.requests_total,
    }
    for name, read in numbers.items():
        metrics.bind(name, read)


def _time(metrics: Metrics, core: Core) -> None:
    """Durations, each told when it is over."""
    machine, chores = core.machine, core.chores
    receiver = core.transport.snapshots_in
    timings, histogram = machine.timings, metrics.histogram
    commits = histogram(_DISK + "backend_commit_duration_seconds")
    writes = histogram(_DEBUGGING + "disk_backend_commit_write_duration_seconds")
    checkpoints = histogram(_DEBUGGING + "snap_save_total_duration_seconds")
    fsyncs = histogram("etcd_snap_fsync_duration_seconds")

    def committed(seconds: float) -> None:
        commits.observe(seconds)
        writes.observe(seconds)

    def checkpointed(seconds: float) -> None:
        checkpoints.observe(seconds)
        fsyncs.observe(seconds)

    def compacted(seconds: float) -> None:
        totals.observe(seconds * 1000)
        ended_s[0] = time.time()

    def defragmented(seconds: float | None) -> None:
        if seconds is not None:
            defragments.observe(seconds)

    timings.commit, timings.checkpoint = committed, checkpointed
    timings.copy = histogram(_DISK + "backend_snapshot_duration_seconds").observe
    timings.hash = histogram("etcd_mvcc_hash_duration_seconds").observe
    timings.hash_kv = histogram("etcd_mvcc_hash_rev_duration_seconds").observe
    defragments = histogram(_DISK + "backend_defrag_duration_seconds")
    core.facts.defragment_hooks.append(defragmented)
    pauses = histogram(_DEBUGGING + "mvcc_db_compaction_pause_duration_milliseconds")
    totals = histogram(_DEBUGGING + "mvcc_db_compaction_total_duration_milliseconds")
    ended_s = [0.0]
    metrics.bind(_DEBUGGING + "mvcc_db_compaction_last", lambda: int(ended_s[0]))
    chores.slice_took = lambda seconds: pauses.observe(seconds * 1000)
    chores.compaction_took = compacted
    machine.lessor.on_grant = histogram(_DEBUGGING + "lease_ttl_total").observe
    receiver.keep_took = histogram("etcd_snap_db_fsync_duration_seconds").observe
    receiver.save_took = histogram("etcd_snap_db_save_total_duration_seconds").observe
    if isinstance(core.driver.commits, LogThread):
        core.driver.commits.took = histogram(_DISK + "wal_fsync_duration_seconds").observe
    core.driver.applied = _ApplyMeter(metrics, core.turns).applied


class _ApplyMeter:
    """etcd_server_apply_duration_seconds: a batch is timed as a whole, and each of its entries
    counts with its share."""

    def __init__(self, metrics: Metrics, turns: Turns) -> None:
        self._metrics = metrics
        self._turns = turns
        # Looked up once per kind of request and outcome; bounded by the kinds there are.
        self._histograms: dict[tuple[str, bool], Histogram] = {}

    def applied(self, took_s: float) -> None:
        batch, self._turns.batch = self._turns.batch, []
        if not batch:
            return
        share_s = took_s / len(batch)
        for op, count in Counter([each.op for each in batch if each.error is None]).items():
            self._count(op, None, share_s, count)
        for each in batch:
            if each.error is not None:
                self._count(each.op, each.error, share_s, 1)

    def _count(self, op: str, error: EtcdError | None, share_s: float, count: int) -> None:
        if not op:
            return
        success = error is None or isinstance(error, Compacted)  # as etcd sees it
        histogram = self._histograms.get((op, success))
        if histogram is None:
            version, _, method = op.rpartition(" ")
            if not version:  # put, lease_grant: Put, LeaseGrant
                version, method = "v3", "".join(part.capitalize() for part in op.split("_"))
            histogram = self._histograms[op, success] = self._metrics.histogram(
                "etcd_server_apply_duration_seconds", version, method, str(success).lower()
            )
        histogram.observe_many(share_s, count)


class _KeyCount:
    """How many keys there are: counted in a thread once, then kept up by what is made and deleted;
    counted again when a snapshot took the place of the keyspace."""

    def __init__(self, core: Core) -> None:
        self._machine = core.machine
        self._counted_generation = -1
        self._base = 0

    def read(self) -> int:
        return max(self._base + self._machine.keyspace.tally.keys, 0)

    def refresh(self) -> None:
        """Until a first count is over, what is told is what was made and deleted meanwhile."""
        generation = self._machine.backend.generation
        if generation == self._counted_generation:
            return
        self._counted_generation = generation
        before = self._machine.keyspace.tally.keys

        def counted(keys: int | EtcdError) -> None:
            if isinstance(keys, int):
                self._base = keys - before
            else:
                self._counted_generation = -1  # try again

        self._machine.count_keys(counted)


def _copy_counters(metrics: Metrics, core: Core) -> None:
    counters, machine, cluster = metrics.counters, core.machine, core.services.cluster
    lessor, tally = machine.lessor, machine.keyspace.tally
    counters.lease_granted = lessor.granted_total
    counters.lease_renewed = lessor.renewed_total
    counters.lease_revoked = lessor.revoked_total
    counters.lease_expired = core.chores.lease_expired_total
    counters.compaction_keys = machine.compaction.deleted
    counters.watch_events = machine.hub.events_total
    counters.range, counters.put = tally.ranges, tally.puts
    counters.delete, counters.txn = tally.deletes, tally.txns
    counters.heartbeat_send_failures = core.driver.heartbeat_late_total
    counters.leader_changes_seen = core.turns.leader_changes_total
    counters.proposals_failed = core.proposer.failed_total
    counters.read_indexes_failed = core.reads.failed_total
    counters.slow_read_indexes = core.reads.slow_total
    counters.slow_apply = core.driver.slow_apply_total
    counters.learner_promote_successes = cluster.promotions_total
    failures = metrics.vector("etcd_server_learner_promote_failures")
    for reason, count in cluster.promotions_failed.items():
        failures.set((reason,), count)


def _copy_v2(metrics: Metrics, core: Core) -> None:
    """What the v2 store has counted, and the requests of v2 keys."""
    stats = core.machine.v2.tree.stats
    store = _DEBUGGING + "store_"
    for action, count in stats.writes().items():
        if count:
            metrics.vector(store + "writes_total").set((action,), count)
    for action, count in stats.reads.items():
        metrics.vector(store + "reads_total").set((action,), count)
    base = core.v2_base
    if base is None:
        return
    for method, count in base.received.items():
        metrics.vector("etcd_http_received_total").set((method,), count)
    for (method, status), count in base.failed.items():
        metrics.vector("etcd_http_failed_total").set((method, str(status)), count)


def _copy_calls(metrics: Metrics, client_listener: Listener) -> None:
    """What the dispatcher has counted by method and by version of the client."""
    dispatcher = client_listener.dispatcher
    assert dispatcher is not None
    broken = metrics.vector(_NETWORK + "server_stream_failures_total")
    for path, counted in dispatcher.counters.items():
        stats = metrics.grpc.get(path)
        if stats is not None:
            stats.started, stats.received, stats.sent = (
                counted.started,
                counted.received,
                counted.sent,
            )
            stats.handled = counted.handled
            if stats.handling is not None:
                stats.handling.take(counted.handling, counted.handling_s)
        if path in _STREAMS:
            for kind, count in (
                ("receive", counted.broken_receives),
                ("send", counted.broken_sends),
            ):
                if count:
                    broken.set((kind, _STREAMS[path]), count)
    requests = metrics.vector("etcd_server_client_requests_total")
    for labels, count in dispatcher.calls_by_version.items():
        requests.set(labels, count)


def _copy_peers(metrics: Metrics, transport: PeerTransport) -> None:
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
            ("snapshot_send_inflights_total", counted.snapshots_sending),
            ("snapshot_receive_inflights_total", counted.snapshots_receiving),
        ):
            vector = metrics.vector(_NETWORK + name)
            if value or (remote,) in vector.values:  # etcd shows none that has not happened yet
                vector.set((remote,), value)
        if counted.disconnected_total:
            lost = metrics.vector(_NETWORK + "disconnected_peers_total")
            lost.set((local, remote), counted.disconnected_total)
        for name, durations in (
            ("peer_round_trip_time_seconds", counted.rtt),
            ("snapshot_send_total_duration_seconds", counted.snapshot_sends),
            ("snapshot_receive_total_duration_seconds", counted.snapshot_receipts),
        ):
            if any(durations.counts):
                histogram = metrics.histogram(_NETWORK + name, remote)
                histogram.take(durations.counts, durations.sum_s)
