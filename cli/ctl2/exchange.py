"""One HTTP request and its answer; a failure in the words of Go's net/http.

Each request has its own connection: a command makes two or three. It runs in a thread, since the
limits are for all of it (looking up the name, connecting, the handshake, an answer that trickles),
and no socket option covers that; who ran out of time is left behind. The thread also keeps a broken
connection apart from a broken pipe, which ends the process.
"""

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Mapping
from typing import Final

from pyetcd.cli.ctl2.failure import Deadline, DeadlineExceeded, Failure
from pyetcd.cli.ctl2.http1 import (
    BROKEN,
    OK,
    Answer,
    HungUp,
    Reader,
    Request,
    connect_request,
)
from pyetcd.cli.ctl2.trust import Trust
from pyetcd.cli.gourl import URL

DIAL_TIMEOUT_S: Final = 30.0
HANDSHAKE_TIMEOUT_S: Final = 10.0
KEEPALIVE_S: Final = 30
PORT_MAX: Final = 65535
_PROXIES: Final = ("http_proxy", "https_proxy")


class Exchanger:
    """Sends requests. `header_timeout_s` is for all up to the answer's headers."""

    def __init__(
        self,
        trust: Trust,
        *,
        header_timeout_s: float,
        dial_timeout_s: float,
        env: Mapping[str, str],
    ) -> None:
        self._trust = trust
        self._header_timeout_s = header_timeout_s
        self._dial_timeout_s = dial_timeout_s
        self._env = env  # may name a proxy

    def send(self, request: Request, deadline: Deadline, *, waits: bool = False) -> Answer:
        """The answer; raises Failure. With `waits` it may take as long as it takes."""
        work = _Work(request, self._trust, self._dial_timeout_s, self._env)
        left_s = deadline.left_s()
        if left_s == 0:
            raise DeadlineExceeded
        limits = [] if left_s is None else [left_s]
        if not waits and self._header_timeout_s > 0:
            limits.append(self._header_timeout_s)
        threading.Thread(target=work.run, daemon=True).start()
        steps = work.steps
        try:
            step = steps.get(timeout=min(limits, default=None))
        except queue.Empty:
            work.abandon()
            if deadline.left_s() == 0:
                raise DeadlineExceeded from None
            endpoint = URL(request.url.scheme, host=request.url.host)
            raise Failure(f"client: endpoint {endpoint} exceeded header timeout") from None
        if step is None:
            try:
                step = steps.get(timeout=deadline.left_s())
            except queue.Empty:
                work.abandon()
                raise DeadlineExceeded from None
        if isinstance(step, Answer):
            return step
        assert step is not None
        raise step


