"""Who belongs to the cluster: members, ids never to be used again, cluster version, downgrade.

Strategy. One membership store only, the tables of kv.db, changed by applied log entries and by
nothing else; etcd keeps two, and learners that were promoted in one of them came back
(etcd#19557). What is in the tables is also in memory, for a cluster has a handful of members.

Rules.
- Ids are derived as etcd derives them (server/etcdserver/api/membership/member.go), so a pyetcd
  and an etcd member that start from the same flags agree: `member_id`, `cluster_id`.
- The id of a removed member is never accepted again. A member that comes back gets a new id,
  because the time of its adding is part of the hash.
- `validate` decides at apply time, the same on every member. The `check_*` functions decide at
  propose time from health facts; they are advice to a person, and can be switched off.
- A context that other members wrote is JSON, as etcd writes it, to the byte.

Worked example: peer URL http://127.0.0.1:24032 and token `tok` make member 1110940bc63c88be, and
that member alone makes cluster ee6fa18dc3001814 (seen in etcd 3.5.1; tests/store/test_members.py).
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha1
from typing import Final

from pyetcd.proto import errors
from pyetcd.raft.types import NONE, ConfChange, ConfChangeType
from pyetcd.store.backend import Backend
from pyetcd.store.db import SqlValue, signed, unsigned

LEARNERS_MAX: Final = 1  # etcd's limit; a second learner is refused
# A learner may vote once it has this share of what the leader has (etcd: readyPercent).
LEARNER_READY_RATIO: Final = 0.9
CLUSTER_VERSION_MIN: Final = "3.0.0"  # what a cluster has until every member's version is known


@dataclass(slots=True, frozen=True)
class Member:
    """One member. Without a name it was added but has not started yet."""

    id: int
    peer_urls: tuple[str, ...] = ()
    is_learner: bool = False
    name: str = ""
    client_urls: tuple[str, ...] = ()

    @property
    def is_started(self) -> bool:
        return self.name != ""


@dataclass(slots=True, frozen=True)
class Downgrade:
    """Whether the cluster may run one minor version lower, and which."""

    enabled: bool = False
    target_version: str = ""


@dataclass(slots=True, frozen=True)
class Health:
    """What the local member sees of the others: `active` now, `steady` for 5 s without a break."""

    local_id: int
    active: frozenset[int] = frozenset()
    steady: frozenset[int] = frozenset()


class Members:
    """The membership that the applied log has made. Reads are copies; changes persist at once,
    in the transaction of the entry that made them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._members: dict[int, Member] = {}
        self._removed: set[int] = set()
        self._version = ""
        self._downgrade = Downgrade()
        self.reload(backend)

    def reload(self, backend: Backend) -> None:
        """Take what the backend holds: at start, and after a snapshot was installed."""
        self._backend = backend
        rows = backend.query("SELECT data FROM members")
        loaded = [_from_json(json.loads(_text(row[0]))) for row in rows]
        self._members = {member.id: member for member in loaded}
        self._removed = set()
        for (id,) in backend.query("SELECT id FROM members_removed"):
            assert isinstance(id, int), id
            self._removed.add(unsigned(id))
        self._version = _text(backend.meta_get("cluster_version"))
        downgrade = json.loads(_text(backend.meta_get("downgrade")) or "{}")
        self._downgrade = Downgrade(
            enabled=bool(downgrade.get("enabled", False)),
            target_version=str(downgrade.get("target-version", "")),
        )

    # -- reading

    def __len__(self) -> int:
        return len(self._members)

    def get(self, id: int) -> Member | None:
        return self._members.get(id)

    def all(self) -> list[Member]:
        """By id, as every list that etcd shows."""
        return [self._members[id] for id in sorted(self._members)]

    def voters(self) -> list[Member]:
        return [member for member in self.all() if not member.is_learner]

    def is_removed(self, id: int) -> bool:
        return id in self._removed

    def removed_ids(self) -> list[int]:
        return sorted(self._removed)

    @property
    def version(self) -> str:
        """`3.5.0`, or empty as long as the cluster has not agreed on one."""
        return self._version

    @property
    def downgrade(self) -> Downgrade:
        return self._downgrade

    @property
    def cluster_id(self) -> int:
        """0 until set_cluster_id was called once."""
        return int(_text(self._backend.meta_get("cluster_id")) or "0", 16)

    # -- changing; by applied entries, or before the first start

    def set_cluster_id(self, id: int) -> None:
        """The id made of the first members; it never changes."""
        assert self.cluster_id in (0, id), f"cluster id {self.cluster_id:x} would become {id:x}"
        self._backend.meta_put("cluster_id", f"{id:x}".encode())

    def validate(self, change: ConfChange) -> None:
        """Raise the refusal that every member comes to for this change."""
        id = change.node_id
        if id in self._removed:
            raise errors.MemberNotFound  # etcd shows a removed id as an unknown one
        if change.type == ConfChangeType.REMOVE_NODE:
            self._require(id)
        elif change.type == ConfChangeType.UPDATE_NODE:
            self._require(id)
            self._refuse_known_urls(decode_context(change.context)[0].peer_urls, but_of=id)
        else:
            member, is_promote = decode_context(change.context)
            if is_promote:
                if not self._require(id).is_learner:
                    raise errors.MemberNotLearner
                return
            if id in self._members:
                raise errors.MemberExist
            self._refuse_known_urls(member.peer_urls, but_of=NONE)
            learners = sum(member.is_learner for member in self._members.values())
            if member.is_learner and learners + 1 > LEARNERS_MAX:
                raise errors.TooManyLearners

    def apply_conf_change(self, change: ConfChange) -> None:
        """Validate, then change and persist; raises the refusal and changes nothing."""
        self.validate(change)
        id = change.node_id
        if change.type == ConfChangeType.REMOVE_NODE:
            del self._members[id]
            self._removed.add(id)
            execute = self._backend.execute
            execute("DELETE FROM members WHERE id = ?", (signed(id),))
            execute("INSERT OR REPLACE INTO members_removed (id) VALUES (?)", (signed(id),))
            return
        member, is_promote = decode_context(change.context)
        assert member.id == id, f"change of {id:x} speaks of {member.id:x}"
        if is_promote:
            self._save(replace(self._members[id], is_learner=False))
        elif change.type == ConfChangeType.UPDATE_NODE:
            # Peer URLs only: the context has no isLearner, and must not promote (etcd PR 21736).
            self._save(replace(self._members[id], peer_urls=member.peer_urls))
        else:
            self._save(member)

    def set_attributes(self, id: int, *, name: str, client_urls: Sequence[str]) -> None:
        """What a started member says of itself. One removed meanwhile is passed over, as is one
        unknown: etcd stops there, but an entry that harms nobody should stop nobody."""
        member = self._members.get(id)
        if member is not None:
            self._save(replace(member, name=name, client_urls=tuple(client_urls)))

    def set_version(self, version: str) -> None:
        major, minor, patch = parse_version(version)
        self._version = f"{major}.{minor}.{patch}"
        self._backend.meta_put("cluster_version", self._version.encode())

    def set_downgrade(self, *, enabled: bool, target_version: str) -> None:
        self._downgrade = Downgrade(enabled, target_version) if enabled else Downgrade()
        fields = {"target-version": self._downgrade.target_version, "enabled": enabled}
        self._backend.meta_put("downgrade", json.dumps(fields).encode())

    def replace_all(self, members: Iterable[Member]) -> None:
        """A new membership for the same data (restore, force-new-cluster); before any start."""
        self._backend.execute("DELETE FROM members")
        self._backend.execute("DELETE FROM members_removed")
        self._members.clear()
        self._removed.clear()
        for member in members:
            self._save(member)

    def _save(self, member: Member) -> None:
        self._members[member.id] = member
        self._backend.execute(
            "INSERT OR REPLACE INTO members (id, data) VALUES (?, ?)",
            (signed(member.id), encode_member(member)),
        )

    def _require(self, id: int) -> Member:
        member = self._members.get(id)
        if member is None:
            raise errors.MemberNotFound
        return member

    def _refuse_known_urls(self, urls: Iterable[str], *, but_of: int) -> None:
        known = {
            url
            for member in self._members.values()
            if member.id != but_of
            for url in member.peer_urls
        }
        if not known.isdisjoint(urls):
            raise errors.PeerURLExist


