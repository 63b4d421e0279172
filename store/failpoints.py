"""Named places at which a test can make this process fail. Off, and without cost, in production.

Strategy. `hit("walBeforeSync")` stands at each place: one look at an empty dict until `arm` was
called, once, before anything runs. Places are of batches, snapshots and compactions, never of
single entries or requests. Where etcd has a place of the same meaning the name is etcd's; what the
server was told (`PYETCD_FAILPOINTS`) is read in cli/serve.py. For tests only: there is no other
use, and no way to switch one on in a running process.

    walBeforeSync=panic@20;beforeCommit=sleep(50);defragBeforeSlice=error

panic ends the process at once, as a kill does; sleep(ms) holds the thread; error raises what the
place would raise if the disk failed. `@n`: from the n-th time on, counted from the start.
"""

import os
import re
from collections.abc import Callable
from typing import Final

from pyetcd.store.db import StorageFailure

PANIC_EXIT: Final = 77

_NAMES: Final = """
    raftBeforeLeaderSend raftBeforeFollowerSend raftBeforeAdvance
    raftBeforeSave walBeforeSync walAfterSync raftAfterSave raftAfterWALRelease
    beforeApply afterApply beforeApplyOneConfChange
    beforeStartDBTxn afterStartDBTxn commitBeforePreCommitHook commitAfterPreCommitHook
    beforeCommit afterCommit beforeCheckpoint afterCheckpoint
    compactBeforeCommitScheduledCompact compactAfterCommitScheduledCompact
    compactBeforeCommitBatch compactAfterCommitBatch
    compactBeforeSetFinishedCompact compactAfterSetFinishedCompact
    defragBeforeSlice defragAfterSlice
    snapshotBeforeCopy snapshotBeforeSend snapshotBeforeReceive snapshotBeforeKeep snapshotAfterKeep
    raftBeforeSaveSnap raftAfterSaveSnap raftBeforeApplySnap snapshotBeforeInstall
    snapshotBeforeRename snapshotAfterRename applyBeforeOpenSnapshot applyAfterOpenSnapshot
    raftAfterApplySnap
"""
POINTS: Final = frozenset(_NAMES.split())

_TERM: Final = re.compile(r"(\w+)=(panic|error|sleep\((\d+)\))(?:@(\d+))?")


class _Action:
    def __init__(self, kind: str, pause_s: float, first: int) -> None:
        self.kind = kind
        self.pause_s = pause_s
        self.left = first  # hits until it acts


_armed: dict[str, _Action] = {}
_sleep: Callable[[float], None] = lambda pause_s: None  # noqa: E731, replaced by arm


def hit(name: str, failure: type[Exception] = StorageFailure) -> None:
    """This place was reached; `failure` is what it raises when it fails."""
    if _armed:
        _act(name, failure)


def arm(text: str, *, sleep: Callable[[float], None]) -> None:
    """Replace what is armed; an empty text disarms. ValueError with what is wrong in it."""
    global _sleep
    found: dict[str, _Action] = {}
    for term in filter(None, text.split(";")):
        parts = _TERM.fullmatch(term.strip())
        if parts is None:
            raise ValueError(f"{term!r} is not name=panic, name=error or name=sleep(ms), with @n")
        name, kind, pause_ms, first = parts.groups()
        if name not in POINTS:
            raise ValueError(f"there is no failpoint {name}")
        found[name] = _Action(kind, int(pause_ms or 0) / 1000, int(first or 1))
    _sleep = sleep
    _armed.clear()
    _armed.update(found)


def _act(name: str, failure: type[Exception]) -> None:
    action = _armed.get(name)
    if action is None:
        return
    action.left -= 1
    if action.left > 0:
        return
    if action.kind == "panic":
        os.write(2, f"failpoint {name}: panic\n".encode())
        os._exit(PANIC_EXIT)
    if action.kind == "error":
        raise failure(f"failpoint {name}")
    _sleep(action.pause_s)
