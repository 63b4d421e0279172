"""`pyetcd proxy start`, as `etcd grpc-proxy start`: the flags, the checks, the run.

What is wrong with the flags is said on one line in etcd's words, with exit code 1.
"""

import os
import socket
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from pyetcd.cli import cobra, gotext
from pyetcd.cli.discover import discover
from pyetcd.cli.flags import Flag, FlagSet, boolean, integer, span, text
from pyetcd.cli.gateway import serve
from pyetcd.cli.srv import LookupFailure
from pyetcd.server import logs
from pyetcd.server.proxy import addresses
from pyetcd.server.proxy.addresses import BadAddress
from pyetcd.server.proxy.dial import check
from pyetcd.server.proxy.settings import Settings
from pyetcd.server.selfcert import self_signed
from pyetcd.server.tls import TlsError, TlsFiles

FLAGS = (
    text("listen-addr", "listen address", "127.0.0.1:23790"),
    text("discovery-srv", "domain name to query for SRV records describing cluster endpoints"),
    text("discovery-srv-name", "service name to query when using DNS discovery"),
    text("metrics-addr", "listen for endpoint /metrics requests on an additional interface"),
    boolean("insecure-discovery", "accept insecure SRV records"),
    Flag("endpoints", "list", "127.0.0.1:2379", "comma separated etcd cluster endpoints"),
    text(
        "advertise-client-url",
        "advertise address to register (must be reachable by client)",
        "127.0.0.1:23790",
    ),
    text(
        "resolver-prefix",
        "prefix to use for registering proxy (must be shared with other grpc-proxy members)",
    ),
    integer("resolver-ttl", "specify TTL, in seconds, when registering proxy endpoints"),
    text("namespace", "string to prefix to all keys for namespacing requests"),
    boolean(
        "enable-pprof",
        'Enable runtime profiling data via HTTP server. Address is at client URL + "/debug/pprof/"',
    ),
    text("data-dir", "Data directory for persistent data", "default.proxy"),
    integer("max-send-bytes", "message send limits in bytes (default value is 1.5 MiB)", 1572864),
    integer(
        "max-recv-bytes", "message receive limits in bytes (default value is math.MaxInt32)",
        2147483647,
    ),
    span(
        "grpc-keepalive-min-time",
        "Minimum interval duration that a client should wait before pinging proxy.",
        "5s",
    ),
    span(
        "grpc-keepalive-interval",
        "Frequency duration of server-to-client ping to check if a connection is alive"
        " (0 to disable).",
        "2h0m0s",
    ),
    span(
        "grpc-keepalive-timeout",
        "Additional duration of wait before closing a non-responsive connection (0 to disable).",
        "20s",
    ),
    Flag(
        "max-concurrent-streams", "uint", "0",
        "most streams that a client may have open at a time (0: 1000)", since="3.5.7",
    ),
    text("cert", "identify secure connections with etcd servers using this TLS certificate file"),
    text("key", "identify secure connections with etcd servers using this TLS key file"),
    text("cacert", "verify certificates of TLS-enabled secure etcd servers using this CA bundle"),
    boolean(
        "insecure-skip-tls-verify",
        "skip authentication of etcd server TLS certificates"
        " (CAUTION: this option should be enabled only for testing purposes)",
    ),
    text(
        "cert-file", "identify secure connections to the proxy using this TLS certificate file"
    ),
    text("key-file", "identify secure connections to the proxy using this TLS key file"),
    text(
        "trusted-ca-file", "verify certificates of TLS-enabled secure proxy using this CA bundle"
    ),
    boolean("auto-tls", "proxy TLS using generated certificates"),
    text("client-crl-file", "proxy client certificate revocation list file."),
    Flag(
        "self-signed-cert-validity", "uint", "1",
        "The validity period of the proxy certificates, unit is year",
    ),
    boolean(
        "experimental-serializable-ordering",
        "Ensure serializable reads have monotonically increasing store revisions across"
        " endpoints.",
    ),
    text(
        "experimental-leasing-prefix", "leasing metadata prefix for disconnected linearized reads."
    ),
    boolean("debug", "Enable debug-level logging for grpc-proxy."),
)  # fmt: skip
LEASING = (
    "--experimental-leasing-prefix: leases of keys for disconnected reads are not built in"
    " pyetcd; start the proxy without it"
)


class Refused(Exception):
    """The proxy cannot start; the text is one line."""


def main(argv: Sequence[str]) -> int:
    """Returns the exit code; does not return when a signal ended it."""
    return cobra.main(cobra.Group("grpc-proxy", "start the grpc proxy", FLAGS, _start), argv)


def _start(flags: FlagSet) -> int:
    try:
        _check(flags)
        logs.configure("debug" if flags.boolean("debug") else "info", ["stderr"])
        settings = _settings(flags)
        listener = addresses.listen(settings.listen_addr)
        try:
            metrics, is_secure = _metrics(settings)
        except BaseException:  # the port is free again, whatever it was
            listener.close()
            raise
    except (Refused, BadAddress, LookupFailure, TlsError) as refused:
        logs.close()
        sys.stderr.write(f"{refused}\n")
        sys.stderr.flush()
        return 1
    return _run(settings, listener, metrics, secure_metrics=is_secure)


