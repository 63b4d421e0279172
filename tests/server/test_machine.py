"""What the state machine reads of files that may be damaged."""

from pathlib import Path

import pytest

from pyetcd.raft.types import ConfState
from pyetcd.server.machine import read_meta
from pyetcd.store import snapshot
from pyetcd.store.backend import Backend
from pyetcd.store.db import PAGE_BYTES
from pyetcd.store.snapshot import SnapshotFailed


def test_a_damaged_copy_is_nobodys_end(tmp_path: Path) -> None:
    """It was made for a follower; its damage must not end the leader."""
    backend = Backend.open(str(tmp_path / "kv.db"), create=True)
    backend.meta_put("conf_state", b"")
    backend.set_applied(7, 2)
    backend.commit()
    copy = tmp_path / "copy"
    snapshot.make(str(tmp_path / "kv.db"), str(copy))
    meta = read_meta(str(copy))
    assert (meta.index, meta.term, meta.conf_state) == (7, 2, ConfState())
    data = bytearray(copy.read_bytes())
    for page in range(1, len(data) // PAGE_BYTES):
        data[page * PAGE_BYTES + 1000] ^= 1
    copy.write_bytes(data)
    with pytest.raises(SnapshotFailed, match="damaged"):
        read_meta(str(copy))
    backend.close()
