"""/v2/members, /v2/machines, and the table of all v2 paths.

A change of the membership is the gRPC method's, behind the same checks.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from google.protobuf.message import Message

from pyetcd.proto import errors
from pyetcd.proto.errors import EtcdError
from pyetcd.proto.rpc_pb2 import (
    MemberAddRequest,
    MemberAddResponse,
    MemberRemoveRequest,
    MemberRemoveResponse,
    MemberUpdateRequest,
    MemberUpdateResponse,
)
from pyetcd.server.api.local import Local
from pyetcd.server.config_values import parse_urls
from pyetcd.server.http.gojson import why_broken
from pyetcd.server.http.router import Router
from pyetcd.server.http.v2auth import PREFIX as AUTH_PREFIX
from pyetcd.server.http.v2auth import AuthHandler, V2Auth
from pyetcd.server.http.v2base import (
    HttpError,
    V2Base,
    allows,
    fail_http,
    method_not_allowed,
    send_json,
)
from pyetcd.server.http.v2json import sound
from pyetcd.server.http.v2keys import PREFIX as KEYS_PREFIX
from pyetcd.server.http.v2keys import KeysHandler
from pyetcd.server.http.v2stats import V2Stats
from pyetcd.server.passwords import Passwords
from pyetcd.server.wire.http1 import HttpRequest, HttpResponder
from pyetcd.store.members import Member, Members

MEMBERS: Final = "/v2/members"
_CLUSTER: Final = "/etcdserverpb.Cluster/"


@dataclass(slots=True)
class _Caller:
    """Who asks over HTTP/1.1; without a token."""

    peer: str
    common_name: str = ""
    metadata: dict[str, str | bytes] = field(default_factory=dict)


class V2Api:
    """All handlers of the v2 API."""

    def __init__(
        self,
        base: V2Base,
        passwords: Passwords,
        *,
        certified: bool,
        local: Local,
        members: Members,
        stats: V2Stats,
    ) -> None:
        self.auth = V2Auth(base, passwords, certified=certified)
        self._base = base
        self._keys = KeysHandler(base, self.auth)
        self._auth_handler = AuthHandler(base, self.auth)
        self._local = local
        self._members = members
        self._stats = stats

    def add_to(self, router: Router) -> None:
        router.exact(KEYS_PREFIX, self._keys.handle)
        router.prefix(KEYS_PREFIX + "/", self._keys.handle)
        router.exact(MEMBERS, self.members)
        router.prefix(MEMBERS + "/", self.members)
        router.exact("/v2/machines", self.machines)
        router.exact("/v2/stats/store", self._stats.store)
        router.exact("/v2/stats/self", self._stats.own)
        router.exact("/v2/stats/leader", self._stats.leader)
        for kind in ("users", "roles"):
            router.exact(f"{AUTH_PREFIX}/{kind}", self._auth_handler.handle)
            router.prefix(f"{AUTH_PREFIX}/{kind}/", self._auth_handler.handle)
        router.exact(f"{AUTH_PREFIX}/enable", self._auth_handler.enable)

    # -- members

    def machines(self, request: HttpRequest, responder: HttpResponder) -> None:
        if not allows(request, responder, "GET", "HEAD"):
            return
        urls = sorted(url for member in self._members.all() for url in member.client_urls)
        headers = (("Content-Type", "text/plain; charset=utf-8"),)
        responder.send(200, headers, ", ".join(urls).encode())

    def members(self, request: HttpRequest, responder: HttpResponder) -> None:
        if not allows(request, responder, "GET", "POST", "DELETE", "PUT"):
            return None
        place = unquote(request.path)[len(MEMBERS) :].removeprefix("/")
        if request.method == "GET":
            return self._read(responder, place)
        self._base.serve(responder, self._base.cluster, self._change(request, responder, place))
        return None

    def _read(self, responder: HttpResponder, place: str) -> None:
        headers = self._base.cluster
        if place == "":
            shown = [_shown(member) for member in self._members.all()]
            return send_json(responder, 200, headers, {"members": shown})
        if place != "leader":
            return fail_http(responder, headers, HttpError(404, "Not found"))
        leader = self._members.get(self._base.raft.leader)
        if leader is None:
            return fail_http(responder, headers, HttpError(503, "During election"))
        return send_json(responder, 200, headers, _shown(leader))

    async def _change(self, request: HttpRequest, responder: HttpResponder, place: str) -> None:
        headers = self._base.cluster
        await self.auth.require_root(request)
        caller = _Caller(request.peer, request.common_name)
        if request.method == "POST":
            urls = _peer_urls(request)
            asked = MemberAddRequest(peerURLs=urls)
            added = await self._call(caller, "MemberAdd", asked, MemberAddResponse, place)
            id: int = added.member.ID
            shown = _shown(Member(id, peer_urls=tuple(urls)))
            return send_json(responder, 201, headers, shown)
        if place == "":
            return method_not_allowed(responder, headers)
        try:
            id = _member_id(place)
        except ValueError:
            raise HttpError(404, f"No such member: {place}") from None
        if request.method == "DELETE":
            if self._members.is_removed(id):
                raise HttpError(410, f"Member permanently removed: {id:x}")
            removal = MemberRemoveRequest(ID=id)
            await self._call(caller, "MemberRemove", removal, MemberRemoveResponse, f"{id:x}")
        else:
            update = MemberUpdateRequest(ID=id, peerURLs=_peer_urls(request))
            if self._members.is_removed(id):
                raise HttpError(500, "Internal Server Error")
            await self._call(caller, "MemberUpdate", update, MemberUpdateResponse, f"{id:x}")
        return responder.send(204, headers)

    async def _call(
        self, caller: _Caller, method: str, request: Message, kind: type[Any], place: str
    ) -> Any:
        try:
            return await self._local.call(caller, _CLUSTER + method, request, kind)
        except EtcdError as error:
            if error.text == errors.MemberExist.text:
                raise HttpError(409, "membership: ID exists") from None
            if error.text == errors.PeerURLExist.text:
                raise HttpError(409, "membership: peerURL exists") from None
            if error.text == errors.MemberNotFound.text:
                raise HttpError(404, f"No such member: {place}") from None
            raise


def _shown(member: Member) -> dict[str, Any]:
    return {
        "id": f"{member.id:x}",
        "name": member.name,
        "peerURLs": list(member.peer_urls),
        "clientURLs": list(member.client_urls),
    }


def _member_id(text: str) -> int:
    if not text or len(text) > 16 or not all(c in "0123456789abcdefABCDEF" for c in text):
        raise ValueError(text)
    return int(text, 16)


def _peer_urls(request: HttpRequest) -> Sequence[str]:
    kind = request.headers.get("content-type", "")
    if ";" in kind:
        kind = kind.partition(";")[0].lower().strip()
    if kind != "application/json":
        raise HttpError(415, f"Bad Content-Type {kind}, accept application/json")
    if broken := why_broken(request.body, whole=True):
        raise HttpError(400, broken)
    found = sound(json.loads(request.body))
    if found is not None and not isinstance(found, dict):
        raise HttpError(400, f"json: cannot unmarshal {_kind(found)} into Go value of type {_GO}")
    urls = (found or {}).get("peerURLs") or []
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise HttpError(400, f"json: cannot unmarshal {_kind(urls)} into Go struct field .peerURLs")
    if not urls:
        raise HttpError(400, "no valid URLs given")
    try:
        return sorted(str(url) for url in parse_urls(",".join(url.strip() for url in urls)))
    except ValueError as error:
        raise HttpError(400, str(error)) from None


_GO: Final = 'struct { PeerURLs []string "json:\\"peerURLs\\"" }'


def _kind(value: Any) -> str:
    kinds = {str: "string", list: "array", dict: "object", bool: "bool"}
    return kinds.get(type(value), "number")
