"""Maintenance: what an operator asks of one member.

Status, Hash, HashKV, Alarm, MoveLeader, Defragment and Downgrade; Snapshot is in large.py.
"""

from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import Message

from pyetcd.proto.errors import (
    ClusterVersionUnavailable,
    Code,
    DowngradeInProcess,
    EtcdError,
    InvalidDowngradeTargetVersion,
    NoInflightDowngrade,
    NoLeader,
    NotLeader,
    RpcError,
    WrongDowngradeVersionFormat,
)
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    AlarmMember,
    AlarmRequest,
    AlarmType,
    DefragmentRequest,
    DefragmentResponse,
    DowngradeRequest,
    DowngradeResponse,
    HashKVRequest,
    HashKVResponse,
    HashRequest,
    HashResponse,
    MoveLeaderRequest,
    MoveLeaderResponse,
    StatusRequest,
    StatusResponse,
)
from pyetcd.server.api.base import Done, Headers, Proposer, answer_to, refuse
from pyetcd.server.wire.grpc import UnaryCall
from pyetcd.store.members import parse_version


class MemberFacts(Protocol):
    """What a member knows of itself."""

    server_version: str

    @property
    def leader(self) -> int: ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def is_learner(self) -> bool: ...

    @property
    def committed_index(self) -> int: ...

    @property
    def applied_index(self) -> int: ...

    @property
    def db_size_bytes(self) -> int: ...

    @property
    def db_size_in_use_bytes(self) -> int: ...

    @property
    def alarms(self) -> list[AlarmMember]: ...

    def hash_kv(
        self, revision: int, done: Callable[[HashKVResponse | EtcdError], None]
    ) -> None: ...

    def move_leader(self, target: int, done: Callable[[EtcdError | None], None]) -> None: ...

    def defragment(self, done: Callable[[], None]) -> None: ...

    def hash(self, done: Callable[[HashResponse | EtcdError], None]) -> None: ...

    def linearizable_read(self, done: Callable[[EtcdError | None], None]) -> None: ...

    @property
    def cluster_version(self) -> str: ...

    @property
    def downgrade_target(self) -> str | None: ...


class MaintenanceApi:
    """The unary methods of etcdserverpb.Maintenance."""

    def __init__(self, *, headers: Headers, proposer: Proposer, member: MemberFacts) -> None:
        self._headers = headers
        self._proposer = proposer
        self._member = member

    def status(self, call: UnaryCall, request: StatusRequest) -> None:
        member = self._member
        answer = StatusResponse(
            version=member.server_version,
            leader=member.leader,
            raftIndex=member.committed_index,
            raftTerm=self._headers.raft_term,
            raftAppliedIndex=member.applied_index,
            dbSize=member.db_size_bytes,
            dbSizeInUse=member.db_size_in_use_bytes,
            isLearner=member.is_learner,
        )
        if not answer.leader:
            answer.errors.append(NoLeader.text)
        answer.errors.extend(alarm_text(alarm) for alarm in member.alarms)
        self._headers.fill(answer.header)
        call.reply(answer.SerializeToString())

    def hash_kv(self, call: UnaryCall, request: HashKVRequest) -> None:
        self._member.hash_kv(request.revision, answer_to(call, self._headers))

    def hash(self, call: UnaryCall, request: HashRequest) -> None:
        self._member.hash(answer_to(call, self._headers))

    def alarm(self, call: UnaryCall, request: AlarmRequest) -> None:
        """What is unknown would end every member of etcd 3.5.1 that applies it."""
        if request.action not in AlarmRequest.AlarmAction.values():
            raise RpcError(Code.INVALID_ARGUMENT, "etcdserver: invalid alarm action")
        is_raised = request.action == AlarmRequest.ACTIVATE
        if is_raised and request.alarm not in AlarmType.values():  # NONE does nothing
            raise RpcError(Code.INVALID_ARGUMENT, "etcdserver: invalid alarm type")
        self._proposer.propose(InternalRaftRequest(alarm=request), answer_to(call, self._headers))

    def move_leader(self, call: UnaryCall, request: MoveLeaderRequest) -> None:
        if not self._member.is_leader:
            return refuse(call, NotLeader())

        def done(error: EtcdError | None) -> None:
            if error is not None:
                return refuse(call, error)
            return call.reply(MoveLeaderResponse().SerializeToString())

        return self._member.move_leader(request.targetID, done)

    def defragment(self, call: UnaryCall, request: DefragmentRequest) -> None:
        self._member.defragment(lambda: call.reply(DefragmentResponse().SerializeToString()))

    # Downgrades: agreed on here, done by starting older members one after another

    def downgrade(self, call: UnaryCall, request: DowngradeRequest) -> None:
        """Validate, enable or cancel (etcd v3_server.go: Downgrade)."""
        done = answer_to(call, self._headers)
        try:
            if request.action == DowngradeRequest.CANCEL:
                target = ""
            elif request.action in (DowngradeRequest.VALIDATE, DowngradeRequest.ENABLE):
                target = _minor_version(request.version)
            else:
                raise RpcError(Code.UNKNOWN, "etcdserver: unknown method")
        except EtcdError as error:
            return done(error)
        return self._member.linearizable_read(
            lambda error: done(error) if error is not None else self._decide(request, target, done)
        )

    def _decide(self, request: DowngradeRequest, target: str, done: Done) -> None:
        member = self._member
        if request.action == DowngradeRequest.CANCEL:
            if member.downgrade_target is None:
                return done(NoInflightDowngrade())
            return self._set_downgrade("", done)
        try:
            major, minor, _ = parse_version(member.cluster_version)
        except ValueError:
            return done(ClusterVersionUnavailable())
        if target != f"{major}.{minor - 1}.0":
            return done(InvalidDowngradeTargetVersion())
        if member.downgrade_target is not None:
            return done(DowngradeInProcess())
        if request.action == DowngradeRequest.VALIDATE:
            return done(DowngradeResponse(version=member.cluster_version))
        return self._set_downgrade(target, done)

    def _set_downgrade(self, target: str, done: Done) -> None:
        request = InternalRaftRequest()
        request.downgrade_info_set.enabled = bool(target)
        request.downgrade_info_set.ver = target

        def proposed(answer: Message | EtcdError) -> None:
            if isinstance(answer, EtcdError):
                return done(answer)
            return done(DowngradeResponse(version=self._member.cluster_version))

        self._proposer.propose(request, proposed)


def _minor_version(text: str) -> str:
    """`3.4` or `3.4.7` as `3.4.0`; raises WrongDowngradeVersionFormat."""
    for candidate in (text, f"{text}.0"):
        if candidate.partition("-")[0].count(".") != 2:
            continue
        try:
            major, minor, _ = parse_version(candidate)
        except ValueError:
            continue
        return f"{major}.{minor}.0"
    raise WrongDowngradeVersionFormat


def alarm_text(alarm: AlarmMember) -> str:
    """An alarm as Go prints the message; `endpoint status` shows it so."""
    name = {1: "alarm:NOSPACE ", 2: "alarm:CORRUPT "}.get(alarm.alarm, "")
    return f"memberID:{alarm.memberID} {name}"
