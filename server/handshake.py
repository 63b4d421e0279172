"""TLS handshakes of a listener: who fails one is told why, and so is the log, in etcd's words.

Strategy. The first record is read before the loop's TLS sees the connection: it tells a client
that speaks no TLS, and handshakes wait in `Handshakes` with nothing spent on them yet. The loop
then works with a `ServerContext`, whose connections are `ServerSide` objects: a failed handshake
asks for more bytes instead of raising, because the loop would drop the alert with the connection.

Rules. An alert under TLS 1.2 is the one that etcd 3.5 sends (Go 1.16: bad_certificate for every
certificate that does not do); under 1.3 alerts are encrypted, and OpenSSL's more exact one stays.

Limits: handshakes_per_turn begin in one turn of the loop, the others wait their turn or their
deadline; RECORD_BYTES_MAX of a first record; LINES_BURST lines about refusals and LINES_PER_S
after them, then a line says how many were left out.
"""

import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, cast

from pyetcd.server.logs import get

RECORD_HEAD_BYTES: Final = 5
RECORD_BYTES_MAX: Final = 16384 + 2048  # RFC 5246 6.2.3
LINES_BURST: Final = 100
LINES_PER_S: Final = 10.0

_HANDSHAKE: Final = 22
_ALERT: Final = 21
_SUPPORTED_VERSIONS: Final = 43
_BAD_CERTIFICATE: Final = 42
_NOT_TLS: Final = "tls: first record does not look like a TLS handshake"
# OpenSSL's reasons, and Go's words for them.
_REASONS: Final[Mapping[str, str]] = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "tls: client didn't provide a certificate",
    "NO_SHARED_CIPHER": "tls: no cipher suite supported by both client and server",
    "HTTP_REQUEST": _NOT_TLS,
    "HTTPS_PROXY_REQUEST": _NOT_TLS,
    "WRONG_VERSION_NUMBER": _NOT_TLS,
    "UNEXPECTED_MESSAGE": "local error: tls: unexpected message",
    "LENGTH_MISMATCH": "local error: tls: unexpected message",
    "LENGTH_TOO_SHORT": "local error: tls: unexpected message",
    "BAD_LENGTH": "local error: tls: unexpected message",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "local error: tls: bad record MAC",
    "UNSUPPORTED_PROTOCOL": "tls: client offered only unsupported versions",
    "VERSION_TOO_LOW": "tls: client offered only unsupported versions",
}
_ALERTS: Final[Mapping[str, str]] = {
    "UNKNOWN_CA": "unknown certificate authority",
    "CERTIFICATE_UNKNOWN": "unknown certificate",
    "CERTIFICATE_EXPIRED": "expired certificate",
    "CERTIFICATE_REVOKED": "revoked certificate",
    "PROTOCOL_VERSION": "protocol version not supported",
    "DECRYPT_ERROR": "error decrypting message",
    "DECODE_ERROR": "error decoding message",
}
_UNKNOWN_AUTHORITY: Final = (2, 18, 19, 20, 21)
_EXPIRED: Final = (9, 10)
_WRONG_PURPOSE: Final = 26


class Attempt:
    """One handshake of a listener: what the client said first, and how it went."""

    def __init__(self, admitted: Callable[[ssl.SSLObject], str] | None) -> None:
        """`admitted`: why a client whose chain is good is refused all the same, or nothing."""
        self.hello = b""
        self.server_name = ""
        self.failure = ""  # Go's words for why not
        self.is_done = False
        self.failed: Callable[[], object] = _nothing  # called once, by the loop's TLS
        self.admitted = admitted

    def hear(self, data: bytes) -> bool:
        """More of the first record. True when it is whole; `failure` is set when it is none."""
        self.hello += data
        head = self.hello[:RECORD_HEAD_BYTES]
        if head and head[0] not in (_HANDSHAKE, _ALERT):
            self.failure = _NOT_TLS
            return False
        if len(head) < RECORD_HEAD_BYTES:
            return False
        length = int.from_bytes(head[3:], "big")
        if head[1] >= 0x10:
            self.failure = _NOT_TLS
        elif length > RECORD_BYTES_MAX:
            self.failure = f"tls: oversized record received with length {length}"
        return not self.failure and len(self.hello) >= RECORD_HEAD_BYTES + length

    @property
    def cut_off(self) -> str:
        """What Go calls an end of the stream here."""
        return "unexpected EOF" if self.hello else "EOF"


