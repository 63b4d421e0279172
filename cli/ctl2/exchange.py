"""One HTTP request and its answer; a failure in the words of Go's net/http.

Each request has its own connection: a command makes two or three. It runs in a thread, since the
limits are for all of it (looking up the name, connecting, the handshake, an answer that trickles),
and no socket option covers that; who ran out of time is left behind. The thread also keeps a broken
connection apart from a broken pipe, which ends the process.
"""

import contextlib
import http.client
import os
import queue
import signal
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pyetcd.cli.ctl2.gourl import URL, escaped_path

DIAL_TIMEOUT_S: Final = 30.0
HANDSHAKE_TIMEOUT_S: Final = 10.0
KEEPALIVE_S: Final = 30
BODY_BYTES_MAX: Final = 1 << 30
_HUNG_UP = (http.client.RemoteDisconnected, BrokenPipeError, ssl.SSLEOFError)
_UNTRUSTED = "x509: certificate signed by unknown authority"

# In Go's words; its TLS 1.2 has no "certificate required".
_ALERTS = {"unknown ca": "unknown certificate authority", "certificate required": "bad certificate"}


class Failure(Exception):
    """No answer. `connection` when nobody was reached, as etcdctl counts it."""

    def __init__(self, text: str, *, connection: bool = False) -> None:
        super().__init__(text)
        self.connection = connection


class DeadlineExceeded(Failure):
    """The command's time is over."""

    def __init__(self) -> None:
        super().__init__("context deadline exceeded", connection=True)


class Deadline:
    """When a command's time is over; None for never."""

    def __init__(self, timeout_s: float | None) -> None:
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self) -> float | None:
        """Seconds that are left, not below 0; None for no limit."""
        return None if self._end_s is None else max(0.0, self._end_s - time.monotonic())


NEVER: Final = Deadline(None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Trust:
    """How TLS is spoken: files, and the name that a certificate is checked for if not the host's.
    The files were read once, by check_files."""

    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    server_name: str = ""

    def secure(self, plain: socket.socket, host: str, *, latest: bool = True) -> ssl.SSLSocket:
        """TLS on a connection; raises OSError. Not the `latest`: no later than 1.2."""
        context = self._context()
        if not latest:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context.wrap_socket(plain, server_hostname=self.server_name or host)

    def _context(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file:
            made.load_cert_chain(self.cert_file, self.key_file, password="")  # never asks for one
        if not self.ca_file:
            made.load_default_certs()
        else:
            with contextlib.suppress(ssl.SSLError):  # no certificate in it: trusts nobody
                made.load_verify_locations(self.ca_file)
        return made


@dataclass(frozen=True, slots=True)
class Request:
    """What goes to a server, whichever it is."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: bytes | None = None


class Exchanger:
    """Sends requests. `header_timeout_s` is for all up to the answer's headers."""

    def __init__(self, trust: Trust, *, header_timeout_s: float, dial_timeout_s: float) -> None:
        self._trust = trust
        self._header_timeout_s = header_timeout_s
        self._dial_timeout_s = dial_timeout_s

    def send(self, request: Request, deadline: Deadline, *, waits: bool = False) -> Answer:
        """The answer; raises Failure. With `waits` it may take as long as it takes."""
        work = _Work(request, self._trust, self._dial_timeout_s)
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

    def __init__(self, request: Request, trust: Trust, dial_timeout_s: float) -> None:
        self.steps: queue.SimpleQueue[Answer | BaseException | None] = queue.SimpleQueue()
        self._request = request
        self._trust = trust
        self._dial_timeout_s = dial_timeout_s
        self._socket: socket.socket | None = None
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
        connection = http.client.HTTPConnection(url.hostname, url.port)
        try:
            with self._dial(url) as plain:
                plain.settimeout(HANDSHAKE_TIMEOUT_S)
                self._socket = connection.sock = self._secured(plain, url)
                connection.sock.settimeout(None)
                return self._exchange(connection)
        finally:
            connection.close()

    def _dial(self, url: URL) -> socket.socket:
        if url.scheme.startswith("unix"):
            return _dial_unix(f"{url.hostname}:{url.port}")
        return _dial_tcp(url.hostname, url.port, self._dial_timeout_s)

    def _secured(self, plain: socket.socket, url: URL) -> socket.socket:
        if url.scheme not in ("https", "unixs"):
            return plain
        try:
            secured = self._trust.secure(plain, url.hostname)
        except OSError as failure:
            raise Failure(tls_words(failure)) from None
        self._may_be_refused = secured.version() == "TLSv1.3"
        return secured

    def _refusal(self) -> str:
        """Why a server hung up. With TLS 1.3 it does so after the handshake, and its reason may be
        lost on the way; with 1.2 it does so in the handshake."""
        if not self._may_be_refused:
            return "EOF"
        url = self._request.url
        try:
            with self._dial(url) as plain:
                plain.settimeout(HANDSHAKE_TIMEOUT_S)
                self._trust.secure(plain, url.hostname, latest=False).close()
        except ssl.SSLError as failure:
            return tls_words(failure)
        except (OSError, Failure):
            pass  # the first failure is the one to tell
        return "EOF"

    def _exchange(self, connection: http.client.HTTPConnection) -> Answer:
        try:
            with contextlib.suppress(
                BrokenPipeError, ssl.SSLEOFError
            ):  # who hung up may have said why
                self._ask(connection)
            answer = connection.getresponse()
            self.steps.put(None)
            body = _body(answer)
        except (OSError, UnicodeError, http.client.HTTPException) as failure:
            raise self._explained(failure) from None
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, headers, body)

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        request, url = self._request, self._request.url
        target = escaped_path(url.path) or "/"
        target += f"?{url.query}" if url.query else ""
        connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", url.host)
        connection.putheader("User-Agent", "Go-http-client/1.1")
        for name, value in request.headers.items():
            connection.putheader(name, value)
        if request.body is not None:
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body)

    def _explained(self, failure: Exception) -> Failure:
        if isinstance(failure, _HUNG_UP):
            return Failure(self._refusal())
        if isinstance(failure, ConnectionResetError) and self._may_be_refused:
            return Failure(self._refusal())
        if isinstance(failure, http.client.BadStatusLine):
            broken = "net/http: HTTP/1.x transport connection broken"
            return Failure(f"{broken}: malformed HTTP {_malformed(str(failure.args[0]))}")
        if isinstance(failure, UnicodeError | http.client.InvalidURL):
            return Failure("net/http: invalid request")
        if isinstance(failure, http.client.HTTPException):
            return Failure("unexpected EOF")
        if isinstance(failure, ssl.SSLError):
            return Failure(tls_words(failure))
        assert isinstance(failure, OSError)
        reason = f"read tcp {self._ends()}: read: {_reason(failure)}"
        return Failure(reason, connection=True)

    def _ends(self) -> str:
        assert self._socket is not None
        try:
            names = (self._socket.getsockname(), self._socket.getpeername())
        except OSError:  # nobody is at the other end by now
            return "connection"
        if isinstance(names[1], str):  # a path
            return names[1]
        return "->".join(_place(str(name[0]), int(name[1])) for name in names)


