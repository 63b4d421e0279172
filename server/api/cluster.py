"""Cluster: the member list and its changes.

A change is checked against the health that this member sees (--strict-reconfig-check), proposed as
a raft configuration change and answered with the list that it made. Headers of this service carry
no revision, as in etcd.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from google.protobuf.message import Message

from pyetcd.proto.errors import (
    EtcdError,
    MemberBadURLs,
    MemberNotFound,
    MemberNotLearner,
    NotLeader,
)
from pyetcd.proto.rpc_pb2 import (
    Member as MemberMessage,
)
from pyetcd.proto.rpc_pb2 import (
    MemberAddRequest,
    MemberAddResponse,
    MemberListRequest,
    MemberListResponse,
    MemberPromoteRequest,
    MemberPromoteResponse,
    MemberRemoveRequest,
    MemberRemoveResponse,
    MemberUpdateRequest,
    MemberUpdateResponse,
    ResponseHeader,
)
from pyetcd.raft.types import ConfChange, ConfChangeType
from pyetcd.server.api.base import Headers, refuse
from pyetcd.server.config_values import parse_url
from pyetcd.server.reads import LinearizableReads
from pyetcd.server.wire.grpc import UnaryCall
from pyetcd.store import members
from pyetcd.store.apply import rpc_member
from pyetcd.store.members import Health, Member, Members

ConfDone = Callable[[Message | EtcdError], None]
PromoteDone = Callable[[Sequence[Member] | EtcdError], None]
Forward = Callable[[int, PromoteDone], None]
# etcd's reasons in its metrics are not those of its answers.
_REASONS: Final[dict[type[EtcdError], str]] = {
    MemberNotFound: "membership: ID not found",
    MemberNotLearner: "membership: can only promote a learner member",
}


class Configurer(Protocol):
    """Proposes configuration changes and knows what they depend on."""

    strict_reconfig_check: bool

    @property
    def is_leader(self) -> bool: ...

    @property
    def health(self) -> Health: ...

    @property
    def match_by_id(self) -> dict[int, int]:
        """How far each member's log is known to reach; only a leader knows."""

    def configure(self, change: ConfChange, done: ConfDone) -> None: ...

    def wall_s(self) -> float: ...


class ClusterApi:
    """The five unary methods of etcdserverpb.Cluster."""

    def __init__(
        self,
        *,
        headers: Headers,
        reads: LinearizableReads,
        members: Members,
        configurer: Configurer,
        forward: Forward | None = None,
    ) -> None:
        """`forward` asks the leader to promote a member."""
        self._headers = headers
        self._reads = reads
        self._members = members
        self._configurer = configurer
        self._forward = forward
        self.promotions_total = 0  # by this leader
        self.promotions_failed: dict[str, int] = {}  # by reason, of which there are few

    def member_list(self, call: UnaryCall, request: MemberListRequest) -> None:
        def serve(error: EtcdError | None) -> None:
            if error is not None:
                return refuse(call, error)
            answer = MemberListResponse(header=self._header(), members=self._list())
            return call.reply(answer.SerializeToString())

        if request.linearizable:
            return self._reads.wait(serve)
        return serve(None)

    def member_add(self, call: UnaryCall, request: MemberAddRequest) -> None:
        urls = peer_urls(request.peerURLs)
        if urls is None:
            return refuse(call, MemberBadURLs())
        now_s = int(self._configurer.wall_s())
        id = members.member_id(urls, "", unix_seconds=now_s)
        member = Member(id, peer_urls=urls, is_learner=request.isLearner)

        def check() -> None:
            members.check_add(
                self._members.voters(),
                is_learner=member.is_learner,
                health=self._configurer.health,
            )

        kind = ConfChangeType.ADD_LEARNER_NODE if member.is_learner else ConfChangeType.ADD_NODE
        added = MemberMessage(ID=id, peerURLs=urls, isLearner=member.is_learner)
        self._change(
            call,
            check,
            ConfChange(kind, id, members.encode_member(member)),
            lambda: MemberAddResponse(header=self._header(), member=added, members=self._list()),
        )
        return None

    def member_remove(self, call: UnaryCall, request: MemberRemoveRequest) -> None:
        def check() -> None:
            members.check_remove(
                self._members.voters(),
                request.ID,
                learners=[m.id for m in self._members.all() if m.is_learner],
                health=self._configurer.health,
            )

        self._change(
            call,
            check,
            ConfChange(ConfChangeType.REMOVE_NODE, request.ID),
            lambda: MemberRemoveResponse(header=self._header(), members=self._list()),
        )

    def member_update(self, call: UnaryCall, request: MemberUpdateRequest) -> None:
        member = Member(request.ID, peer_urls=tuple(request.peerURLs))
        self._change(
            call,
            None,
            ConfChange(ConfChangeType.UPDATE_NODE, request.ID, members.encode_member(member)),
            lambda: MemberUpdateResponse(header=self._header(), members=self._list()),
        )

    def member_promote(self, call: UnaryCall, request: MemberPromoteRequest) -> None:
        def done(found: Sequence[Member] | EtcdError) -> None:
            if isinstance(found, EtcdError):
                return refuse(call, found)
            listed = [rpc_member(member) for member in found]
            answer = MemberPromoteResponse(header=self._header(), members=listed)
            return call.reply(answer.SerializeToString())

        if self._configurer.is_leader:
            return self.promote(request.ID, done)
        if self._forward is None:
            return refuse(call, NotLeader())
        return self._forward(request.ID, done)

    def promote(self, id: int, done: PromoteDone) -> None:
        """On the leader, for who asks it or for who asks another member."""
        if not self._configurer.is_leader:
            return done(NotLeader())

        def counted(found: Sequence[Member] | EtcdError) -> None:
            if isinstance(found, EtcdError):
                reason = _REASONS.get(type(found), found.text)
                self.promotions_failed[reason] = self.promotions_failed.get(reason, 0) + 1
            else:
                self.promotions_total += 1
            done(found)

        return self._promote(id, counted)

    def _promote(self, id: int, done: PromoteDone) -> None:
        try:
            match_by_id = self._configurer.match_by_id
            leader_id = self._headers.member_id
            members.check_learner_ready(id, match_by_id, leader_id=leader_id)
            if self._configurer.strict_reconfig_check:
                members.check_promote(self._members.voters())
        except EtcdError as error:
            return done(error)
        change = ConfChange(ConfChangeType.ADD_NODE, id, members.encode_promotion(id))

        def configured(result: Message | EtcdError) -> None:
            done(result if isinstance(result, EtcdError) else self._members.all())

        return self._configurer.configure(change, configured)

    def _change(
        self,
        call: UnaryCall,
        check: Callable[[], None] | None,
        change: ConfChange,
        answer: Callable[[], Message],
    ) -> None:
        if check is not None and self._configurer.strict_reconfig_check:
            try:
                check()
            except EtcdError as error:
                return refuse(call, error)

        def done(result: Message | EtcdError) -> None:
            if isinstance(result, EtcdError):
                return refuse(call, result)
            return call.reply(answer().SerializeToString())

        return self._configurer.configure(change, done)

    def _header(self) -> ResponseHeader:
        header = ResponseHeader()
        self._headers.fill_without_revision(header)
        return header

    def _list(self) -> list[MemberMessage]:
        return [rpc_member(member) for member in self._members.all()]


def peer_urls(given: Sequence[str]) -> tuple[str, ...] | None:
    """As etcd keeps them, sorted; None unless each is scheme://host:port."""
    try:
        return tuple(sorted(parse_url(url.strip()).text for url in given)) or None
    except ValueError:
        return None
