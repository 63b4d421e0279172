"""The requests of peers: /raft and what lies below it, on the peer listener.

Strategy. A plain HTTP handler that checks as etcd does, in etcd's order, and refuses with its
status codes and texts (rafthttp/http.go), because the asking member decides by them what to do.

Rules.
- Nothing is taken from a foreign cluster, an incompatible version or a removed member, and no
  message that is addressed to somebody else (etcd#17813). The last is refused with 412; etcd's
  later releases say 403, which the sender takes as its own removal and stops for.
- Every answer but of /raft/probing names our cluster id.
"""

import asyncio
import time
from typing import Final

from pyetcd.raft import codec as raft_codec
from pyetcd.raft.codec import decode_message
from pyetcd.raft.types import MsgType
from pyetcd.server.peer.handshake import (
    PYETCD_HEADER,
    TO_MISMATCH,
    Refusal,
    check_cluster,
    is_pyetcd,
    parse_id,
    remote_urls,
)
from pyetcd.server.peer.probe import probe_answer
from pyetcd.server.peer.snapshot import IncomingSnapshot
from pyetcd.server.peer.streams import StreamKind
from pyetcd.server.peer.transport import PeerTransport
from pyetcd.server.version import SERVER_VERSION
from pyetcd.server.wire.http1 import BodySink, HttpRequest, HttpResponder, HttpService

# A posted message: etcd posts appends of 512 KiB or one entry, and nothing larger.
POST_BYTES_MAX: Final = 64 * 1024 * 1024

# etcd: snapshotLimitByte. It goes to a file, not into memory.
SNAPSHOT_BYTES_MAX: Final = 1 << 40

SENDER_REMOVED: Final = Refusal(403, "cannot process message from removed member", is_json=True)
PREFIX: Final = "/raft"
_STREAMS: Final = {f"/raft/stream/{kind.value}": kind for kind in StreamKind}


