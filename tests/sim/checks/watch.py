"""watch: events in order, once, without a gap, whole revisions, never after a progress mark."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sim.checks.violation import Violation
from sim.model import DELETE, Event, Model, inside, kv_of


@dataclass
class Watch:
    """What one watcher was told, against what it should have been."""

    name: str
    key: bytes
    end: bytes
    model: Model
    start: int  # the first revision it wants; 0 until it is created
    without_puts: bool = False
    without_deletes: bool = False
    prev_kv: bool = False
    next_revision: int = 0
    progress: int = 0
    events_total: int = 0
    ended: bool = False
    seen: list[int] = field(default_factory=list)

    def created(self, header_revision: int) -> None:
        if not self.start:
            self.start = header_revision + 1
        self.next_revision = self.start

    def told(self, response: Any) -> None:
        header = response.header.revision
        if response.canceled:
            self.ended = True
            wanted = response.compact_revision
            if wanted and not self.next_revision < wanted <= self.model.compacted:
                raise Violation("watch", f"{self}: cancelled at {wanted}, {self.model.compacted}")
            return
        if not response.events:
            self._complete_to(header)
            self.progress = max(self.progress, header)
            return
        revisions = [event.kv.mod_revision for event in response.events]
        if revisions != sorted(revisions):
            raise Violation("watch", f"{self}: out of order {revisions}")
        if revisions[0] < self.next_revision or revisions[0] <= self.progress:
            raise Violation("watch", f"{self}: {revisions[0]} again")
        if header < revisions[-1]:
            raise Violation("watch", f"{self}: header {header} below {revisions[-1]}")
        self._complete_to(revisions[0] - 1)
        expected = [
            event
            for revision in range(revisions[0], revisions[-1] + 1)
            for event in self._wanted(revision)
        ]
        found = response.events
        if len(found) != len(expected) or not all(map(self._same, found, expected)):
            raise Violation("watch", f"{self}: got {list(found)}, expected {expected}")
        self.next_revision = revisions[-1] + 1
        self.events_total += len(found)

    def _complete_to(self, revision: int) -> None:
        for missed in range(self.next_revision, min(revision, self.model.revision) + 1):
            if any(True for _ in self._wanted(missed)):
                raise Violation("watch", f"{self}: revision {missed} is missing before {revision}")
        self.next_revision = max(self.next_revision, revision + 1)

    def complete(self) -> None:
        """At the end, with everything delivered."""
        if not self.ended and self.next_revision:
            self._complete_to(self.model.revision)

    def _wanted(self, revision: int) -> "Sequence[Event]":
        return [
            event
            for event in self.model.events.get(revision, ())
            if inside(event.key, self.key, self.end)
            and not (self.without_deletes if event.type == DELETE else self.without_puts)
        ]

    def _same(self, found: Any, expected: Event) -> bool:
        if found.type != expected.type or found.kv.key != expected.key:
            return False
        if expected.kv is not None and kv_of(found.kv) != expected.kv:
            return False
        if not self.prev_kv:
            return not found.HasField("prev_kv")
        if found.HasField("prev_kv"):
            return expected.previous == kv_of(found.prev_kv)
        # Compaction may have taken it.
        return expected.previous is None or found.kv.mod_revision <= self.model.compacted

    def __str__(self) -> str:
        return f"watch {self.name} of {self.key!r}..{self.end!r} from {self.start}"
