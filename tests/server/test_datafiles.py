"""Whose files lie in a data directory."""

import shutil
from pathlib import Path

import pytest

from pyetcd.raft.types import ConfState, HardState, Ready, Snapshot, SnapshotMeta
from pyetcd.server.datafiles import Identity
from pyetcd.store.backend import META_MEMBER_ID, Backend
from pyetcd.store.db import ForeignFile
from pyetcd.store.wal import Wal

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


def test_the_keyspace_of_another_under_our_wal_file(tmp_path: Path) -> None:
    killed_after_installation(tmp_path, applied_index=INSTALLED_INDEX + 3)
    with pytest.raises(ForeignFile, match=r"kv\.db-wal: belongs to another file"):
        Identity.read(str(tmp_path))
