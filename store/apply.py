"""The state machine: a committed log entry in, its answer and its effects out.

Strategy. One dispatch ladder. A put is looked for first, for it is most of what comes; the other
kinds follow from a table. Gates stand before the store call, in this order: permission, CORRUPT,
NOSPACE, then the call, then the quota. Answers are response messages with header.revision set, or
an EtcdError; both are made on every member, though only the one that proposed sends them.

Rules.
- The same log gives the same state on every member. So nothing here looks at a clock, at the
  network or at what this member is configured to; except for the quota, which decides about the
  answer and an alarm to be proposed, never about the state: the write over quota is applied.
- An entry changes nothing or all of it: everything that can refuse does so before the first write.
- What an entry asks that is not known here (a newer etcd's request) is answered with `not capable`,
  the same on all pyetcd members; real etcd stops there.
- Permission is judged here and not only before the proposal: in between, a right may have been
  taken away by another entry. An alarm does not change that (in etcd 3.5.1 NOSPACE and CORRUPT
  switch the check off).
- Entries carry an InternalRaftRequest, or a bare v2 request, by which etcd 3.5 members publish
  their name and the cluster version. Anything else is a damaged log or a bug, and stops the member.

The caller skips entries up to the backend's applied index, and gives configuration changes to raft
also when they were refused (as a change of node 0).
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from pyetcd.proto import errors
from pyetcd.proto.decode import ENTRY_DEPTH_MAX, TooDeep, decode, decode_refused
from pyetcd.proto.errors import EtcdError
from pyetcd.proto.raft_internal_pb2 import EmptyResponse, InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    AlarmRequest,
    AlarmResponse,
    LeaseCheckpointResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    MemberListResponse,
)
from pyetcd.proto.rpc_pb2 import Member as RpcMember
from pyetcd.proto.v2request_pb2 import Request as V2Request
from pyetcd.raft.types import ConfChange, ConfChangeType, Entry
from pyetcd.store.alarms import LEASE_COST_BYTES, Alarms, put_cost_bytes, txn_cost_bytes
from pyetcd.store.auth import AuthStore
from pyetcd.store.auth_requests import AuthRequests
from pyetcd.store.compact import apply_compaction
from pyetcd.store.lease import Lessor
from pyetcd.store.members import Member, Members, attributes_json, raft_attributes_json
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.permit import permit
from pyetcd.store.tokens import SimpleTokens
from pyetcd.store.txn import apply_delete_range, apply_put, apply_range, apply_txn
from pyetcd.store.v2 import V2Store, text_of
from pyetcd.store.v2event import Event
from pyetcd.store.watch import WatchHub

_ATTRIBUTES_PATH: Final = re.compile(r"/0/members/([0-9a-fA-F]{1,16})/attributes")
_VERSION_PATH: Final = "/0/version"


class Applied:
    """What one entry came to: a response or an error, for whoever waits for `request_id`."""

    __slots__ = ("error", "op", "over_quota", "request_id", "response")

    def __init__(
        self,
        request_id: int,
        response: Message | Event | None = None,
        error: EtcdError | None = None,
        *,
        over_quota: bool = False,
        op: str = "put",
    ) -> None:
        self.request_id = request_id
        # The field of the request, for metrics; v2 and the method for v2; empty for none.
        self.op = op
        self.response = response
        self.error = error
        # The write was applied, but the file is larger than the quota: propose this member's
        # NOSPACE alarm, and answer when that was applied.
        self.over_quota = over_quota

    @property
    def answer(self) -> Any:
        """A Message, of the v2 store an Event, or an EtcdError. None only for a leader's empty
        entry, for which nobody waits."""
        return self.response if self.error is None else self.error


NOTHING: Final = Applied(0, op="")

Handler = Callable[[InternalRaftRequest], Message]


class Applier:
    """Applies entries to the store parts of one member. `quota_bytes` 0 or below means no quota."""

    def __init__(
        self,
        *,
        keyspace: Keyspace,
        lessor: Lessor,
        members: Members,
        alarms: Alarms,
        hub: WatchHub,
        auth: AuthStore,
        tokens: SimpleTokens,
        v2: V2Store,
        quota_bytes: int = 0,
    ) -> None:
        self.keyspace = keyspace
        self.v2 = v2
        self.lessor = lessor
        self.members = members
        self.alarms = alarms
        self.hub = hub
        self.auth = auth
        self._auth_requests = AuthRequests(auth, tokens)
        self._backend = keyspace.backend
        self._quota_bytes = quota_bytes
        keyspace.listener = hub
        self._handlers: tuple[tuple[str, Handler], ...] = (
            ("txn", self._txn),
            ("delete_range", self._delete_range),
            ("range", self._range),
            ("lease_grant", self._lease_grant),
            ("lease_revoke", self._lease_revoke),
            ("lease_checkpoint", self._lease_checkpoint),
            ("compaction", self._compaction),
            ("alarm", self._alarm),
            ("cluster_version_set", self._cluster_version_set),
            ("cluster_member_attr_set", self._cluster_member_attr_set),
            ("downgrade_info_set", self._downgrade_info_set),
        )

    def apply(self, entry: Entry) -> Applied:
        """A normal entry."""
        data = entry.data
        if not data:
            return NOTHING  # what a new leader writes first
        try:
            request = InternalRaftRequest.FromString(data)
        except DecodeError:
            try:
                request = decode_refused(InternalRaftRequest, data, depth_max=ENTRY_DEPTH_MAX)
            except TooDeep:
                raise  # members that can decode it apply it: this one must not go on without it
            except DecodeError:
                bare = decode(V2Request, data)
                return self._v2(bare.ID, bare)
        request_id = request.ID or request.header.ID
        try:
            if self.auth.enabled:
                permit(self.auth, self.lessor, request)
            if request.HasField("put"):
                alarms = self.alarms
                if alarms.corrupt:
                    raise errors.Corrupt
                if alarms.nospace:
                    raise errors.NoSpace
                put = request.put
                fits = self._fits(put_cost_bytes(put.key, put.value))
                response: Message = apply_put(self.keyspace, self.lessor, put)
                if fits:
                    return Applied(request_id, response)
                return Applied(request_id, error=errors.NoSpace(), over_quota=True)
            return self._apply_other(request_id, request, entry.index)
        except EtcdError as error:
            return Applied(request_id, error=error, op=_op_of(request))

    def apply_conf_change(self, entry: Entry, change: ConfChange) -> tuple[Applied, bool]:
        """A configuration entry, already decoded. The answer lists the members as they are now;
        the bool says whether the change is valid."""
        self.v2.count_lookup()
        try:
            self.members.apply_conf_change(change)
        except EtcdError as error:
            return Applied(change.id, error=error, op=""), False
        if change.type == ConfChangeType.REMOVE_NODE:
            self.v2.remove_member(change.node_id)
        else:
            self._tell_v2(change.node_id)
        return Applied(change.id, member_list(self.members.all()), op=""), True

    def reload(self) -> None:
        """The backend was reopened on another file (an installed snapshot)."""
        self.keyspace.reload()
        self.lessor.reload(self._backend)
        self.members.reload(self._backend)
        self.alarms.reload(self._backend)
        self._auth_requests.reload(self._backend)
        self.v2.reload(self._backend)
        self.hub.restore(self.keyspace)

    # -- gates

    def _fits(self, cost_bytes: int) -> bool:
        """Whether a request stays within the quota; the API asks the same before it proposes."""
        quota_bytes = self._quota_bytes
        return quota_bytes <= 0 or self._backend.size_bytes + cost_bytes < quota_bytes

    @property
    def is_within_quota(self) -> bool:
        """Whether a request that adds nearly nothing would fit."""
        return self._fits(1)

    def fits(self, request: InternalRaftRequest) -> bool:
        """Whether the quota allows this request. What adds nothing always passes, as from etcd
        3.5.7 on: in 3.5.1 a full file refused transactions that only read or deleted."""
        cost_bytes = _cost_bytes(request)
        return cost_bytes == 0 or self._fits(cost_bytes)

    def _apply_other(self, request_id: int, request: InternalRaftRequest, index: int) -> Applied:
        if request.HasField("v2"):
            return self._v2(request_id or request.v2.ID, request.v2)
        op = _op_of(request)
        for field, handler in self._handlers:
            if request.HasField(field):
                fits = self.fits(request)
                response = handler(request)
                if fits:
                    return Applied(request_id, response, op=op)
                return Applied(request_id, error=errors.NoSpace(), over_quota=True, op=op)
        response = self._auth_requests.apply(request, index)
        response.header.revision = self.keyspace.revision
        return Applied(request_id, response, op=op)

    def _refuse_if_corrupt(self) -> None:
        if self.alarms.corrupt:
            raise errors.Corrupt

    # -- one method per kind of request

    def _range(self, request: InternalRaftRequest) -> Message:
        self._refuse_if_corrupt()
        return apply_range(self.keyspace, request.range)

    def _delete_range(self, request: InternalRaftRequest) -> Message:
        self._refuse_if_corrupt()
        return apply_delete_range(self.keyspace, self.lessor, request.delete_range)

    def _txn(self, request: InternalRaftRequest) -> Message:
        self._refuse_if_corrupt()
        if self.alarms.nospace and txn_cost_bytes(request.txn) > 0:
            raise errors.NoSpace
        return apply_txn(self.keyspace, self.lessor, request.txn)

    def _compaction(self, request: InternalRaftRequest) -> Message:
        self._refuse_if_corrupt()
        return apply_compaction(self.keyspace, request.compaction)

    def _lease_grant(self, request: InternalRaftRequest) -> Message:
        self._refuse_if_corrupt()
        if self.alarms.nospace:
            raise errors.NoSpace
        lease = self.lessor.grant(request.lease_grant.ID, request.lease_grant.TTL)
        response = LeaseGrantResponse(ID=lease.id, TTL=lease.ttl_s)
        response.header.revision = self.keyspace.revision
        return response

    def _lease_revoke(self, request: InternalRaftRequest) -> Message:
        self._refuse_if_corrupt()
        self.lessor.revoke(request.lease_revoke.ID, self.keyspace)
        response = LeaseRevokeResponse()
        response.header.revision = self.keyspace.revision
        return response

    def _lease_checkpoint(self, request: InternalRaftRequest) -> Message:
        for checkpoint in request.lease_checkpoint.checkpoints:
            self.lessor.checkpoint(checkpoint.ID, checkpoint.remaining_TTL)
        response = LeaseCheckpointResponse()
        response.header.revision = self.keyspace.revision
        return response

    def _alarm(self, request: InternalRaftRequest) -> Message:
        alarm = request.alarm
        if alarm.action == AlarmRequest.ACTIVATE:
            found = self.alarms.activate(alarm.memberID, alarm.alarm)
        elif alarm.action == AlarmRequest.DEACTIVATE:
            found = self.alarms.deactivate(alarm.memberID, alarm.alarm)
        else:
            found = self.alarms.get(alarm.alarm)
        response = AlarmResponse(alarms=found)
        response.header.revision = self.keyspace.revision
        return response

    def _cluster_version_set(self, request: InternalRaftRequest) -> Message:
        self._set_version(request.cluster_version_set.ver)
        return EmptyResponse()

    def _cluster_member_attr_set(self, request: InternalRaftRequest) -> Message:
        change = request.cluster_member_attr_set
        attributes = change.member_attributes
        self._set_attributes(change.member_ID, attributes.name, attributes.client_urls)
        return EmptyResponse()

    def _downgrade_info_set(self, request: InternalRaftRequest) -> Message:
        info = request.downgrade_info_set
        self.members.set_downgrade(enabled=info.enabled, target_version=info.ver)
        return EmptyResponse()

    def _v2(self, request_id: int, request: V2Request) -> Applied:
        """A request of the v2 store, or one of the two v2 writes that are about the cluster."""
        op = f"v2 {request.Method}"
        plain = not (request.HasField("PrevExist") or request.PrevIndex or request.PrevValue)
        if request.Method == "PUT" and plain:
            if match := _ATTRIBUTES_PATH.fullmatch(text_of(request.Path)):
                attributes = json.loads(request.Val)
                name, urls = attributes.get("name", ""), attributes.get("clientURLs") or ()
                self._set_attributes(int(match[1], 16), name, urls)
                return Applied(request_id, EmptyResponse(), op=op)
            if request.Path == _VERSION_PATH:
                try:
                    self._set_version(request.Val)
                except EtcdError as error:
                    return Applied(request_id, error=error, op=op)
                return Applied(request_id, EmptyResponse(), op=op)
        found = self.v2.apply(request)
        if isinstance(found, EtcdError):
            return Applied(request_id, error=found, op=op)
        return Applied(request_id, EmptyResponse() if found is None else found, op=op)

    def _set_attributes(self, id: int, name: str, client_urls: Sequence[str]) -> None:
        self.members.set_attributes(id, name=name, client_urls=client_urls)
        if (member := self.members.get(id)) is not None:
            self.v2.set_attributes(id, attributes_json(member))

    def _tell_v2(self, id: int) -> None:
        """A member is new or another; not so for a change that is one of none."""
        if (member := self.members.get(id)) is not None:
            self.v2.set_member(id, raft_attributes_json(member))

    def _set_version(self, version: str) -> None:
        try:
            self.members.set_version(version)
        except ValueError:
            raise errors.WrongDowngradeVersionFormat from None
        self.v2.set_version(self.members.version)


def _op_of(request: InternalRaftRequest) -> str:
    """The name of what is asked: the one field beside the header."""
    names = (field.name for field, _ in request.ListFields() if field.name not in ("header", "ID"))
    return next(names, "unknown")


def member_list(members: list[Member]) -> MemberListResponse:
    """Members as the API shows them. The header stays empty: the server fills it."""
    response = MemberListResponse()
    for member in members:
        response.members.append(rpc_member(member))
    return response


def rpc_member(member: Member) -> RpcMember:
    return RpcMember(
        ID=member.id,
        name=member.name,
        peerURLs=member.peer_urls,
        clientURLs=member.client_urls,
        isLearner=member.is_learner,
    )


def adds(request: InternalRaftRequest) -> bool:
    """Whether it is one that the quota, or a full disk, refuses."""
    return _cost_bytes(request) > 0


def _cost_bytes(request: InternalRaftRequest) -> int:
    if request.HasField("put"):
        return put_cost_bytes(request.put.key, request.put.value)
    if request.HasField("txn"):
        return txn_cost_bytes(request.txn)
    return LEASE_COST_BYTES if request.HasField("lease_grant") else 0
