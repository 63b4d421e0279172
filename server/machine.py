"""The state machine of one member: every store part over one kv.db, and when it commits.

No asyncio and no clock of its own: the driver calls `keep_up` every tick, and long jobs go to the
`run` that was handed in (threads in the server, at once in the simulator).

Rules. Applied entries are in SQLite's open transaction at once and committed in batches, by time
and by size, always with the index, term and chained CRC of the last applied entry. A commit
survives a killed process; what survives a power cut is the last checkpoint, and the log is cut
only below it.
The latest `catchup_entries` entries stay in the log for followers that are a little behind.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pyetcd.proto.errors import Code, EtcdError, RpcError
from pyetcd.proto.rpc_pb2 import (
    HashKVResponse,
    HashResponse,
    RangeRequest,
    RangeResponse,
    TxnRequest,
    TxnResponse,
)
from pyetcd.raft.codec import decode_conf_state, encode_conf_state
from pyetcd.raft.types import ConfChange, ConfState, Entry, Snapshot, SnapshotMeta
from pyetcd.store import compact, db, failpoints, snapshot, txn
from pyetcd.store.alarms import Alarms
from pyetcd.store.apply import Applied, Applier
from pyetcd.store.auth import AuthStore
from pyetcd.store.backend import META_MEMBER_ID, Backend
from pyetcd.store.compact import CompactionJob
from pyetcd.store.lease import CHECKPOINT_INTERVAL_S, Lessor
from pyetcd.store.members import Members
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.scrub import Scrubber
from pyetcd.store.snapshot import Copy, SnapshotFailed
from pyetcd.store.times import Times
from pyetcd.store.tokens import SimpleTokens
from pyetcd.store.v2 import V2Store
from pyetcd.store.wal import Wal
from pyetcd.store.watch import WatchHub

COMMIT_INTERVAL_S = 0.1  # etcd: backend-batch-interval
COMMIT_CHANGES_MAX = 10_000  # etcd: backend-batch-limit
# The write-ahead file of kv.db is checkpointed away beyond this size, whatever the log holds.
WAL_BYTES_MAX = 64 << 20
# The same when the disk is nearly full: what a compaction gives back must not stay in that file.
TIGHT_WAL_BYTES = 1 << 20
# To count takes 0.04 us a key; a million keys held the loop for 38 ms, at an older revision for
# 305 ms (tests/bench/million.py).
COUNT_INLINE_MAX = 20_000

TOKEN_TTL_S = 300.0  # etcd: auth-token-ttl

_CONF_STATE = "conf_state"  # the row of kv.db's meta table

T = TypeVar("T")


class Run(Protocol):
    """Runs a job beside the loop and calls back in it."""

    def __call__(self, job: Callable[[], T], done: Callable[[T | EtcdError], None]) -> None: ...


def _ignore(seconds: float) -> None:
    return None


@dataclass(slots=True)
class Timings:
    """Who is told, in the loop, how many seconds each of these took."""

    commit: Callable[[float], object] = _ignore
    checkpoint: Callable[[float], object] = _ignore
    copy: Callable[[float], object] = _ignore
    hash: Callable[[float], object] = _ignore
    hash_kv: Callable[[float], object] = _ignore


class StateMachine:
    """What the log has made so far, and the ways to read it."""

    def __init__(
        self,
        backend: Backend,
        wal: Wal,
        *,
        member_id: int,
        monotonic_s: Callable[[], float],
        wall_s: Callable[[], float],
        lease_ttl_min_s: int,
        quota_bytes: int,
        snapshot_count: int,
        catchup_entries: int,
        run: Run,
        quiesce: Callable[[], AbstractContextManager[None]],
        token_ttl_s: float = TOKEN_TTL_S,
        commit_interval_s: float = COMMIT_INTERVAL_S,
        commit_changes_max: int = COMMIT_CHANGES_MAX,
        lease_checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
    ) -> None:
        self.backend = backend
        self.wal = wal
        self.keyspace = Keyspace(backend)
        self.members = Members(backend)
        self.lessor = Lessor(
            backend,
            monotonic_s,
            ttl_min_s=lease_ttl_min_s,
            checkpoint_interval_s=lease_checkpoint_interval_s,
        )
        self.alarms = Alarms(backend)
        self.hub = WatchHub(self.keyspace)
        self.auth = AuthStore(backend)
        self.tokens = SimpleTokens(monotonic_s, ttl_s=token_ttl_s)
        self.v2 = V2Store(backend, lambda: int(wall_s() * 1e9))
        self.applier = Applier(
            keyspace=self.keyspace,
            lessor=self.lessor,
            members=self.members,
            alarms=self.alarms,
            hub=self.hub,
            auth=self.auth,
            tokens=self.tokens,
            v2=self.v2,
            quota_bytes=quota_bytes,
        )
        self.times = Times(backend, self.keyspace, wall_s)
        self.compaction = CompactionJob(self.keyspace)
        self.scrubber = Scrubber(backend)
        self.applied_index = backend.applied_index
        self.applied_term = backend.applied_term
        self.checkpoints_total = 0
        self.is_tight = False  # the disk is nearly full (space.py)
        self.membership_changed = True  # told to the transport after the batch
        self._monotonic_s = monotonic_s
        self._snapshot_count = snapshot_count
        self._catchup_entries = catchup_entries
        self._run = run
        self._quiesce = quiesce
        self._committed_at_s = monotonic_s()
        self._commit_interval_s = commit_interval_s
        self._commit_changes_max = commit_changes_max
        self.timings = Timings()
        self.readers_open = 0  # in threads
        self.is_installing = False
        # Where the last checkpoint was; a start makes one, see member.py.
        self._durable_index = backend.applied_index
        self._checkpointing = False
        self._compaction_waiters: list[Callable[[], None]] = []
        # Configurations by the index that made them, so that a checkpoint finds its own.
        self._conf_states: list[tuple[int, ConfState]] = [(0, load_conf_state(backend))]

    # What the replica calls

    @property
    def conf_state(self) -> ConfState:
        return self._conf_states[-1][1]

    def apply(self, entry: Entry) -> Applied:
        return self.applier.apply(entry)

    def apply_conf_change(self, entry: Entry, change: ConfChange) -> tuple[Applied, bool]:
        self.membership_changed = True
        return self.applier.apply_conf_change(entry, change)

    def set_conf_state(self, index: int, conf_state: ConfState) -> None:
        self._conf_states.append((index, conf_state))
        save_conf_state(self.backend, conf_state)

    def set_applied(self, index: int, term: int) -> None:
        """The last entry of a batch; `commit` writes it with the batch's changes."""
        self.applied_index = index
        self.applied_term = term

    def install(self, received: Snapshot) -> None:
        """Replace kv.db by the kept file of this snapshot and read everything from it."""
        index = received.meta.index
        self.is_installing = True
        with self._quiesce():  # a checkpoint or a reader in a thread has the old file open
            self.backend.close()
            snapshot.install(snapshot.kept_path(self.backend.path, index), self.backend.path)
            failpoints.hit("applyBeforeOpenSnapshot")
            self.backend.reopen()
            failpoints.hit("applyAfterOpenSnapshot")
        self.applier.reload()
        self.compaction = CompactionJob(self.keyspace)
        assert self.backend.applied_index == index, (self.backend.applied_index, index)
        self.set_applied(index, received.meta.term)
        self.membership_changed = True
        self.backend.meta_put(META_MEMBER_ID, db.signed(self.wal.member_id))  # not the sender's
        self._conf_states.clear()
        self.set_conf_state(index, received.meta.conf_state)
        self._durable_index = index
        self.is_installing = False

    # Durability

    def commit(self) -> None:
        """Write what was applied, with how far that is."""
        began_s = self._monotonic_s()
        mark = self.wal.watermark(self.applied_index)
        self.backend.set_applied(mark.index, mark.term, log_crc=mark.crc)
        self.times.note()
        self.backend.commit()
        self._committed_at_s = self._monotonic_s()
        self.timings.commit(self._committed_at_s - began_s)

    def keep_up(self) -> None:
        """Called every tick and after large batches: commit when it is time to."""
        pending = self.backend.pending
        if not pending:
            return
        due_s = self._committed_at_s + self._commit_interval_s
        if pending >= self._commit_changes_max or self._monotonic_s() >= due_s:
            self.commit()

    def checkpoint_if_due(self, wal_bytes: int) -> None:
        """`wal_bytes`: the size of kv.db's write-ahead file."""
        behind = self.applied_index - self._durable_index
        is_large = wal_bytes > WAL_BYTES_MAX
        if self.is_tight:
            is_large = self.backend.waiting_bytes > TIGHT_WAL_BYTES
        if behind >= self._snapshot_count or is_large:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make the keyspace durable in a thread, then let go of what the log no longer needs."""
        if self._checkpointing:
            return
        self._checkpointing = True
        self.commit()
        began_s = self._monotonic_s()

        def done(index: int | EtcdError | None) -> None:
            self.timings.checkpoint(self._monotonic_s() - began_s)
            self._checkpointed(index)

        self._run(self.backend.checkpoint, done)

    def _checkpointed(self, index: int | EtcdError | None) -> None:
        self._checkpointing = False
        wal_bytes_max = TIGHT_WAL_BYTES if self.is_tight else WAL_BYTES_MAX // 2
        if isinstance(index, int) and self.backend.wal_bytes > wal_bytes_max:
            # Under steady writes nothing else lets the -wal file start again at its front.
            self.commit()
            index = self.backend.rewind()
        if not isinstance(index, int) or index <= self._durable_index or self.wal.awaits_snapshot:
            return  # a reader was in the way, or a snapshot was or is installed: next time
        self._durable_index = index
        self.checkpoints_total += 1
        states = self._conf_states
        while len(states) > 1 and states[1][0] <= index:
            del states[0]
        self.wal.save_snapshot_meta(SnapshotMeta(index, self.wal.term(index), states[0][1]))
        self.wal.compact(index - self._catchup_entries)
        failpoints.hit("raftAfterWALRelease")

    # Reading

    @property
    def revision(self) -> int:
        return self.keyspace.revision

    def range(self, request: RangeRequest) -> RangeResponse:
        return txn.apply_range(self.keyspace, request)

    def read_txn(self, request: TxnRequest) -> TxnResponse:
        return txn.apply_txn(self.keyspace, self.lessor, request)

    def exceeds(self, request: RangeRequest, keys_max: int) -> bool:
        """Whether a range reads more than keys_max keys (a sorted one looks at all of them), counts
        more than COUNT_INLINE_MAX, or is one of the past: that walks deleted keys, too."""
        if 0 < request.revision < self.revision:
            return True
        plain = not (request.sort_order or request.sort_target or _is_filtered(request))
        # With a limit the answer still has the count of all.
        if request.count_only or (plain and 0 < request.limit <= keys_max):
            keys_max = COUNT_INLINE_MAX
        history = self.keyspace.history
        return history.exceeds(request.key, request.range_end, keys_max)

    def range_in_thread(
        self, request: RangeRequest, done: Callable[[RangeResponse | EtcdError], None]
    ) -> None:
        """The answer is that of now, from a reader of the committed state."""
        self.commit()
        revision, backend = self.keyspace.revision, self.backend
        self.keyspace.tally.ranges += 1

        def job() -> RangeResponse:
            reader = backend.reader()
            try:
                return txn.read_range_on(reader, request, revision)
            finally:
                reader.close()

        self._read(job, done, _ignore)

    def _read(
        self,
        job: Callable[[], T],
        done: Callable[[T | EtcdError], None],
        took: Callable[[float], object],
    ) -> None:
        """Runs a job that reads by a connection of its own; `took` is told the seconds."""
        began_s = self._monotonic_s()
        self.readers_open += 1

        def finished(answer: T | EtcdError) -> None:
            self.readers_open -= 1
            took(self._monotonic_s() - began_s)
            done(answer)

        self._run(job, finished)

    def count_keys(self, done: Callable[[int | EtcdError], None]) -> None:
        """All keys there are now, counted in a thread."""
        self.commit()
        backend = self.backend
        reader = backend.reader()
        # From here on it sees this state, whatever is written until the thread begins.
        db.guarded(backend.path, "read", lambda: reader.execute("BEGIN; SELECT 1 FROM meta"))

        def job() -> int:
            try:
                rows: list[Any] = reader.execute("SELECT count(*) FROM current").fetchall()
                return int(rows[0][0])
            finally:
                reader.close()

        self._read(job, done, _ignore)

    def hash_kv(self, revision: int, done: Callable[[HashKVResponse | EtcdError], None]) -> None:
        """In a thread: it reads every revision there is."""
        self.commit()
        backend = self.backend

        def job() -> HashKVResponse:
            reader = backend.reader()
            try:
                found = compact.hash_on(reader, revision)
            finally:
                reader.close()
            answer = HashKVResponse(
                hash=found.hash,
                compact_revision=found.compact_revision,
                hash_revision=found.revision,
            )
            answer.header.revision = found.current_revision
            return answer

        self._read(job, done, self.timings.hash_kv)

    def hash(self, done: Callable[[HashResponse | EtcdError], None]) -> None:
        """Of all that members share, in a thread."""
        self.commit()
        backend = self.backend

        def job() -> HashResponse:
            reader = backend.reader()
            try:
                found, revision = compact.hash_all(reader)
            finally:
                reader.close()
            answer = HashResponse(hash=found)
            answer.header.revision = revision
            return answer

        self._read(job, done, self.timings.hash)

    def copy(
        self, name: str, is_cancelled: Callable[[], bool], done: Callable[[Copy | EtcdError], None]
    ) -> None:
        """A copy of the keyspace file, made in a thread; it is the caller's to remove. A failed one
        is answered with an error that says why: the disk may be full."""
        self.commit()
        source = self.backend.path
        target = snapshot.temporary_path(source, name)

        def job() -> Copy:
            try:
                db.remove_if_exists(target)  # of a copy that was broken off
                return snapshot.make(source, target, is_cancelled=is_cancelled)
            except SnapshotFailed as error:
                raise RpcError(Code.INTERNAL, str(error)) from error

        self._read(job, done, self.timings.copy)

    def scrub(self, done: Callable[[EtcdError | None], None]) -> None:
        """The next slice of looking for damage, in a thread."""
        self._run(self.scrubber.step, done)

    # Compaction

    def when_compacted(self, done: Callable[[], None]) -> None:
        """Call back once every compaction so far is finished on disk."""
        if self.compaction.is_done:
            self.commit()
            return done()
        self._compaction_waiters.append(done)
        return None

    def compact_step(self, rows_max: int | None = None) -> bool:
        """One slice of the physical compaction; whether there is more."""
        more = self.compaction.step(rows_max)
        if not more and self._compaction_waiters:
            self.commit()  # a crash must not bring back what the caller was told is gone
            waiters, self._compaction_waiters = self._compaction_waiters, []
            for done in waiters:
                done()
        return more

    def defragment_step(self, pages: int) -> bool:
        """Gives free pages back; whether there are more."""
        self.commit()
        return self.backend.vacuum_step(pages)

    def close(self) -> None:
        """Write what was applied and close the file."""
        self.commit()
        self.backend.empty_wal()
        self.backend.close()


def save_conf_state(backend: Backend, conf_state: ConfState) -> None:
    """In the backend's open transaction."""
    backend.meta_put(_CONF_STATE, encode_conf_state(conf_state))


def load_conf_state(backend: Backend) -> ConfState:
    """The raft configuration at the backend's applied index."""
    data = backend.meta_get(_CONF_STATE)
    return decode_conf_state(data) if isinstance(data, bytes) else ConfState()


def read_meta(path: str) -> SnapshotMeta:
    """What a copy of the keyspace file says of itself: its applied index, term, configuration.
    A copy that cannot be read is nobody's end: SnapshotFailed."""
    try:
        reader = db.open_reader(path)
        try:
            query = "SELECT key, value FROM meta"
            rows: list[Any] = db.guarded(path, "read", lambda: list(reader.execute(query)))
        finally:
            reader.close()
    except db.StorageFailure as error:
        raise SnapshotFailed(error.reason) from error
    meta = dict(rows)
    return SnapshotMeta(
        meta["applied_index"], meta["applied_term"], decode_conf_state(meta[_CONF_STATE])
    )


def _is_filtered(request: RangeRequest) -> bool:
    return bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )
