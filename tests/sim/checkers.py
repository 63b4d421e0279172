"""What must hold: each check has a name, sees the run from outside and raises `Violation`.

- raft       the invariants of raft/invariants.py after every step that changed anything
- log        one entry an index for ever, each request at most once, in every member and run
- apply      every member answers every entry alike, and as the model does
- answers    a client's answer is that of its entry, and entries follow real time (strict
             serializability: the log is the order, so no search is needed)
- reads      a linearizable read is not older than anything applied when it was asked, and it and
             a serializable one show a state that was
- watch      events in order, once, without a gap, whole revisions, never after a progress mark
- lease      nothing expires before its time
- quiescence all members end with the same state, hash, leases and members
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sim.model import COMPACTED, DELETE, FUTURE, Event, Kv, Model, Result, inside, kv_of, result_of

from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.raft.codec import encode_conf_state
from pyetcd.raft.confchange import restore
from pyetcd.raft.invariants import InvariantBroken, NodeView, check
from pyetcd.raft.log import RaftLog
from pyetcd.raft.monitor import Monitor
from pyetcd.raft.rawnode import RawNode
from pyetcd.raft.types import Entry, EntryType, Role
from pyetcd.store.apply import Applied
from pyetcd.store.compact import hash_kv
from pyetcd.store.wal import Wal

NO_LIMIT = 2**62


class Violation(AssertionError):
    """A promise was broken; `check` is the name of the check that saw it."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check


class RaftChecker:
    """Makes a view of a member whenever what it shows of raft is another than before.

    With `reference` every step is also judged by raft/invariants.py, which looks at everything
    anew: slower, and never of another opinion (`python tests/sim --reference`).
    """

    reference = False

    def __init__(self) -> None:
        self.monitor = Monitor()
        self._views: dict[int, NodeView] = {}
        self._seen: dict[int, tuple[Any, ...]] = {}

    @property
    def checks_total(self) -> int:
        return self.monitor.steps_total

    def step(self, id: int, node: RawNode, start: int) -> bool:
        """After each turn of a member; False when nothing has changed."""
        raft = node.raft
        log = raft.log
        unstable = log.unstable
        # What a log has changes only together with one of these.
        log_seen = (
            start, log.offset, len(unstable), unstable[-1].term if unstable else 0,
            log.unstable_snapshot,
        )  # fmt: skip
        seen = (
            log_seen, raft.term, raft.vote, raft.role, log.committed, log.applied, raft.conf
        )  # fmt: skip
        before = self._seen.get(id)
        if before == seen:
            return False
        self._seen[id] = seen
        then = self._views.get(id)
        if then is not None and before is not None and before[0] == log_seen:
            first, prev_term, window = then.first, then.prev_term, then.log
        else:
            floor = min([view.commit for view in self._views.values()], default=0)
            first = log.first_index
            first = max(first, min(floor, log.committed, log.last_index) - 16)
            prev_term, window = log.term(first - 1), self._window(log, first)
        durable = log.offset - 1
        if log.unstable_snapshot is not None:  # on the disk is still what was there before
            # (or an earlier snapshot, when two came quickly)
            durable = max(self.monitor.stored(id), log.storage.first_index() - 1)
        now = NodeView(
            id, raft.term, raft.vote, raft.role, log.committed, log.applied, first,
            prev_term, window, durable, raft.conf, start,
        )  # fmt: skip
        self._views[id] = now
        self._check(now, {} if then is None else {id: then}, after_crash=False)
        return True

    def _window(self, log: RaftLog, first: int) -> list[Entry]:
        """From here to the end."""
        found: list[Entry] = []
        while first < log.offset:  # storage may answer in pieces
            piece = log.storage.entries(first, log.offset, NO_LIMIT)
            found += piece
            first += len(piece)
        return found + log.unstable[first - log.offset :]

    def _check(self, now: NodeView, before: dict[int, NodeView], *, after_crash: bool) -> None:
        try:
            if self.reference:
                check(self._views, before)
            self.monitor.step(now, after_crash=after_crash)
        except InvariantBroken as error:
            raise Violation("raft", str(error)) from error

    def crashed(self, id: int, wal: Wal, start: int) -> None:
        """It counts on with what its disk holds."""
        state, conf_state = wal.initial_state()
        first, last = wal.first_index(), wal.last_index()
        entries: list[Entry] = []
        while first + len(entries) <= last:
            entries += wal.entries(first + len(entries), last + 1, NO_LIMIT)
        then = self._views.get(id)
        conf = then.conf if then is not None else restore(conf_state)
        ghost = NodeView(
            id, state.term, state.vote, Role.FOLLOWER, state.commit, 0, first,
            wal.term(first - 1), entries, last, conf, -start,
        )  # fmt: skip
        self._seen.pop(id, None)
        self._views[id] = ghost
        self._check(ghost, {}, after_crash=True)


