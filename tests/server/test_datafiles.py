"""Whose files lie in a data directory."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyetcd.raft.types import ConfState, HardState, Ready, Snapshot, SnapshotMeta
from pyetcd.server.datadir import DataDir, settle
from pyetcd.server.datafiles import Identity, known_members, look
from pyetcd.store import snapshot
from pyetcd.store.backend import META_MEMBER_ID, Backend
from pyetcd.store.db import PAGE_BYTES, ForeignFile
from pyetcd.store.wal import Wal
from pyetcd.store.walscan import FRAME_HEADER_BYTES, HEADER_BYTES

INSTALLED_INDEX = 7


def killed_after_installation(folder: Path, *, applied_index: int) -> None:
    """The leader's keyspace, installed here; the -wal file beside it says that it is ours now."""
    member = folder / "member"
    member.mkdir(parents=True)
    wal = Wal.create(str(member / "wal.db"), cluster_id=5, member_id=1)
    meta = SnapshotMeta(INSTALLED_INDEX, 2, ConfState(voters=(1, 2, 3)))
    wal.stage(Ready(snapshot=Snapshot(meta), hard_state=HardState(2, 0, INSTALLED_INDEX)))
    wal.commit()
    wal.publish()
    wal.close()
    backend = Backend.open(str(folder / "kv.db"), create=True)
    backend.meta_put(META_MEMBER_ID, 2)
    backend.set_applied(applied_index, 2)
    backend.commit()
    assert backend.checkpoint() == applied_index
    backend.close()
    (folder / "kv.db").rename(member / "kv.db")
    backend = Backend.open(str(member / "kv.db"), create=False)
    backend.meta_put(META_MEMBER_ID, 1)
    backend.set_applied(applied_index + 1, 2)
    backend.commit()
    for path in member.glob("kv.db*"):
        shutil.copy(path, folder)  # before a checkpoint
    backend.close()
    for path in folder.glob("kv.db*"):
        path.rename(member / path.name)


def test_killed_between_an_installation_and_a_checkpoint(tmp_path: Path) -> None:
    killed_after_installation(tmp_path, applied_index=INSTALLED_INDEX)
    found = Identity.read(str(tmp_path))
    assert (found.member_id, found.kv_member_id) == (1, 1)
    assert (found.installed_index, found.kv_applied_index) == (INSTALLED_INDEX, 8)


def test_killed_before_the_second_installation_and_any_checkpoint(tmp_path: Path) -> None:
    """The log begins with the second already, whose file waits; kv.db is the first one."""
    killed_after_installation(tmp_path, applied_index=INSTALLED_INDEX - 3)
    kv = tmp_path / "member" / "kv.db"
    waiting = Path(snapshot.kept_path(str(kv), INSTALLED_INDEX))
    shutil.copy(kv, waiting)
    look(str(tmp_path), NO_FLAGS)
    waiting.unlink()
    with pytest.raises(ForeignFile, match=r"kv\.db-wal: belongs to another file"):
        look(str(tmp_path), NO_FLAGS)


def test_the_keyspace_of_another_under_our_wal_file(tmp_path: Path) -> None:
    killed_after_installation(tmp_path, applied_index=INSTALLED_INDEX + 3)
    with pytest.raises(ForeignFile, match=r"kv\.db-wal: belongs to another file"):
        Identity.read(str(tmp_path))


NO_FLAGS: Any = SimpleNamespace(force_new_cluster=True, log_dir="")  # nothing to compare


def killed_after_checkpoint(folder: Path, *, last: bytes) -> Path:
    """kv.db with a member's row, checkpointed; then that row again, as `last`, in the -wal."""
    member = folder / "member"
    member.mkdir(parents=True)
    Wal.create(str(member / "wal.db"), cluster_id=5, member_id=1).close()
    backend = Backend.open(str(folder / "kv.db"), create=True)
    write = "INSERT OR REPLACE INTO members (id, data) VALUES (1, ?)"
    for index, data in ((1, b'{"id":1}'), (2, b'{"id":1} '), (3, b'{"id":1}')):
        backend.execute(write, (data,))
        backend.set_applied(index, 1)
        backend.commit()
    if last:
        assert backend.checkpoint() == 3
        backend.execute(write, (last,))
        backend.set_applied(4, 1)
        backend.commit()
    else:
        assert backend.checkpoint() == 3
    for path in folder.glob("kv.db*"):
        shutil.copy(path, member)
    backend.close()
    (member / "kv.db-shm").unlink()
    return member / "kv.db-wal"


def test_a_torn_write_of_what_was_there_already_is_no_damage(tmp_path: Path) -> None:
    """As after a power cut just when a member has told its name again."""
    side = killed_after_checkpoint(tmp_path, last=b'{"id":1}')
    content = bytearray(side.read_bytes())
    content[HEADER_BYTES + FRAME_HEADER_BYTES + 100] ^= 255  # in the first page of the last commit
    side.write_bytes(content)
    look(str(tmp_path), NO_FLAGS)


def test_damage_behind_which_everything_was_checkpointed(tmp_path: Path) -> None:
    side = killed_after_checkpoint(tmp_path, last=b"")
    content = bytearray(side.read_bytes())
    frame = FRAME_HEADER_BYTES + PAGE_BYTES
    assert (len(content) - HEADER_BYTES) % frame == 0
    content[-frame // 2] ^= 1  # the last page: applied index 2 would lie over 3
    side.write_bytes(content)
    with pytest.raises(ForeignFile, match=r"kv\.db-wal: is damaged"):
        look(str(tmp_path), NO_FLAGS)


def test_raft_begins_with_the_configuration_of_the_keyspace(tmp_path: Path) -> None:
    """Also when there is no room for a checkpoint: the log still has the one of the last."""
    wal = Wal.create(str(tmp_path / "wal.db"), cluster_id=5, member_id=1)
    before, now = ConfState(voters=(1, 2, 3)), ConfState(voters=(1, 2, 4))
    wal.stage(Ready(snapshot=Snapshot(SnapshotMeta(INSTALLED_INDEX, 2, before))))
    wal.commit()
    wal.publish()
    assert wal.initial_state()[1] == before
    full = SimpleNamespace(applied_index=9, applied_term=2, checkpoint=lambda: 0)
    settle(cast(DataDir, SimpleNamespace(backend=full, wal=wal)), now)
    assert wal.initial_state()[1] == now
    wal.close()


def test_who_lost_its_log_is_said_by_the_log(tmp_path: Path) -> None:
    """The keyspace may have come from the leader a moment ago: its owner must not be removed."""
    killed_after_installation(tmp_path, applied_index=INSTALLED_INDEX)
    kv = tmp_path / "member" / "kv.db"
    (tmp_path / "member" / "kv.db-wal").unlink()  # a power cut: it says whose it was
    backend = Backend.open(str(kv), create=False)
    assert backend.meta_get(META_MEMBER_ID) == 2
    backend.close()
    assert known_members(str(tmp_path))[0] == 1
