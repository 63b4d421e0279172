"""THE table of options: every flag of etcd 3.5, and what it is called in the code.

One row each; flags, ETCD_* variables, YAML keys, --help and docs/configuration.md are all read from
here. Defaults are those of 3.5.1. `effect` says whether the option does anything in pyetcd: change
it in the commit that makes it work. YAML keys equal the flags but for the two transport-security
maps; yaml="" marks what etcd 3.5.1 cannot read from a file.
"""

from dataclasses import dataclass

from pyetcd.server.config_options import Effect, Kind, Section
from pyetcd.server.config_values import UINT32_MAX, Url

LATER, REFUSED, NONE = Effect.LATER, Effect.REFUSED, Effect.NONE

# Accepted and without meaning since etcd 2; each may stand alone, like a boolean flag.
IGNORED_FLAGS = (
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
    "test.coverprofile",
    "test.outputdir",
)

LOG_ROTATION_DEFAULT = (
    '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}'
)

_start = Section("Start")
_member = Section("Member")
_cluster = Section("Clustering")
_security = Section("Security")
_client_tls = Section("Security", yaml_map="client-transport-security")
_peer_tls = Section("Security", yaml_map="peer-transport-security", strip="peer-")
_auth = Section("Auth")
_monitor = Section("Profiling and monitoring")
_log = Section("Logging")
_tracing = Section("Distributed tracing")
_proxy = Section("v2 proxy")
_experimental = Section("Experimental")
_unsafe = Section("Unsafe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The values, after flags, environment or file have been read."""

    # ---- start ----
    config_file: str = _start.text(
        "config-file",
        "",
        "YAML file with all settings; other flags and variables then do nothing.",
        yaml="",
    )
    version: bool = _start.boolean("version", "Print the version and end.", yaml="")

    # ---- member ----
    name: str = _member.text("name", "default", "This member's name.")
    data_dir: str = _member.text(
        "data-dir", "", "Folder for everything this member keeps; empty means ${name}.etcd."
    )
    wal_dir: str = _member.text(
        "wal-dir", "", "A folder of its own for the log; empty means beside the keyspace."
    )
    snapshot_count: int = _member.number(
        "snapshot-count", 100000, "Applied entries after which the log is cut."
    )
    heartbeat_interval_ms: int = _member.number(
        "heartbeat-interval", 100, "Milliseconds between two heartbeats of a leader."
    )
    election_timeout_ms: int = _member.number(
        "election-timeout", 1000, "Milliseconds without a leader before a follower stands."
    )
    initial_election_tick_advance: bool = _member.boolean(
        "initial-election-tick-advance",
        "Shorten the very first election timeout.",
        default=True,
    )
    listen_peer_urls: tuple[Url, ...] = _member.urls(
        "listen-peer-urls", "http://localhost:2380", "Where to listen for other members."
    )
    listen_client_urls: tuple[Url, ...] = _member.urls(
        "listen-client-urls", "http://localhost:2379", "Where to listen for clients."
    )
    listen_client_http_urls: tuple[Url, ...] = _member.urls(
        "listen-client-http-urls",
        "",
        "Where to listen for HTTP apart from gRPC; listen-client-urls then serve gRPC alone (since "
        "3.5.9).",
    )
    listen_metrics_urls: tuple[Url, ...] = _member.urls(
        "listen-metrics-urls",
        "",
        "Extra listeners for metrics and health alone; they answer from the start on.",
    )
    max_snapshots: int = _member.number(
        "max-snapshots", 5, "Snapshot files to keep; pyetcd keeps none.", effect=NONE
    )
    max_wals: int = _member.number("max-wals", 5, "Log files to keep; pyetcd has one.", effect=NONE)
    quota_backend_bytes: int = _member.number(
        "quota-backend-bytes",
        0,
        "Size at which writes stop with NOSPACE; 0 means 2 GiB, below 0 no limit.",
        signed=True,
    )
    backend_bbolt_freelist_type: str = _member.text(
        "backend-bbolt-freelist-type", "map", "A setting of bbolt.", effect=NONE
    )
    backend_batch_interval_s: float = _member.duration(
        "backend-batch-interval",
        0.0,
        "Longest time between two commits of the keyspace, in heartbeats; 0 means 100ms.",
    )
    backend_batch_limit: int = _member.number(
        "backend-batch-limit",
        0,
        "Most changes in one commit of the keyspace; 0 means 10000.",
        signed=True,
    )
    max_txn_ops: int = _member.number("max-txn-ops", 128, "Most operations in one transaction.")
    max_request_bytes: int = _member.number(
        "max-request-bytes", 1572864, "Largest request of a client."
    )
    max_concurrent_streams: int = _member.number(
        "max-concurrent-streams",
        UINT32_MAX,
        "Most open streams per connection (since 3.5.9); when not given, 1000.",
        value_max=UINT32_MAX,
    )
    grpc_keepalive_min_time_s: float = _member.duration(
        "grpc-keepalive-min-time", 5.0, "Clients that ping more often than this are sent away."
    )
    grpc_keepalive_interval_s: float = _member.duration(
        "grpc-keepalive-interval", 7200.0, "Idle time after which the server pings; 0 means never."
    )
    grpc_keepalive_timeout_s: float = _member.duration(
        "grpc-keepalive-timeout", 20.0, "Wait for the answer to that ping before closing."
    )
    socket_reuse_port: bool = _member.boolean(
        "socket-reuse-port", "Set SO_REUSEPORT on listeners.", yaml=""
    )
    socket_reuse_address: bool = _member.boolean(
        "socket-reuse-address", "Set SO_REUSEADDR on listeners.", yaml=""
    )
    raft_read_timeout_s: float = _member.duration(
        "raft-read-timeout",
        5.0,
        "Read timeout of peer connections; at least 5s.",
        yaml="",
    )
    raft_write_timeout_s: float = _member.duration(
        "raft-write-timeout",
        5.0,
        "Write timeout of peer connections; at least 5s.",
        yaml="",
    )

    # ---- clustering ----
    initial_advertise_peer_urls: tuple[Url, ...] = _cluster.urls(
        "initial-advertise-peer-urls",
        "http://localhost:2380",
        "Where other members reach this one.",
    )
    advertise_client_urls: tuple[Url, ...] = _cluster.urls(
        "advertise-client-urls", "http://localhost:2379", "Where clients reach this member."
    )
    initial_cluster: str = _cluster.text(
        "initial-cluster",
        "default=http://localhost:2380",
        "All first members as name=url,name=url; a name with several URLs is repeated.",
    )
    initial_cluster_state: str = _cluster.choice(
        "initial-cluster-state", ("new", "existing"), "Found a cluster, or join one."
    )
    initial_cluster_token: str = _cluster.text(
        "initial-cluster-token", "etcd-cluster", "Keeps clusters with equal URLs apart."
    )
    discovery: str = _cluster.text(
        "discovery", "", "URL of a v2 discovery service.", effect=REFUSED
    )
    discovery_fallback: str = _cluster.choice(
        "discovery-fallback",
        ("proxy", "exit"),
        "What to do when discovery fails; there is none.",
        effect=NONE,
    )
    discovery_proxy: str = _cluster.text(
        "discovery-proxy",
        "",
        "HTTP proxy on the way to the discovery service; there is none.",
        effect=NONE,
    )
    discovery_srv: str = _cluster.text(
        "discovery-srv", "", "DNS domain whose SRV records name the members.", effect=REFUSED
    )
    discovery_srv_name: str = _cluster.text(
        "discovery-srv-name", "", "Suffix of the SRV records' service name.", effect=REFUSED
    )
    strict_reconfig_check: bool = _cluster.boolean(
        "strict-reconfig-check",
        "Refuse membership changes that would lose the quorum.",
        default=True,
    )
    pre_vote: bool = _cluster.boolean(
        "pre-vote", "Ask whether an election could be won before standing.", default=True
    )
    auto_compaction_mode: str = _cluster.text(
        "auto-compaction-mode",
        "periodic",
        "periodic (by time) or revision (by count).",
    )
    auto_compaction_retention: str = _cluster.text(
        "auto-compaction-retention",
        "0",
        "History to keep: hours or a duration (periodic), or revisions; 0 keeps all.",
    )
    enable_v2: bool = _cluster.boolean("enable-v2", "Serve the v2 API.")
    v2_deprecation: str = _cluster.choice(
        "v2-deprecation",
        ("not-yet", "write-only", "write-only-drop-data", "gone"),
        "How far the v2 store is on its way out: all but not-yet allow no keys in it.",
        several=True,
    )
    experimental_enable_v2v3: str = _cluster.text(
        "experimental-enable-v2v3",
        "",
        "Serve the v2 API from v3 keys under this prefix.",
        effect=LATER,
    )

    # ---- security ----
    cert_file: str = _client_tls.text("cert-file", "", "Certificate of the client listener.")
    key_file: str = _client_tls.text("key-file", "", "Key of the client listener.")
    trusted_ca_file: str = _client_tls.text(
        "trusted-ca-file", "", "CA that client certificates must come from."
    )
    client_cert_file: str = _client_tls.text(
        "client-cert-file", "", "Shown by etcd when it calls itself; pyetcd does not.", effect=NONE
    )
    client_key_file: str = _client_tls.text(
        "client-key-file", "", "Key for client-cert-file.", effect=NONE
    )
    client_cert_auth: bool = _client_tls.boolean(
        "client-cert-auth", "Ask clients for a certificate."
    )
    auto_tls: bool = _client_tls.boolean(
        "auto-tls", "Make a certificate for the client listener at start."
    )
    client_crl_file: str = _security.text(
        "client-crl-file", "", "Revoked client certificates.", yaml=""
    )
    client_cert_allowed_hostname: str = _security.text(
        "client-cert-allowed-hostname",
        "",
        "Name a client certificate must carry.",
        yaml="",
    )
    peer_cert_file: str = _peer_tls.text("peer-cert-file", "", "Certificate of the peer listener.")
    peer_key_file: str = _peer_tls.text("peer-key-file", "", "Key of the peer listener.")
    peer_trusted_ca_file: str = _peer_tls.text(
        "peer-trusted-ca-file", "", "CA that peer certificates must come from."
    )
    peer_client_cert_file: str = _peer_tls.text(
        "peer-client-cert-file", "", "Certificate shown to other members."
    )
    peer_client_key_file: str = _peer_tls.text(
        "peer-client-key-file", "", "Key for peer-client-cert-file."
    )
    peer_client_cert_auth: bool = _peer_tls.boolean(
        "peer-client-cert-auth",
        "Ask other members for a certificate.",
        yaml="peer-transport-security.client-cert-auth",
    )
    peer_auto_tls: bool = _peer_tls.boolean(
        "peer-auto-tls", "Make a certificate for the peer listener at start."
    )
    peer_crl_file: str = _security.text("peer-crl-file", "", "Revoked peer certificates.", yaml="")
    peer_cert_allowed_cn: str = _security.text(
        "peer-cert-allowed-cn", "", "CN a peer certificate must carry.", yaml=""
    )
    peer_cert_allowed_hostname: str = _security.text(
        "peer-cert-allowed-hostname",
        "",
        "Name a peer certificate must carry.",
        yaml="",
    )
    experimental_peer_skip_client_san_verification: bool = _security.boolean(
        "experimental-peer-skip-client-san-verification",
        "Do not compare a peer certificate's names with its address.",
        yaml="",
    )
    self_signed_cert_validity_years: int = _security.number(
        "self-signed-cert-validity",
        1,
        "Years that generated certificates are good for.",
    )
    cipher_suites: tuple[str, ...] = _security.strings(
        "cipher-suites", Kind.LIST, (), "TLS cipher suites, by Go's names."
    )
    tls_min_version: str = _security.text(
        "tls-min-version", "TLS1.2", "Oldest TLS version (since 3.5.8)."
    )
    tls_max_version: str = _security.text(
        "tls-max-version", "", "Newest TLS version (since 3.5.8)."
    )
    cors: tuple[str, ...] = _security.strings(
        "cors", Kind.ORIGINS, ("*",), "Origins whose pages may call; * means all."
    )
    host_whitelist: tuple[str, ...] = _security.strings(
        "host-whitelist", Kind.SET, ("*",), "Host names HTTP requests without TLS may ask for."
    )

    # ---- auth ----
    auth_token: str = _auth.text(
        "auth-token", "simple", "Kind of tokens: simple, or jwt with its options."
    )
    bcrypt_cost: int = _auth.number("bcrypt-cost", 10, "Cost of password hashes, 4 to 31.")
    auth_token_ttl_s: int = _auth.number(
        "auth-token-ttl", 300, "Seconds that a simple token lives without being used."
    )

    # ---- profiling and monitoring ----
    enable_pprof: bool = _monitor.boolean(
        "enable-pprof", "Go's profiles under /debug/pprof/; Python makes none.", effect=NONE
    )
    metrics: str = _monitor.text("metrics", "basic", "extensive adds how long each gRPC call took.")
    enable_grpc_gateway: bool = _monitor.boolean(
        "enable-grpc-gateway", "Serve the JSON gateway under /v3/.", default=True
    )

    # ---- logging ----
    logger: str = _log.text("logger", "zap", "Form of the log; zap is the only one.")
    log_level: str = _log.text("log-level", "info", "debug, info, warn, error, panic or fatal.")
    log_outputs: tuple[str, ...] = _log.strings(
        "log-outputs", Kind.SET, ("default",), "default, stderr, stdout or files."
    )
    enable_log_rotation: bool = _log.boolean(
        "enable-log-rotation", "Rotate the one file in log-outputs."
    )
    log_rotation_config_json: str = _log.text(
        "log-rotation-config-json", LOG_ROTATION_DEFAULT, "When to rotate, and what to keep."
    )

    # ---- distributed tracing ----
    experimental_enable_distributed_tracing: bool = _tracing.boolean(
        "experimental-enable-distributed-tracing",
        "Send traces; pyetcd makes none, and asks for no OpenTelemetry.",
        effect=NONE,
    )
    experimental_distributed_tracing_address: str = _tracing.text(
        "experimental-distributed-tracing-address",
        "localhost:4317",
        "Where to send them.",
        effect=NONE,
    )
    experimental_distributed_tracing_service_name: str = _tracing.text(
        "experimental-distributed-tracing-service-name",
        "etcd",
        "Service name in traces.",
        effect=NONE,
    )
    experimental_distributed_tracing_instance_id: str = _tracing.text(
        "experimental-distributed-tracing-instance-id",
        "",
        "This member's id in traces.",
        effect=NONE,
    )
    experimental_distributed_tracing_sampling_rate: int = _tracing.number(
        "experimental-distributed-tracing-sampling-rate",
        0,
        "Traces per million requests (since 3.5.5).",
        signed=True,
        effect=NONE,
    )

    # ---- v2 proxy ----
    proxy: str = _proxy.choice(
        "proxy", ("off", "readonly", "on"), "Run as a v2 proxy.", effect=REFUSED
    )
    proxy_failure_wait_ms: int = _proxy.number(
        "proxy-failure-wait", 5000, "Milliseconds a failed endpoint rests.", effect=NONE
    )
    proxy_refresh_interval_ms: int = _proxy.number(
        "proxy-refresh-interval", 30000, "Milliseconds between refreshes.", effect=NONE
    )
    proxy_dial_timeout_ms: int = _proxy.number(
        "proxy-dial-timeout", 1000, "Milliseconds to connect.", effect=NONE
    )
    proxy_write_timeout_ms: int = _proxy.number(
        "proxy-write-timeout", 5000, "Milliseconds to write.", effect=NONE
    )
    proxy_read_timeout_ms: int = _proxy.number(
        "proxy-read-timeout", 0, "Milliseconds to read.", effect=NONE
    )

    # ---- experimental ----
    experimental_initial_corrupt_check: bool = _experimental.boolean(
        "experimental-initial-corrupt-check",
        "Before serving, compare hashes with peers: not started with other data; on unless false.",
    )
    experimental_corrupt_check_time_s: float = _experimental.duration(
        "experimental-corrupt-check-time",
        0.0,
        "Time between two comparisons of hashes; 0 never, an hour unless given.",
    )
    experimental_compact_hash_check_enabled: bool = _experimental.boolean(
        "experimental-compact-hash-check-enabled",
        "Compare hashes after compactions (since 3.5.5); on unless set to false.",
    )
    experimental_compact_hash_check_time_s: float = _experimental.duration(
        "experimental-compact-hash-check-time",
        60.0,
        "Time between two such comparisons (since 3.5.5).",
    )
    experimental_enable_lease_checkpoint: bool = _experimental.boolean(
        "experimental-enable-lease-checkpoint",
        "Keep remaining TTLs over a change of leader; on unless set to false.",
    )
    experimental_enable_lease_checkpoint_persist: bool = _experimental.boolean(
        "experimental-enable-lease-checkpoint-persist",
        "Keep them over restarts as well; whoever keeps them at all does, here.",
        effect=NONE,
    )
    experimental_compaction_batch_limit: int = _experimental.number(
        "experimental-compaction-batch-limit",
        0,
        "Most revisions removed before a compaction rests; 0 means as many as 10ms allow.",
        signed=True,
    )
    experimental_compaction_sleep_interval_s: float = _experimental.duration(
        "experimental-compaction-sleep-interval",
        0.0,
        "Pause between two steps; 0 means 10ms (since 3.5.10).",
    )
    experimental_watch_progress_notify_interval_s: float = _experimental.duration(
        "experimental-watch-progress-notify-interval",
        0.0,
        "Time between progress notices to a watcher; 0 means 10m.",
    )
    experimental_downgrade_check_time_s: float = _experimental.duration(
        "experimental-downgrade-check-time",
        5.0,
        "Time between two looks at a downgrade.",
        effect=LATER,
    )
    experimental_warning_apply_duration_s: float = _experimental.duration(
        "experimental-warning-apply-duration",
        0.1,
        "Batches of entries that take longer to apply are logged and counted.",
    )
    experimental_memory_mlock: bool = _experimental.boolean(
        "experimental-memory-mlock",
        "Keep all memory in RAM.",
    )
    experimental_txn_mode_write_with_shared_buffer: bool = _experimental.boolean(
        "experimental-txn-mode-write-with-shared-buffer",
        "A setting of etcd's read buffers.",
        default=True,
        effect=NONE,
    )
    experimental_bootstrap_defrag_threshold_megabytes: int = _experimental.number(
        "experimental-bootstrap-defrag-threshold-megabytes",
        0,
        "Defragment at start when that frees this much; 0 means never.",
    )
    experimental_snapshot_catchup_entries: int = _experimental.number(
        "experimental-snapshot-catchup-entries",
        5000,
        "Entries kept behind a cut of the log for slow members (since 3.5.11).",
        yaml="experimental-snapshot-catch-up-entries",
    )
    experimental_stop_grpc_service_on_defrag: bool = _experimental.boolean(
        "experimental-stop-grpc-service-on-defrag",
        "gRPC health says NOT_SERVING during a defragmentation (since 3.5.10).",
    )

    # ---- unsafe ----
    unsafe_no_fsync: bool = _unsafe.boolean(
        "unsafe-no-fsync",
        "Do not wait for the disk; a power cut then loses data.",
    )
    force_new_cluster: bool = _unsafe.boolean(
        "force-new-cluster", "Go on alone with this member's data, once; all others are removed."
    )
