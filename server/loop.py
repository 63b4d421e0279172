"""The driver: one asyncio loop that ticks a replica, batches what arrives and commits its log.

Everything that happens in one turn of the loop becomes one batch: handlers and peers only put
into the inbox and ask for a turn. The log's fsync runs in a thread of its own; meanwhile the loop
parses, applies the previous batch and fills the next one. Nothing here waits for anything.

Bounds: the inbox holds what the proposers allow (propose.PENDING_MAX) and at most
`MESSAGES_MAX` messages of peers; beyond that messages are dropped, which raft repairs by itself.
Proposals of other members that raft cannot take now (the lead is being handed over, a configuration
change is pending) are kept for an election timeout, at most `HELD_MAX` of them; beyond that they
are dropped, and whoever made them finds out by the request timeout.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from itertools import islice
from queue import SimpleQueue
from typing import Protocol

from pyetcd.raft.types import ConfChange, LogLost, Message, ProposalDropped, RaftError
from pyetcd.server.logs import Log, get
from pyetcd.server.replica import Replica

MESSAGES_MAX = 4096
HELD_MAX = 1024
# One proposal message takes at most this many entries, so that one MsgApp stays sendable and one
# turn stays short; the rest goes into the next turn.
BATCH_ENTRIES_MAX = 1024
SLOW_APPLY_S = 0.1  # etcd: warning-apply-duration
# A thread that finished its fsync waits for the interpreter this long at most. Python's 5 ms would
# be most of a commit's latency once the loop is busy.
SWITCH_INTERVAL_S = 0.0005


class Commits(Protocol):
    """Runs the log's commits beside the loop: a thread here, an event in the simulator."""

    def start(self, failed: Callable[[BaseException], None]) -> None: ...

    def submit(self, job: Callable[[], None], done: Callable[[], None]) -> None: ...

    def stop(self) -> None: ...


