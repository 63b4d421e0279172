"""One member of the simulated cluster: a real core (server/core.py) in simulated surroundings.

What is left out is what needs sockets and threads: the listener and the peer transport are
replaced by the simulated network, the WAL thread and the workers by events on the virtual clock.
Between start and crash this is one process; `boot` makes the next one from the same disk.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from sim.clock import Clock, MemberLoop, Timer
from sim.disk import Disk, close_all
from sim.handlers import v2_of
from sim.network import Network

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.raft.types import Message, MsgType
from pyetcd.server import datadir
from pyetcd.server.bootstrap import Plan
from pyetcd.server.core import Core, Tuning
from pyetcd.server.forced import go_on_alone
from pyetcd.server.machine import StateMachine
from pyetcd.server.member import REMOVED_STOP_S
from pyetcd.server.membership import Membership
from pyetcd.server.passwords import COST_MIN
from pyetcd.server.prepare import INFLIGHT_BYTES_MAX, UNCOMMITTED_BYTES_MAX
from pyetcd.server.propose import Proposer
from pyetcd.store.lockfile import LockFile
from pyetcd.store.members import Member as Peer
from pyetcd.store.snapshot import Copy, SnapshotFailed

REQUEST_BYTES_MAX = 1536 * 1024


# What is looked at before the start; the flags are not simulated, so they fit.
LOOK: Any = SimpleNamespace(force_new_cluster=True, log_dir="")


class Shape(Protocol):
    """What the seed has drawn (world.Shape)."""

    tick_s: float
    election_ticks: int
    snapshot_count: int
    catchup_entries: int
    pre_vote: bool
    request_timeout_s: float
    message_bytes_max: int
    committed_bytes_max: int
    inflight_max: int
    commit_s: tuple[float, float]
    job_s: tuple[float, float]
    quota_bytes: int
    drift: float
    auth: bool
    v2: bool


class World(Protocol):
    clock: Clock
    network: Network
    shape: Shape
    members: "dict[int, SimulatedMember]"

    def say(self, who: str, what: str) -> None: ...

    def fail(self, check: str, detail: str) -> None: ...

    def voted(self, id: int, term: int, vote: int) -> None: ...

    def wrap(self, member: "SimulatedMember") -> "Any": ...

    def rebase(self, data: datadir.DataDir, committed: int) -> None: ...

    def rng_for(self, name: str) -> random.Random: ...


class SimulatedMember:
    """A member over all its runs."""

    def __init__(self, world: World, name: str, folder: Path, disk: Disk, plan: Plan) -> None:
        self.world = world
        self.name = name
        self.id = plan.member_id
        self.data_dir = str(folder)
        self.disk = disk
        self.plan = plan
        self.starts = 0
        self.is_up = False
        self.stall_until_s = 0.0  # of the disk
        self.slow_until_s, self.slow_s = 0.0, 0.0  # each commit takes that much longer
        self.was_committed = 0  # before that
        self.is_forced = False  # starts next with --force-new-cluster
        self.is_flipped = False  # something on its disk is not what was written
        self.has_stopped = False  # in order
        self.gets_snapshots_twice = False
        self.failure: BaseException | None = None  # what the process must end of
        self.drift = 1.0 + world.shape.drift * world.rng_for(f"drift {name}").uniform(-1, 1)
        self.wall_skew_s = 0.0
        self.ambush: MsgType | None = None  # crashes once it has sent one of these
        self.is_ambushed = False
        self.crash_with_power = True
        self.is_removed = False  # from the cluster, and knows it
        self.rng = world.rng_for(f"member {name}")
        self.process: Process | None = None

    def boot(self) -> None:
        """Start a process on what the disk has."""
        assert not self.is_up
        self.starts += 1
        is_new = not datadir.has_member(self.data_dir)
        if not is_new:
            datadir.look(self.data_dir, LOOK)
        self.lock = lock = LockFile.claim(self.disk.folder)
        if not is_new:
            data = datadir.reopen(self.data_dir, lock=lock)
            if self.is_forced:
                if not self.was_committed:  # else an earlier try has got this far
                    self.was_committed = data.wal.hard_state.commit
                go_on_alone(data, [f"http://{self.name}:1"])
                self.world.rebase(data, self.was_committed)
                self.is_forced = False
        else:
            data = datadir.create(self.data_dir, plan=self.plan, token="sim", lock=lock)
        for note in data.notes:
            self.world.say(self.name, f"note: {note.replace(self.data_dir, '')}")
        self.is_up = True
        self.process = Process(self, data)
        self.process.start(self.plan.peers if is_new else [])
        log = self.process.wal
        self.world.say(
            self.name,
            f"started, run {self.starts}: log {log.first_index()}..{log.last_index()},"
            f" applied {self.process.machine.applied_index},"
            f" revision {self.process.machine.revision}",
        )

    def crash(self, *, power: bool) -> None:
        """The process ends at once, the power perhaps with it."""
        process = self.process
        self.is_up = False
        if process is not None:
            process.loop.kill()
            process.log_thread.die(self.rng)
        self.release()
        self.disk.restore_power(self.rng if power else None)
        self.process = None

    def release(self) -> None:
        self.disk.is_quiet = True
        close_all(self.disk.folder)
        if hasattr(self, "lock"):
            self.lock.release()

    def receive_snapshot(
        self, message: Message, content: bytes, done: Callable[[bool], None]
    ) -> None:
        if self.process is None:
            return done(False)
        transport = self.process.transport
        self.process.loop.call_soon(transport.receive_snapshot, message, content, done)
        return None


class MemberClock:
    """What a process takes for the time: its monotonic clock drifts, its wall clock is any."""

    def __init__(self, member: SimulatedMember, loop: MemberLoop) -> None:
        self._member = member
        self.monotonic_s = loop.time

    def wall_s(self) -> float:
        return self._member.world.clock.wall_s() + self._member.wall_skew_s


class DriftingLoop(MemberLoop):
    """A loop whose seconds are a little longer or shorter than the world's."""

    drift = 1.0

    def time(self) -> float:
        return self._clock.now_s * self.drift

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return super().call_at(when / self.drift, callback, *args)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return super().call_at(self._clock.now_s + delay / self.drift, callback, *args)