# -- ids


def member_id(peer_urls: Iterable[str], token: str, *, unix_seconds: int | None = None) -> int:
    """First 8 bytes of SHA-1 over the sorted peer URLs, the token, and for a member added at run
    time (with an empty token) the second of its adding."""
    text = "".join(sorted(peer_urls)) + token
    if unix_seconds is not None:
        text += str(unix_seconds)
    return int.from_bytes(sha1(text.encode()).digest()[:8], "big")


def cluster_id(member_ids: Iterable[int]) -> int:
    """First 8 bytes of SHA-1 over the ids of the first members, sorted, 8 bytes each."""
    joined = b"".join(id.to_bytes(8, "big") for id in sorted(member_ids))
    return int.from_bytes(sha1(joined).digest()[:8], "big")


def initial_members(urls_by_name: Mapping[str, Sequence[str]], token: str) -> list[Member]:
    """The members that --initial-cluster and its token describe, by id. ValueError in etcd's
    words if two of them come out the same."""
    made: dict[int, Member] = {}
    for name, urls in urls_by_name.items():
        member = Member(member_id(urls, token), peer_urls=tuple(urls), name=name)
        if member.id in made:
            raise ValueError(f"member exists with identical ID {member.id:x}")
        if member.id == NONE:
            raise ValueError("cannot use 0 as member id")
        made[member.id] = member
    return [made[id] for id in sorted(made)]