def _run(
    settings: Settings,
    listener: socket.socket,
    metrics: socket.socket | None,
    *,
    secure_metrics: bool,
) -> int:
    from pyetcd.server.proxy.proxy import Proxy

    log = logs.get("grpc-proxy")
    made: list[Proxy] = []

    def bug(error: BaseException) -> None:
        log.error("internal error", error=f"{type(error).__name__}: {error}")

    async def start() -> None:
        made.append(Proxy(settings, bug=bug))
        await made[0].start(listener, metrics, secure_metrics=secure_metrics)

    async def stop() -> None:
        await made[0].stop()

    address = settings.listen_addr
    log.info("listening for gRPC proxy client requests", address=address)
    try:
        return serve(start, stop)
    except TlsError as refused:
        logs.close()
        sys.stderr.write(f"{refused}\n")
        return 1


def _check(flags: FlagSet) -> None:
    prefix, ttl_s = flags.text("resolver-prefix"), flags.integer("resolver-ttl")
    if prefix and ttl_s < 1:
        raise Refused(f"invalid resolver-ttl {ttl_s}")
    if not prefix and ttl_s > 0:
        raise Refused('invalid resolver-prefix ""')
    if prefix and not flags.text("advertise-client-url"):
        raise Refused('invalid advertise-client-url ""')
    if flags.boolean("auto-tls") and not flags.integer("self-signed-cert-validity"):
        raise Refused("selfSignedCertValidity is invalid,it should be greater than 0")
    if flags.text("experimental-leasing-prefix"):
        raise Refused(LEASING)


def _settings(flags: FlagSet) -> Settings:
    log = logs.get("grpc-proxy")
    found = discover(
        flags.text("discovery-srv"),
        flags.text("discovery-srv-name"),
        ca_file=flags.text("cacert"),
        is_insecure=flags.boolean("insecure-discovery"),
    )
    endpoints = [one.url for one in found] or flags.texts("endpoints")
    if not any(endpoints):
        raise Refused("etcdclient: no available endpoints")
    if flags.boolean("enable-pprof"):
        log.warn("--enable-pprof has no effect: Python makes no profiles for Go's pprof")
    settings = Settings(
        endpoints=tuple(endpoints),
        listen_addr=flags.text("listen-addr"),
        metrics_addr=flags.text("metrics-addr"),
        advertise_client_url=flags.text("advertise-client-url"),
        namespace=flags.text("namespace").encode("utf-8", "surrogateescape"),
        resolver_prefix=flags.text("resolver-prefix"),
        resolver_ttl_s=flags.integer("resolver-ttl"),
        cert_file=flags.text("cert"),
        key_file=flags.text("key"),
        ca_file=flags.text("cacert"),
        skips_verify=flags.boolean("insecure-skip-tls-verify"),
        send_bytes_max=flags.integer("max-send-bytes"),
        receive_bytes_max=flags.integer("max-recv-bytes") or 2**31 - 1,
        keeps_order=flags.boolean("experimental-serializable-ordering"),
        keepalive_min_time_s=flags.integer("grpc-keepalive-min-time") / 1e9,
        keepalive_interval_s=flags.integer("grpc-keepalive-interval") / 1e9,
        keepalive_timeout_s=flags.integer("grpc-keepalive-timeout") / 1e9,
        streams_max=flags.integer("max-concurrent-streams"),
        tls=_tls(flags),
    )
    check(settings)
    if settings.skips_verify:
        log.warn(
            "--insecure-skip-tls-verify was given, this grpc proxy process skips authentication of"
            " etcd server TLS certificates. This option should be enabled only for testing"
            " purposes."
        )
    return settings


def _tls(flags: FlagSet) -> TlsFiles | None:
    """To the clients. Raises Refused and TlsError."""
    cert, key = flags.text("cert-file"), flags.text("key-file")
    ca = flags.text("trusted-ca-file")
    is_self_signed = flags.boolean("auto-tls") and not (cert or key or ca)
    if is_self_signed:
        folder = os.path.join(flags.text("data-dir"), "fixtures", "proxy")
        try:
            host = addresses.split(flags.text("listen-addr"))[0]
        except BadAddress as mistake:
            raise Refused(f"listen tcp: {mistake}") from None
        years = flags.integer("self-signed-cert-validity")
        cert, key = self_signed(folder, [host or "localhost"], years=years)
    if not (cert or key or ca):
        return None
    if not (cert and key):
        address = flags.text("listen-addr")
        raise Refused(f"cannot listen on TLS for {address}: KeyFile and CertFile are not presented")
    files = TlsFiles(
        cert_file=cert,
        key_file=key,
        trusted_ca_file=ca,
        crl_file=flags.text("client-crl-file"),
        is_self_signed=is_self_signed,
    )
    logs.get("grpc-proxy").info("gRPC proxy server TLS", tls_info=files.summary)
    return files


def _metrics(settings: Settings) -> tuple[socket.socket | None, bool]:
    """The socket of --metrics-addr, and whether it speaks TLS."""
    given = settings.metrics_addr
    if not given:
        return None, False
    try:
        url = urlsplit(given)
    except ValueError:
        quoted = gotext.quote(given.encode("utf-8", "surrogateescape"))
        raise Refused(f"cannot parse {quoted}") from None
    is_secure = url.scheme == "https"
    if is_secure and settings.tls is None:
        raise Refused(
            f"cannot listen on TLS for https://{url.netloc}: KeyFile and CertFile are not presented"
        )
    made = addresses.listen(url.netloc)
    logs.get("grpc-proxy").info("gRPC proxy listening for metrics", address=given)
    return made, is_secure
