"""--discovery-srv of the gateway and the proxy: the endpoints that DNS names, looked at once.

Unless --insecure-discovery is given only those count that are named as secure and that end a TLS
handshake with a certificate for the domain, signed by --trusted-ca-file or whom the machine trusts.
"""

import socket
import ssl
from typing import Final, NamedTuple

from pyetcd.cli import srv
from pyetcd.server.logs import get

HANDSHAKE_S: Final = 5.0


class Discovered(NamedTuple):
    """One endpoint with its SRV record."""

    url: str
    record: srv.Record


def discover(
    domain: str, service_name: str, *, ca_file: str, is_insecure: bool
) -> list[Discovered]:
    """Raises srv.LookupFailure."""
    if not domain:
        return []
    log = get("discovery")
    found = _records(domain, service_name)
    urls = [one.url for one in found]
    log.info("discovered cluster from SRV", srv_server=domain, endpoints=urls)
    if is_insecure:
        return found
    log.info("validating discovered SRV endpoints", srv_server=domain, endpoints=urls)
    refused = {one.url: _refusal(one, domain, ca_file) for one in found}
    kept = [one for one in found if not refused[one.url]]
    if len(kept) < len(found):
        log.warn(
            "failed to validate discovered endpoints",
            srv_server=domain,
            endpoints=[one.url for one in kept],
            error=",".join(text for text in refused.values() if text),
        )
    else:
        log.info("using validated discovered SRV endpoints", srv_server=domain, endpoints=urls)
    return kept


def _records(domain: str, service_name: str) -> list[Discovered]:
    suffix = f"-{service_name}" if service_name else ""
    servers = srv.name_servers()
    found, failures = [], []
    for scheme, service in (("https", "etcd-client-ssl"), ("http", "etcd-client")):
        try:
            records = srv.lookup(f"_{service}{suffix}._tcp.{domain}", servers)
        except srv.LookupFailure as failure:
            failures.append(str(failure))
            continue
        found += [Discovered(f"{scheme}://{one.target}:{one.port}", one) for one in records]
    if len(failures) == 2:
        raise srv.LookupFailure(f"dns lookup errors: {failures[0]} and {failures[1]}")
    return found


def _refusal(found: Discovered, domain: str, ca_file: str) -> str:
    if not found.url.startswith("https://"):
        return f'"{found.url}" is insecure'
    record = found.record
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        with (
            socket.create_connection((record.target, record.port), timeout=HANDSHAKE_S) as plain,
            context.wrap_socket(plain, server_hostname=domain),
        ):
            return ""
    except (OSError, ValueError) as failure:
        return f'"{found.url}": {failure}'