class _Work:
    """A request on its way. `steps` gets None when the headers are there, then the end."""

    def __init__(
        self, request: Request, trust: Trust, dial_timeout_s: float, env: Mapping[str, str]
    ) -> None:
        self.steps: queue.SimpleQueue[Answer | BaseException | None] = queue.SimpleQueue()
        self._request = request
        self._trust = trust
        self._dial_timeout_s = dial_timeout_s
        self._socket: socket.socket | None = None
        self._env = env
        self._proxy: URL | None = None
        self._is_secure = request.url.scheme in ("https", "unixs")
        self._may_be_refused = False

    def run(self) -> None:
        """For a thread."""
        # A server that hangs up must not end the process as a closed stdout does.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGPIPE,))
        try:
            self.steps.put(self._finish())
        except BaseException as failure:  # also an assertion: the caller raises it
            self.steps.put(failure)

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself

    def _finish(self) -> Answer:
        """Raises Failure."""
        url = self._request.url
        if url.scheme not in ("http", "https", "unix", "unixs"):
            raise Failure(f'unsupported protocol scheme "{url.scheme}"')
        if not url.host:
            raise Failure("http: no Host in request URL")
        if any(name.lower() in _PROXIES for name in self._env):
            from pyetcd.cli.ctl2.proxy import proxy_of

            self._proxy = proxy_of(url, self._env)
        with self._dial() as plain:
            plain.settimeout(HANDSHAKE_TIMEOUT_S)
            with self._secured(plain) as channel:
                channel.settimeout(None)
                self._socket = channel
                return self._exchange(channel)

    def _dial(self) -> socket.socket:
        url = self._request.url
        if url.scheme.startswith("unix"):
            return _dial_unix(f"{url.hostname}:{url.port}")
        if self._proxy is None:
            return _dial_tcp(url.hostname, url.port, self._dial_timeout_s)
        try:
            channel = _dial_tcp(self._proxy.hostname, self._proxy.port, self._dial_timeout_s)
        except Failure as failure:
            text = f"proxyconnect tcp: {failure}"
            raise Failure(text, connection=failure.connection) from None
        if self._is_secure:
            self._open_tunnel(channel, _place(url.hostname, url.port), self._proxy)
        return channel

    def _open_tunnel(self, channel: socket.socket, place: str, proxy: URL) -> None:
        reader = Reader(channel)
        try:
            channel.sendall(connect_request(place, proxy))
            status, _ = reader.head()
        except HungUp:
            channel.close()
            raise Failure("unexpected EOF") from None
        except Failure as failure:
            channel.close()
            raise Failure(str(failure).removeprefix(f"{BROKEN}: ")) from None
        except OSError as failure:
            channel.close()
            raise self._explained(failure) from None
        if status != OK:
            channel.close()
            raise Failure(reader.phrase or "unknown status code")

    def _secured(self, plain: socket.socket) -> socket.socket:
        if not self._is_secure:
            return plain
        from pyetcd.cli.ctl2 import tls

        try:
            secured = tls.secure(self._trust, plain, self._request.url.hostname)
        except OSError as failure:
            raise Failure(tls.words(failure)) from None
        self._may_be_refused = tls.is_late_to_refuse(secured)
        return secured

    def _exchange(self, channel: socket.socket) -> Answer:
        reader = Reader(channel)
        try:
            try:
                channel.sendall(self._request.raw(None if self._is_secure else self._proxy))
            except OSError as failure:  # who hung up may have said why
                if not self._has_hung_up(failure):
                    raise
            status, headers = reader.head()
            self.steps.put(None)
            return Answer(status, headers, reader.body(status, headers))
        except HungUp:
            raise Failure(self._refusal()) from None
        except OSError as failure:
            raise self._explained(failure) from None

    def _has_hung_up(self, failure: OSError) -> bool:
        if self._is_secure:
            from pyetcd.cli.ctl2 import tls

            if tls.has_hung_up(failure):
                return True
        return isinstance(failure, BrokenPipeError)

    def _explained(self, failure: OSError) -> Failure:
        if self._has_hung_up(failure):
            return Failure(self._refusal())
        if isinstance(failure, ConnectionResetError) and self._may_be_refused:
            return Failure(self._refusal())
        if self._is_secure and not isinstance(failure, ConnectionError):
            from pyetcd.cli.ctl2 import tls

            return Failure(tls.words(failure))
        reason = f"read tcp {self._ends()}: read: {_reason(failure)}"
        return Failure(reason, connection=True)

    def _refusal(self) -> str:
        """Why a server hung up. With TLS 1.3 it does so after the handshake, and its reason may be
        lost on the way; with 1.2 it does so in the handshake."""
        if not self._may_be_refused:
            return "EOF"
        from pyetcd.cli.ctl2 import tls

        try:
            with self._dial() as plain:
                plain.settimeout(HANDSHAKE_TIMEOUT_S)
                tls.secure(self._trust, plain, self._request.url.hostname, latest=False).close()
        except Failure:
            pass  # the first failure is the one to tell
        except OSError as failure:
            return tls.words(failure)
        return "EOF"

    def _ends(self) -> str:
        assert self._socket is not None
        try:
            names = (self._socket.getsockname(), self._socket.getpeername())
        except OSError:  # nobody is at the other end by now
            return "connection"
        if isinstance(names[1], str):  # a path
            return names[1]
        return "->".join(_place(str(name[0]), int(name[1])) for name in names)


def _dial_unix(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(path)
    except OSError as failure:
        made.close()
        text = f"dial unix {path}: connect: {_reason(failure)}"
        raise Failure(text, connection=True) from None
    return made


def _dial_tcp(host: str, port: int, timeout_s: float) -> socket.socket:
    """Tries all addresses of a name in turn; the failure is that of the first."""
    if port > PORT_MAX:
        raise Failure(f"dial tcp: address {port}: invalid port", connection=True)
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Failure(f"dial tcp: {_unknown(host)}", connection=True) from None
    first = ""
    end_s = time.monotonic() + timeout_s
    for family, kind, protocol, _, address in rows:
        made = socket.socket(family, kind, protocol)
        try:
            # What is kept alive notices within minutes that a watched server is gone.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
            made.settimeout(max(0.001, end_s - time.monotonic()))
            made.connect(address)
        except OSError as failure:
            made.close()
            slow = isinstance(failure, TimeoutError) and not failure.errno
            reason = "i/o timeout" if slow else f"connect: {_reason(failure)}"
            first = first or f"dial tcp {_place(str(address[0]), port)}: {reason}"
        else:
            return made
    raise Failure(first, connection=True)


def _unknown(host: str) -> str:
    from pyetcd.cli import srv

    server, port = srv.name_servers()[0]
    return f"lookup {host} on {_place(server, port)}: no such host"


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(failure: OSError) -> str:
    return os.strerror(failure.errno or 0).lower()