# -- the context of a configuration change


def encode_member(member: Member) -> bytes:
    """The context of adding or updating a member, as Go's json.Marshal writes etcd's Member."""
    return _to_json(_fields(member))


def encode_promotion(id: int) -> bytes:
    """The context of promoting a learner: an ADD_NODE change that says so."""
    return _to_json({**_fields(Member(id)), "isPromote": True})


def raft_attributes_json(member: Member) -> str:
    """As etcd keeps them in its v2 store."""
    fields: dict[str, object] = {"peerURLs": list(member.peer_urls) or None}
    if member.is_learner:
        fields["isLearner"] = True
    return _to_json(fields).decode()


def attributes_json(member: Member) -> str:
    """The same for what a started member says of itself."""
    fields: dict[str, object] = {}
    if member.name:
        fields["name"] = member.name
    if member.client_urls:
        fields["clientURLs"] = list(member.client_urls)
    return _to_json(fields).decode()


def decode_context(context: bytes) -> tuple[Member, bool]:
    """(member, is_promote). Our own members and etcd's write nothing but valid JSON."""
    fields = json.loads(context)
    return _from_json(fields), bool(fields.get("isPromote", False))


def _fields(member: Member) -> dict[str, object]:
    # Order and omissions of etcd's struct tags; an empty list of peer URLs is nil there.
    fields: dict[str, object] = {"id": member.id, "peerURLs": list(member.peer_urls) or None}
    if member.is_learner:
        fields["isLearner"] = True
    if member.name:
        fields["name"] = member.name
    if member.client_urls:
        fields["clientURLs"] = list(member.client_urls)
    return fields


def _from_json(fields: Mapping[str, object]) -> Member:
    id, peer_urls = fields["id"], fields.get("peerURLs") or []
    client_urls = fields.get("clientURLs") or []
    assert isinstance(id, int), id
    assert isinstance(peer_urls, list), peer_urls
    assert isinstance(client_urls, list), client_urls
    return Member(
        id,
        peer_urls=tuple(peer_urls),
        is_learner=bool(fields.get("isLearner", False)),
        name=str(fields.get("name", "")),
        client_urls=tuple(client_urls),
    )


