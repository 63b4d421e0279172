"""What the log says of a configuration when a member starts."""

from pyetcd.proto.gotext import duration
from pyetcd.server.config import Config


def describe(config: Config) -> dict[str, object]:
    """The fields of the `starting an etcd server` line."""
    return {
        "name": config.name,
        "data-dir": config.data_dir,
        "member-dir": config.member_dir,
        "force-new-cluster": config.force_new_cluster,
        "heartbeat-interval": duration(config.heartbeat_interval_ms * 1_000_000),
        "election-timeout": duration(config.election_timeout_ms * 1_000_000),
        "initial-election-tick-advance": config.initial_election_tick_advance,
        "snapshot-count": config.snapshot_count,
        "snapshot-catchup-entries": config.experimental_snapshot_catchup_entries,
        "initial-advertise-peer-urls": [str(url) for url in config.initial_advertise_peer_urls],
        "listen-peer-urls": [str(url) for url in config.listen_peer_urls],
        "advertise-client-urls": [str(url) for url in config.advertise_client_urls],
        "listen-client-urls": [str(url) for url in config.listen_client_urls],
        "listen-metrics-urls": [str(url) for url in config.listen_metrics_urls],
        "cors": list(config.cors),
        "host-whitelist": list(config.host_whitelist),
        "initial-cluster": config.initial_cluster,
        "initial-cluster-state": config.initial_cluster_state,
        "initial-cluster-token": config.initial_cluster_token,
        "quota-size-bytes": config.quota_bytes,
        "pre-vote": config.pre_vote,
    }
