"""HTTP/1.1 on the client port: path to handler, with what goes for every request there.

Order, as in etcd (server/embed/serve.go, accessController): `/v3beta/` is read as `/v3/`, and
`/v3alpha/` as in etcd 3.3; without TLS the Host must be in --host-whitelist (421); who shows a
certificate that could name a user gets no gateway, which would not heed it (400); CORS headers are
set for an allowed origin; OPTIONS is answered at once; then the path decides. As in Go's ServeMux
an exact path comes before a prefix, the longest prefix wins, and a path that is not clean is
redirected. All pure: no I/O here.
"""

import posixpath
from collections.abc import Callable, Collection
from urllib.parse import unquote

from pyetcd.proto.gotext import quote
from pyetcd.server.wire.http1 import HttpHandler, HttpRequest, HttpResponder

TEXT_HEADERS = (
    ("Content-Type", "text/plain; charset=utf-8"),
    ("X-Content-Type-Options", "nosniff"),
)
_CORS = (
    ("Access-Control-Allow-Headers", "accept, content-type, authorization"),
    ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE"),
)
_ANY = frozenset(("*",))
_NAME_IGNORED = (
    "CommonName of client sending a request against gateway will be ignored"
    " and not used as expected"
)


class Router:
    """An HttpHandler that hands over to others."""

    def __init__(self) -> None:
        self._exact: dict[str, HttpHandler] = {}
        self._prefixes: list[tuple[str, HttpHandler]] = []

    def exact(self, path: str, handler: HttpHandler) -> None:
        assert path not in self._exact, path
        self._exact[path] = handler

    def prefix(self, path: str, handler: HttpHandler) -> None:
        """All paths below `path`, which ends with a slash."""
        assert path.endswith("/"), path
        self._prefixes.append((path, handler))
        self._prefixes.sort(key=lambda item: -len(item[0]))

    def __call__(self, request: HttpRequest, responder: HttpResponder) -> None:
        path = unquote(request.path)
        clean = _clean(path)
        if clean != path:
            return redirect(request, responder, clean)
        handler = self._exact.get(path)
        if handler is not None:
            return handler(request, responder)
        for prefix, below in self._prefixes:
            if path.startswith(prefix):
                return below(request, responder)
            if path + "/" == prefix:
                return redirect(request, responder, prefix)
        return not_found(responder)


class ClientPort:
    """A router behind the checks of the client port. `secure`: the listener speaks TLS."""

    def __init__(
        self,
        inner: HttpHandler,
        *,
        origins: Collection[str] = _ANY,
        hosts: Collection[str] = _ANY,
        secure: bool = False,
        rejected: Callable[[str], None] = lambda host: None,
        names_users: Callable[[], bool] = lambda: False,
    ) -> None:
        self._inner = inner
        self._origins = frozenset(origins)
        self._any_origin = not self._origins or "*" in self._origins
        self._hosts = frozenset(hosts)
        self._any_host = secure or not self._hosts or "*" in self._hosts
        self._names_users = names_users  # whether gRPC takes a certificate's name for a user
        self._rejected = rejected  # for the log: somebody may be trying DNS rebinding

    def __call__(self, request: HttpRequest, responder: HttpResponder) -> None:
        for older in ("/v3beta/", "/v3alpha/"):
            if request.path.startswith(older):
                request.path = "/v3/" + request.path[len(older) :]
        if not self._any_host:
            host = hostname(request.headers.get("host", ""))
            if host not in self._hosts:
                self._rejected(host)
                return fail(responder, 421, _host_refusal(host))
        is_named = request.common_name and unquote(request.path).startswith("/v3/")
        if is_named and self._names_users():
            return fail(responder, 400, _NAME_IGNORED)
        origin = "*" if self._any_origin else request.headers.get("origin", "")
        if self._any_origin or origin in self._origins:
            responder.base_headers = (*_CORS, ("Access-Control-Allow-Origin", origin))
        if request.method == "OPTIONS":
            return responder.send(200)
        return self._inner(request, responder)


def hostname(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, _ = host.rpartition(":")
    return name if colon and ":" not in name else host


def fail(responder: HttpResponder, status: int, text: str) -> None:
    """Go's http.Error: the text as plain text, with a newline."""
    responder.send(status, TEXT_HEADERS, text.encode() + b"\n")


def not_found(responder: HttpResponder) -> None:
    fail(responder, 404, "404 page not found")


def allow_get(request: HttpRequest, responder: HttpResponder) -> bool:
    """Whether the method is GET; anything else (HEAD, too) has been answered with 405."""
    if request.method == "GET":
        return True
    responder.send(405, (("Allow", "GET"), *TEXT_HEADERS), b"Method Not Allowed\n")
    return False


def redirect(request: HttpRequest, responder: HttpResponder, path: str) -> None:
    """Go's http.Redirect: a page about it only for who gets pages."""
    safe = (
        path.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;")
    )
    location = "".join(char if " " < char < "\x7f" else "" for char in path)
    if request.method not in ("GET", "HEAD"):
        return responder.send(301, (("Location", location),))
    headers = (("Content-Type", "text/html; charset=utf-8"), ("Location", location))
    return responder.send(301, headers, f'<a href="{safe}">Moved Permanently</a>.\n\n'.encode())


def _clean(path: str) -> str:
    """path.Clean of Go, keeping a slash at the end."""
    if not path.startswith("/"):
        path = "/" + path
    clean = posixpath.normpath(path).replace("//", "/")
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def _host_refusal(host: str) -> str:
    return (
        f"\nThis server does not know the host name {quote(host)}.\n\n"
        "Requests without TLS are only answered for names in --host-whitelist, because a web page\n"
        "could otherwise reach this server through a name of its own (CVE-2018-5702). Use TLS, or\n"
        f"start the server with --host-whitelist {quote(host)} added.\n"
    )
