"""One seed, one world: a cluster, its network, disks and clients, and everything that goes wrong.

    shape     drawn from the seed: members, ticks, snapshot counts, sizes, which faults there are
    chaos     `shape.chaos_s` virtual seconds of load and faults
    healing   all faults end, every member is up; a leader must be there within HEALED_S
    quiet     clients stop; everybody must come to the same state within QUIET_S

Members run production code (member.py); the checkers (checkers.py) look on. A run either ends with
a `Report` or raises `Violation`; `events` holds one line for each thing that happened.
"""

import hashlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.administrators import Administrator
from sim.checkers import (
    EVERY_TURNS,
    History,
    LeaseChecker,
    Operation,
    RaftChecker,
    StateChecker,
    Violation,
    Witness,
    check_bounds,
    check_equal,
)
from sim.clock import Clock, MemberLoop, Timer
from sim.disk import Disks
from sim.faults import FAULTS, Failpoint, end_all, lose_quorum
from sim.member import Process, SimulatedMember
from sim.model import Model
from sim.network import Network
from sim.operators import Caretaker, Compactor, Operator, Replacer
from sim.salt import salted
from sim.shape import AUTH_BYTES, V2_BYTES, Shape, has, tuned
from sim.v2_traffic import V2Client, V2Watcher
from sim.watchers import Watcher
from sim.workload import Client

from pyetcd.raft.types import ConfChange, ConfChangeType, Entry, LogLost, Message, Role
from pyetcd.server.bootstrap import InitialCluster, Plan, plan_join, plan_new
from pyetcd.server.datadir import DataDir
from pyetcd.server.peer.survey import RemoteCluster
from pyetcd.store import failpoints
from pyetcd.store.db import ForeignFile, StorageFailure
from pyetcd.store.lease import ttl_min_s
from pyetcd.store.wal import Wal

HEALED_S = 10.0
QUIET_S = 30.0
REPLACED_S = 60.0


@dataclass
class Report:
    seed: int
    virtual_s: float
    real_s: float
    entries: int
    revisions: int
    starts: int
    elections: int
    checks: int
    faults: dict[str, int]
    answers: dict[str, int]
    watched: int
    snapshots: int
    operations: int
    hashes: int = 0
    replaced: int = 0
    digest: str = ""
    shape: Shape | None = field(default=None, repr=False)

    def line(self) -> str:
        shape = self.shape
        assert shape is not None
        ok = sum(n for text, n in self.answers.items() if ":" not in text and text != "gave up")
        return (
            f"seed {self.seed}: ok, {shape.members} members, {self.virtual_s:.0f} s in"
            f" {self.real_s:.2f} s, {self.entries} entries, {self.revisions} revisions,"
            f" {ok} answers, {self.watched} events, {self.starts} starts,"
            f" {self.snapshots} snapshots, {sum(self.faults.values())} faults, {self.digest}"
        )


class Unchecked(RaftChecker):
    """After --force-new-cluster: that a log goes on without its quorum is what raft forbids."""

    def step(self, id: int, node: Any, start: int) -> bool:
        return True

    def crashed(self, id: int, wal: Wal, start: int) -> None:
        pass


