"""How much memory a server uses, by its own /metrics.

etcdctl asks over plain HTTP unless the endpoint says https://, and trusts the system's authorities
alone; here the connection is secured as every other one of the command is.
"""

import http.client
import socket

from pyetcd.cli.dial import Settings, connection_failure, route, trust

TIMEOUT_S = 30.0
ANSWER_BYTES_MAX = 64 << 20
NAME = "process_resident_memory_bytes"
_DIALING = "Error while dialing "


class Unread(Exception):
    """No figure; the text is etcdctl's line about it."""


def resident_bytes(endpoint: str, settings: Settings) -> float:
    """The server's resident memory; raises Unread."""
    found = value(_metrics(endpoint, settings))
    if not found:
        raise Unread
    return found


def value(page: str) -> float:
    """The figure on a page of metrics; raises Unread."""
    for line in page.split("\n"):
        if line.startswith(NAME):
            shown = line.removeprefix(NAME).strip()
            break
    else:
        shown = ""
    if not shown:
        raise Unread(f"could not find: {NAME}")
    try:
        return float(shown)
    except ValueError:
        text = f'strconv.ParseFloat: parsing "{shown}": invalid syntax'
        raise Unread(f"parse error: {text}") from None


def _metrics(endpoint: str, settings: Settings) -> str:
    url = f"{_url(endpoint, settings)}/metrics"
    try:
        connection = _connect(endpoint, settings)
    except OSError as failure:
        raise Unread(f'fetch error: Get "{url}": {_reason(endpoint, settings, failure)}') from None
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read(ANSWER_BYTES_MAX).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as failure:
        raise Unread(f"fetch error: reading {url}: {failure}") from None
    finally:
        connection.close()


def _connect(endpoint: str, settings: Settings) -> http.client.HTTPConnection:
    to = route(endpoint, settings)
    if to is None:
        raise OSError("no address")
    if isinstance(to.address, str):
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(TIMEOUT_S)
        plain.connect(to.address)
    else:
        plain = socket.create_connection(to.address, timeout=TIMEOUT_S)
    connection = http.client.HTTPConnection(to.authority, timeout=TIMEOUT_S)
    connection.sock = plain
    if to.is_secure:
        try:
            context = trust(settings)
            context.set_alpn_protocols(["http/1.1"])
            connection.sock = context.wrap_socket(plain, server_hostname=to.host)
        except OSError:
            plain.close()
            raise
    return connection


def _url(endpoint: str, settings: Settings) -> str:
    if endpoint.startswith(("http://", "https://")):
        return endpoint
    to = route(endpoint, settings)
    return ("https://" if to is not None and to.is_secure else "http://") + endpoint


def _reason(endpoint: str, settings: Settings, failure: OSError) -> str:
    """In Go's words, if they are known."""
    text = connection_failure([endpoint], settings)
    _, separator, reason = text.partition(_DIALING)
    return reason.rstrip('"') if separator else str(failure)
