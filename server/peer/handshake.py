"""What two members say about themselves before a message is taken: headers, checks, refusals.

Strategy. Pure functions over headers with lower-case names. The same headers go on every request
to a peer; the answering side checks them in etcd's order (rafthttp/http.go) and refuses with
etcd's status codes and texts, because the asking side decides by them whether to retry, to warn
about a foreign cluster or to stop for good.

Extension. `X-Pyetcd-Version` says that this member stores its keyspace in SQLite. Real etcd
ignores it. It decides nothing but whether a keyspace snapshot of ours makes sense to the other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pyetcd.server.version import MIN_CLUSTER_VERSION, SERVER_VERSION

# What etcd assumes of a peer that sends no version: a 2.0 did not.
VERSION_UNSAID: Final = "2.0.0"
PYETCD_HEADER: Final = "X-Pyetcd-Version"

INCOMPATIBLE_VERSION: Final = "incompatible version"
CLUSTER_ID_MISMATCH: Final = "cluster ID mismatch"
TO_MISMATCH: Final = "to field mismatch"

_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})(?:[-+].*)?")
_ID = re.compile(r"[0-9a-fA-F]{1,16}")


@dataclass(slots=True, frozen=True)
class Identity:
    """Who this member is to its peers."""

    member_id: int
    cluster_id: int
    peer_urls: tuple[str, ...]
    pyetcd_version: str

    def request_headers(self, *, to: int | None = None) -> dict[str, str]:
        """For a request to a peer; `to` is said when a stream is asked for."""
        headers = {
            "X-Server-From": f"{self.member_id:x}",
            "X-Server-Version": SERVER_VERSION,
            "X-Min-Cluster-Version": MIN_CLUSTER_VERSION,
            "X-Etcd-Cluster-ID": f"{self.cluster_id:x}",
            PYETCD_HEADER: self.pyetcd_version,
        }
        if to is not None:
            headers["X-Raft-To"] = f"{to:x}"
        if self.peer_urls:
            headers["X-PeerURLs"] = ",".join(self.peer_urls)
        return headers


@dataclass(slots=True, frozen=True)
class Refusal:
    """An answer other than what was asked for."""

    status: int
    text: str
    is_json: bool = False

    @property
    def headers(self) -> dict[str, str]:
        if self.is_json:
            return {"Content-Type": "application/json"}
        return {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}

    @property
    def body(self) -> bytes:
        """Plain texts end with a newline, as Go's http.Error writes them."""
        if self.is_json:
            return b'{"message":"' + self.text.encode() + b'"}'
        return self.text.encode() + b"\n"


def check_cluster(headers: Mapping[str, str], cluster_id: int) -> Refusal | None:
    """Whether the sender may belong to this cluster; None if so."""
    server = parse_version(headers.get("x-server-version") or VERSION_UNSAID)
    cluster_min = parse_version(headers.get("x-min-cluster-version") or VERSION_UNSAID)
    # etcd's process ends at a version it cannot parse; a refusal is enough.
    if server is None or cluster_min is None:
        return Refusal(412, INCOMPATIBLE_VERSION)
    if server < _parsed(MIN_CLUSTER_VERSION) or cluster_min > _parsed(SERVER_VERSION):
        return Refusal(412, INCOMPATIBLE_VERSION)
    if headers.get("x-etcd-cluster-id", "") != f"{cluster_id:x}":
        return Refusal(412, CLUSTER_ID_MISMATCH)
    return None


def is_pyetcd(headers: Mapping[str, str]) -> bool:
    return PYETCD_HEADER.lower() in headers


def parse_id(text: str) -> int | None:
    """An id as etcd prints it, in hexadecimal without padding."""
    return int(text, 16) if _ID.fullmatch(text) else None


def remote_urls(headers: Mapping[str, str]) -> Sequence[str]:
    """Where the sender says it can be reached."""
    urls = headers.get("x-peerurls", "")
    return urls.split(",") if urls else ()


def parse_version(text: str) -> tuple[int, int] | None:
    """Major and minor: the patch decides nothing between peers."""
    match = _VERSION.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


def _parsed(text: str) -> tuple[int, int]:
    version = parse_version(text)
    assert version is not None, text
    return version
