"""How a member begins: as part of a new cluster, as one that joins, or where it left off.

Strategy. The decisions are pure and say what etcd says when they refuse (etcdserver/server.go:
NewServer, config/config.go). `plan_start` at the end puts them in etcd's order around the two
questions that must be asked of other members.

Rules.
- What is in the data directory wins: with a log there, flags about the initial cluster are ignored.
- A new cluster's log begins with one configuration entry a member, by id, all of term 1 and
  committed. Every member writes the same ones without talking to anybody, which is why a mixed
  cluster agrees: names, URLs and ids are derived as etcd derives them.
- A joining member has an empty log; its id is the one that the cluster gave to its peer URLs.

Worked example. `--initial-cluster a=http://10.0.0.1:2380,b=http://10.0.0.2:2380` makes two
entries: index 1 adds the member with the lower id, index 2 the other; hard state (term 1, no vote,
commit 2). The first election is for term 2.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pyetcd.proto.gotext import quote
from pyetcd.raft.codec import encode_conf_change
from pyetcd.raft.types import NONE, ConfChange, ConfChangeType, Entry, EntryType, HardState
from pyetcd.server.config_values import parse_url, split_host_port
from pyetcd.server.peer.client import HttpClient
from pyetcd.server.peer.survey import (
    RemoteCluster,
    SurveyFailed,
    Versions,
    fetch_cluster,
    fetch_downgrade_enabled,
    fetch_versions,
)
from pyetcd.server.version import MIN_CLUSTER_VERSION, SERVER_VERSION
from pyetcd.store.members import (
    Member,
    cluster_id,
    encode_member,
    initial_members,
    parse_version,
)

UrlsByName = Mapping[str, tuple[str, ...]]

RESOLVE_RETRY_S: Final = 1.0
RESOLVE_TIMEOUT_S: Final = 30.0
BOOTSTRAP_TIMEOUT_S: Final = 1.0


class BootstrapError(Exception):
    """This member cannot begin as it was told to; one line for the operator."""


class Start(Enum):
    NEW = "new"
    JOIN = "existing"
    RESTART = "restart"


@dataclass(slots=True, frozen=True)
class InitialCluster:
    """The flags that matter to a first start."""

    name: str
    urls_by_name: UrlsByName
    token: str
    advertised: tuple[str, ...]
    is_new: bool


@dataclass(slots=True, frozen=True)
class Plan:
    """A first start. `members` are all of the cluster, with this one; raft learns them from its
    log, the transport needs them now."""

    start: Start
    member_id: int
    cluster_id: int
    members: tuple[Member, ...]
    entries: tuple[Entry, ...] = ()
    hard_state: HardState = HardState()  # noqa: RUF009, frozen

    @property
    def peers(self) -> list[Member]:
        """Who to add to the transport at once."""
        return [member for member in self.members if member.id != self.member_id]


# Flags


def parse_initial_cluster(text: str) -> dict[str, tuple[str, ...]]:
    """`a=http://1.1.1.1:2380,a=http://2.2.2.2:2380,b=...`: URLs by name, sorted. ValueError with
    etcd's text."""
    found: dict[str, list[str]] = {}
    for part in text.split(","):
        if part:
            name, _, url = part.partition("=")
            found.setdefault(name, []).append(parse_url(url.strip()).text)
    return {name: tuple(sorted(urls)) for name, urls in found.items()}


def format_urls(urls_by_name: UrlsByName) -> str:
    """The flag again, sorted, as etcd prints it."""
    pairs = [f"{name}={url}" for name, urls in urls_by_name.items() for url in urls]
    return ",".join(sorted(pairs))


def choose_start(*, have_log: bool, is_new: bool) -> Start:
    if have_log:
        return Start.RESTART
    return Start.NEW if is_new else Start.JOIN


def check_new(initial: InitialCluster, resolved: Mapping[str, str]) -> None:
    """Refuse flags that cannot make a new cluster. `resolved`: see `resolve_urls`."""
    _check_name(initial)
    _check_advertised(initial, resolved)
    _check_duplicates(initial)
    if not format_urls(initial.urls_by_name):
        raise BootstrapError("initial cluster unset and no discovery URL found")


def check_join(initial: InitialCluster) -> None:
    """Refuse flags that cannot describe an existing cluster."""
    _check_name(initial)
    _check_duplicates(initial)


def _check_name(initial: InitialCluster) -> None:
    if initial.name not in initial.urls_by_name:
        name = quote(initial.name)
        raise BootstrapError(
            f"couldn't find local name {name} in the initial cluster configuration"
        )


