"""host:port texts as Go's net package takes them, and listening sockets in its words.

What is not accepted raises BadAddress, whose text is Go's.
"""

import os
import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

BACKLOG: Final = 1024
PORT_MAX: Final = 65535


class BadAddress(Exception):
    """A text that is no address, or an address that cannot be listened on."""


def split(address: str) -> tuple[str, str]:
    """net.SplitHostPort."""
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket:
            raise BadAddress(f"address {address}: missing ']' in address")
        if not rest:
            raise BadAddress(f"address {address}: missing port in address")
        if not rest.startswith(":") or ":" in rest[1:]:
            raise BadAddress(f"address {address}: too many colons in address")
        return host, rest[1:]
    host, colon, port = address.rpartition(":")
    if not colon:
        raise BadAddress(f"address {address}: missing port in address")
    if ":" in host:
        raise BadAddress(f"address {address}: too many colons in address")
    return host, port


def number(port: str) -> int:
    """A port as Sscanf("%d") reads it: what stands before anything else, or 0."""
    digits = ""
    for letter in port:
        if not letter.isascii() or not letter.isdigit():
            break
        digits += letter
    return int(digits or 0)


def without_scheme(endpoint: str) -> str:
    """The host and port of a URL; anything else stays as it is."""
    try:
        host = urlsplit(endpoint).netloc if "://" in endpoint else ""
    except ValueError:
        return endpoint
    return host.rpartition("@")[2] or endpoint


def lookup(host: str) -> list[str]:
    """net.LookupHost; raises OSError. An empty name has no address."""
    if not host:
        raise socket.gaierror(socket.EAI_NONAME, "no such host")
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in found))


def listen(address: str) -> socket.socket:
    """A listening socket for host:port, as net.Listen("tcp", address) makes it."""
    try:
        host, port = split(address)
        place = _place(host, _port(port))
    except BadAddress as mistake:
        raise BadAddress(f"listen tcp: {mistake}") from None
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not host else 1)
        made.setblocking(False)
        made.bind(place)
        made.listen(BACKLOG)
    except OSError as failure:
        made.close()
        reason = os.strerror(failure.errno or 0).lower()
        raise BadAddress(f"listen tcp {shown(*place)}: bind: {reason}") from None
    return made


def shown(host: str, port: int) -> str:
    """As Go shows an address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _port(text: str) -> int:
    if text.isascii() and text.isdecimal():
        if int(text) > PORT_MAX:
            raise BadAddress(f"address {text}: invalid port")
        return int(text)
    if not text:
        return 0
    try:
        return socket.getservbyname(text, "tcp")
    except OSError:
        raise BadAddress(f"lookup tcp/{text}: Servname not supported for ai_socktype") from None


def _place(host: str, port: int) -> tuple[str, int]:
    if not host:
        return ("::" if socket.has_dualstack_ipv6() else "0.0.0.0"), port
    try:
        found: Sequence[str] = lookup(host)
    except OSError:
        raise BadAddress(f"lookup {host}: no such host") from None
    return min(found, key=lambda one: ":" in one), port  # Go prefers IPv4