class ServerSide(ssl.SSLObject):
    """The server's end of one connection."""

    attempt: Attempt | None = None
    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        attempt = self.attempt
        if attempt is None:
            super().do_handshake()
            return
        if attempt.failure:
            raise ssl.SSLWantReadError  # whatever else it says
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            attempt.failure = words(error, attempt.hello)
            if error.reason in ("CERTIFICATE_VERIFY_FAILED", "PEER_DID_NOT_RETURN_A_CERTIFICATE"):
                self._say_bad_certificate()
        else:
            attempt.failure = attempt.admitted(self) if attempt.admitted is not None else ""
            if not attempt.failure:
                attempt.is_done = True
                return
            if self.version() == "TLSv1.2" and not self.session_reused:
                self.outgoing.read()  # ours to finish: not sent yet, so that nothing is encrypted
                self.outgoing.write(bytes((_ALERT, 3, 3, 0, 2, 2, _BAD_CERTIFICATE)))
        attempt.failed()
        raise ssl.SSLWantReadError  # the loop sends what there is to send

    def _say_bad_certificate(self) -> None:
        """In the place of OpenSSL's alert, where that is in the clear."""
        pending = self.outgoing.read()
        if len(pending) >= 7 and pending[-7] == _ALERT and pending[-4:-1] == b"\x00\x02\x02":
            pending = pending[:-1] + bytes((_BAD_CERTIFICATE,))
        self.outgoing.write(pending)


class ServerContext(ssl.SSLContext):
    """A context whose connections are `ServerSide`s."""

    sslobject_class = ServerSide

    def of_attempt(self, attempt: Attempt) -> ssl.SSLContext:
        """For one connection: begins with what the client has said already."""
        return cast(ssl.SSLContext, _OfAttempt(self, attempt))


class _OfAttempt:
    """Stands for the context. To make one of its own for each connection would be dear; of what
    they are given here, loops look at the class and call `wrap_bio`."""

    def __init__(self, context: ServerContext, attempt: Attempt) -> None:
        self._context = context
        self._attempt = attempt

    @property  # type: ignore[misc]
    def __class__(self) -> type[ssl.SSLContext]:  # type: ignore[override]
        return ssl.SSLContext

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> ssl.SSLObject:
        made = self._context.wrap_bio(incoming, outgoing, server_side, server_hostname)
        assert isinstance(made, ServerSide)
        made.attempt, made.outgoing = self._attempt, outgoing
        incoming.write(self._attempt.hello)
        return made


def note_server_name(tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
    """The name that a client asks for: only for the log."""
    if isinstance(tls, ServerSide) and tls.attempt is not None:
        tls.attempt.server_name = name or ""


class Handshakes:
    """Whole first records, in the order of their arrival."""

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_scheduled = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, begin: Callable[[], None], soon: Callable[[Callable[[], None]], object]) -> None:
        """`begin` is called in this turn of the loop or a later one; `soon`: the loop's."""
        self._waiting.append(begin)
        if not self._is_scheduled:
            self._is_scheduled = True
            soon(lambda: self._turn(soon))

    def _turn(self, soon: Callable[[Callable[[], None]], object]) -> None:
        for _ in range(min(self._per_turn, len(self._waiting))):
            self._waiting.popleft()()
        self._is_scheduled = bool(self._waiting)
        if self._waiting:
            soon(lambda: self._turn(soon))


class Rejections:
    """Lines about who was not let in; a flood of them is counted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = float(LINES_BURST)
        self._seen_s = clock()
        self._left_out = 0
        self._log = get("listener")

    def say(self, **fields: object) -> None:
        now_s = self._clock()
        self._left = min(float(LINES_BURST), self._left + (now_s - self._seen_s) * LINES_PER_S)
        self._seen_s = now_s
        if self._left < 1:
            self._left_out += 1
            return
        self._left -= 1
        if self._left_out:
            fields["lines_left_out"], self._left_out = self._left_out, 0
        self._log.warn("rejected connection", **fields)


def words(error: ssl.SSLError, hello: bytes) -> str:
    """Go's words for what OpenSSL found."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls: failed to verify client certificate: x509: {_verify_words(error)}"
    if "_ALERT_" in reason:
        kind = reason.partition("_ALERT_")[2]
        return f"remote error: tls: {_ALERTS.get(kind, kind.replace('_', ' ').lower())}"
    text = _REASONS.get(reason, f"tls: {reason.replace('_', ' ').lower()}")
    if reason in ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW"):
        try:
            text += f": [{' '.join(f'{version:x}' for version in _offered(hello))}]"
        except IndexError:
            pass
    return text


def _verify_words(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return "certificate signed by unknown authority"
    if error.verify_code in _EXPIRED:
        return "certificate has expired or is not yet valid"
    if error.verify_code == _WRONG_PURPOSE:
        return "certificate specifies an incompatible key usage"
    return error.verify_message


def _offered(hello: bytes) -> Iterator[int]:
    """The versions of a ClientHello, as Go lists them. Raises IndexError for what is none."""

    def number(at: int, length: int) -> int:
        if at + length > len(hello):
            raise IndexError
        return int.from_bytes(hello[at : at + length], "big")

    at = RECORD_HEAD_BYTES + 4  # of the message
    version = number(at, 2)
    at += 2 + 32
    at += 1 + number(at, 1)  # session
    at += 2 + number(at, 2)  # suites
    at += 1 + number(at, 1)  # compressions
    at += 2
    while at < len(hello):
        kind, length = number(at, 2), number(at + 2, 2)
        if kind == _SUPPORTED_VERSIONS:
            return iter([number(i, 2) for i in range(at + 5, at + 4 + length, 2)])
        at += 4 + length
    return iter([known for known in (0x304, 0x303, 0x302, 0x301) if known <= version])


def _nothing() -> None:
    return None