class Process:
    """Everything in the memory of one run; the surroundings of its core."""

    def __init__(self, member: SimulatedMember, data: datadir.DataDir) -> None:
        world, shape = member.world, member.world.shape
        self.member = member
        self.wal = data.wal
        self.is_serving = False
        self.is_stopping = False
        self.is_removed = False
        drifts = DriftingLoop if member.drift != 1.0 else MemberLoop
        self.loop = loop = drifts(world.clock, lambda text: world.fail("task", text))
        loop.drift = member.drift
        self.clock = MemberClock(member, loop)
        self.rng = member.rng
        self.workers = Workers(loop, member, shape.job_s, self.fatal)
        self.log_thread = LogThread(loop, member, shape.commit_s)
        self.core = core = Core(data, tuning(shape), self)
        # Short names for who looks on.
        self.machine, self.node, self.membership = core.machine, core.node, core.membership
        self.replica, self.driver, self.reads = core.replica, core.driver, core.reads
        self.facts = core.facts
        services = core.services
        self.kv, self.lease, self.cluster = services.kv, services.lease, services.cluster
        self.watch, self.maintenance = services.watch, services.maintenance
        self.auth_handlers = services.auth.handlers()
        self.tokens_since = self.machine.applied_index  # no token is older
        if shape.v2:
            self.http = v2_of(core)

    def start(self, known_peers: Sequence[Peer]) -> None:
        self.core.meet(known_peers)
        self.core.start()
        self.publish()

    def publish(self) -> None:
        """As Member._publish: clients are served once this entry was applied."""

        def done(answer: object) -> None:
            if isinstance(answer, EtcdError):
                self.loop.call_later(0.5, self.publish)
            else:
                self.is_serving = True

        self.core.publish(self.member.name, [f"http://{self.member.name}"], done)

    # core.Surroundings

    def make_transport(self, membership: Membership) -> "Transport":
        self.transport = Transport(self.member, self)
        return self.transport

    def commits(self) -> "LogThread":
        return self.log_thread

    def watched(self, machine: StateMachine) -> Any:
        return self.member.world.wrap(self.member)(machine)

    def proposing(self, proposer: Proposer) -> "Tap":
        self.tap = Tap(proposer)
        return self.tap

    def forward_promotion(self, facts: Any) -> None:
        """The operator asks another member."""

    async def common_version(self) -> str:
        return "3.5.0"

    def removed(self) -> None:
        """Member.removed ends the process."""
        if not self.is_removed:
            self.is_removed = True
            self.member.world.say(self.member.name, "was removed from the cluster")
            self.loop.call_later(REMOVED_STOP_S, self._stop)

    def _stop(self) -> None:
        self.member.is_removed = True

    def fatal(self, error: BaseException) -> None:
        self.fail(error)
        raise error  # to the world, which knows whether the disk was cut off

    def fail(self, error: BaseException) -> None:
        """In a task, whose exceptions nobody sees."""
        self.member.failure = error

    async def stop(self) -> None:
        """As Member.stop."""
        core, loop = self.core, self.loop
        try:
            handed = loop.create_future()
            core.membership.hand_over(lambda error: handed.done() or handed.set_result(error))
            await handed
            self.is_serving = False
            grace = loop.create_future()
            loop.call_later(self.rng.random() * 0.5, grace.set_result, None)
            await grace
            core.proposer.stop()
            core.reads.stop()
            core.chores.stop()
            await core.driver.stop()
            self.workers.stop()
            core.machine.close()
            self.wal.close()
        except Exception as error:
            return self.fail(error)
        self.member.has_stopped = True
        return None

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        """Ask a peer's lease handler over the simulated network."""
        world, loop = self.member.world, self.loop
        answered = loop.create_future()

        def answer(found: tuple[int, bytes]) -> None:
            if not answered.done():
                answered.set_result(found)

        base, _, path = url.partition("/leases")
        target = next((m for m in world.members.values() if base == f"http://{m.name}:1"), None)
        loop.call_later(1.0, answer, (0, b""))
        me, network = self.member.id, world.network
        if target is None or network.is_cut(me, target.id):
            return await answered

        def arrive() -> None:
            process = target.process
            if process is None:
                return

            async def serve() -> None:
                found = await process.lease.handle_leases("/leases" + path, body)
                if not network.is_cut(target.id, me):
                    loop.call_later(network.delay_s((target.id, me)), answer, found)

            process.loop.call_soon(lambda: process.loop.create_task(serve()))

        world.clock.after(network.delay_s((me, target.id)), arrive)
        found: tuple[int, bytes] = await answered
        return found


