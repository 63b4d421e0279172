"""The faults of run.py, one method each, and how soon the cluster works again after it."""

import hashlib
import random
import signal
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable

import grpc
from clients import Event, Prober, replay
from cluster import Cluster
from proxy import CUT, STALL
from wallclock import WallClock

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.server.peer.probe import parse_probe_answer

HEAL_S = 3.0  # the bar
HEAL_S_MAX = 30.0  # after this the run is over
JUMP_S_MAX = 12 * 3600
CLOCK_S_MAX = 60.0


class Nemesis:
    """Does one thing to the cluster after the other, and measures how soon writes work again."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        """Before the members start: their clocks are its."""
        self.cluster = cluster
        self.probers: list[Prober] = []
        self.rng = rng
        self.count: Counter[str] = Counter()
        self.heal_s: dict[str, list[float]] = defaultdict(list)
        self.failover_s: list[float] = []
        self.stop_s: list[float] = []
        self.faults: list[str] = []
        self.recorded: list[Event] = []  # what was compacted since
        self.recorded_to = 0
        self.last_healed_s = 0.0
        self.clock_moved_s: list[float] = []
        self.clocks = [
            WallClock(node.data_dir.with_suffix(".clock"), node.environment)
            for node in cluster.nodes
        ]

    def kinds(self) -> dict[str, Callable[[], None]]:
        return {
            name.removeprefix("do_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("do_")
        }

    def act(self, name: str) -> None:
        self.kinds()[name]()
        healed_from_s = time.monotonic()
        took_s = self.wait_ack(healed_from_s, range(len(self.cluster.nodes)), HEAL_S_MAX)
        self.count[name] += 1
        self.heal_s[name].append(took_s)
        self.last_healed_s = took_s
        print(f"{time.strftime('%H:%M:%S')} {name}: healed in {took_s:.2f} s", flush=True)
        if took_s >= HEAL_S_MAX:
            self.faults.append(f"no write {HEAL_S_MAX:.0f} s after {name}")
        # Every member must serve again, not only the cluster.
        for number in range(len(self.cluster.nodes)):
            if self.wait_ack(healed_from_s, [number], HEAL_S_MAX) >= HEAL_S_MAX:
                self.faults.append(f"m{number} serves no writes {HEAL_S_MAX:.0f} s after {name}")

    def wait_ack(self, from_s: float, numbers, timeout_s: float) -> float:
        """How long until a put through one of these members, begun after `from_s`, was answered."""
        while time.monotonic() < from_s + timeout_s:
            for number in numbers:
                recent = self.probers[number].acks[-100:]
                if recent and recent[-1][0] >= from_s:
                    return next(end_s for start_s, end_s in recent if start_s >= from_s) - from_s
            for node in self.cluster.nodes:
                node.look()
            time.sleep(0.01)
        return timeout_s

    # Faults. Each ends with every member running and every link whole.

    def pause(self, most_s: float) -> None:
        time.sleep(self.rng.uniform(0, most_s))

    def kill(self, numbers: list[int]) -> None:
        for number in numbers:
            self.cluster.nodes[number].kill()

    def restart(self, numbers: list[int]) -> None:
        for number in numbers:
            self.cluster.nodes[number].start()

    def others(self, number: int) -> list[int]:
        rest = [n for n in range(len(self.cluster.nodes)) if n != number]
        self.rng.shuffle(rest)
        return rest

    def leader(self) -> int:
        return self.cluster.leader_or_any(self.rng)

    def do_kill_leader(self) -> None:
        leader = self.leader()
        self.kill([leader])
        took_s = self.wait_ack(time.monotonic(), self.others(leader), HEAL_S_MAX)
        self.failover_s.append(took_s)
        self.pause(1)
        self.restart([leader])

    def do_kill_follower(self) -> None:
        follower = self.others(self.leader())[0]
        self.kill([follower])
        self.pause(2)
        self.restart([follower])

    def do_kill_two(self) -> None:
        leader = self.leader()
        two = self.rng.choice([[leader, self.others(leader)[0]], self.others(leader)])
        self.kill(two)
        self.pause(2)
        self.restart(two)

    def do_kill_all(self) -> None:
        everyone = self.others(-1)
        self.kill(everyone)
        self.pause(1)
        self.restart(everyone)

    def do_kill_while_starting(self) -> None:
        number = self.others(-1)[0]
        self.kill([number])
        for _ in range(4):
            self.restart([number])
            self.pause(1.2)
            self.kill([number])
        self.restart([number])

    def do_pause_leader(self) -> None:
        self.freeze([self.leader()])

    def do_pause_follower(self) -> None:
        self.freeze(self.others(self.leader())[:1])

    def do_pause_two(self) -> None:
        self.freeze(self.others(-1)[:2])

    def do_pause_all(self) -> None:
        self.freeze(self.others(-1))

    def freeze(self, numbers: list[int]) -> None:
        for number in numbers:
            self.cluster.nodes[number].signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.2, 3))
        for number in numbers:
            self.cluster.nodes[number].signal(signal.SIGCONT)

    def do_stop_leader(self) -> None:
        self.stop(self.leader())

    def do_rolling_restart(self) -> None:
        for number in self.others(-1):
            self.stop(number)
            self.wait_ack(time.monotonic(), [number], HEAL_S_MAX)

    def stop(self, number: int) -> None:
        self.stop_s.append(self.cluster.nodes[number].terminate())
        self.pause(0.5)
        self.restart([number])

    def do_cut_leader(self) -> None:
        leader = self.leader()
        self.links([(leader, other, CUT) for other in self.others(leader)])
        print(f"  led by m{leader}, then by m{self.leader()}", flush=True)

    def do_cut_follower(self) -> None:
        follower = self.others(self.leader())[0]
        self.links([(follower, other, CUT) for other in self.others(follower)])

    def do_cut_one_link(self) -> None:
        first, second, *_ = self.others(-1)
        self.links([(first, second, CUT)])

    def do_stall_from_leader(self) -> None:
        leader = self.leader()
        count = self.rng.randint(1, 2)
        self.links([(leader, other, STALL) for other in self.others(leader)[:count]])

    def do_stall_to_leader(self) -> None:
        leader = self.leader()
        count = self.rng.randint(1, 2)
        self.links([(other, leader, STALL) for other in self.others(leader)[:count]])

    def do_stall_link(self) -> None:
        first, second, *_ = self.others(-1)
        self.links([(first, second, STALL), (second, first, STALL)])

    def links(self, faults: list[tuple[int, int, str]]) -> None:
        for source, target, kind in faults:
            self.cluster.links.fault(source, target, kind)
        time.sleep(self.rng.uniform(0.5, 4))
        self.cluster.links.heal()

    def do_delay(self) -> None:
        for source in self.others(-1):
            for target in self.others(source):
                self.cluster.links.delay(source, target, self.rng.uniform(0, 0.15))
        time.sleep(self.rng.uniform(1, 4))
        self.cluster.links.heal()

    def do_kill_leader_while_cut(self) -> None:
        leader = self.leader()
        for follower in self.others(leader)[: self.rng.randint(1, 2)]:
            self.cluster.links.fault(leader, follower, STALL)
        time.sleep(self.rng.uniform(0.1, 1))
        self.kill([leader])
        self.cluster.links.heal()
        self.pause(1)
        self.restart([leader])

    def do_clock_jump(self) -> None:
        """One member's or everybody's wall clock, hours ahead or back, with a restart or not."""
        numbers = self.others(-1)[: self.rng.choice((1, 1, 3))]
        for number in numbers:
            self.clocks[number].set(self.rng.randint(-JUMP_S_MAX, JUMP_S_MAX))
        self.pause(1)
        for number in numbers:
            self.clock_moved_s.append(self.wall_of(number) - time.time())
            if abs(self.clock_moved_s[-1] - self.clocks[number].offset_s) > CLOCK_S_MAX:
                self.faults.append(f"the clock of m{number} did not jump")
        if self.rng.random() < 0.5:
            self.kill(numbers[:1])
            self.restart(numbers[:1])

    def wall_of(self, number: int) -> float:
        """What the member takes for the time: its answer to a peer's probe has it."""
        url = f"{self.cluster.peer_urls[number]}/raft/probing"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return parse_probe_answer(answer.read())

    # Maintenance, on any member.

    def do_compact(self) -> None:
        """What it takes is read first: the checkers need all of it."""
        api = self.cluster.nodes[self.others(-1)[0]].api
        try:
            at = api.range(rpc.RangeRequest(key=b"z"), timeout=5).header.revision
            if at <= self.recorded_to:
                return
            # The last answer may go beyond it.
            found = [e for e in replay(api, at, 60, self.recorded_to + 1) if e[1][3] <= at]
            self.recorded += found
            self.recorded_to = at
            request = rpc.CompactionRequest(revision=at, physical=self.rng.random() < 0.5)
            api.compact(request, timeout=9)
        except grpc.RpcError as error:
            self.note("Compact", error)

    def do_defragment(self) -> None:
        for number in self.others(-1)[: self.rng.randint(1, 3)]:
            try:
                request = rpc.DefragmentRequest()
                self.cluster.nodes[number].api.defragment(request, timeout=30)
            except grpc.RpcError as error:
                self.note("Defragment", error)

    def do_save_snapshot(self) -> None:
        """The last 32 bytes are the SHA-256 of all before them."""
        api = self.cluster.nodes[self.others(-1)[0]].api
        try:
            parts = [part.blob for part in api.snapshot(rpc.SnapshotRequest(), timeout=30)]
        except grpc.RpcError as error:
            self.note("Snapshot", error)
            return
        data = b"".join(parts)
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            self.faults.append(f"a snapshot of {len(data)} bytes has another sum")

    # Membership and leadership, changed by request.

    def do_move_leader(self) -> None:
        leader = self.leader()
        target = self.cluster.nodes[self.others(leader)[0]].status(5)
        if target is None:
            return
        try:
            request = rpc.MoveLeaderRequest(targetID=target.header.member_id)
            self.cluster.nodes[leader].api.move_leader(request, timeout=5)
        except grpc.RpcError as error:
            self.note("MoveLeader", error)

    def do_member_changes(self) -> None:
        """Learners that never start, added and removed in quick succession on any member."""
        self.remove_learners()
        for turn in range(3):
            api = self.cluster.nodes[self.others(-1)[0]].api
            url = f"http://127.0.0.1:1{turn}"
            request = rpc.MemberAddRequest(peerURLs=[url], isLearner=True)
            try:
                added = api.member_add(request, timeout=9).member.ID
                api = self.cluster.nodes[self.others(-1)[0]].api
                api.member_remove(rpc.MemberRemoveRequest(ID=added), timeout=9)
            except grpc.RpcError as error:
                self.note("member change", error)
                self.remove_learners()

    def remove_learners(self) -> None:
        deadline_s = time.monotonic() + HEAL_S_MAX
        while time.monotonic() < deadline_s:
            api = self.cluster.nodes[self.others(-1)[0]].api
            try:
                found = api.member_list(rpc.MemberListRequest(linearizable=True), timeout=2).members
                learners = [member.ID for member in found if member.isLearner]
                if not learners:
                    return
                api.member_remove(rpc.MemberRemoveRequest(ID=learners[0]), timeout=9)
            except grpc.RpcError as error:
                self.note("member change", error)
        self.faults.append("a learner cannot be removed")

    def note(self, what: str, error: grpc.RpcError) -> None:
        print(f"  {what}: {error.code().name} {error.details()}", flush=True)