@dataclass
class Operation:
    """One call of a client, with what was known when it began."""

    client: str
    kind: str
    request: Any
    began_s: float
    floor_index: int  # the newest entry that anybody had applied
    floor_revision: int
    member: str = ""
    request_id: int = 0
    ended_s: float = 0.0
    answer: Any = None  # a response, or (code, text)


class History:
    """The committed log as the members show it, checked against the model as it grows."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.entries: dict[int, tuple[int, EntryType, bytes]] = {}
        self.last_index = 0
        self.acknowledged_index = 0
        self.index_by_id: dict[int, int] = {}
        self.result_by_index: dict[int, Result | None] = {}
        self.answer_by_index: dict[int, bytes] = {}
        self.revision_by_index: dict[int, int] = {}
        self.on_apply: Callable[[int, Any], None] = lambda index, request: None

    def applied(self, who: str, entry: Entry, applied: Applied) -> None:
        index = entry.index
        found = (entry.term, entry.type, entry.data)
        known = self.entries.get(index)
        if known is None:
            if index != self.last_index + 1:
                raise Violation("log", f"{who} applied {index}, nobody {self.last_index + 1}")
            self._commit(index, found)
        elif known != found:
            raise Violation(
                "log",
                f"{who} applied another entry at {index}: term {found[0]} {found[2][:60]!r},"
                f" committed was term {known[0]} {known[2][:60]!r}",
            )
        self._compare(who, index, applied)

    def _commit(self, index: int, found: tuple[int, EntryType, bytes]) -> None:
        self.entries[index] = found
        self.last_index = index
        _, kind, data = found
        result: Result | None = None
        if kind is EntryType.NORMAL and data:
            request = InternalRaftRequest.FromString(data)
            id = request.header.ID
            if id in self.index_by_id:
                raise Violation(
                    "log", f"request {id:x} at {index} is also at {self.index_by_id[id]}"
                )
            self.index_by_id[id] = index
            result = self.model.apply(request)
            self.on_apply(index, request)
        self.result_by_index[index] = result
        self.revision_by_index[index] = self.model.revision

    def _compare(self, who: str, index: int, applied: Applied) -> None:
        answer = applied.answer
        if applied.over_quota:
            return  # it was applied; what its proposer is told depends on the size of his file
        if applied.error is not None:
            shown = applied.error.text.encode()
        else:
            shown = b"" if answer is None else answer.SerializeToString(deterministic=True)
        if self.answer_by_index.setdefault(index, shown) != shown:
            raise Violation(
                "apply",
                f"{who} answers {index} with {shown!r}, not {self.answer_by_index[index]!r}",
            )
        expected = self.result_by_index[index]
        if expected is None:
            return
        found = ("error", applied.error.text) if applied.error else result_of(answer)
        if found != expected:
            raise Violation("apply", f"{who} answers {index} with {found}, the model {expected}")

    # Clients

    def answered(self, op: Operation) -> None:
        if isinstance(op.answer, tuple):
            return self._failed(op)
        if op.kind == "range":
            return self._read(op)
        if op.kind == "txn" and not op.request_id:
            return self._read_txn(op)
        index = self.index_by_id.get(op.request_id)
        if index is None:
            raise Violation("answers", f"{op} was answered, but no member has applied it")
        if index <= op.floor_index:
            raise Violation("answers", f"{op} is entry {index}: before it began")
        self.acknowledged_index = max(self.acknowledged_index, index)
        found, expected = result_of(op.answer), self.result_by_index[index]
        if found != expected:
            raise Violation("answers", f"{op} got {found}, entry {index} says {expected}")
        return None

    def _failed(self, op: Operation) -> None:
        _, text = op.answer
        index = self.index_by_id.get(op.request_id) if op.request_id else None
        if op.kind == "range":
            revision = op.request.revision
            if text == COMPACTED[1] and not 0 < revision < self.model.compacted:
                raise Violation("reads", f"{op}: {text}, but {self.model.compacted} is compacted")
            if text == FUTURE[1] and not op.request.serializable and revision <= op.floor_revision:
                raise Violation("reads", f"{op}: {text}, but {op.floor_revision} was there")
        elif index is not None:
            expected = self.result_by_index[index]
            definite = expected is not None and expected[0] == "error"
            if (
                definite
                and "timed out" not in text
                and "deadline" not in text
                and ("leader" not in text and "stopped" not in text)
                and text != expected[1]
            ):  # type: ignore[index]
                raise Violation("answers", f"{op} failed with {text}, entry says {expected}")

    def never_committed(self, op: Operation) -> None:
        if op.request_id in self.index_by_id:
            raise Violation("answers", f"{op} was said never to commit, and did")

    def _read_txn(self, op: Operation) -> None:
        shown = op.answer.header.revision
        if not op.floor_revision <= shown <= self.model.revision:
            raise Violation("reads", f"{op} is stale: revision {shown} < {op.floor_revision}")
        expected = self.model.read_txn(op.request, shown)
        if result_of(op.answer) != expected:
            raise Violation("reads", f"{op}, the model {expected}")

    def _read(self, op: Operation) -> None:
        request, answer, model = op.request, op.answer, self.model
        shown = answer.header.revision
        if shown > model.revision:
            raise Violation("reads", f"{op} shows revision {shown}, the newest is {model.revision}")
        if not request.serializable and shown < op.floor_revision:
            raise Violation("reads", f"{op} is stale: revision {shown} < {op.floor_revision}")
        revision = request.revision or shown
        expected = model.range(request.key, request.range_end, revision)
        count = len(expected)
        if request.limit:
            expected = expected[: request.limit]
        found = list(map(kv_of, answer.kvs))
        if found != expected or answer.count != count or answer.more != (len(expected) < count):
            raise Violation("reads", f"{op} at {revision}: {found}, the model {expected}")


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


class LeaseChecker:
    """A lease lives at least its TTL from the moment when its last renewal was asked for."""

    def __init__(self) -> None:
        self._until_s: dict[int, float] = {}
        self._by_clients: dict[int, None] = {}

    def renewed(self, id: int, asked_s: float, ttl_s: int) -> None:
        if ttl_s > 0:
            self._until_s[id] = max(self._until_s.get(id, 0.0), asked_s + ttl_s)

    def revoked_by_client(self, id: int) -> None:
        self._by_clients[id] = None

    def applied(self, request: Any, now_s: float) -> None:
        if request.HasField("lease_revoke"):
            id = request.lease_revoke.ID
            until_s = self._until_s.pop(id, 0.0)
            if id not in self._by_clients and now_s < until_s:
                raise Violation(
                    "lease", f"{id:x} was revoked at {now_s:.3f}, promised until {until_s:.3f}"
                )


def state_of(member: Any) -> dict[str, object]:
    """Everything that members must agree on once they are quiet."""
    machine = member.process.machine
    machine.commit()
    keyspace = machine.keyspace
    hashed = hash_kv(keyspace, 0)
    return {
        "applied": machine.applied_index,
        "revision": keyspace.revision,
        "compacted": keyspace.compact_revision,
        "hash": hashed.hash,
        "leases": {id: machine.lessor.keys(id) for id in sorted(machine.lessor.ids())},
        "members": sorted(map(str, machine.members.all())),
        "version": machine.members.version,
        "alarms": [str(alarm) for alarm in machine.alarms.get()],
        "conf": encode_conf_state(machine.conf_state),
    }


def check_equal(members: Sequence[Any], history: History) -> None:
    """At quiescence."""
    first, *others = members
    expected = state_of(first)
    for other in others:
        found = state_of(other)
        for name, value in expected.items():
            if found[name] != value:
                raise Violation(
                    "quiescence", f"{name}: {other.name} {found[name]}, {first.name} {value}"
                )
    if expected["applied"] != history.last_index:
        raise Violation("quiescence", f"applied {expected['applied']} of {history.last_index}")
    model = history.model
    for member in members:
        rows = member.process.machine.keyspace.range(b"\0", b"\0").rows
        found_kvs = [Kv(r[1], r[2], r[3], r[0] >> 23, r[4], r[5]) for r in rows]
        if found_kvs != [model.current[key] for key in sorted(model.current)]:
            raise Violation("quiescence", f"{member.name} holds {found_kvs}")
        if set(member.process.machine.lessor.ids()) != set(model.leases):
            raise Violation("quiescence", f"{member.name}: leases are not the model's")
        if (expected["revision"], expected["compacted"]) != (model.revision, model.compacted):
            raise Violation("quiescence", f"revision, compacted: {expected}")