def tuning(shape: Shape) -> Tuning:
    return Tuning(
        tick_s=shape.tick_s,
        election_ticks=shape.election_ticks,
        pre_vote=shape.pre_vote,
        message_bytes_max=shape.message_bytes_max,
        committed_bytes_max=shape.committed_bytes_max,
        uncommitted_bytes_max=UNCOMMITTED_BYTES_MAX,
        inflight_max=shape.inflight_max,
        inflight_bytes_max=INFLIGHT_BYTES_MAX,
        snapshot_count=shape.snapshot_count,
        catchup_entries=shape.catchup_entries,
        quota_bytes=shape.quota_bytes,
        request_timeout_s=shape.request_timeout_s,
        request_bytes_max=REQUEST_BYTES_MAX,
        txn_ops_max=128,
        progress_interval_s=2.0,
        strict_reconfig_check=True,
        bcrypt_cost=COST_MIN,
        client_cert_auth=shape.auth,
    )


class Tap:
    """The proposer, telling who asked which id the request got."""

    def __init__(self, proposer: Proposer) -> None:
        self.next_id = proposer.next_id
        self.told: Callable[[int], None] = lambda id: None
        self._proposer = proposer

    def propose(self, request: InternalRaftRequest, done: Any) -> None:
        told, self.told = self.told, lambda id: None
        self._proposer.propose(request, done)
        told(request.header.ID)


