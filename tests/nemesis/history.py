"""The checkers: what clients were told, against the history that the cluster ended with.

The history is every event from revision 1. Since each write is one revision, strict serializability
of the whole keyspace comes down to: each answer is true at its revision, and revisions agree with
real time. That is linear in the number of operations, so nothing needs to be searched.
"""

from bisect import bisect_right
from collections import defaultdict

from clients import Client, Event, Op, Seen, Version

PUT, DELETE = 0, 1
FAULTS_MAX = 20
# Answers by which the server says that the write was not and will not be done.
DEFINITE = ("too many requests", "request is too large", "database space exceeded")


class History:
    """All events in order, and the state at every revision."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.faults: list[str] = []
        self.by_revision: dict[int, list[Event]] = defaultdict(list)
        self._revisions: dict[bytes, list[int]] = defaultdict(list)
        self._versions: dict[bytes, list[Version | None]] = defaultdict(list)
        last = 1
        for event in events:
            kind, version, before = event
            key, revision = version[0], version[3]
            if revision not in (last, last + 1) or (revision == last and last == 1):
                self.fault(f"revision {revision} follows {last}")
            last = revision
            current = self.at(key, revision)
            if before != current:
                self.fault(f"prev_kv of {event} is not {current}")
            if kind == PUT:
                wanted = (current[2], current[4] + 1) if current else (revision, 1)
                if (version[2], version[4]) != wanted:
                    self.fault(f"create_revision and version of {event} are not {wanted}")
            elif current is None:
                self.fault(f"deleted what was not there: {event}")
            self.by_revision[revision].append(event)
            self._revisions[key].append(revision)
            self._versions[key].append(version if kind == PUT else None)
        self.last = last

    def fault(self, text: str) -> None:
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(text)

    def at(self, key: bytes, revision: int) -> Version | None:
        index = bisect_right(self._revisions[key], revision)
        return self._versions[key][index - 1] if index else None

    def range_at(self, key: bytes, range_end: bytes, revision: int) -> list[Version]:
        keys = [key]
        if range_end:
            keys = sorted(k for k in self._revisions if in_range(k, key, range_end))
        found = [self.at(k, revision) for k in keys]
        return [version for version in found if version is not None]


def in_range(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return key >= start and (end == b"\0" or key < end)


def check_answers(history: History, ops: list[Op]) -> None:
    """Every acknowledged write is at its revision, every read is the state at its revision."""
    for op in ops:
        if op.error or not op.revision:
            continue
        if op.revision > history.last:
            history.fault(f"revision {op.revision} was answered, the last is {history.last}: {op}")
            continue
        if op.wrote:
            got = sorted(
                (e[1][0], e[1][1] if e[0] == PUT else None)
                for e in history.by_revision[op.revision]
            )
            wanted = sorted(
                (key, value)
                for key, value in op.writes
                if value is not None or history.at(key, op.revision - 1) is not None
            )
            if got != wanted:
                history.fault(f"acknowledged {op}, but the history has {got}")
            leases = {event[1][5] for event in history.by_revision[op.revision]}
            if op.lease and leases != {op.lease}:
                history.fault(f"written without its lease: {op}")
        if op.seen is not None:
            state = history.range_at(op.key, op.range_end, op.revision)
            if op.seen != state:
                history.fault(f"{op} is not the state {state}")
        if op.previous is not None:
            before = history.at(op.key, op.revision - 1)
            if op.previous != ([before] if before else []):
                history.fault(f"{op} replaced {before}")
        if op.kind == "revoke" and history.at(b"l/%x" % op.lease, history.last) is not None:
            history.fault(f"the key outlived its lease: {op}")


def check_order(history: History, ops: list[Op]) -> None:
    """Revisions agree with real time: nothing is older than what was known before it began."""
    written = {
        (version[0], version[1]): version[3] for kind, version, _ in history.events if kind == PUT
    }
    items: list[tuple[float, float, int, bool, Op]] = []
    for op in ops:
        if op.kind in ("stale", "keep"):
            continue
        revision = op.revision
        if op.error or not revision:  # unknown: perhaps it was done after all
            found = [written.get((key, value)) for key, value in op.writes if value is not None]
            revision = max((r for r in found if r), default=0)
            if revision and any(word in op.error for word in DEFINITE):
                history.fault(f"refused, but done at {revision}: {op}")
            items.append((op.start_s, float("inf"), revision, True, op))
        else:
            items.append((op.start_s, op.end_s, revision, op.wrote, op))
    starts = sorted(items, key=lambda item: item[0])
    ends = sorted(items, key=lambda item: item[1])
    known, at = 0, 0
    for start_s, _, revision, wrote, op in starts:
        while ends[at][1] < start_s:
            known = max(known, ends[at][2])
            at += 1
        if revision and (revision < known or (wrote and revision == known)):
            history.fault(f"revision {known} was known before this began: {op}")


def check_once(history: History) -> None:
    """Every value is unique, so nothing may be there twice."""
    seen: set[tuple[bytes, bytes]] = set()
    for kind, version, _ in history.events:
        if kind == PUT:
            if version[:2] in seen:
                history.fault(f"written twice: {version}")
            seen.add(version[:2])


def check_watch(history: History, seen: Seen) -> int:
    """Ordered, unique, without a gap, whole revisions, prev_kv as asked; how many events."""
    wanted = [
        event if seen.prev_kv else (event[0], event[1], None)
        for event in history.events
        if event[1][3] >= seen.start_revision and in_range(event[1][0], seen.key, seen.range_end)
    ]
    at = 0
    where = f"watch of {seen.key!r} from {seen.start_revision} on m{seen.node}"
    counts = [0]
    for _, batch in seen.batches:
        if batch != wanted[at : at + len(batch)]:
            history.fault(f"{where}: after {at} events {batch[:3]}, not {wanted[at : at + 3]}")
            return at
        at += len(batch)
        counts.append(at)
        if at < len(wanted) and wanted[at][1][3] == batch[-1][1][3]:
            history.fault(f"{where}: revision {batch[-1][1][3]} in two answers")
    for batches, revision in seen.progress:
        count = counts[batches]
        if count < len(wanted) and wanted[count][1][3] <= revision:
            history.fault(f"{where}: progress to {revision} before {wanted[count]}")
    return at


def check_leases(history: History, clients: list[Client], watches: list[Seen]) -> int:
    """No lease ended before its time unless it was revoked; how many were seen to end."""
    lives_until_s: dict[int, list[tuple[float, float]]] = defaultdict(list)
    revoked: set[int] = set()
    for client in clients:
        for lease, end_s, until_s in client.lease_acks:
            lives_until_s[lease].append((end_s, until_s))
        revoked |= client.revoked
    ended: set[int] = set()
    for seen in watches:
        for at_s, batch in seen.batches:
            for kind, version, _ in batch:
                if kind != DELETE or not version[0].startswith(b"l/"):
                    continue
                lease = int(version[0][2:], 16)
                ended.add(lease)
                for _, until_s in lives_until_s[lease]:
                    if at_s < until_s and lease not in revoked:
                        early_s = until_s - at_s
                        history.fault(f"lease {lease:x} ended {early_s:.2f} s before its time")
    return len(ended)
