"""--force-new-cluster: one member of a lost cluster goes on alone, with its data.

Strategy. As etcd (etcdserver/raft.go: restartAsStandaloneNode): configuration entries are appended
and the whole log is committed by decree: this member becomes a voter if it is none, every other
member is removed. Raft and the members table learn of it by applying the log, as of every change,
so that a crash at any moment leaves either nothing or all.

Rules. Entries that are not known to be committed stay: the commit index is written lazily, so that
the last acknowledged writes are among them (etcd drops them). This member first, for raft is never
without a voter. Learners go, too (etcd forgot them until 3.5.22). The peer URLs become the
advertised ones: the machine may be another (etcd keeps the old ones until `member update`).

Worked example. Voters a, b, learner c, a log of 9 entries, 7 of them known to be committed: 10
removes b, 11 removes c, 12 gives a its new URLs; commit is 12. Done again it finds nothing to do.
"""

from collections.abc import Sequence

from pyetcd.raft.codec import decode_conf_change, decode_conf_change_v2, encode_conf_change
from pyetcd.raft.types import (
    ConfChange,
    ConfChangeType,
    Entry,
    EntryType,
    HardState,
    Ready,
)
from pyetcd.server.datadir import DataDir
from pyetcd.server.machine import load_conf_state
from pyetcd.store.db import ForeignFile
from pyetcd.store.members import (
    Member,
    Members,
    decode_context,
    encode_member,
    encode_promotion,
)
from pyetcd.store.wal import Wal

READ_BYTES = 4 << 20


class _Configuration:
    """Who is in the cluster once the whole log was applied."""

    def __init__(self, data: DataDir) -> None:
        members, conf = Members(data.backend), load_conf_state(data.backend)
        self.urls = {member.id: member.peer_urls for member in members.all()}
        self.voters = {*conf.voters, *(member.id for member in members.voters())}
        self.ids = {*self.urls, *conf.voters, *conf.learners}
        for entry in _changes_in_log(data.wal, data.backend.applied_index + 1):
            if entry.type is EntryType.CONF_CHANGE:
                change = decode_conf_change(entry.data)
                self._apply(change.type, change.node_id, change.context)
            elif entry.type is EntryType.CONF_CHANGE_V2:
                wide = decode_conf_change_v2(entry.data)
                for single in wide.changes:
                    self._apply(single.type, single.node_id, wide.context)

    def _apply(self, kind: ConfChangeType, id: int, context: bytes) -> None:
        if kind is ConfChangeType.REMOVE_NODE:
            self.ids.discard(id)
            self.voters.discard(id)
            return
        if context:
            member, is_promote = decode_context(context)
            if not is_promote:
                self.urls[id] = member.peer_urls
        if kind is not ConfChangeType.UPDATE_NODE:
            self.ids.add(id)
        if kind is ConfChangeType.ADD_NODE:
            self.voters.add(id)


def _changes_in_log(wal: Wal, first: int) -> list[Entry]:
    found: list[Entry] = []
    while first <= wal.last_index():
        part = wal.entries(first, wal.last_index() + 1, READ_BYTES)
        # Only these count, and a large log need not be held.
        found += [entry for entry in part if entry.type is not EntryType.NORMAL]
        first = part[-1].index + 1
    return found


def go_on_alone(data: DataDir, peer_urls: Sequence[str]) -> list[int]:
    """Append what makes this the only member; the ids that it removes. Before raft starts."""
    wal, own = data.wal, data.wal.member_id
    if Members(data.backend).is_removed(own):
        raise ForeignFile(
            data.backend.path,
            f"this member ({own:x}) was removed from its cluster",
            "restore a snapshot into a new data directory",
        )
    now = _Configuration(data)
    others = sorted(now.ids - {own})
    changes = _changes(now, own, others, tuple(peer_urls))
    if not changes:
        return []  # alone already: raft commits what is left
    state = wal.hard_state
    entries = [
        Entry(state.term, index, EntryType.CONF_CHANGE, encode_conf_change(change))
        for index, change in enumerate(changes, start=wal.last_index() + 1)
    ]
    forced = HardState(state.term, state.vote, entries[-1].index)
    wal.stage(Ready(entries=entries, hard_state=forced))
    wal.commit()
    wal.publish()
    return others


def _changes(
    now: _Configuration, own: int, others: Sequence[int], peer_urls: tuple[str, ...]
) -> list[ConfChange]:
    changes: list[ConfChange] = []
    if own not in now.ids:
        context = encode_member(Member(own, peer_urls=peer_urls))
        changes.append(ConfChange(ConfChangeType.ADD_NODE, own, context))
    elif own not in now.voters:
        changes.append(ConfChange(ConfChangeType.ADD_NODE, own, encode_promotion(own)))
    changes += [ConfChange(ConfChangeType.REMOVE_NODE, id) for id in others]
    if own in now.ids and sorted(now.urls.get(own, ())) != sorted(peer_urls):
        context = encode_member(Member(own, peer_urls=peer_urls))
        changes.append(ConfChange(ConfChangeType.UPDATE_NODE, own, context))
    return changes