class PeerRequests:
    """Answers what lies below PREFIX."""

    def __init__(self, transport: PeerTransport) -> None:
        self._transport = transport
        identity = transport.identity
        self._base = {"X-Etcd-Cluster-ID": f"{identity.cluster_id:x}"}
        self._stream = {
            **self._base,
            "X-Server-Version": SERVER_VERSION,
            PYETCD_HEADER: identity.pyetcd_version,
        }

    def service(self) -> HttpService:
        """For a listener that serves nothing else; a router calls the three itself."""
        return HttpService(self.handle, body_bytes_max=self.body_bytes_max, sink=self.sink)

    def handle(self, request: HttpRequest, responder: HttpResponder) -> None:
        """Route by path, as etcd's mux does."""
        path = request.path
        if path == PREFIX:
            self._post(request, responder)
        elif path.startswith("/raft/stream/"):
            self._attach(request, responder)
        elif path == "/raft/snapshot":
            # A POST went to `sink`, unless it was sent ahead of an answer, and nobody does that.
            refuse(responder, Refusal(405, "Method Not Allowed"), {"Allow": "POST"})
        elif path == "/raft/probing":
            body = probe_answer(time.time_ns())
            responder.send(200, {"Content-Type": "text/plain; charset=utf-8"}, body)
        else:
            refuse(responder, Refusal(404, "404 page not found"), {})

    def body_bytes_max(self, path: str) -> int:
        """What a request body may be; all but one are read into memory."""
        return SNAPSHOT_BYTES_MAX if path == "/raft/snapshot" else POST_BYTES_MAX

    def sink(self, request: HttpRequest, responder: HttpResponder) -> BodySink | None:
        """Takes over the body of a snapshot; None for all other requests."""
        if request.path != "/raft/snapshot" or request.method != "POST":
            return None
        taken: IncomingSnapshot | Refusal | None = self._check(request)
        if taken is None:
            taken = self._transport.snapshots_in.begin(
                request.headers,
                pause=responder.pause_body,
                resume=responder.resume_body,
            )
        return _SnapshotBody(taken, responder, self._base)

    def _post(self, request: HttpRequest, responder: HttpResponder) -> None:
        if request.method != "POST":
            refuse(responder, Refusal(405, "Method Not Allowed"), {"Allow": "POST"})
            return
        refusal = self._check(request) or self._take(request)
        if refusal is not None:
            refuse(responder, refusal, self._base)
        else:
            responder.send(204, self._base, b"")

    def _take(self, request: HttpRequest) -> Refusal | None:
        """Hand the posted message to raft."""
        transport = self._transport
        try:
            message = decode_message(request.body)
        except raft_codec.CodecError:
            return Refusal(400, "error unmarshalling raft message")
        if transport.handler.is_removed(message.from_):
            return SENDER_REMOVED
        if message.to != transport.identity.member_id:
            return Refusal(412, TO_MISMATCH)
        counters = transport.counters_of(message.from_)
        counters.received_bytes_total += len(request.body)
        if message.type is MsgType.APP:
            counters.appends_received.add(asyncio.get_running_loop().time(), len(request.body))
        transport.receive(message)
        return None

    def _attach(self, request: HttpRequest, responder: HttpResponder) -> None:
        if request.method != "GET":
            refuse(responder, Refusal(405, "Method Not Allowed"), {"Allow": "GET"})
            return
        refusal = check_cluster(request.headers, self._transport.identity.cluster_id)
        if refusal is None:
            refusal = self._begin_stream(request, responder)
        if refusal is not None:
            refuse(responder, refusal, self._stream)

    def _begin_stream(self, request: HttpRequest, responder: HttpResponder) -> Refusal | None:
        transport = self._transport
        prefix, _, name = request.path.rpartition("/")
        kind = _STREAMS.get(prefix)
        if kind is None:
            return Refusal(404, "invalid path")
        sender_id = parse_id(name)
        if sender_id is None:
            return Refusal(404, "invalid from")
        if transport.handler.is_removed(sender_id):
            return Refusal(410, "removed member")
        peer = transport.peer(sender_id)
        if peer is None:
            urls = remote_urls(request.headers)
            if urls:
                transport.add_remote(sender_id, urls)
            return Refusal(404, "error sender not found")
        if request.headers.get("x-raft-to") != f"{transport.identity.member_id:x}":
            return Refusal(412, TO_MISMATCH)
        peer.activity.is_pyetcd = is_pyetcd(request.headers)
        responder.start(200, self._stream)
        peer.attach(kind, responder)
        return None

    def _check(self, request: HttpRequest) -> Refusal | None:
        transport = self._transport
        refusal = check_cluster(request.headers, transport.identity.cluster_id)
        if refusal is not None:
            return refusal
        sender_id = parse_id(request.headers.get("x-server-from", ""))
        urls = remote_urls(request.headers)
        if sender_id is not None and urls:
            transport.add_remote(sender_id, urls)
        return None


class _SnapshotBody:
    """The BodySink of a snapshot. A refusal is said with the first piece, which ends the rest."""

    def __init__(
        self,
        taken: IncomingSnapshot | Refusal,
        responder: HttpResponder,
        headers: dict[str, str],
    ) -> None:
        self._incoming = taken if isinstance(taken, IncomingSnapshot) else None
        self._refusal = taken if isinstance(taken, Refusal) else None
        self._responder = responder
        self._headers = headers

    def feed(self, chunk: bytes) -> None:
        if self._incoming is not None:
            self._incoming.write(chunk)
            self._refusal = self._incoming.error
        if self._refusal is not None:
            self.abort()
            refuse(self._responder, self._refusal, self._headers)

    def end(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            assert self._refusal is not None
            refuse(self._responder, self._refusal, self._headers)
        else:
            incoming.finish(self._answer)

    def abort(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.abort()

    def _answer(self, refusal: Refusal | None) -> None:
        if refusal is None:
            self._responder.send(204, self._headers, b"")
        else:
            refuse(self._responder, refusal, self._headers)


def refuse(responder: HttpResponder, refusal: Refusal, headers: dict[str, str]) -> None:
    responder.send(refusal.status, {**refusal.headers, **headers}, refusal.body)