def _check_duplicates(initial: InitialCluster) -> None:
    urls = [url for urls in initial.urls_by_name.values() for url in urls]
    if len(set(urls)) != len(urls):
        listed = format_urls(initial.urls_by_name)
        raise BootstrapError(f"initial cluster {listed} has duplicate url")


def _check_advertised(initial: InitialCluster, resolved: Mapping[str, str]) -> None:
    """What we advertise is what the others will dial: it must be what they were told."""
    name = initial.name
    ours, theirs = sorted(initial.advertised), sorted(initial.urls_by_name[name])
    reason = urls_differ(ours, theirs, resolved)
    if not reason:
        return
    missing = ",".join(f"{name}={url}" for url in theirs if url not in ours)
    if missing:
        raise BootstrapError(
            f"--initial-cluster has {missing} but missing from"
            f" --initial-advertise-peer-urls={','.join(ours)} ({reason})"
        )
    missing = ",".join(url for url in ours if url not in theirs)
    listed = format_urls({name: tuple(ours)})
    if missing:
        raise BootstrapError(
            f"--initial-advertise-peer-urls has {missing} but missing from"
            f" --initial-cluster={listed}"
        )
    raise BootstrapError(
        f"failed to resolve {','.join(ours)} to match --initial-cluster={listed} ({reason})"
    )


def urls_differ(ours: Sequence[str], theirs: Sequence[str], resolved: Mapping[str, str]) -> str:
    """Why two lists of URLs do not mean the same addresses; empty if they do. Lists that are
    equal as texts need no name server."""
    if len(ours) != len(theirs):
        return f"len({_go_list(ours)}) != len({_go_list(theirs)})"
    if sorted(ours) == sorted(theirs):
        return ""
    left = sorted((resolved.get(url, url), url) for url in ours)
    right = sorted((resolved.get(url, url), url) for url in theirs)
    for (address, url), (other_address, other_url) in zip(left, right, strict=True):
        if address != other_address:
            return (
                f"{quote(address)}(resolved from {quote(url)})"
                f" != {quote(other_address)}(resolved from {quote(other_url)})"
            )
    return ""


def _go_list(texts: Sequence[str]) -> str:
    return "[" + " ".join(quote(text) for text in texts) + "]"


# A new cluster


def plan_new(initial: InitialCluster) -> Plan:
    """Ids and first entries from the flags alone."""
    members = _members_of(initial)
    return Plan(
        Start.NEW,
        member_id=_local(members, initial.name).id,
        cluster_id=cluster_id(member.id for member in members),
        members=tuple(members),
        entries=tuple(bootstrap_entries(members)),
        hard_state=HardState(term=1, vote=NONE, commit=len(members)),
    )


def bootstrap_entries(members: Sequence[Member]) -> list[Entry]:
    """What every first member writes into its log, `members` by id (raft/bootstrap.go)."""
    assert list(members) == sorted(members, key=lambda member: member.id)
    changes = [
        ConfChange(ConfChangeType.ADD_NODE, member.id, encode_member(member)) for member in members
    ]
    return [
        Entry(1, index, EntryType.CONF_CHANGE, encode_conf_change(change))
        for index, change in enumerate(changes, start=1)
    ]


def check_not_bootstrapped(plan: Plan, remote: RemoteCluster | None) -> None:
    """A member that published its client URLs has been here before, and lost its data directory:
    it must not begin again under the same id (thesis 3.8: it may have voted)."""
    if remote is None:
        return
    for member in remote.members:
        if member.id == plan.member_id and member.client_urls:
            raise BootstrapError(f"member {plan.member_id:x} has already been bootstrapped")


def _members_of(initial: InitialCluster) -> list[Member]:
    try:
        return initial_members(initial.urls_by_name, initial.token)
    except ValueError as error:
        raise BootstrapError(str(error)) from error


def _local(members: Sequence[Member], name: str) -> Member:
    return next(member for member in members if member.name == name)


# Joining


def plan_join(initial: InitialCluster, remote: RemoteCluster, resolved: Mapping[str, str]) -> Plan:
    """Give the members of the flags the ids that the cluster has given them."""
    named = _members_of(initial)
    try:
        ids = _match(named, remote.members, resolved)
    except BootstrapError as error:
        raise BootstrapError(f"error validating peerURLs {remote}: {error}") from error
    members = [
        Member(ids[member.id], peer_urls=member.peer_urls, name=member.name) for member in named
    ]
    return Plan(
        Start.JOIN,
        member_id=_local(members, initial.name).id,
        cluster_id=remote.id,
        members=tuple(sorted(members, key=lambda member: member.id)),
    )


