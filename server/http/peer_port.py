"""HTTP on the peer port: the raft protocol, and the few questions that members ask each other."""

import asyncio
import json
from collections.abc import Sequence

from pyetcd.proto.errors import EtcdError, LearnerNotReady, MemberNotFound, MemberNotLearner
from pyetcd.proto.rpc_pb2 import HashKVResponse
from pyetcd.server.api.cluster import ClusterApi
from pyetcd.server.api.lease import BODY_BYTES_MAX, INTERNAL_PATH, RENEW_PATH, LeaseApi
from pyetcd.server.facts import Facts
from pyetcd.server.http.ops import version_body
from pyetcd.server.peer.handshake import CLUSTER_ID_MISMATCH
from pyetcd.server.peer.inbound import PREFIX, PeerRequests
from pyetcd.server.peer.transport import PeerTransport
from pyetcd.server.promotion import ID_NOT_FOUND, NOT_LEARNER
from pyetcd.server.promotion import PATH as PROMOTE_PATH
from pyetcd.server.wire.http1 import BodySink, HttpRequest, HttpResponder, HttpService
from pyetcd.store.members import Member, Members

HASH_PATH = "/members/hashkv"
_TEXT = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}


class PeerPort:
    """Routes a request by its path."""

    def __init__(
        self,
        transport: PeerTransport,
        facts: Facts,
        members: Members,
        lease: LeaseApi,
        cluster: ClusterApi,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._raft = PeerRequests(transport)
        self._facts = facts
        self._members = members
        self._lease = lease
        self._cluster = cluster
        self._loop = loop
        self._cluster_header = {"X-Etcd-Cluster-ID": f"{transport.identity.cluster_id:x}"}
        # Bound: one per request under way, and each connection has one at a time.
        self._tasks: set[asyncio.Task[None]] = set()

    def service(self) -> HttpService:
        return HttpService(self.handle, body_bytes_max=self._body_bytes_max, sink=self._sink)

    def handle(self, request: HttpRequest, responder: HttpResponder) -> None:
        path = request.path
        if path == PREFIX or path.startswith(f"{PREFIX}/"):
            self._raft.handle(request, responder)
        elif path in (RENEW_PATH, INTERNAL_PATH):
            task = self._loop.create_task(self._leases(request, responder))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif path.startswith(PROMOTE_PATH):
            self._promote(request, responder)
        elif path not in ("/members", HASH_PATH, "/version", "/downgrade/enabled"):
            responder.send(404, _TEXT, b"404 page not found\n")
        elif request.method != "GET":
            responder.send(405, {**_TEXT, "Allow": "GET"}, b"Method Not Allowed\n")
        elif path == "/members":
            self._send_members(responder, self._members.all())
        elif path == HASH_PATH:
            self._hash_kv(request, responder)
        elif path == "/version":
            responder.send(200, {"Content-Type": "application/json"}, version_body(self._facts))
        else:
            enabled = b"true" if self._members.downgrade.enabled else b"false"
            responder.send(200, {"Content-Type": "text/plain", **self._cluster_header}, enabled)

    def _hash_kv(self, request: HttpRequest, responder: HttpResponder) -> None:
        """What a leader that looks for corruption asks every member (etcd corrupt.go). A URL may
        have come to be another cluster's: its hash would be a false alarm (etcd#15548)."""
        cluster_id = request.headers.get("x-etcd-cluster-id", "")
        if cluster_id not in ("", self._cluster_header["X-Etcd-Cluster-ID"]):
            return responder.send(412, _TEXT, f"{CLUSTER_ID_MISMATCH}\n".encode())
        revision = _revision_in(request.body)
        if revision is None:
            return responder.send(400, _TEXT, b"error unmarshalling request\n")

        def done(answer: HashKVResponse | EtcdError) -> None:
            if isinstance(answer, EtcdError):
                text = answer.text.removeprefix("etcdserver: ")
                return responder.send(400, _TEXT, f"{text}\n".encode())
            fields = {
                "header": {"revision": answer.header.revision},
                "hash": answer.hash,
                "compact_revision": answer.compact_revision,
            }
            body = json.dumps(fields, separators=(",", ":")).encode()
            headers = {"Content-Type": "application/json", **self._cluster_header}
            return responder.send(200, headers, body)

        return self._facts.hash_kv(revision, done)

    def _promote(self, request: HttpRequest, responder: HttpResponder) -> None:
        """Asked by a member that does not lead (server/promotion.py)."""
        if request.method != "POST":
            return responder.send(405, {**_TEXT, "Allow": "POST"}, b"Method Not Allowed\n")
        text = {**_TEXT, **self._cluster_header}
        id = request.path.removeprefix(PROMOTE_PATH)
        if not (id.isascii() and id.isdigit()) or int(id) >= 1 << 64:
            return responder.send(404, text, f"member {id} not found in cluster\n".encode())

        def done(found: Sequence[Member] | EtcdError) -> None:
            if isinstance(found, MemberNotFound):
                responder.send(404, text, f"{ID_NOT_FOUND}\n".encode())
            elif isinstance(found, MemberNotLearner):
                responder.send(412, text, f"{NOT_LEARNER}\n".encode())
            elif isinstance(found, LearnerNotReady):
                responder.send(412, text, f"{found.text}\n".encode())
            elif isinstance(found, EtcdError):
                headers = {"Content-Type": "application/json", **self._cluster_header}
                responder.send(500, headers, b'{"message":"Internal Server Error"}')
            else:
                self._send_members(responder, found)

        return self._cluster.promote(int(id), done)

    def _send_members(self, responder: HttpResponder, members: Sequence[Member]) -> None:
        body = json.dumps([member_fields(member) for member in members], separators=(",", ":"))
        headers = {"Content-Type": "application/json", **self._cluster_header}
        responder.send(200, headers, body.encode() + b"\n")

    async def _leases(self, request: HttpRequest, responder: HttpResponder) -> None:
        if request.method != "POST":
            return responder.send(405, {**_TEXT, "Allow": "POST"}, b"Method Not Allowed\n")
        status, body = await self._lease.handle_leases(request.path, request.body)
        headers = {"Content-Type": "application/protobuf"} if status == 200 else _TEXT
        return responder.send(status, headers, body)

    def _body_bytes_max(self, path: str) -> int:
        if path == PREFIX or path.startswith(f"{PREFIX}/"):
            return self._raft.body_bytes_max(path)
        return BODY_BYTES_MAX

    def _sink(self, request: HttpRequest, responder: HttpResponder) -> BodySink | None:
        return self._raft.sink(request, responder)


def _revision_in(body: bytes) -> int | None:
    """Of `{"revision": N}`; 0 when it is left out, None for anything else."""
    try:
        fields = json.loads(body)
    except ValueError:
        return None
    revision = fields.get("revision", 0) if isinstance(fields, dict) else None
    fits = isinstance(revision, int) and not isinstance(revision, bool) and abs(revision) < 1 << 63
    return revision if fits else None


def member_fields(member: Member) -> dict[str, object]:
    """A member as Go's JSON shows it."""
    fields: dict[str, object] = {"id": member.id, "peerURLs": list(member.peer_urls)}
    if member.is_learner:
        fields["isLearner"] = True
    if member.name:
        fields["name"] = member.name
    if member.client_urls:
        fields["clientURLs"] = list(member.client_urls)
    return fields
