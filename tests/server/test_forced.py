"""--force-new-cluster on logs of every shape: what it appends, and that nothing is dropped."""

from pathlib import Path

import pytest

from pyetcd.raft.codec import decode_conf_change, encode_conf_change
from pyetcd.raft.types import (
    ConfChange,
    ConfChangeType,
    Entry,
    EntryType,
    HardState,
    Ready,
)
from pyetcd.server import datadir
from pyetcd.server.bootstrap import InitialCluster, plan_new
from pyetcd.server.datadir import DataDir
from pyetcd.server.forced import go_on_alone
from pyetcd.store.db import ForeignFile, signed
from pyetcd.store.lockfile import LockFile
from pyetcd.store.members import Member, encode_member, encode_promotion

URLS = {name: (f"http://{name}:1",) for name in "abc"}


@pytest.fixture
def data(tmp_path: Path):
    """Member a of three; its log has the first three entries, nothing is applied."""
    initial = InitialCluster("a", URLS, "t", URLS["a"], is_new=True)
    lock = LockFile.claim(str(tmp_path / "member"))
    made = datadir.create(str(tmp_path), plan=plan_new(initial), token="t", lock=lock)
    yield made
    made.abandon()


def append(data: DataDir, *entries: Entry, commit: int) -> None:
    data.wal.stage(Ready(entries=list(entries), hard_state=HardState(2, 0, commit)))
    data.wal.commit()
    data.wal.publish()


def conf(index: int, kind: ConfChangeType, id: int, context: bytes = b"") -> Entry:
    data = encode_conf_change(ConfChange(kind, id, context))
    return Entry(2, index, EntryType.CONF_CHANGE, data)


def appended(data: DataDir, first: int) -> list[tuple[ConfChangeType, int]]:
    entries = data.wal.entries(first, data.wal.last_index() + 1, 1 << 20)
    changes = [decode_conf_change(entry.data) for entry in entries]
    return [(change.type, change.node_id) for change in changes]


def test_the_others_are_removed_and_the_tail_is_kept(data: DataDir) -> None:
    own = data.wal.member_id
    others = sorted(
        decode_conf_change(entry.data).node_id
        for entry in data.wal.entries(1, 4, 1 << 20)
        if decode_conf_change(entry.data).node_id != own
    )
    # Acknowledged, although this member had not heard so yet; and a learner on its way in.
    learner = encode_member(Member(77, peer_urls=("http://l:1",), is_learner=True))
    tail = [Entry(2, 4, data=b"a"), conf(5, ConfChangeType.ADD_LEARNER_NODE, 77, learner)]
    append(data, *tail, commit=3)
    assert go_on_alone(data, URLS["a"]) == sorted([*others, 77])
    assert data.wal.entries(4, 6, 1 << 20) == tail
    assert appended(data, 6) == [(ConfChangeType.REMOVE_NODE, id) for id in sorted([*others, 77])]
    assert data.wal.hard_state == HardState(2, 0, data.wal.last_index())
    # Again: nothing to do.
    last = data.wal.last_index()
    assert go_on_alone(data, URLS["a"]) == []
    assert data.wal.last_index() == last


def test_new_peer_urls(data: DataDir) -> None:
    go_on_alone(data, ["http://elsewhere:1"])
    assert appended(data, 4)[-1] == (ConfChangeType.UPDATE_NODE, data.wal.member_id)


def test_a_learner_is_promoted_first(data: DataDir) -> None:
    own = data.wal.member_id
    again = encode_member(Member(own, peer_urls=URLS["a"], is_learner=True))
    append(
        data,
        conf(4, ConfChangeType.REMOVE_NODE, own),
        conf(5, ConfChangeType.ADD_LEARNER_NODE, own, again),
        commit=5,
    )
    go_on_alone(data, URLS["a"])
    entry = data.wal.entries(6, 7, 1 << 20)[0]
    assert decode_conf_change(entry.data).context == encode_promotion(own)
    assert appended(data, 6)[0] == (ConfChangeType.ADD_NODE, own)
    assert [kind for kind, _ in appended(data, 7)] == [ConfChangeType.REMOVE_NODE] * 2


def test_a_removed_member_stays_removed(data: DataDir) -> None:
    data.backend.execute(
        "INSERT INTO members_removed (id) VALUES (?)", (signed(data.wal.member_id),)
    )
    with pytest.raises(ForeignFile, match="was removed from its cluster; restore a snapshot"):
        go_on_alone(data, URLS["a"])
