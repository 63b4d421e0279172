"""What every API handler shares: the response header, the identity, answering.

A handler is a plain function `(call, request)`: check the request, hand it on with a callback,
fill the header of the answer. `Answer` is the callback side of that; it is made once per call.
"""

from collections.abc import Callable
from typing import Any, Protocol

from google.protobuf.message import Message

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import ResponseHeader
from pyetcd.server.wire.grpc import UnaryCall

Done = Callable[[Message | EtcdError], None]


class Proposer(Protocol):
    """Sends a request through raft (server/propose.py)."""

    def propose(self, request: InternalRaftRequest, done: Done) -> None: ...


class TermSource(Protocol):
    """Raft's current term."""

    @property
    def term(self) -> int: ...


class Headers:
    """Fills response headers: who answered, in which term. The revision is the state machine's."""

    __slots__ = ("_node", "cluster_id", "member_id", "revision")

    def __init__(
        self, cluster_id: int, member_id: int, node: TermSource, revision: Callable[[], int]
    ) -> None:
        self.cluster_id = cluster_id
        self.member_id = member_id
        self.revision = revision
        self._node = node

    @property
    def raft_term(self) -> int:
        return self._node.term

    def fill(self, header: ResponseHeader) -> None:
        """Cluster, member and term; the revision stays as the state machine set it, if it did."""
        header.cluster_id = self.cluster_id
        header.member_id = self.member_id
        header.raft_term = self._node.term
        if not header.revision:
            header.revision = self.revision()

    def fill_without_revision(self, header: ResponseHeader) -> None:
        """The same for the cluster service, whose headers have no revision."""
        header.cluster_id = self.cluster_id
        header.member_id = self.member_id
        header.raft_term = self._node.term


def answer_to(call: UnaryCall, headers: Headers) -> Done:
    """The callback that answers `call` with a response of the state machine, or with its error."""

    def done(answer: Any) -> None:  # Any: every rpc response has .header, no common base says so
        if isinstance(answer, EtcdError):
            call.fail(answer.code, answer.text)
        else:
            headers.fill(answer.header)
            call.reply(answer.SerializeToString())

    return done


def refuse(call: UnaryCall, error: EtcdError) -> None:
    """Answer with an error of the catalogue."""
    call.fail(error.code, error.text)