class LogThread:
    """Runs the log's commits, one at a time; `done` is called back in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Bound: the replica has one batch under way at a time, so the queue holds at most one.
        self._jobs: SimpleQueue[tuple[Callable[[], None], Callable[[], None]] | None] = (
            SimpleQueue()
        )
        self._failed: Callable[[BaseException], None] | None = None
        self.took: Callable[[float], object] = _ignore  # told how long each commit took; 0.1 us
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """`failed` hears of a commit that raised; no further one is run."""
        self._failed = failed
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._thread.start()

    def submit(self, job: Callable[[], None], done: Callable[[], None]) -> None:
        self._jobs.put((job, done))

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while (work := self._jobs.get()) is not None:
            job, done = work
            began_s = time.perf_counter()
            try:
                job()
            except BaseException as error:  # handed to the loop, which ends the process
                assert self._failed is not None
                self._call(self._failed, error)
                return
            self.took(time.perf_counter() - began_s)
            self._call(done)

    def _call(self, function: Callable[..., None], *args: BaseException) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            pass  # the loop was closed while the last commit ran; nobody waits for its answer


def _ignore(seconds: float) -> None:
    return None


class TickListener(Protocol):
    """Called after every raft tick."""

    def ticked(self) -> None: ...


class ReadRounds(Protocol):
    """Linearizable reads that wait for a round (server/reads.py)."""

    @property
    def has_queued(self) -> bool: ...

    def start_round(self) -> None: ...


class Driver:
    """Feeds one replica from the loop, turn by turn."""

    _reads: ReadRounds

    def __init__(
        self,
        replica: Replica,
        *,
        loop: asyncio.AbstractEventLoop,
        tick_s: float,
        fatal: Callable[[BaseException], None],
        held_ticks: int = 10,
        thread: Commits | None = None,
        slow_apply_s: float = SLOW_APPLY_S,
    ) -> None:
        self.replica = replica
        self._slow_apply_s = slow_apply_s
        self.slow_apply_total = 0
        # Told how long each batch of entries took to apply; what it came to, the observer knows.
        self.applied: Callable[[float], object] = _ignore
        self._held_ticks = held_ticks
        self._election_timeout_s = held_ticks * tick_s
        self._commit_at_s = 0.0  # when the commit under way began
        self.is_disk_stalled = False
        self.disk_stalls_total = 0
        self.loop_lag_s_max = 0.0
        self.dropped_messages_total = 0
        self.heartbeat_late_total = 0
        self._loop = loop
        self._tick_s = tick_s
        self._fatal = fatal
        self._log: Log = get("driver")
        self._thread: Commits = thread or LogThread(loop)
        self._proposals: dict[int, bytes] = {}
        # Bound: what the leader's chores make in a tick.
        self._leader_proposals: list[tuple[int, bytes]] = []
        self._messages: list[Message] = []
        # Proposals of other members that raft refused, with the ticks that are left to them.
        self._held: list[tuple[Message, int]] = []
        self._offer_held = False
        self._refused = False
        self._scheduled = False
        self._stopped = self._halted = False
        self._idle: asyncio.Future[None] | None = None
        self._tick_listeners: list[TickListener] = []
        self._timer: asyncio.TimerHandle | None = None

    def bind(self, reads: ReadRounds) -> None:
        """Reads need the driver to be made first."""
        self._reads = reads

    # What proposers and readers see

    @property
    def apply_gap(self) -> int:
        return self.replica.node.commit - self.replica.applied_index

    @property
    def applied_index(self) -> int:
        return self.replica.applied_index

    @property
    def has_leader(self) -> bool:
        return self.replica.node.leader != 0

    @property
    def commits(self) -> Commits:
        return self._thread

    def submit(self, request_id: int, data: bytes) -> None:
        """One more entry for the next batch; without a leader it waits here for one."""
        self._proposals[request_id] = data
        if not self._scheduled:
            self.wake()

    def submit_as_leader(self, request_id: int, data: bytes) -> None:
        """An entry that must not be forwarded: it goes out with the next batch or never."""
        if self.replica.node.is_leader:
            self._leader_proposals.append((self.replica.node.term, data))
            self.wake()

    def withdraw(self, request_id: int) -> bool:
        """Take back a proposal; False when raft has it already and it may still commit."""
        return self._proposals.pop(request_id, None) is not None

    def propose_conf_change(self, change: ConfChange) -> None:
        """Raises ProposalDropped when there is no leader to take it."""
        self.replica.node.propose_conf_change(change)
        self.wake()

    def request_read_index(self, context: bytes) -> None:
        self.replica.node.read_index(context)
        self.wake()

    def read_soon(self) -> None:
        """Somebody waits for a linearizable read: the next turn starts a round for all."""
        if not self._scheduled:
            self.wake()

    def receive(self, message: Message) -> None:
        """A message of a peer."""
        if len(self._messages) >= MESSAGES_MAX:
            self.dropped_messages_total += 1
            return
        self._messages.append(message)
        if not self._scheduled:
            self.wake()

    def wake(self) -> None:
        """Run a turn soon; everything that arrives until then shares it."""
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    # Life

    def start(self, listeners: list[TickListener]) -> None:
        """Begin to tick."""
        self._tick_listeners = listeners
        self._thread.start(self._fatal)
        self._next_tick_s = self._loop.time() + self._tick_s
        self._timer = self._loop.call_at(self._next_tick_s, self._tick)
        self.wake()

    def advance_ticks(self, count: int) -> None:
        """Let raft believe that much time has passed; before the first leader only."""
        for _ in range(count):
            self.replica.node.tick()
        self.wake()

    def halt(self) -> None:
        """Promise nothing any more, at once: a commit under way ends, and nobody hears of it."""
        self._stopped = self._halted = True
        if self._timer is not None:
            self._timer.cancel()

    def join(self) -> None:
        """After `halt`: returns when no commit runs any more, so that the log can be closed."""
        self._thread.stop()

    async def stop(self) -> None:
        """Let the batch under way finish, then end the thread."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self.replica.busy:
            self._idle = self._loop.create_future()
            await self._idle
        self._thread.stop()

    # Turns

    def _tick(self) -> None:
        now_s = self._loop.time()
        lag_s = now_s - self._next_tick_s
        if lag_s > self.loop_lag_s_max:
            self.loop_lag_s_max = lag_s
        if lag_s > self._tick_s:
            self.heartbeat_late_total += 1
        # After a pause the missed ticks are not made up for: a process that was stopped must not
        # time out on messages that already wait in its sockets.
        self._next_tick_s = max(self._next_tick_s + self._tick_s, now_s)
        self._refused = False
        self._offer_held = True
        self._watch_disk(now_s)
        try:
            self.replica.node.tick()
            for listener in self._tick_listeners:
                listener.ticked()
        except Exception as error:  # see _turn
            self._fatal(error)
        if self._halted:
            return
        self._timer = self._loop.call_at(self._next_tick_s, self._tick)
        self.wake()

    def _watch_disk(self, now_s: float) -> None:
        """A commit that takes longer than an election timeout. Nothing leaves this member
        meanwhile, no heartbeat either: a leader is followed by another one, and steps down by
        itself at the next look for its quorum."""
        is_stalled = self._commit_at_s > 0 and now_s - self._commit_at_s >= self._election_timeout_s
        if is_stalled == self.is_disk_stalled:
            return
        self.is_disk_stalled = is_stalled
        if is_stalled:
            self.disk_stalls_total += 1
            self._log.warn(
                "slow fdatasync: the log's disk has stalled, this member promises nothing until "
                "it goes on",
                expected_duration=f"{self._election_timeout_s:g}s",
                was_leader=self.replica.node.is_leader,
            )

    def _turn(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        try:
            self._feed()
            self._drive()
        except LogLost as error:
            self._fatal(error)
        except Exception as error:  # our own bug, or the disk: either way the member must stop
            self._fatal(error)

    def _feed(self) -> None:
        node = self.replica.node
        if self._offer_held:  # once a tick, before what came later
            self._offer_held = False
            held, self._held = self._held, []
            for message, ticks in held:
                self._step(message, ticks - 1)
        if self._messages:
            messages, self._messages = self._messages, []
            for message in messages:
                self._step(message, self._held_ticks)
        # While a batch is under way, proposals stay here: they join the next one in one piece.
        if not self.replica.busy:
            if self._leader_proposals:
                self._feed_leader_proposals()
            if self._proposals and node.leader != 0 and not self._refused:
                self._propose_batch()
        if self._reads.has_queued:
            self._reads.start_round()

    def _step(self, message: Message, held_ticks: int) -> None:
        try:
            self.replica.node.step(message)
        except LogLost:
            raise
        except ProposalDropped:
            if held_ticks > 0 and len(self._held) < HELD_MAX:
                self._held.append((message, held_ticks))
        except RaftError as error:
            self._log.debug("ignored a raft message", error=str(error))

    def _feed_leader_proposals(self) -> None:
        node = self.replica.node
        proposals, self._leader_proposals = self._leader_proposals, []
        datas = [data for term, data in proposals if node.is_leader and term == node.term]
        if datas:
            self.replica.propose(datas)

    def _propose_batch(self) -> None:
        batch = self._proposals
        if len(batch) <= BATCH_ENTRIES_MAX:
            self._proposals = {}
        else:
            batch = dict(islice(batch.items(), BATCH_ENTRIES_MAX))
            for request_id in batch:
                del self._proposals[request_id]
        if not self.replica.propose(list(batch.values())):
            # A transfer is going on, or the uncommitted quota is full: they wait for the next
            # tick, and for no longer than the request timeout (withdraw).
            self._proposals = batch | self._proposals
            self._refused = True

    def _drive(self) -> None:
        replica = self.replica
        while not replica.busy:
            must_commit = replica.begin()
            if must_commit is None:
                break
            if must_commit:
                self._commit_at_s = self._loop.time()
                self._thread.submit(replica.wal.commit, self._committed)
                self._work()
                return
            self._work()
            replica.finish()
        # A batch under way: its end brings the next turn, and asking until then would only burn the
        # processor for as long as the disk takes.
        if self._proposals and not replica.busy and replica.node.leader and not self._refused:
            self.wake()

    def _work(self) -> None:
        replica = self.replica
        before = replica.applied_index
        began_s = time.perf_counter()  # the loop's own clock stands still within a turn
        replica.work()
        entries = replica.applied_index - before
        if not entries:
            return
        took_s = time.perf_counter() - began_s
        self.applied(took_s)
        if took_s > self._slow_apply_s:
            self.slow_apply_total += 1
            self._log.warn(
                "apply request took too long",
                took=f"{took_s * 1000:.3f}ms",
                expected_duration=f"{self._slow_apply_s * 1000:g}ms",
                entries=entries,
                applied_index=replica.applied_index,
            )

    def _committed(self) -> None:
        if self._halted:
            return
        if self.is_disk_stalled:
            self.is_disk_stalled = False
            took_s = self._loop.time() - self._commit_at_s
            self._log.warn("slow fdatasync", took=f"{took_s:.3f}s")
        self._commit_at_s = 0.0
        try:
            self.replica.finish()
        except Exception as error:  # see _turn
            self._fatal(error)
            return
        if self._idle is not None:
            self._idle.set_result(None)
            return
        self._turn_now()

    def _turn_now(self) -> None:
        if not self._scheduled:
            self._turn()