class World:
    def __init__(
        self,
        seed: int,
        folder: Path,
        disks: Disks,
        *,
        log: Callable[[str], None] | None = None,
        prepare: Callable[["World"], None] | None = None,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self._folder, self._folder_text = folder, str(folder)
        self.shape = Shape.draw(self.rng)
        self.shape.auth, self.shape.v2 = has("auth", seed), has("v2", seed)
        if prepare is not None:
            prepare(self)
        if self.shape.v2:
            self.shape.quota_bytes += V2_BYTES
        if self.shape.auth:
            self.shape.quota_bytes += AUTH_BYTES
        self.clock = Clock()
        self.passwords: dict[str, list[str]] = {}  # of each user all that were ever asked for
        self.events: list[str] = []
        self.faults: dict[str, int] = {}
        self.never: list[Operation] = []
        self.snapshots_total = 0
        self.replaced_total = 0
        self.is_healed = False  # faults have ended
        self.rebased_s = 0.0  # what began before may be lost
        self.watchers: list[Watcher] = []
        self.replacing: Replacer | None = None  # at most one member is lost at a time
        self.failpoint: Failpoint | None = None
        self._hashes: dict[tuple[int, int], tuple[int, str]] = {}
        self._log = log
        shape = self.shape
        self.history = History(
            Model(ttl_min_s(election_ticks=shape.election_ticks, tick_ms=int(shape.tick_s * 1000)))
        )
        self.lease_checker = LeaseChecker()
        self.history.on_apply = lambda _, request: self.lease_checker.applied(
            request, self.clock.now_s
        )
        self.raft_checker = RaftChecker()
        self.state_checker = StateChecker(self.history)
        self._turns = 0
        self.network = Network(
            shape.network, self.rng_for("network"), self.clock.after, self.clock.monotonic_s,
            self._receive,
        )  # fmt: skip
        self.voters: dict[int, str] = {}  # the membership that the log has made: id, peer URL
        self.learners: dict[int, str] = {}
        self.removed: dict[int, None] = {}
        self._conf_index = 0
        self._disks = disks
        self.members: dict[int, SimulatedMember] = {}
        names = [f"m{n}" for n in range(1, shape.members + 1)]
        urls = {name: (f"http://{name}:1",) for name in names}
        for name in names:
            plan = plan_new(InitialCluster(name, urls, "sim", urls[name], is_new=True))
            self._add_member(name, plan)
        self.by_loop: dict[MemberLoop, SimulatedMember] = {}
        self.running: SimulatedMember | None = None
        self._leaders: dict[int, int] = {}
        self.loss = shape.network.loss
        self.say("world", str(shape))
        if shape.auth or shape.v2:
            self.say("world", f"users: {shape.auth}, v2 keys: {shape.v2}")

    # What members and clients call

    def rng_for(self, name: str) -> random.Random:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return random.Random(digest)

    def say(self, who: str, what: str) -> None:
        what = what.replace(self._folder_text, "")  # another one each time
        line = f"{self.clock.now_s - 1000:9.4f} {who:<7} {what}"
        self.events.append(line)
        if self._log is not None:
            self._log(line)

    def fail(self, check: str, detail: str) -> None:
        raise Violation(check, detail)

    def voted(self, id: int, term: int, vote: int) -> None:
        self.raft_checker.voted(id, term, vote)

    def hashed(self, who: str, revision: int, compacted: int, found: int) -> None:
        """A HashKV: the same for everybody and at every time."""
        first, by = self._hashes.setdefault((revision, compacted), (found, who))
        if found != first:
            raise Violation(
                "hash", f"{who} hashes {revision}/{compacted} to {found:x}, {by} to {first:x}"
            )

    def wrap(self, member: SimulatedMember) -> "Callable[[Any], Machine]":
        return lambda machine: Machine(self, member, machine)

    def _add_member(self, name: str, plan: Plan) -> SimulatedMember:
        folder = self._folder / name
        if folder.exists():  # its member was lost, and its disk is wiped
            for old in self.members.values():
                if old.name == name:
                    old.name = f"{name}-{len(self.members)}"
            shutil.rmtree(folder)
        disk = self._disks.add(folder / "member")
        member = SimulatedMember(self, name, folder, disk, plan)
        self.members[member.id] = member
        return member

    def _receive(self, message: Message) -> None:
        process = self.members[message.to].process
        if process is None:
            return
        if not process.membership.is_removed(message.from_):
            process.transport.add_remote(message.from_)
            if process.loop.paused_until_s > self.clock.now_s:
                process.loop.call_soon(process.membership.process, message)
            else:  # it only puts the message in the queue for its next turn
                process.membership.process(message)
            return
        sender = self.members[message.from_].process
        if sender is not None:  # as the peer port's answer 410 does
            sender.loop.call_soon(sender.membership.local_removed)

    def conf_changed(self, index: int, change: ConfChange, machine: Any) -> None:
        """The first member has applied a valid change: who was added is started soon."""
        if index <= self._conf_index:
            return
        self._conf_index = index
        id = change.node_id
        if change.type is ConfChangeType.REMOVE_NODE:
            self.voters.pop(id, None)
            self.learners.pop(id, None)
            self.removed[id] = None
        elif change.type is not ConfChangeType.UPDATE_NODE:
            found = machine.members.get(id)
            self.learners.pop(id, None)
            (self.learners if found.is_learner else self.voters)[id] = found.peer_urls[0]
            if index > self.shape.members and id not in self.members:
                remote = RemoteCluster(machine.wal.cluster_id, tuple(machine.members.all()))
                self.clock.after(self.rng.random() * 2, lambda: self._join(id, found, remote))

    def _join(self, id: int, found: Any, remote: RemoteCluster) -> None:
        if id in self.removed or id in self.members:
            return
        urls = {m.peer_urls[0].split("/")[2].split(":")[0]: m.peer_urls for m in remote.members}
        name = next(name for name, given in urls.items() if given == found.peer_urls)
        initial = InitialCluster(name, urls, "sim", found.peer_urls, is_new=False)
        member = self._add_member(name, plan_join(initial, remote, {}))
        assert member.id == id
        self.boot(member)

    @property
    def _current(self) -> list[SimulatedMember]:
        """Who belongs to the cluster and was started."""
        return [m for m in self.members.values() if m.id not in self.removed]

    # Running

    def run(self) -> Report:
        started_s = time.perf_counter()
        shape = self.shape
        random.seed(self.seed)
        for member in list(self.members.values()):
            self.boot(member)
        clients = [Client(self, n) for n in range(1, shape.clients + 1)]
        watchers = self.watchers = [Watcher(self, n) for n in range(1, shape.watchers + 1)]
        operators: list[Client] = [Operator(self)] if shape.membership else []
        operators += [Caretaker(self)] if shape.caretaker else []
        operators += [Compactor(self)] if shape.compactor else []
        others: list[Client] = []  # whose answers are in the report, too
        if shape.auth:
            others = [Administrator(self, n) for n in (1, 2)]
            operators += others
        if shape.v2:
            others += [V2Client(self, n) for n in range(1, 4)]
            others += [V2Watcher(self, n) for n in range(1, 4)]
        rng = self.rng_for("faults")
        chaos_ends_s = self.clock.now_s + shape.chaos_s
        if shape.faults:
            self.clock.after(1.0, lambda: self._next_fault(rng, chaos_ends_s))
        self._until(chaos_ends_s)
        for operator in operators:
            operator.is_stopped = True
        self.is_healed = True
        if shape.disaster:
            lose_quorum(self, rng)
        self._heal()
        # Without pre-votes a member with a shorter log may hold up the others for some elections.
        patience_s = HEALED_S if shape.pre_vote else 4 * HEALED_S
        self._wait(patience_s, self._has_leader, "no leader after healing")
        self._wait(REPLACED_S, lambda: self.replacing is None, "a lost member is not replaced")
        if clients[0].login is not None:
            clients[0].login.be_root()
        self._make_room(clients[0])
        self._until(self.clock.now_s + 2.0)
        for client in [*clients, *others]:
            client.is_stopped = True
        for watcher in watchers:
            watcher.is_stopped = True
        self._until(self.clock.now_s + shape.request_timeout_s)
        self._ask_everybody(clients)
        self._wait(QUIET_S, self._is_quiet, "the members do not come to rest")
        self._until(self.clock.now_s + 4.0)  # watchers: slow clients, reconnections
        self._wait(QUIET_S, self._is_quiet, "the members do not come to rest")
        self._until(self.clock.now_s + 0.5)
        self._wait(QUIET_S, self._is_quiet, "the members do not come to rest")
        self._finish(watchers)
        return self._report(started_s, [*clients, *others], watchers)

    def _report(self, started_s: float, clients: list[Client], watchers: list[Watcher]) -> Report:
        answers: dict[str, int] = {}
        for client in clients:
            for text, count in client.answers.items():
                answers[text] = answers.get(text, 0) + count
        watches = [w for each in watchers for w in [*each.finished, each.watch] if w is not None]
        digest = hashlib.sha256("\n".join(self.events).encode())
        digest.update(repr(sorted(self.history.entries.items())).encode())
        return Report(
            seed=self.seed,
            virtual_s=self.clock.now_s - 1000,
            real_s=time.perf_counter() - started_s,
            entries=self.history.last_index,
            revisions=self.history.model.revision,
            starts=sum(member.starts for member in self.members.values()),
            elections=len(self._leaders),
            checks=self.raft_checker.checks_total,
            faults=self.faults,
            answers=answers,
            watched=sum(w.events_total for w in watches),
            snapshots=self.snapshots_total,
            operations=sum(m.disk.operations_total for m in self.members.values()),
            hashes=len(self._hashes),
            replaced=self.replaced_total,
            digest=digest.hexdigest()[:12],
            shape=self.shape,
        )

    def close(self) -> None:
        for member in self.members.values():
            if member.process is not None:
                member.process.loop.kill()
            member.release()

    def _until(self, end_s: float) -> None:
        self.clock.run_until(end_s, self._turn)

    def _turn(self, timer: Timer) -> None:
        loop = timer.loop
        assert loop is not None
        member = self.running = self.by_loop[loop]
        try:
            loop.run(timer)
        except Violation:
            raise
        except Exception as error:
            member.failure = member.failure or error
        self.running = None
        if member.disk.is_dead:
            self.crash(member, power=member.crash_with_power, why="in the middle of a write")
            return
        if member.failure is not None or member.disk.failed_vital:
            self._failed(member)
            return
        if member.has_stopped:
            self._stopped(member)
            return
        if member.is_removed:
            self.crash(member, power=False, why="as it was removed")
            return
        if member.is_ambushed:
            member.is_ambushed = False
            self.crash(member, power=self.rng.random() < 0.7, why="after a message", down_s=0.01)
            return
        process = member.process
        if process is None:
            return
        self._turns += 1
        if self._turns % EVERY_TURNS == 0:
            check_bounds(member.name, process)
        self._look_at_raft(member)

    def _failed(self, member: SimulatedMember) -> None:
        """The process must end at once if its disk failed, and for no other reason."""
        failure, member.failure = member.failure, None
        disk = member.disk
        if failure is None:
            raise Violation("storage", f"{member.name} goes on after an error: {disk.failed}")
        if isinstance(failure, StorageFailure) and (disk.failed or member.is_flipped):
            power = self.rng.random() < 0.5
            self.crash(member, power=power, why=f"as its disk failed: {disk.failed or failure}")
        elif isinstance(failure, LogLost) and member.is_flipped:
            self.lose(member, f"{failure}")
        else:
            raise failure

    # Failpoints (store/failpoints.py), of one member at a time

    def arm(self, failpoint: Failpoint) -> None:
        self.failpoint = failpoint
        failpoints._armed["any"] = failpoints._Action("panic", 0.0, 1)

    def disarm(self) -> None:
        self.failpoint = None
        failpoints._armed.clear()

    def hit(self, name: str, failure: type[Exception]) -> None:
        failpoint = self.failpoint
        if failpoint is not None and self.running is failpoint.member:
            failpoint.hit(name, failure)

    # The cluster is lost but for one

    def force(self, survivor: SimulatedMember) -> None:
        """The order of Member.open with --force-new-cluster. What the survivor had applied must
        still be there, and from here on its log is the only truth."""
        self.say(survivor.name, "is started with --force-new-cluster")
        survivor.is_forced = True
        self.raft_checker = Unchecked()  # a crash may come before all of it is done
        self.boot(survivor)

    def rebase(self, data: DataDir, committed: int) -> None:
        """The history ends with what this log has; raft and clients begin again."""
        old, wal = self.history, data.wal
        kept = data.backend.applied_index
        while kept < min(wal.last_index(), old.last_index):
            entry = wal.entries(kept + 1, kept + 2, 0)[0]
            if old.entries[kept + 1] != (entry.term, entry.type, entry.data):
                break
            kept += 1
        if kept < min(committed, old.last_index):
            raise Violation("log", f"{committed} was committed, and {kept} is left")
        self.say("world", f"of {old.last_index} entries {kept} are left")
        self.history = new = History(Model(data_ttl_min(self.shape)))
        self.lease_checker = LeaseChecker()
        self.state_checker = StateChecker(new)
        self._hashes.clear()
        self.rebased_s = self.clock.now_s
        for watcher in self.watchers:
            if watcher.watch is not None:
                watcher.watch.ended = True
        self.never.clear()
        for index in range(1, kept + 1):
            new._commit(index, old.entries[index], is_refused=index in old.refused)
        new.on_apply = lambda _, request: self.lease_checker.applied(request, self.clock.now_s)

    def _stopped(self, member: SimulatedMember) -> None:
        """In order: there is nothing that a power cut could take."""
        self.say(member.name, "has stopped")
        member.has_stopped = False
        assert member.process is not None
        del self.by_loop[member.process.loop]
        member.crash(power=self.rng.random() < 0.5)
        self._look_at_log(member)
        self.clock.after(self.rng.choice((0.01, 0.3, 2.0)), lambda: self.boot(member))

    def lose(self, member: SimulatedMember, why: str) -> None:
        """It will never start again; it is removed, wiped and added anew, as the manual says."""
        if member.is_up:
            self.crash(member, power=False, why="for good")
        self.say(member.name, f"is lost: {why}")
        member.is_removed = True
        if self.replacing is None:
            self.replacing = Replacer(self, member)

    def may_lose(self, member: SimulatedMember) -> bool:
        """Whether the others are enough, and no other one is lost."""
        voters = [id for id in self.voters if id in self.members]
        return (
            self.replacing is None
            and not any(m.is_flipped for m in self.members.values() if not m.is_removed)
            and len(voters) == len(self.voters) >= 3
            and not member.is_removed
            and not (self.shape.membership or self.shape.disaster)
        )

    def _note_leader(self, member: SimulatedMember) -> None:
        process = member.process
        assert process is not None
        node = process.node
        if node.role is Role.LEADER and self._leaders.get(node.term) != member.id:
            self._leaders[node.term] = member.id
            self.say(member.name, f"leads term {node.term}, last {node.last_index}")

    def _wait(self, seconds: float, condition: Callable[[], bool], what: str) -> None:
        deadline_s = self.clock.now_s + seconds
        while not condition():
            if self.clock.now_s >= deadline_s:
                shown = {
                    m.name: m.process and (m.process.node.status(), m.process.machine.applied_index)
                    for m in self.members.values()
                }
                raise Violation("liveness", f"{what}: {shown}")
            self._until(self.clock.now_s + 0.1)

    def _has_leader(self) -> bool:
        nodes = [m.process.node for m in self._current if m.process is not None]
        return bool(nodes) and all(node.leader and node.leader == nodes[0].leader for node in nodes)

    def _is_quiet(self) -> bool:
        processes = [m.process for m in self._current]
        return all(
            process is not None
            and process.machine.applied_index == self.history.last_index
            and process.node.last_index == self.history.last_index
            and process.machine.compaction.is_done
            for process in processes
        )

    def _ask_everybody(self, clients: list[Client]) -> None:
        """A write through every member must succeed once nothing is wrong any more; on a slow
        network, once what was proposed before it has arrived."""
        deadline_s, known_index = self.clock.now_s + HEALED_S, 0
        for member in self._current:
            if member.id in self.learners:
                continue
            while True:
                op = clients[0].call("put", member)
                patience_s = self.clock.now_s + self.shape.request_timeout_s
                while op.answer is None and self.clock.now_s < patience_s:
                    self._until(self.clock.now_s + 0.1)
                if op.answer is not None and not isinstance(op.answer, tuple):
                    break
                if self.history.last_index > known_index:
                    known_index = self.history.last_index
                    deadline_s = self.clock.now_s + HEALED_S
                if self.clock.now_s > deadline_s:
                    raise Violation("liveness", f"{member.name} takes no write: {op.answer}")
                self._make_room(clients[0])
                if self.history.model.nospace:  # filled since it was emptied
                    self._make_room(clients[0])

    def _make_room(self, client: Client) -> None:
        """As the manual says after NOSPACE: compact, defragment, disarm."""
        model = self.history.model
        left, deadline_s = len(model.nospace), self.clock.now_s + HEALED_S
        while model.nospace:
            if len(model.nospace) < left:  # each member has one of its own
                left, deadline_s = len(model.nospace), self.clock.now_s + HEALED_S
            if self.clock.now_s > deadline_s:
                raise Violation("liveness", f"the alarm stays: {model.nospace}")
            self.say("world", f"makes room: {sorted(model.nospace)}")
            live = [m for m in self._current if m.id not in self.learners and m.is_up]
            self._ask(client, "compact_all", live[0])
            for member in live:
                self._ask(client, "defragment", member)
            self._ask(client, "disarm", live[0])

    def _ask(self, client: Client, kind: str, member: SimulatedMember) -> None:
        op = client.call(kind, member)
        patience_s = self.clock.now_s + self.shape.request_timeout_s
        while op.answer is None and self.clock.now_s < patience_s:
            self._until(self.clock.now_s + 0.1)

    def _finish(self, watchers: list[Watcher]) -> None:
        check_equal(self._current, self.history)
        for op in self.never:
            self.history.never_committed(op)
        for watcher in watchers:
            # One at a removed member that nobody could tell so is told nothing more.
            if watcher.watch is not None and watcher.served_by in self._current:
                watcher.watch.complete()

    # Faults

    def boot(self, member: SimulatedMember) -> None:
        if member.is_up or member.is_removed:
            return
        member.crash_with_power = True
        self.running = member
        try:
            member.boot()
        except Violation:
            raise
        except Exception as error:
            if not member.disk.is_dead:
                self._refused(member, error)
                return
            self.crash(member, power=member.crash_with_power, why="while it started")
            return
        finally:
            self.running = None
        assert member.process is not None
        self.by_loop[member.process.loop] = member
        if member.disk.is_dead:
            self.crash(member, power=member.crash_with_power, why="while it started")
            return
        self._look_at_raft(member)

    def _look_at_raft(self, member: SimulatedMember) -> None:
        assert member.process is not None
        try:
            with member.disk.spared():
                changed = self.raft_checker.step(member.id, member.process.node, member.starts)
        except StorageFailure as error:  # damaged entries, which it would meet itself
            member.failure = error
            self._failed(member)
            return
        if changed:
            self._note_leader(member)

    def _refused(self, member: SimulatedMember, error: Exception) -> None:
        """It did not start: its disk has failed just now, or it sees that it is damaged."""
        if isinstance(error, StorageFailure) and member.disk.failed:
            self.crash(member, power=False, why=f"while it started: {error}", down_s=0.5)
        elif isinstance(error, StorageFailure | ForeignFile | LogLost) and member.is_flipped:
            self.crash(member, power=False, why="as it refused to start")
            self.lose(member, str(error).replace(str(self._folder), ""))
        else:
            raise error

    def crash(self, member: SimulatedMember, *, power: bool, why: str, down_s: float = 0.0) -> None:
        self.say(member.name, f"{'power cut' if power else 'killed'} {why}")
        if member.process is not None:
            del self.by_loop[member.process.loop]
            if member.is_flipped:
                self._remember(member, member.process)
        disk = member.disk
        disk.failing.clear()
        member.failure, member.has_stopped = None, False
        with disk.spared():
            member.crash(power=power)
        self._look_at_log(member)
        down_s = down_s or self.rng.choice((0.01, 0.3, 2.0, 8.0)) * (0.5 + self.rng.random())
        member.ambush = None
        self.clock.after(down_s, lambda: self.boot(member))

    def _remember(self, member: SimulatedMember, process: Process) -> None:
        """Nobody can read its disk any more: what it had in the end is asked of itself."""
        try:
            with member.disk.spared():
                self.raft_checker.step(member.id, process.node, member.starts)
        except StorageFailure:
            self.raft_checker.damaged(member.id)

    def _look_at_log(self, member: SimulatedMember) -> None:
        """What is durable now must be what was promised."""
        path = Path(member.disk.folder) / "wal.db"
        if not path.exists():
            return
        try:
            with member.disk.spared():
                log = Wal.open(str(path))
                self.raft_checker.crashed(member.id, log, member.starts)
        except (StorageFailure, ForeignFile):
            if not member.is_flipped:
                raise
            # It will not start, nor vote: its end has been remembered.
        member.release()
        member.disk.restore_power(None)

    def _heal(self) -> None:
        end_all(self)
        for member in list(self.members.values()):
            if member.is_flipped and not member.is_removed:
                self.lose(member, "nobody trusts its disk")
        for id in [*self.voters, *self.learners]:
            if id not in self.members:
                self.say("world", f"{id:x} was added and has not started yet")

    def _next_fault(self, rng: random.Random, end_s: float) -> None:
        if self.clock.now_s >= end_s:
            return
        fault = rng.choice(self.shape.faults)
        member = rng.choice(list(self.members.values()))
        if rng.random() < 0.4:  # leaders are the more interesting ones
            leaders = [m for m in self.members.values() if m.process and m.process.node.is_leader]
            member = rng.choice(leaders or [member])
        self.faults[fault] = self.faults.get(fault, 0) + 1
        FAULTS[fault](self, rng, member)
        wait_s = rng.expovariate(1 / self.shape.fault_every_s)
        self.clock.after(wait_s, lambda: self._next_fault(rng, end_s))


class Machine:
    """The production state machine with a witness: what was applied goes to the history."""

    def __init__(self, world: World, member: SimulatedMember, machine: Any) -> None:
        self._world = world
        self._member = member
        self._name = member.name
        self._machine = machine
        self._witness = Witness(world.state_checker, member.name, machine)
        self.set_conf_state = machine.set_conf_state
        self.set_applied = machine.set_applied

    def apply(self, entry: Entry) -> Any:
        self._witness.begin()
        applied = self._machine.apply(entry)
        self._world.history.applied(self._name, entry, applied)
        self._witness.applied(entry)
        return applied

    def apply_conf_change(self, entry: Entry, change: Any) -> Any:
        applied, valid = self._machine.apply_conf_change(entry, change)
        if valid:
            self._world.conf_changed(entry.index, change, self._machine)
        self._world.history.applied(self._name, entry, applied)
        self._witness.applied(entry)
        return applied, valid

    def install(self, snapshot: Any) -> None:
        self._world.snapshots_total += 1
        self._machine.install(snapshot)
        self._witness.installed()
        if self._member.process is not None:  # while it starts it has no token anyway
            self._member.process.tokens_since = snapshot.meta.index
        self._world.say(self._name, f"installed the snapshot at {snapshot.meta.index}")


@contextmanager
def failing(world: World) -> Iterator[None]:
    """Failpoints of this process are those of the world's members."""
    act = failpoints._act
    failpoints._act = world.hit
    try:
        yield
    finally:
        failpoints._act = act
        world.disarm()


def data_ttl_min(shape: Shape) -> int:
    return ttl_min_s(election_ticks=shape.election_ticks, tick_ms=int(shape.tick_s * 1000))


def run(
    seed: int,
    folder: Path,
    disks: Disks,
    *,
    log: Callable[[str], None] | None = None,
    prepare: Callable[[World], None] | None = None,
) -> tuple[Report | None, Exception | None, list[str]]:
    """One seed; the report, or what broke, and the events."""
    world = World(seed, folder, disks, log=log, prepare=prepare)
    try:
        with tuned(world.shape), failing(world), salted(world):
            return world.run(), None, world.events
    except Exception as error:
        return None, error, world.events
    finally:
        world.close()


__all__ = ["Report", "Violation", "World", "run"]