def _body(answer: http.client.HTTPResponse) -> bytes:
    """All of it; raises Failure when it is short."""
    try:
        body = answer.read(BODY_BYTES_MAX)
    except http.client.IncompleteRead:
        is_inside = bool(getattr(answer, "chunk_left", 0))  # Go then looks for the trailer
        text = "http: unexpected EOF reading trailer" if is_inside else "unexpected EOF"
        raise Failure(text) from None
    if answer.length:  # http.client takes a short body for a whole one
        raise Failure("unexpected EOF")
    return body


def _malformed(line: str) -> str:
    """What Go finds wrong with a status line."""
    line = line.strip().strip("'")
    protocol, space, rest = line.partition(" ")
    if not space:
        return f'response "{line}"'
    code = rest.lstrip(" ").partition(" ")[0]
    if len(code) != 3 or not code.isdecimal():
        return f'status code "{code}"'
    return f'version "{protocol}"'


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


def tls_words(failure: OSError) -> str:
    """Why a handshake failed, as Go says it where OpenSSL says the same."""
    if isinstance(failure, ssl.SSLCertVerificationError):
        if failure.verify_code in (18, 19, 20, 21):
            return _UNTRUSTED
        return f"x509: {failure.verify_message}"
    if isinstance(failure, ssl.SSLError):
        reason = failure.reason or ""
        if isinstance(failure, ssl.SSLEOFError) or reason == "UNEXPECTED_EOF_WHILE_READING":
            return "EOF"
        if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return "tls: first record does not look like a TLS handshake"
        _, alert, words = reason.partition("ALERT_")
        if alert:
            words = words.lower().replace("_", " ")
            words = _ALERTS.get(words, words)
            return f"remote error: tls: {words}"
        return f"tls: {reason.lower().replace('_', ' ')}"
    if isinstance(failure, ConnectionResetError):
        return "EOF"
    return _reason(failure) if failure.errno else "EOF"
