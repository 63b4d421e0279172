"""/v2/stats: what this member did and what it knows of its links, as in etcd's api/v2stats."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pyetcd.proto.gotext import duration
from pyetcd.server.http.v2base import JSON, HttpError, V2Base, allows, fail_http
from pyetcd.server.http.v2json import dump, rfc3339
from pyetcd.server.peer.activity import PeerCounters
from pyetcd.server.peer.appends import Appends, Deliveries
from pyetcd.server.wire.http1 import HttpRequest, HttpResponder
from pyetcd.store.members import Members
from pyetcd.store.v2tree import STATS


class Role(Protocol):
    """What this member is."""

    @property
    def is_leader(self) -> bool: ...


class V2Stats:
    """The three pages. `loop_s` is the clock of the links; `leader_since_s` is on it, too."""

    def __init__(
        self,
        base: V2Base,
        *,
        members: Members,
        member_id: int,
        role: Role,
        links: Callable[[], Mapping[int, PeerCounters]],
        loop_s: Callable[[], float],
        leader_since_s: Callable[[], float],
    ) -> None:
        self._base = base
        self._members = members
        self._member_id = member_id
        self._role = role
        self._links = links
        self._loop_s = loop_s
        self._leader_since_s = leader_since_s
        self._started_ns = base.now_ns

    def store(self, request: HttpRequest, responder: HttpResponder) -> None:
        """What was asked of the tree, and how it ended."""
        if not allows(request, responder, "GET"):
            return
        tree = self._base.store.tree
        counts: dict[str, int] = {}
        for kind in STATS:
            counts[f"{kind}Success"] = tree.stats.success[kind]
            counts[f"{kind}Fail"] = tree.stats.fail[kind]
        counts["expireCount"] = tree.stats.expired
        counts["watchers"] = tree.hub.count
        responder.send(200, JSON, dump(counts).encode())

    def own(self, request: HttpRequest, responder: HttpResponder) -> None:
        """This member, its leader, and the appends that went either way."""
        if not allows(request, responder, "GET"):
            return
        member = self._members.get(self._member_id)
        leader = self._base.raft.leader
        led_ns = round((self._loop_s() - self._leader_since_s()) * 1e9)
        links = self._links().values()
        stats = {
            "name": "" if member is None else member.name,
            "id": f"{self._member_id:x}",
            "state": "StateLeader" if self._role.is_leader else "StateFollower",
            "startTime": rfc3339(self._started_ns),
            "leaderInfo": {
                "leader": f"{leader:x}" if leader else "",
                "uptime": duration(led_ns),
                "startTime": rfc3339(self._base.now_ns - led_ns),
            },
            **self._traffic("recv", [link.appends_received for link in links]),
            **self._traffic("send", [link.appends_sent for link in links]),
        }
        responder.send(200, JSON, dump(stats).encode())

    def _traffic(self, way: str, links: list[Appends]) -> dict[str, Any]:
        """Rates are left out when they are 0."""
        now_s = self._loop_s()
        rates = [link.rates(now_s) for link in links]
        found: dict[str, Any] = {f"{way}AppendRequestCnt": sum(link.total for link in links)}
        for name, rate in (
            (f"{way}PkgRate", sum(packages for packages, _ in rates)),
            (f"{way}BandwidthRate", sum(size for _, size in rates)),
        ):
            if rate:
                found[name] = _number(rate)
        return found

    def leader(self, request: HttpRequest, responder: HttpResponder) -> None:
        """How the followers are served; the leader's to tell."""
        if not allows(request, responder, "GET"):
            return None
        if not self._role.is_leader:
            return fail_http(responder, (), HttpError(403, "not current leader"))
        links = self._links()
        followers = {
            f"{member.id:x}": _follower(links[member.id].deliveries)
            for member in self._members.all()
            if member.id != self._member_id and member.id in links
        }
        stats = {"leader": f"{self._member_id:x}", "followers": followers}
        responder.send(200, JSON, dump(stats).encode())
        return None


def _follower(deliveries: Deliveries) -> dict[str, Any]:
    times = {
        "current": deliveries.current_ms,
        "average": deliveries.average_ms,
        "standardDeviation": deliveries.deviation_ms,
        "minimum": deliveries.minimum_ms,
        "maximum": deliveries.maximum_ms,
    }
    return {
        "latency": {name: _number(value) for name, value in times.items()},
        "counts": {"fail": deliveries.failed, "success": deliveries.succeeded},
    }


def _number(value: float) -> float | int:
    """Go shows a whole number without a fraction."""
    return int(value) if value == int(value) else value