class LogThread:
    """The WAL thread as two events: the commit somewhere within its time, the answer at its end."""

    def __init__(
        self, loop: MemberLoop, member: SimulatedMember, commit_s: tuple[float, float]
    ) -> None:
        self._loop = loop
        self._member = member
        self._commit_s = commit_s
        self._job: Callable[[], None] | None = None
        self._timer: Timer | None = None

    def start(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed

    def submit(self, job: Callable[[], None], done: Callable[[], None]) -> None:
        assert self._job is None
        self._job = job
        rng, (low, high) = self._member.rng, self._commit_s
        took_s = low + (high - low) * rng.random() ** 4
        now_s = self._member.world.clock.now_s
        took_s += max(0.0, self._member.stall_until_s - now_s)
        if now_s < self._member.slow_until_s:
            took_s += self._member.slow_s
        self._loop.call_later(took_s * rng.random(), self._run)
        self._loop.call_later(took_s, done)

    def _run(self) -> None:
        job, self._job = self._job, None
        assert job is not None
        try:
            job()
        except BaseException as error:
            self._failed(error)

    def die(self, rng: random.Random) -> None:
        """The process ends; a commit under way gets to any point of itself."""
        job, self._job = self._job, None
        disk = self._member.disk
        if job is None or disk.is_dead or rng.random() < 0.5:
            return
        disk.blow_in(rng.randint(1, 12))
        try:
            job()
        except Exception as error:
            assert disk.is_dead or disk.failed or self._member.is_flipped, error

    def stop(self) -> None:
        pass


class Workers:
    """Jobs beside the loop: each runs at one moment, its answer comes at a later one."""

    def __init__(
        self,
        loop: MemberLoop,
        member: SimulatedMember,
        job_s: tuple[float, float],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._member = member
        self._job_s = job_s
        self._failed = failed
        self._is_stopped = False

    def _time_s(self) -> float:
        low, high = self._job_s
        return low + (high - low) * self._member.rng.random() ** 4

    def stop(self) -> None:
        self._is_stopped = True

    def run(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def work() -> None:
            if self._is_stopped:
                return
            try:
                found = job()
            except EtcdError as error:
                found = error
            self._loop.call_later(self._time_s(), answer, found)

        def answer(found: Any) -> None:
            if not self._is_stopped:
                done(found)

        self._loop.call_later(self._time_s(), work)

    @contextmanager
    def quiesce(self) -> Iterator[None]:
        yield


class Transport:
    """The member's side of the simulated network."""

    def __init__(self, member: SimulatedMember, process: Process) -> None:
        self._member = member
        self._process = process
        self._installer = datadir.KeyspaceInstaller(datadir.kv_path(member.data_dir))
        self._peers: dict[int, None] = {}
        self._remotes: dict[int, None] = {}
        self._is_sending = False
        self._is_receiving = False

    @property
    def peer_ids(self) -> list[int]:
        return sorted(self._peers)

    def add_peer(self, id: int, urls: Sequence[str]) -> None:
        self._peers[id] = None

    def add_remote(self, id: int) -> None:
        """Somebody who knows us, and whom we do not know yet."""
        if id not in self._peers and not self._process.membership.is_removed(id):
            self._remotes[id] = None

    def update_peer(self, id: int, urls: Sequence[str]) -> None:
        pass

    def remove_peer(self, id: int) -> None:
        self._peers.pop(id, None)

    def active_since(self, id: int) -> float | None:
        network, me = self._member.world.network, self._member.id
        if network.is_cut(me, id) or network.is_cut(id, me):
            return None
        peer = self._member.world.members.get(id)
        return 0.0 if peer is not None and peer.is_up else None

    def is_active(self, id: int) -> bool:
        return self.active_since(id) is not None

    def send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            assert message.type is not MsgType.SNAP
            if message.to not in self._member.world.members:
                continue  # added, and not started yet
            if message.type is self._member.ambush:
                self._member.is_ambushed = True
            if message.type is MsgType.VOTE or (
                message.type is MsgType.VOTE_RESP and not message.reject
            ):
                own = message.type is MsgType.VOTE
                vote = message.from_ if own else message.to
                self._member.world.voted(self._member.id, message.term, vote)
            known = message.to in self._peers or message.to in self._remotes
            if known and not self._member.world.network.send(message):
                self._process.loop.call_soon(
                    self._process.membership.report_unreachable, message.to
                )

    @property
    def can_send_snapshot(self) -> bool:
        return not self._is_sending

    def send_snapshot(self, message: Message, copy: Copy, done: Callable[[], None]) -> None:
        membership, loop = self._process.membership, self._process.loop
        if self._is_sending or message.to not in self._peers:
            membership.report_snapshot(message.to, ok=False)
            return done()
        self._is_sending = True
        world, me = self._member.world, self._member.id
        content = Path(copy.path).read_bytes()
        assert hashlib.sha256(content).digest() == copy.sha256

        is_over = False

        def ended(ok: bool) -> None:
            nonlocal is_over
            if is_over:
                return
            is_over = True
            self._is_sending = False
            if not ok:
                membership.report_unreachable(message.to)
            membership.report_snapshot(message.to, ok=ok)
            done()

        def received(ok: bool) -> None:
            ok = ok and not world.network.is_cut(message.to, me)
            loop.call_later(world.network.delay_s((message.to, me)), ended, ok)

        def arrive() -> None:
            target = world.members.get(message.to)
            if target is None or target.process is None or world.network.is_cut(me, message.to):
                return received(False)
            process = target.process
            process.loop.call_soon(process.transport.receive_snapshot, message, content, received)
            if target.gets_snapshots_twice:  # from a leader of before, say
                target.gets_snapshots_twice = False
                again_s = self._member.rng.random() * 0.5
                world.clock.after(
                    again_s, lambda: target.receive_snapshot(message, content, lambda ok: None)
                )
            return None

        world.say(self._member.name, f"sends a snapshot: {_describe(message)}")
        delay_s = world.network.delay_s((me, message.to)) + self._member.rng.random() * 0.3
        world.clock.after(delay_s, arrive)
        loop.call_later(5.0, ended, False)  # the receiver ended without an answer
        return None

    def receive_snapshot(
        self, message: Message, content: bytes, done: Callable[[bool], None]
    ) -> None:
        if self._is_receiving:
            return done(False)
        self._is_receiving = True
        assert message.snapshot is not None
        index = message.snapshot.meta.index

        def keep() -> str | None:
            temporary = self._installer.temporary_path(index)
            try:
                self._member.disk.write_file(temporary, content)
                return self._installer.keep(temporary, index, hashlib.sha256(content).digest())
            except (SnapshotFailed, OSError) as error:
                self._member.world.say(self._member.name, f"kept no snapshot: {error}")
                return None

        def kept(path: str | None) -> None:
            self._is_receiving = False
            if path is not None:
                self._process.membership.snapshot_received(message, path)
            done(path is not None)

        self._process.workers.run(keep, kept)
        return None


def _describe(message: Message) -> str:
    assert message.snapshot is not None
    meta = message.snapshot.meta
    return f"to {message.to:x} at {meta.index} term {meta.term}"
