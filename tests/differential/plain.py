"""What may differ between two servers is taken out of their answers, and nothing else.

Ids that a server chose become labels: those of members in the order in which they came (1 is the
server itself), those of leases likewise from LEASE_LABEL on. Ports become names, a token `a token`.
Blanked: the header's ids and its term; sizes, indexes and hashes of files that each server has in
its own way; the rest of a lease's time, as long as it is near the whole.

Named rules, each a row of docs/differences.md: HASH_REVISION (3.6), REFUSED_WATCH (3.5.6).
"""

import re
from typing import Any

from pyetcd.proto import rpc_pb2 as rpc

LEASE_LABEL = 1_000_000  # and on: leases whose id the server chose
TOKEN = re.compile(r"[A-Za-z]{16}\.[0-9]+")
SLACK_S = 900  # a lease that is renewed or granted in this run has lost no more
OF_LEASES = (rpc.LeaseRevokeRequest, rpc.LeaseTimeToLiveRequest, rpc.LeaseKeepAliveRequest)
OF_MEMBERS = (rpc.MemberRemoveRequest, rpc.MemberUpdateRequest, rpc.MemberPromoteRequest)
NO_MEMBER = 0xDEAD


class Names:
    """Of one server: what it chose by itself, and what the other one calls that."""

    def __init__(self, *, self_id: int, client_url: str, peer_url: str) -> None:
        self.members = [self_id]
        self.leases: list[int] = []
        self._urls = {client_url: "CLIENT", peer_url: "PEER"}

    # -- requests: from labels to what this server knows

    def request(self, request: Any) -> Any:
        copy = type(request).FromString(request.SerializeToString())
        if isinstance(copy, OF_LEASES):
            copy.ID = self._lease(copy.ID)
        elif isinstance(copy, OF_MEMBERS):
            copy.ID = self._member(copy.ID)
        elif isinstance(copy, rpc.MoveLeaderRequest):
            copy.targetID = self._member(copy.targetID)
        if isinstance(copy, (rpc.MemberAddRequest, rpc.MemberUpdateRequest)):
            own = {label: url for url, label in self._urls.items()}
            copy.peerURLs[:] = [own.get(url, url) for url in copy.peerURLs]
        return copy

    def _lease(self, label: int) -> int:
        at = label - LEASE_LABEL
        return self.leases[at] if 0 <= at < len(self.leases) else label

    def _member(self, label: int) -> int:
        return self.members[label - 1] if 0 < label <= len(self.members) else NO_MEMBER

    # -- answers: from what this server knows to labels

    def answer(self, answer: Any, request: Any = None) -> Any:
        """`request` as it was drawn."""
        if answer.HasField("header"):
            answer.header.cluster_id = answer.header.member_id = answer.header.raft_term = 0
        if isinstance(answer, rpc.LeaseGrantResponse):
            if request is not None and request.ID == 0:
                self.leases.append(answer.ID)
            answer.ID = self._lease_label(answer.ID)
        elif isinstance(answer, rpc.LeaseKeepAliveResponse):
            answer.ID = self._lease_label(answer.ID)
        elif isinstance(answer, rpc.LeaseTimeToLiveResponse):
            answer.ID = self._lease_label(answer.ID)
            answer.keys[:] = sorted(answer.keys)
            if 0 <= answer.grantedTTL - answer.TTL <= SLACK_S:
                answer.TTL = answer.grantedTTL
        elif isinstance(answer, rpc.LeaseLeasesResponse):
            for lease in answer.leases:
                lease.ID = self._lease_label(lease.ID)
        elif isinstance(answer, rpc.AuthenticateResponse):
            assert TOKEN.fullmatch(answer.token), answer.token
            answer.token = "a token"
        elif isinstance(answer, rpc.AlarmResponse):
            alarms = sorted(answer.alarms, key=lambda each: (each.alarm, each.memberID))
            del answer.alarms[:]
            answer.alarms.extend(alarms)
        elif isinstance(answer, rpc.HashKVResponse):
            answer.hash_revision = 0  # HASH_REVISION
        elif isinstance(answer, rpc.HashResponse):
            answer.hash = 0
        elif isinstance(answer, rpc.StatusResponse):
            self._status(answer)
        else:
            self._members(answer)
        return answer

    def _lease_label(self, id: int) -> int:
        return LEASE_LABEL + self.leases.index(id) if id in self.leases else id

    def _member_label(self, id: int) -> int:
        if id not in self.members:
            self.members.append(id)
        return self.members.index(id) + 1

    def _status(self, answer: rpc.StatusResponse) -> None:
        answer.leader = self._member_label(answer.leader)
        answer.errors[:] = sorted(answer.errors)
        for name in ("dbSize", "dbSizeInUse", "raftIndex", "raftTerm", "raftAppliedIndex"):
            assert getattr(answer, name) > 0, name
            answer.ClearField(name)

    def _members(self, answer: Any) -> None:
        if isinstance(answer, rpc.MemberAddResponse):
            self._member_fields(answer.member)
        if hasattr(answer, "members"):
            for member in answer.members:
                self._member_fields(member)
            members = sorted(answer.members, key=lambda each: each.ID)
            del answer.members[:]
            answer.members.extend(members)

    def _member_fields(self, member: Any) -> None:
        member.ID = self._member_label(member.ID)
        member.peerURLs[:] = [self._urls.get(url, url) for url in member.peerURLs]
        member.clientURLs[:] = [self._urls.get(url, url) for url in member.clientURLs]


REFUSED = re.compile(
    r"rpc error: code = \w+ desc = (etcd|auth)\w*: "
    r"(permission denied|invalid auth token|user name is empty|user name not found)"
)


def plain_watch(response: Any) -> Any:
    """The answer to a request on a watch stream. REFUSED_WATCH: 3.5.1 repeats the wanted id, and
    gives one reason for everything."""
    response.header.cluster_id = response.header.member_id = response.header.raft_term = 0
    if response.created and response.canceled and REFUSED.fullmatch(response.cancel_reason):
        response.watch_id, response.cancel_reason = -1, "refused"
    return response