def _match(
    named: Sequence[Member], existing: Sequence[Member], resolved: Mapping[str, str]
) -> dict[int, int]:
    """Derived id -> the cluster's id, by peer URLs."""
    if len(named) != len(existing):
        raise BootstrapError("member count is unequal")
    ids: dict[int, int] = {}
    for member in existing:
        reason = "<nil>"
        for candidate in named:
            reason = urls_differ(member.peer_urls, candidate.peer_urls, resolved)
            if not reason:
                ids[candidate.id] = member.id
                break
        if reason:
            raise BootstrapError(
                f"PeerURLs: no match found for existing member ({member.id:x},"
                f" [{' '.join(member.peer_urls)}]), last resolver error ({reason})"
            )
    if len(ids) != len(named):
        raise BootstrapError("member count is unequal")  # two members with the same peer URLs
    return ids


def is_compatible(versions: Sequence[Versions | None], *, is_downgrading: bool) -> bool:
    """Whether this release may join: one member with a cluster version in our range, and none
    that is known to be out of it. A member that does not answer decides nothing."""
    lowest, highest = _version_range(is_downgrading=is_downgrading)
    found = False
    for version in versions:
        if version is None:
            continue
        try:
            cluster_version = parse_version(version.cluster)
        except ValueError:
            continue  # not decided yet
        if not lowest <= cluster_version <= highest:
            return False
        found = True
    return found


def _version_range(*, is_downgrading: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    major, minor, _ = parse_version(SERVER_VERSION)
    if is_downgrading:
        return (major, minor + 1, 0), (major, minor + 1, 0)
    return parse_version(MIN_CLUSTER_VERSION), (major, minor, 0)


# Asking


def remote_urls(initial: InitialCluster) -> list[str]:
    """Peer URLs of the others, in the order in which they are asked."""
    return sorted(
        url for name, urls in initial.urls_by_name.items() if name != initial.name for url in urls
    )


async def resolve_urls(
    urls: Sequence[str], *, timeout_s: float = RESOLVE_TIMEOUT_S
) -> dict[str, str]:
    """The URLs that name a host, with its address instead. A name that does not resolve is tried
    again every second, for a cluster may start before its name server; then it is left out."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    resolved: dict[str, str] = {}
    for url in urls:
        scheme, _, address = url.partition("://")
        split = split_host_port(address)
        if scheme in ("unix", "unixs") or split is None or split[0] == "localhost":
            continue
        while url not in resolved:
            try:
                found = await loop.getaddrinfo(*split, proto=6)
            except OSError:
                if loop.time() + RESOLVE_RETRY_S > deadline_s:
                    break
                await asyncio.sleep(RESOLVE_RETRY_S)
                continue
            host = str(found[0][4][0])
            host = f"[{host}]" if ":" in host else host
            resolved[url] = f"{scheme}://{host}:{split[1]}"
    return resolved


async def plan_start(
    initial: InitialCluster,
    client: HttpClient,
    *,
    bootstrap_timeout_s: float = BOOTSTRAP_TIMEOUT_S,
) -> Plan:
    """The plan for a data directory without a log, or BootstrapError."""
    if initial.is_new:
        _check_name(initial)
        ours, theirs = initial.advertised, initial.urls_by_name[initial.name]
        resolved = await _resolve_if_needed(ours, theirs)
        check_new(initial, resolved)
        plan = plan_new(initial)
        urls = remote_urls(initial)
        check_not_bootstrapped(plan, await _ask_quietly(client, urls, bootstrap_timeout_s))
        return plan
    check_join(initial)
    try:
        remote = await fetch_cluster(client, remote_urls(initial))
    except SurveyFailed as error:
        raise BootstrapError(f"cannot fetch cluster info from peer urls: {error}") from error
    named = [url for urls in initial.urls_by_name.values() for url in urls]
    existing = [url for member in remote.members for url in member.peer_urls]
    plan = plan_join(initial, remote, await _resolve_if_needed(named, existing))
    others = plan.peers
    versions = [await fetch_versions(client, member.peer_urls) for member in others]
    urls = [url for member in others for url in member.peer_urls]
    is_downgrading = await fetch_downgrade_enabled(client, urls)
    if not is_compatible(versions, is_downgrading=is_downgrading):
        raise BootstrapError("incompatible with current running cluster")
    return plan


async def _resolve_if_needed(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    if sorted(ours) == sorted(theirs):
        return {}
    return await resolve_urls([*ours, *theirs])


async def _ask_quietly(
    client: HttpClient, urls: Sequence[str], timeout_s: float
) -> RemoteCluster | None:
    try:
        return await fetch_cluster(client, urls, timeout_s=timeout_s)
    except SurveyFailed:
        return None
