"""Asking members who they are before being one: GET /members, /version, /downgrade/enabled.

Strategy. One URL after the other, the first answer counts (etcd: etcdserver/cluster_util.go). A
member that does not answer is no error here; what it means is decided in bootstrap.py and by
whoever asks for versions.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pyetcd.server.logs import get
from pyetcd.server.peer.client import HttpClient, Response, Unreachable
from pyetcd.server.peer.handshake import parse_id
from pyetcd.store.members import Member

FETCH_TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 1024 * 1024


class SurveyFailed(Exception):
    """Nobody told us about the cluster; the text is etcd's."""


@dataclass(slots=True, frozen=True)
class RemoteCluster:
    """A cluster as one of its members describes it, members by id."""

    id: int
    members: tuple[Member, ...]

    def __str__(self) -> str:
        """As etcd prints it into its errors."""
        members = " ".join(_go_member(member) for member in self.members)
        return f"{{ClusterID:{self.id:x} Members:[{members}] RemovedMemberIDs:[]}}"


@dataclass(slots=True, frozen=True)
class Versions:
    """Cluster is `not_decided` as long as a new cluster has none."""

    server: str
    cluster: str


async def fetch_cluster(
    client: HttpClient, urls: Iterable[str], *, timeout_s: float = FETCH_TIMEOUT_S
) -> RemoteCluster:
    """The cluster that the first answering URL belongs to."""
    log = get("survey")
    for url in urls:
        try:
            cluster = parse_members(await _get(client, url, "/members", timeout_s))
        except (Unreachable, ValueError) as error:
            log.warn("failed to get cluster response", address=f"{url}/members", error=str(error))
            continue
        if not cluster.members:
            raise SurveyFailed("failed to get raft cluster member(s) from the given URLs")
        return cluster
    raise SurveyFailed("could not retrieve cluster information from the given URLs")


async def fetch_versions(
    client: HttpClient, urls: Sequence[str], *, timeout_s: float = FETCH_TIMEOUT_S
) -> Versions | None:
    """What one member runs; None if none of its URLs answers."""
    for url in urls:
        try:
            return parse_versions((await _get(client, url, "/version", timeout_s)).body)
        except (Unreachable, ValueError) as error:
            get("survey").warn("failed to reach the peer URL", address=url, error=str(error))
    return None


async def fetch_downgrade_enabled(
    client: HttpClient, urls: Iterable[str], *, timeout_s: float = FETCH_TIMEOUT_S
) -> bool:
    """Whether the cluster is being downgraded: any member knows, by a linearizable read."""
    for url in urls:
        try:
            response = await _get(client, url, "/downgrade/enabled", timeout_s)
        except Unreachable:
            continue
        if response.body in (b"true", b"false"):
            return response.body == b"true"
    return False


async def _get(client: HttpClient, url: str, path: str, timeout_s: float) -> Response:
    response = await client.request(
        "GET", url, path, headers={}, timeout_s=timeout_s, body_bytes_max=ANSWER_BYTES_MAX
    )
    if response.status != 200:
        raise Unreachable(f"unhandled http status {response.status}")
    return response


def parse_members(response: Response) -> RemoteCluster:
    """ValueError if it is no answer of /members."""
    cluster_id = parse_id(response.headers.get("x-etcd-cluster-id", ""))
    if cluster_id is None:
        raise ValueError("no cluster id")
    return RemoteCluster(cluster_id, parse_member_list(response.body))


def parse_member_list(body: bytes) -> tuple[Member, ...]:
    """In order of their ids. ValueError for anything else."""
    fields = json.loads(body)
    if not isinstance(fields, list):
        raise ValueError("no list of members")
    members = [_parse_member(item) for item in fields]
    return tuple(sorted(members, key=lambda member: member.id))


def parse_versions(body: bytes) -> Versions:
    """ValueError if it is no answer of /version."""
    fields = json.loads(body)
    if not isinstance(fields, dict):
        raise ValueError("no versions")
    return Versions(str(fields.get("etcdserver", "")), str(fields.get("etcdcluster", "")))


def _parse_member(fields: object) -> Member:
    if not isinstance(fields, dict):
        raise ValueError("no member")
    id, peer_urls = fields.get("id"), fields.get("peerURLs") or []
    client_urls = fields.get("clientURLs") or []
    if type(id) is not int or not isinstance(peer_urls, list) or not isinstance(client_urls, list):
        raise ValueError("no member")
    return Member(
        id,
        peer_urls=tuple(map(str, peer_urls)),
        is_learner=fields.get("isLearner") is True,
        name=str(fields.get("name", "")),
        client_urls=tuple(map(str, client_urls)),
    )


def _go_member(member: Member) -> str:
    """Go's %+v of a pointer to etcd's Member."""
    return (
        f"&{{ID:{member.id:x} RaftAttributes:{{PeerURLs:[{' '.join(member.peer_urls)}]"
        f" IsLearner:{str(member.is_learner).lower()}}}"
        f" Attributes:{{Name:{member.name} ClientURLs:[{' '.join(member.client_urls)}]}}}}"
    )
