"""From a Config to what a member is made of: the numbers of its core, and its files made ready."""

from collections.abc import Sequence

from pyetcd.proto.rpc_pb2 import CORRUPT
from pyetcd.server import logs
from pyetcd.server.clock import Clock, system_rng
from pyetcd.server.config import Config
from pyetcd.server.config_checks import V2_ALLOWED
from pyetcd.server.core import Core, Tuning
from pyetcd.server.corruption import CorruptionWatch, ask_over
from pyetcd.server.datadir import DataDir
from pyetcd.server.facts import DEFRAGMENT_PAGES
from pyetcd.server.jwt_tokens import AuthTokenError, JwtOptions, token_options
from pyetcd.server.machine import TOKEN_TTL_S
from pyetcd.server.startup import StartupRefused
from pyetcd.store.v2 import holds_keys

# etcd's raft limits (server/etcdserver/raft.go: maxSizePerMsg, maxInflightMsgs).
MESSAGE_BYTES_MAX = 512 * 1024
INFLIGHT_MAX = 512
INFLIGHT_BYTES_MAX = 64 << 20
COMMITTED_BYTES_MAX = 4 << 20
UNCOMMITTED_BYTES_MAX = 256 << 20


def tuning_of(config: Config) -> Tuning:
    by_count = config.auto_compaction_mode == "revision"
    retention = config.compaction_retention
    return Tuning(
        tick_s=config.heartbeat_interval_ms / 1000,
        election_ticks=config.election_ticks,
        pre_vote=config.pre_vote,
        message_bytes_max=MESSAGE_BYTES_MAX,
        committed_bytes_max=COMMITTED_BYTES_MAX,
        uncommitted_bytes_max=UNCOMMITTED_BYTES_MAX,
        inflight_max=INFLIGHT_MAX,
        inflight_bytes_max=INFLIGHT_BYTES_MAX,
        snapshot_count=config.snapshot_count,
        catchup_entries=config.experimental_snapshot_catchup_entries,
        commit_interval_s=config.batch_interval_s,
        commit_changes_max=config.batch_limit,
        compact_rows_max=config.compaction_batch_limit,
        compact_pause_s=config.compaction_pause_s,
        lease_checkpoint_interval_s=config.lease_checkpoint_interval_s,
        slow_apply_s=config.experimental_warning_apply_duration_s,
        quota_bytes=config.quota_bytes,
        request_timeout_s=config.request_timeout_s,
        request_bytes_max=config.max_request_bytes,
        txn_ops_max=config.max_txn_ops,
        progress_interval_s=config.watch_progress_interval_s,
        strict_reconfig_check=config.strict_reconfig_check,
        compaction_period_s=0.0 if by_count else retention / 1e9,
        compaction_revisions=retention if by_count else 0,
        jwt=_jwt_options(config),
        token_ttl_s=float(config.auth_token_ttl_s or TOKEN_TTL_S),
        bcrypt_cost=config.bcrypt_cost,
        client_cert_auth=config.client_cert_auth,
        ids_salt=system_rng().getrandbits(40),
    )


def _jwt_options(config: Config) -> JwtOptions | None:
    try:
        return token_options(config.auth_token)
    except AuthTokenError as error:
        raise StartupRefused(str(error)) from error


def prepare(config: Config, data: DataDir) -> None:
    """What is done with the open files before anything runs on them; raises StartupRefused."""
    log = logs.get("member")
    if config.unsafe_no_fsync:
        log.warn("--unsafe-no-fsync: a power cut may lose acknowledged writes, or the whole member")
        data.wal.forgo_fsync()
        data.backend.forgo_fsync()
    stage = config.v2_deprecation
    if stage != V2_ALLOWED and holds_keys(data.backend):
        raise StartupRefused(
            f"detected disallowed custom content in v2store for stage --v2-deprecation={stage}; "
            "remove the v2 keys, users and roles (--enable-v2), or allow them: not-yet"
        )
    threshold_bytes = config.experimental_bootstrap_defrag_threshold_megabytes << 20
    if not threshold_bytes:
        return None
    backend = data.backend
    sizes = {
        "current_db_size_bytes": backend.size_bytes,
        "current_db_size_in_use_bytes": backend.in_use_bytes,
        "experimental_bootstrap_defrag_threshold_bytes": threshold_bytes,
    }
    if backend.size_bytes - backend.in_use_bytes < threshold_bytes:
        return log.info("skipping defragmentation", **sizes)
    while backend.vacuum_step(DEFRAGMENT_PAGES):
        pass
    return log.info("finished defragmentation", size_bytes_after=backend.size_bytes, **sizes)


def corruption_watch(config: Config, core: Core, clock: Clock) -> CorruptionWatch:
    members = core.machine.members

    def peers() -> list[tuple[int, Sequence[str]]]:
        return [(each.id, each.peer_urls) for each in members.all() if each.id != core.id]

    return CorruptionWatch(
        core.id,
        store=core.machine,
        proposer=core.proposer,
        is_leader=lambda: core.node.is_leader,
        newest=lambda: core.machine.keyspace.revision,
        compacted=lambda: core.machine.keyspace.compact_revision,
        members=lambda: len(members),
        is_alarmed=lambda: bool(core.machine.alarms.get(CORRUPT)),
        ask_peers=ask_over(core.transport.client, peers, core.cluster_id, config.request_timeout_s),
        loop=core.loop,
        monotonic_s=clock.monotonic_s,
        every_s=config.corrupt_check_s,
        compact_every_s=config.compact_hash_check_s,
    )