# Go escapes these five inside strings, so that JSON may stand in HTML (encoding/json).
_GO_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def _to_json(fields: Mapping[str, object]) -> bytes:
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    return text.translate(_GO_ESCAPES).encode()


def _text(value: SqlValue) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


# -- checks before proposing (--strict-reconfig-check), pure


def check_add(voters: Sequence[Member], *, is_learner: bool, health: Health) -> None:
    """Raise if adding would endanger the quorum (etcd: mayAddMember).

    One started voter of one may always grow: that is how a restored cluster comes back to size.
    The new member counts as down, and one more may be down if a quorum is left (etcd PR 21667).
    """
    started = sum(member.is_started for member in voters)
    future = len(voters) + 1
    if not is_learner and not (started == 1 and future == 2) and started < _quorum(future):
        raise errors.MemberNotEnoughStarted
    if len(voters) > 1 and _seen(voters, health.steady, health.local_id) < _quorum(future):
        raise errors.Unhealthy


def check_remove(
    voters: Sequence[Member], id: int, *, learners: Collection[int], health: Health
) -> None:
    """Raise if removing would endanger the quorum (etcd: mayRemoveMember). A learner, or a
    voter that is down, may always go."""
    if id in learners:
        return
    rest = [member for member in voters if member.id != id]
    if sum(member.is_started for member in rest) < _quorum(len(rest)):
        raise errors.MemberNotEnoughStarted
    if id != health.local_id and id not in health.active:
        return
    steady = _seen(voters, health.steady, health.local_id)
    # etcd writes the quorum of the rest as 1 + (n - 1) / 2 with Go's rounding towards zero.
    if steady - 1 < 1 + max(len(voters) - 1, 0) // 2:
        raise errors.Unhealthy


def check_promote(voters: Sequence[Member]) -> None:
    """Raise if a voter more would leave too few started ones; the learner counts as started."""
    if sum(member.is_started for member in voters) + 1 < _quorum(len(voters) + 1):
        raise errors.MemberNotEnoughStarted


def check_learner_ready(id: int, match_by_id: Mapping[int, int], *, leader_id: int) -> None:
    """Raise unless the learner's log is nearly the leader's; asked of the leader's progress."""
    if id not in match_by_id:
        raise errors.MemberNotFound
    # A leader that was removed goes on for a moment, and is not in its own progress any more.
    leader_match = match_by_id.get(leader_id)
    if leader_match is None or match_by_id[id] < leader_match * LEARNER_READY_RATIO:
        raise errors.LearnerNotReady


def _quorum(size: int) -> int:
    return size // 2 + 1


def _seen(voters: Iterable[Member], ids: Collection[int], local_id: int) -> int:
    return sum(member.id == local_id or member.id in ids for member in voters)


# -- versions


def parse_version(text: str) -> tuple[int, int, int]:
    """`3.5.1`, `3.5` (etcd accepts both where a person types) or `3.6.0-alpha.0`. ValueError if
    it is none of these."""
    numbers = text.partition("+")[0].partition("-")[0].split(".")
    if len(numbers) not in (2, 3) or not all(n.isascii() and n.isdigit() for n in numbers):
        raise ValueError(f"{text} is not a version")
    major, minor, patch = (int(n) for n in [*numbers, "0"][:3])
    return major, minor, patch


def decide_cluster_version(server_versions: Iterable[str | None]) -> str:
    """The version that every member can run, `3.5.0`; empty while one of them is not known."""
    lowest: tuple[int, int, int] | None = None
    for text in server_versions:
        if text is None:
            return ""
        try:
            version = parse_version(text)
        except ValueError:
            return ""
        lowest = version if lowest is None else min(lowest, version)
    return "" if lowest is None else f"{lowest[0]}.{lowest[1]}.0"


def is_valid_version_change(current: str, decided: str) -> bool:
    """Up within the major version, or down by exactly one minor (a downgrade)."""
    major, minor, _ = parse_version(current)
    new_major, new_minor, _ = parse_version(decided)
    return major == new_major and (new_minor > minor or new_minor == minor - 1)
