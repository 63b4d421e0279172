"""What raft reads back from the durable log, and the in-memory form of it for tests.

Strategy: raft owns the interface, the store implements it (store/wal.py). Raft only reads;
writing is the caller's duty, told by Ready, and everything a Ready asked to store must be
visible here before that Ready is advanced.

The log is a window [first_index, last_index]. The entry just before the window is gone, but its
term is kept (it is the snapshot's), so that an append at first_index can be matched:

    compacted to 3:    index   3   4   5   6
                       term    2   2   3   3
                       known  term entry entry entry      first_index = 4, last_index = 6
"""

from typing import Protocol

from pyetcd.raft.types import (
    ConfState,
    Entry,
    HardState,
    LogCompacted,
    LogUnavailable,
    Snapshot,
    SnapshotMeta,
    SnapshotTemporarilyUnavailable,
)

# What an entry costs beside its data when a limit counts bytes: tags, term, index, length.
ENTRY_OVERHEAD_BYTES = 16


class Storage(Protocol):
    def initial_state(self) -> tuple[HardState, ConfState]:
        """Read once, at start."""
        ...

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries [lo, hi), cut so that they fit max_bytes, but at least one.

        Raises LogCompacted if lo < first_index, LogUnavailable if hi > last_index + 1.
        """
        ...

    def term(self, index: int) -> int:
        """Term of an entry in [first_index - 1, last_index]; else LogCompacted, LogUnavailable."""
        ...

    def first_index(self) -> int: ...

    def last_index(self) -> int: ...

    def snapshot(self) -> Snapshot:
        """The latest snapshot; SnapshotTemporarilyUnavailable if it is still being made."""
        ...


def limit_bytes(entries: list[Entry], start: int, max_bytes: int) -> int:
    """The end of the longest run entries[start:end] within max_bytes, at least one entry long."""
    assert 0 <= start <= len(entries)
    total = 0
    for end in range(start, len(entries)):
        total += len(entries[end].data) + ENTRY_OVERHEAD_BYTES
        if total > max_bytes:
            return max(end, start + 1)
    return len(entries)


class MemoryStorage:
    """Storage in a list, for tests and the simulator. Each write is durable when it returns."""

    def __init__(self, conf_state: ConfState | None = None) -> None:
        self.hard_state = HardState()
        # False lets a test play a snapshot that is still being made.
        self.snapshot_ready = True
        self._snapshot = Snapshot(SnapshotMeta(conf_state=conf_state or ConfState()))
        # _entries[i] has the index _offset + 1 + i; of _offset itself only the term is kept.
        self._offset = 0
        self._term = 0
        self._entries: list[Entry] = []

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, self._snapshot.meta.conf_state

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        assert lo <= hi
        if lo <= self._offset:
            raise LogCompacted(f"entry {lo} is compacted, the log starts at {self._offset + 1}")
        if hi > self.last_index() + 1:
            raise LogUnavailable(f"entry {hi - 1} is beyond the last one, {self.last_index()}")
        found = self._entries[lo - self._offset - 1 : hi - self._offset - 1]
        end = limit_bytes(found, 0, max_bytes)
        return found if end == len(found) else found[:end]

    def term(self, index: int) -> int:
        if index < self._offset:
            raise LogCompacted(f"term of {index} is compacted, the log starts at {self._offset}")
        if index > self.last_index():
            raise LogUnavailable(f"term of {index} is beyond the last one, {self.last_index()}")
        return self._term if index == self._offset else self._entries[index - self._offset - 1].term

    def first_index(self) -> int:
        return self._offset + 1

    def last_index(self) -> int:
        return self._offset + len(self._entries)

    def snapshot(self) -> Snapshot:
        if not self.snapshot_ready:
            raise SnapshotTemporarilyUnavailable("the snapshot is still being made")
        return self._snapshot

    def append(self, entries: list[Entry]) -> None:
        """Append, dropping whatever lay at the first new index and after it."""
        entries = [entry for entry in entries if entry.index > self._offset]
        if not entries:
            return
        keep = entries[0].index - self._offset - 1
        assert 0 <= keep <= len(self._entries), "a gap in the log"
        self._entries = self._entries[:keep] + entries

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Forget everything and start from a snapshot that the leader sent."""
        assert snapshot.meta.index > self._snapshot.meta.index, "an older snapshot"
        self._snapshot = snapshot
        self._offset, self._term = snapshot.meta.index, snapshot.meta.term
        self._entries = []

    def create_snapshot(self, index: int, conf_state: ConfState, data: bytes = b"") -> Snapshot:
        """Remember the state machine as of index, to be sent to members that are far behind."""
        assert self._snapshot.meta.index <= index <= self.last_index()
        self._snapshot = Snapshot(SnapshotMeta(index, self.term(index), conf_state), data)
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drop the entries up to and including index; a snapshot must cover them."""
        assert self._offset < index <= self.last_index()
        term = self.term(index)
        self._entries = self._entries[index - self._offset :]
        self._offset, self._term = index, term
