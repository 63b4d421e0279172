"""URLs as Go's net/url reads and writes them, as far as endpoints and peer URLs go."""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pyetcd.cli import gotext

_PATH_SAFE = "$&+,/:;=@-_.~"
_HOST_SAFE = "!$&'()*+,;=:[]<>\"-_.~"
_ALPHANUMERIC = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SCHEMES = ("http", "https", "unix", "unixs")


class BadURL(Exception):
    """A URL that Go refuses; the text is Go's."""


@dataclass(frozen=True, slots=True)
class URL:
    """`opaque` stands for all behind the colon of a scheme that no slash follows."""

    scheme: str = ""
    opaque: str = ""
    user: str = ""
    host: str = ""
    path: str = ""
    query: str = ""

    def __str__(self) -> str:
        front = f"{self.scheme}:" if self.scheme else ""
        if self.opaque:
            front += self.opaque
        else:
            if self.scheme or self.host or self.user:
                user = f"{self.user}@" if self.user else ""
                slashes = "//" if self.host or self.path or user else ""
                front += f"{slashes}{user}{_escaped(self.host, _HOST_SAFE + '%')}"
            path = escaped_path(self.path)
            front += "/" if path and path[0] != "/" and self.host else ""
            front += path
        return f"{front}?{self.query}" if self.query else front

    @property
    def hostname(self) -> str:
        """The host without its port and brackets."""
        host, _, port = self.host.rpartition(":")
        if not host or not re.fullmatch("[0-9]*", port):
            host = self.host
        return host.removeprefix("[").removesuffix("]")

    @property
    def port(self) -> int:
        """The port, or that of the scheme."""
        port = re.search(r":([0-9]+)\Z", self.host)
        return int(port[1]) if port else {"https": 443, "unixs": 443}.get(self.scheme, 80)

    def below(self, path: str, *, keep_slash: bool) -> "URL":
        """The URL of a path below this one's, cleaned; a slash at its end may be kept."""
        return replace(self, path=clean_path(self.path + path, keep_slash=keep_slash))

    def asking(self, query: dict[str, str]) -> "URL":
        """This URL with a query, its names sorted."""
        words = [f"{_form(name)}={_form(value)}" for name, value in sorted(query.items())]
        return replace(self, query="&".join(words))


def form(fields: dict[str, str]) -> bytes:
    """The body of a form."""
    return "&".join(f"{_form(k)}={_form(v)}" for k, v in sorted(fields.items())).encode()


def _form(value: str) -> str:
    return _escaped(value, " -_.~").replace(" ", "+")


def _escaped(text: str, safe: str) -> str:
    raw = text.encode("utf-8", "surrogateescape")
    kept = _ALPHANUMERIC + safe.encode()
    return "".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in raw)


def escaped_path(path: str) -> str:
    """A path as it stands in a request."""
    return _escaped(path, _PATH_SAFE)


def clean_path(path: str, *, keep_slash: bool) -> str:
    """pathutil.CanonicalURLPath, or without `keep_slash` path.Join."""
    if not path:
        return "/"
    clean = posixpath.normpath("/" + path).replace("//", "/")
    return clean + "/" if keep_slash and path.endswith("/") and clean != "/" else clean


def parse(text: str) -> URL:
    """url.Parse; raises BadURL."""
    try:
        return _parse(text)
    except BadURL as mistake:
        quoted = gotext.quote(text.encode("utf-8", "surrogateescape"))
        raise BadURL(f"parse {quoted}: {mistake}") from None


def _parse(text: str) -> URL:
    if re.search("[\x00-\x1f\x7f]", text):
        raise BadURL("net/url: invalid control character in URL")
    rest = text.partition("#")[0]
    if rest.startswith(":"):
        raise BadURL("missing protocol scheme")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", rest)
    scheme = found[1].lower() if found else ""
    rest = rest[found.end() :] if found else rest
    rest, _, query = rest.partition("?")
    if not rest.startswith("/"):
        if scheme:
            return URL(scheme, opaque=rest, query=query)
        if ":" in rest.partition("/")[0]:
            raise BadURL("first path segment in URL cannot contain colon")
    user = host = ""
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, path = rest[2:].partition("/")
        rest = slash + path
        user, at, host = authority.rpartition("@")
        if at and not re.fullmatch("[A-Za-z0-9._:~!$&'()*+,;=%@-]*", user):
            raise BadURL("net/url: invalid userinfo")
        host = _host(host)
    return URL(scheme, user=user, host=host, path=unescaped(rest), query=query)


def _host(host: str) -> str:
    if host.startswith("["):
        bracket = host.rfind("]")
        if bracket < 0:
            raise BadURL("missing ']' in host")
        port = host[bracket + 1 :]
    else:
        colon = host.rfind(":")
        port = host[colon:] if colon >= 0 else ""
    if not re.fullmatch("(:[0-9]*)?", port):
        raise BadURL(f"invalid port {gotext.quote(port.encode())} after host")
    for char in host:
        if char.isascii() and not char.isalnum() and char not in _HOST_SAFE + "%":
            shown = gotext.quote(char.encode())
            raise BadURL(f"invalid character {shown} in host name")
    return unescaped(host)


def unescaped(text: str) -> str:
    """Without its escapes; raises BadURL."""
    wrong = re.search("%(?![0-9A-Fa-f]{2}).{0,2}", text)
    if wrong:
        raise BadURL(f"invalid URL escape {gotext.quote(wrong[0].encode())}")
    raw = re.sub(
        rb"%([0-9A-Fa-f]{2})",
        lambda found: bytes.fromhex(found[1].decode()),
        text.encode("utf-8", "surrogateescape"),
    )
    return raw.decode("utf-8", "surrogateescape")


def member_urls(texts: Sequence[str]) -> list[str]:
    """types.NewURLs: the peer URLs of a member, sorted. Raises BadURL."""
    found = []
    for text in texts:
        text = text.strip()
        url = parse(text)
        if url.scheme not in _SCHEMES:
            raise BadURL(f"URL scheme must be http, https, unix, or unixs: {text}")
        if not re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*):[^:]*", url.host):
            raise BadURL(f'URL address does not have the form "host:port": {text}')
        if url.path:
            raise BadURL(f"URL must not contain a path: {text}")
        found.append(str(url))
    return sorted(found)
