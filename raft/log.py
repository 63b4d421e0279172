"""The log as raft sees it: an unstable tail in memory over the durable Storage.

    index    1 .. 4       5 6 7         8 9 10
            compacted    in Storage    unstable: to be stored with the next Ready,
                                       or being stored with the one that is out
    first_index = 5      offset = 8    last_index = 10

Rules:
- applied <= applying <= committed <= last_index. applying: handed out to be applied.
- Entries at or below committed never change (State Machine Safety, thesis 3.6.3).
- Only durable entries (below offset) are handed out to be applied, so that an applied entry can
  never be missing after a restart.
- A tail that was overwritten while it was being stored is stored again: stable_to recognises, by
  the term, that the acknowledgement speaks about other entries.
- A snapshot from the leader replaces everything; until it is stored nothing is handed out.
"""

from collections.abc import Iterator, Sequence

from pyetcd.raft.storage import Storage, limit_bytes
from pyetcd.raft.types import (
    Entry,
    LogCompacted,
    LogLost,
    LogUnavailable,
    Snapshot,
)


class RaftLog:
    __slots__ = (
        "applied",
        "applying",
        "committed",
        "committed_bytes_max",
        "offset",
        "storage",
        "unstable",
        "unstable_snapshot",
    )

    def __init__(self, storage: Storage, committed_bytes_max: int) -> None:
        first, last = storage.first_index(), storage.last_index()
        assert 1 <= first <= last + 1, f"storage window [{first}, {last}]"
        self.storage = storage
        self.committed_bytes_max = committed_bytes_max
        self.unstable: list[Entry] = []
        self.unstable_snapshot: Snapshot | None = None
        self.offset = last + 1
        # Whatever is compacted was applied: that is what made compacting it lawful.
        self.committed = self.applying = self.applied = first - 1

    # What the log holds.

    @property
    def first_index(self) -> int:
        if self.unstable_snapshot is not None:
            return self.unstable_snapshot.meta.index + 1
        return self.storage.first_index()

    @property
    def last_index(self) -> int:
        return self.offset + len(self.unstable) - 1

    @property
    def last_term(self) -> int:
        return self.term(self.last_index)

    def term(self, index: int) -> int:
        """Raises LogCompacted below first_index - 1, LogUnavailable beyond last_index."""
        position = index - self.offset
        if position >= 0:
            if position >= len(self.unstable):
                raise LogUnavailable(f"term of {index}, beyond the last index {self.last_index}")
            return self.unstable[position].term
        snapshot = self.unstable_snapshot
        if snapshot is not None:
            if index < snapshot.meta.index:
                raise LogCompacted(f"term of {index}, below the snapshot {snapshot.meta.index}")
            if index == snapshot.meta.index:
                return snapshot.meta.term
        return self.storage.term(index)

    def matches(self, index: int, term: int) -> bool:
        """Whether the entry at index has this term; if so all entries before match as well
        (Log Matching, thesis 3.5)."""
        try:
            return self.term(index) == term
        except (LogCompacted, LogUnavailable):
            return False

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a candidate with this last entry has at least our log (thesis 3.6.1)."""
        last_term = self.last_term
        return term > last_term or (term == last_term and index >= self.last_index)

    def entries(self, lo: int, max_bytes: int) -> list[Entry]:
        """Entries from lo to the end within max_bytes, at least one. LogCompacted if lo is gone."""
        return self.slice(lo, self.last_index + 1, max_bytes)

    def slice(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        assert lo <= hi <= self.last_index + 1, f"[{lo}, {hi}) of {self.last_index}"
        if lo == hi:
            return []
        if lo >= self.offset:
            return self._tail(lo, hi, max_bytes)
        if lo < self.first_index:
            raise LogCompacted(f"entry {lo}, the log starts at {self.first_index}")
        stored_end = min(hi, self.offset)
        found = self.storage.entries(lo, stored_end, max_bytes)
        assert found and found[0].index == lo, "storage must give at least one entry"
        if hi <= self.offset or len(found) < stored_end - lo:
            return found
        # Both halves together must respect the limit, so look at the joined list once more.
        joined = found + self._tail(self.offset, hi, max_bytes)
        return joined[: limit_bytes(joined, 0, max_bytes)]

    def _tail(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        start = lo - self.offset
        end = limit_bytes(self.unstable, start, max_bytes)
        return self.unstable[start : min(end, hi - self.offset)]

    def scan(self, lo: int, hi: int, page_bytes: int) -> Iterator[Entry]:
        """Entries [lo, hi), read page by page so that memory stays bounded."""
        while lo < hi:
            page = self.slice(lo, hi, page_bytes)
            yield from page
            lo += len(page)

    # Growing: the leader appends, a follower appends where the logs match.

    def append(self, entries: Sequence[Entry]) -> None:
        """Put entries at their index, dropping what lay there and after it."""
        if not entries:
            return
        first = entries[0].index
        assert first > self.committed, f"entry {first} is committed ({self.committed})"
        position = first - self.offset
        assert position <= len(self.unstable), "a gap in the log"
        if position == len(self.unstable):
            self.unstable.extend(entries)
        elif position <= 0:
            self.unstable = list(entries)
            self.offset = first
        else:
            # A new list: the old one may be shared with a Ready or a message.
            self.unstable = [*self.unstable[:position], *entries]

    def maybe_append(
        self, prev_index: int, prev_term: int, entries: Sequence[Entry], commit: int
    ) -> bool:
        """The receiver's half of AppendEntries (thesis 3.5): False if the logs do not match at
        prev, else append what is new and follow the leader's commit index."""
        if not self.matches(prev_index, prev_term):
            return False
        conflict = self._find_conflict(entries)
        if conflict:
            # A conflict below the commit index means two leaders of one term, or a broken log.
            assert conflict > self.committed, f"entry {conflict} conflicts but is committed"
            self.append(entries[conflict - prev_index - 1 :])
        self.commit_to(min(commit, prev_index + len(entries)))
        return True

    def _find_conflict(self, entries: Sequence[Entry]) -> int:
        """The index of the first entry we do not have, 0 if we have them all. Entries that we
        have already are not appended again: an old message must not cut off a newer tail."""
        if not entries or entries[0].index == self.last_index + 1:
            return entries[0].index if entries else 0
        for entry in entries:
            if not self.matches(entry.index, entry.term):
                return entry.index
        return 0

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """A guess where this log may match another one that has `term` at `index`: the last
        index at or below whose term is not greater. With it, and its term or 0 if unknown.

        A log's terms only ever grow, so every index above the guess is certain to mismatch.
        The leader's log and the follower's rejection:

            index      1 2 3 4 5 6 7 8 9
            leader     1 3 3 3 5 5 5 5 5
            follower   1 1 1 1 2 2            rejects with index 6, term 2

        The leader has terms above 2 at 6, 5, 4, 3 and 2, so it probes at 1 at once: one round
        trip for each term, not for each entry (thesis 3.5, last paragraph but one).
        """
        while index > 0:
            try:
                own_term = self.term(index)
            except (LogCompacted, LogUnavailable):
                return index, 0
            if own_term <= term:
                return index, own_term
            index -= 1
        return 0, 0

    # Committing and applying.

    def commit_to(self, index: int) -> None:
        """Never decreases. A leader counts an entry as ours only after we acknowledged it, so a
        commit index beyond the log proves that acknowledged entries are gone."""
        if index <= self.committed:
            return
        if index > self.last_index:
            raise LogLost(
                f"the cluster counts on this member for entries up to {index}, "
                f"but its log ends at {self.last_index}"
            )
        self.committed = index

    def has_next_committed(self) -> bool:
        return self.unstable_snapshot is None and self.applying < min(
            self.committed, self.offset - 1
        )

    def next_committed(self) -> list[Entry]:
        """What may be applied now: committed and durable here, a page of committed_bytes_max."""
        if not self.has_next_committed():
            return []
        hi = min(self.committed, self.offset - 1) + 1
        return self.slice(self.applying + 1, hi, self.committed_bytes_max)

    def applying_to(self, index: int) -> None:
        assert self.applying <= index <= self.committed
        self.applying = index

    def applied_to(self, index: int) -> None:
        assert self.applied <= index <= self.committed, f"{self.applied}, {index}"
        self.applied = index
        self.applying = max(self.applying, index)

    # Storing.

    def next_unstable(self) -> list[Entry]:
        """What must be stored. A copy of the list: it leaves with a Ready while ours goes on."""
        return self.unstable.copy()

    def stable_to(self, index: int, term: int) -> None:
        """Storage now has the entry (index, term) and all before it. Ignored if that entry was
        overwritten meanwhile: the term tells, and by Log Matching an equal term proves the whole
        prefix equal (with one storing at a time, an entry that came back is stored as well)."""
        position = index - self.offset
        if not 0 <= position < len(self.unstable) or self.unstable[position].term != term:
            return
        self.unstable = self.unstable[position + 1 :]
        self.offset = index + 1

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the whole log by a snapshot (thesis 5.1)."""
        assert snapshot.meta.index > self.committed, "a snapshot behind the commit index"
        self.unstable = []
        self.offset = snapshot.meta.index + 1
        self.unstable_snapshot = snapshot
        self.committed = snapshot.meta.index

    def stable_snapshot_to(self, index: int) -> None:
        snapshot = self.unstable_snapshot
        if snapshot is not None and snapshot.meta.index == index:
            self.unstable_snapshot = None
