"""Maintenance: what an operator asks of one member.

Status, HashKV, Alarm, MoveLeader and Defragment. The rest comes later.
"""

from collections.abc import Callable
from typing import Protocol

from pyetcd.proto.errors import EtcdError, NoLeader, NotLeader
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    AlarmMember,
    AlarmRequest,
    DefragmentRequest,
    DefragmentResponse,
    HashKVRequest,
    HashKVResponse,
    MoveLeaderRequest,
    MoveLeaderResponse,
    StatusRequest,
    StatusResponse,
)
from pyetcd.server.api.base import Headers, Proposer, answer_to, refuse
from pyetcd.server.wire.grpc import UnaryCall


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

    def alarm(self, call: UnaryCall, request: AlarmRequest) -> None:
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


def alarm_text(alarm: AlarmMember) -> str:
    """An alarm as Go prints the message; `endpoint status` shows it so."""
    name = {1: "alarm:NOSPACE ", 2: "alarm:CORRUPT "}.get(alarm.alarm, "")
    return f"memberID:{alarm.memberID} {name}"
