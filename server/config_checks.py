"""What must hold between options before a member starts; texts are etcd's, with what to do added.

The order is that of etcd's Config.Validate (server/embed/config.go), so that a configuration with
two mistakes is refused for the same one. Pure: nothing is opened.
"""

import ipaddress
from collections.abc import Iterable, Sequence

from pyetcd.proto.gotext import duration, parse_duration_ns, quote
from pyetcd.server.config_options import ConfigError, Effect, Option
from pyetcd.server.config_tables import Options
from pyetcd.server.config_values import Url
from pyetcd.server.log_files import Rotation

ELECTION_MS_MAX = 50_000
V2_ALLOWED = "not-yet"  # the stage of --v2-deprecation in which the v2 store may hold keys
LOG_LEVELS = ("debug", "info", "warn", "error", "dpanic", "panic", "fatal")
_STREAMS = ("default", "stderr", "stdout")


def validate(config: Options) -> None:
    """Raises ConfigError."""
    _check_logging(config)
    for urls in (
        config.listen_peer_urls, config.listen_client_urls, config.listen_client_http_urls,
        config.listen_metrics_urls,
    ):  # fmt: skip
        _check_listen(urls)
    _check_advertised("initial-advertise-peer-urls", config.initial_advertise_peer_urls)
    _check_advertised("advertise-client-urls", config.advertise_client_urls)
    if sum(map(bool, (config.discovery, config.initial_cluster, config.discovery_srv))) > 1:
        raise ConfigError(
            "multiple discovery or bootstrap flags are set. "
            'Choose one of "initial-cluster", "discovery" or "discovery-srv"'
        )
    _check_times(config.heartbeat_interval_ms, config.election_timeout_ms)
    if config.listen_client_urls and not config.advertise_client_urls:
        raise ConfigError(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
        )
    _check_compaction(config)
    _check_v2(config)
    if config.experimental_compact_hash_check_time_s <= 0:
        shown = duration(round(config.experimental_compact_hash_check_time_s * 1e9))
        raise ConfigError(
            f"--experimental-compact-hash-check-time must be >0 (set to {shown}); "
            "--experimental-compact-hash-check-enabled=false turns it off"
        )


def refuse_unsupported(config: Options, changed: Sequence[Option]) -> None:
    """What must not be ignored silently, because the member would do something else instead."""
    for option in changed:
        if option.effect is Effect.REFUSED:
            raise ConfigError(
                f"--{option.flag} is not supported by this version of pyetcd; remove it"
            )
    if config.enable_v2 and config.experimental_enable_v2v3:
        raise ConfigError(
            "--experimental-enable-v2v3 is not supported by this version of pyetcd: --enable-v2 "
            "serves keys of its own, not those under a prefix of v3; remove one of them"
        )
    if not config.cert_file and not config.key_file and not config.auto_tls:
        for url in (*config.listen_client_urls, *config.listen_client_http_urls):
            if url.is_tls:
                raise ConfigError(
                    "TLS key/cert (--cert-file, --key-file) must be provided for client url "
                    f"{url} with HTTPS scheme"
                )
        if any(url.is_tls for url in config.listen_metrics_urls):
            raise ConfigError(
                "client TLS key/cert (--cert-file, --key-file) must be provided for metrics "
                "secure url"
            )
    grpc_addresses = {url.address for url in config.listen_client_urls}
    for url in config.listen_client_http_urls:
        if url.address in grpc_addresses:
            raise ConfigError(
                "cannot bind both --client-listen-urls and --client-listen-http-urls on the same "
                f"url {url}"
            )


def _check_logging(config: Options) -> None:
    if config.logger == "capnslog":
        raise ConfigError("--logger=capnslog is removed in v3.5; use --logger=zap")
    if config.logger != "zap":
        raise ConfigError(f"unknown logger option {quote(config.logger)}; use --logger=zap")
    outputs = config.log_outputs
    if len(outputs) > 1 and "default" in outputs:
        raise ConfigError(
            'multi logoutput for "default" is not supported yet; write stderr instead of default'
        )
    if config.enable_log_rotation:
        files = [output for output in outputs if output not in _STREAMS]
        if len(files) != 1 and (len(files) > 1 or len(outputs) == 1):
            raise ConfigError(
                "--log-outputs requires a single file path when --log-rotate-config-json is defined"
            )
        try:
            Rotation.parse(config.log_rotation_config_json)
        except ValueError as error:
            raise ConfigError(f"{error}; correct --log-rotation-config-json") from None
    if (config.log_level.lower() or "info") not in LOG_LEVELS:  # as zap reads it
        levels = "debug, info, warn, error, panic or fatal"
        raise ConfigError(
            f"unrecognized level: {quote(config.log_level)}; --log-level is one of {levels}"
        )


def _check_listen(urls: Iterable[Url]) -> None:
    for url in urls:
        if url.is_unix or url.host == "localhost":
            continue
        if not _is_ip(url.host):
            raise ConfigError(
                f"expected IP in URL for binding ({url}); listen on an IP address or localhost"
            )
        if url.port and int(url.port) > 65535:
            raise ConfigError(
                f"listen tcp: address {url.port}: invalid port; use one from 1 to 65535"
            )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def _check_advertised(flag: str, urls: Sequence[Url]) -> None:
    for url in urls:
        if not url.host:
            listed = quote(",".join(map(str, urls)))
            raise ConfigError(
                f'--{flag} {listed} must be "host:port" (unexpected empty host ({url}))'
            )


def _check_times(heartbeat_ms: int, election_ms: int) -> None:
    if heartbeat_ms == 0:
        raise ConfigError("--heartbeat-interval must be >0 (set to 0ms)")
    if election_ms == 0:
        raise ConfigError("--election-timeout must be >0 (set to 0ms)")
    if 5 * heartbeat_ms > election_ms:
        raise ConfigError(
            f"--election-timeout[{election_ms}ms] should be at least as 5 times as "
            f"--heartbeat-interval[{heartbeat_ms}ms]"
        )
    if election_ms > ELECTION_MS_MAX:
        raise ConfigError(
            f"--election-timeout[{election_ms}ms] is too long, and should be set less than "
            f"{ELECTION_MS_MAX}ms"
        )


def _check_v2(config: Options) -> None:
    stage = config.v2_deprecation
    if "," in stage:  # etcd panics
        raise ConfigError(f"--v2-deprecation takes one value, not {stage}")
    if config.enable_v2 and stage != V2_ALLOWED:
        raise ConfigError(f"--enable-v2 and --v2-deprecation={stage} are mutually exclusive")


def _check_compaction(config: Options) -> None:
    mode, text = config.auto_compaction_mode, config.auto_compaction_retention or "0"
    if mode not in ("", "periodic", "revision"):
        raise ConfigError(f"unknown auto-compaction-mode {quote(mode)}; use periodic or revision")
    if not (text.isascii() and text.lstrip("+").isdigit()):
        try:
            retention_ns = parse_duration_ns(text)
        except ValueError as error:
            raise ConfigError(
                f"error parsing CompactionRetention: {error}; write hours, or a duration like 30m"
            ) from None
        if retention_ns < 0:
            raise ConfigError(
                f"--auto-compaction-retention must not be negative "
                f"({duration(retention_ns)}); 0 keeps all history"
            )
