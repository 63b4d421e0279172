"""Go's spelling of values: numbers, booleans and URLs (durations and quotes: proto/gotext.py).

etcd's flags are read by Go's `flag`, `strconv`, `time` and `net/url` packages; scripts depend on
what those accept, and on the texts they refuse with. Each parser raises ValueError whose text is
what Go would say. All pure.

Limits. `net/url` is followed for what a listen or advertise URL can be: scheme, host, port.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from pyetcd.proto.gotext import INT64_MAX, quote

UINT64_MAX = (1 << 64) - 1
UINT32_MAX = (1 << 32) - 1

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


def parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("parse error")


# Base 0 of strconv: a prefix chooses the base, and underscores may stand between digits.
_INTEGER = re.compile(
    r"0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0(?:_?[0-7])*|[1-9](?:_?[0-9])*"
)


def parse_uint(text: str, value_max: int = UINT64_MAX) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError("parse error")
    digits = text.replace("_", "")
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    value = int(digits, 8) if octal else int(digits, 0)
    if value > value_max:
        raise ValueError("value out of range")
    return value


def parse_int(text: str) -> int:
    negative = text.startswith("-")
    value = parse_uint(text[1:] if text[:1] in ("+", "-") else text, INT64_MAX + negative)
    return -value if negative else value


# ---- URLs ----

SCHEMES = ("http", "https", "unix", "unixs")
_HOST_CHARS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:\[\]<>\"]|[^\x00-\x7f]")
_ESCAPE = re.compile(r"%[0-9a-fA-F]{2}")


@dataclass(frozen=True, slots=True, order=True)
class Url:
    """A listen or advertise URL; `text` is its canonical form and its order."""

    text: str
    scheme: str
    host: (
        str  # without brackets; for unix and unixs, the part of the socket's name before the colon
    )
    port: str

    @property
    def is_unix(self) -> bool:
        return self.scheme in ("unix", "unixs")

    @property
    def is_tls(self) -> bool:
        return self.scheme in ("https", "unixs")

    @property
    def address(self) -> str:
        """host:port as in the URL; for unix and unixs the name of the socket file."""
        return self.text.partition("://")[2]

    def __str__(self) -> str:
        return self.text


def parse_urls(text: str) -> tuple[Url, ...]:
    """A comma-separated list, sorted as etcd sorts it. Raises ValueError with etcd's text."""
    return tuple(sorted(parse_url(part.strip()) for part in text.split(",")))


def parse_url(text: str) -> Url:
    scheme, authority, path = _split(text)
    if scheme not in SCHEMES:
        raise ValueError(f"URL scheme must be http, https, unix, or unixs: {text}")
    split = split_host_port(authority)
    if split is None:
        raise ValueError(f'URL address does not have the form "host:port": {text}')
    if path:
        raise ValueError(f"URL must not contain a path: {text}")
    host, port = split
    # Query and fragment, which etcd lets through, mean nothing here.
    return Url(f"{scheme}://{authority}", scheme, host, port)


def split_host_port(address: str) -> tuple[str, str] | None:
    """net.SplitHostPort; None when there is no port or the brackets do not match."""
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket or not rest.startswith(":") or "[" in host or "]" in rest:
            return None
        return (host, rest[1:]) if ":" not in rest[1:] else None
    host, colon, port = address.rpartition(":")
    if not colon or ":" in host or "[" in address or "]" in address:
        return None
    return host, port


def _split(text: str) -> tuple[str, str, str]:
    """url.Parse as far as it matters: scheme, authority, path (or the opaque part)."""

    def refuse(reason: str) -> ValueError:
        return ValueError(f"parse {quote(text)}: {reason}")

    if any(char < " " or char == "\x7f" for char in text):
        raise refuse("net/url: invalid control character in URL")
    body = text.partition("#")[0]
    match = re.match(r"([A-Za-z][A-Za-z0-9+.\-]*):", body)
    if match is None:
        if body.startswith(":"):
            raise refuse("missing protocol scheme")
        first = body.partition("?")[0].partition("/")[0]
        if ":" in first:
            raise refuse("first path segment in URL cannot contain colon")
        return "", "", body
    scheme, rest = match[1].lower(), body[match.end() :].partition("?")[0]
    if not rest.startswith("//"):
        return scheme, "", rest
    authority, slash, path = rest[2:].partition("/")
    _check_host(authority.rpartition("@")[2], refuse)
    return scheme, authority, slash + path


def _check_host(host: str, refuse: Callable[[str], ValueError]) -> None:
    if host.startswith("["):
        if "]" not in host:
            raise refuse("missing ']' in host")
        port = host.rpartition("]")[2]
    else:
        last = host.rfind(":")
        port = host[last:] if last >= 0 else ""
    if port and not re.fullmatch(r":[0-9]*", port):
        raise refuse(f"invalid port {quote(port)} after host")
    plain = _ESCAPE.sub("", host)
    bad = plain.find("%")
    if bad >= 0:
        raise refuse(f"invalid URL escape {quote(plain[bad : bad + 3])}")
    for char in plain:
        if not _HOST_CHARS.fullmatch(char):
            raise refuse(f"invalid character {quote(char)} in host name")
