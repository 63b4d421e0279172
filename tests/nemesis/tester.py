"""A cluster of three under load, to which a case is done, and what is measured and checked then."""

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from cluster import Cluster
from stress import Stress, check_hash, check_leases

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.store.failpoints import PANIC_EXIT

ARMED = [sys.executable, str(Path(__file__).with_name("armed.py")), "server"]
SNAPSHOT_COUNT, CATCHUP = 200, 50
FLAGS = (
    f"--snapshot-count={SNAPSHOT_COUNT}",
    f"--experimental-snapshot-catchup-entries={CATCHUP}",
)
HOLD_S = 3.0  # how long a fault stays; etcd's tester waits 7 s
HEAL_S_MAX = 10.0  # the bar: "within a few seconds"
WAIT_S_MAX = 60.0
REACH_S = 8.0
KEPT_REVISIONS = 100  # by the compaction between cases

# Passed only by the sender, or only by the receiver, of a snapshot of the keyspace.
SENDING = ("snapshotBeforeCopy", "snapshotBeforeSend")
RECEIVING = (
    "snapshotBeforeReceive",
    "snapshotBeforeKeep",
    "snapshotAfterKeep",
    "raftBeforeSaveSnap",
    "raftAfterSaveSnap",
    "raftBeforeApplySnap",
    "snapshotBeforeInstall",
    "snapshotBeforeRename",
    "snapshotAfterRename",
    "applyBeforeOpenSnapshot",
    "applyAfterOpenSnapshot",
    "raftAfterApplySnap",
)
Steps = Iterator[str]  # "hold" while the fault is there, any other text: heal and measure


@dataclass(frozen=True)
class Case:
    name: str
    target: str  # follower, leader, quorum, all
    what: str
    fault: Callable[["Tester", list[int]], Steps]
    until_snapshot: bool = False
    hold_s: float = HOLD_S
    has_load: bool = True


class Tester:
    """A cluster, its load, and what is known of both."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder = folder
        self.rng = random.Random(arguments.seed)
        self.cluster = Cluster(folder, 3, *FLAGS, program=ARMED)
        self.nodes = self.cluster.nodes
        self.faults: list[str] = []
        self.heals_s: list[float] = []
        self.started_s: float | None = None  # the new member's process, if that is what heals
        self.latency = ""  # failpoints that are always armed
        for node in self.nodes:
            node.environment["MEMBER_ARMED"] = str(folder / f"{node.name}.armed")
            node.ended_well = {PANIC_EXIT}
        self.cluster.start()
        self.stress = Stress(self.cluster, arguments.seed * 1000)

    def close(self) -> None:
        self.stress.close()
        self.cluster.close()

    def choose(self, target: str) -> list[int]:
        leader = self.cluster.leader_or_any(self.rng)
        rest = self.others([leader])
        if target == "follower":
            return rest[:1]
        if target == "leader":
            return [leader]
        return [leader, rest[0]] if target == "quorum" else [leader, *rest]

    def others(self, numbers: list[int]) -> list[int]:
        rest = [i for i in range(len(self.nodes)) if i not in numbers]
        self.rng.shuffle(rest)
        return rest

    def run(self, case: Case) -> bool:
        """Whether nothing was wrong."""
        self.heals_s, known, meanwhile = [], len(self.faults), ""
        self.stress.start()
        time.sleep(0.5)
        numbers = self.choose(case.target)
        if not case.has_load:
            self.stress.pause()
        for step in case.fault(self, numbers):
            if step == "hold":
                before = self.answered()
                self.hold(case, numbers)
                meanwhile = str(self.answered() - before)
            else:
                self.heal(step)
                self.faults += check_hash(self.nodes)
        self.stress.start()
        self.heal(case.name)
        self.check()
        faults = self.faults[known:]
        print(
            f"| {case.name} | {case.what} | {meanwhile} | {spread(self.heals_s)} |"
            + (f" {faults}" if faults else ""),
            flush=True,
        )
        return not faults

    def hold(self, case: Case, numbers: list[int]) -> None:
        if not case.until_snapshot:
            hold_s = self.arguments.hold
            time.sleep(case.hold_s if hold_s is None else hold_s)
            return
        until = self.index(self.others(numbers)) + 2 * SNAPSHOT_COUNT + CATCHUP
        self.wait_for(lambda: self.index(self.others(numbers)) > until, "the logs to be cut")

    def answered(self) -> int:
        """Calls of the load."""
        return sum(self.stress.counts()[0].values())

    def index(self, numbers: list[int]) -> int:
        found = [self.nodes[i].status() for i in numbers]
        return max((status.raftAppliedIndex for status in found if status is not None), default=0)

    def wait_for(self, condition: Callable[[], bool], what: str, most_s: float = WAIT_S_MAX):
        deadline_s = time.monotonic() + most_s
        while not condition():
            if time.monotonic() > deadline_s:
                self.faults.append(f"waited {most_s:.0f} s for {what}")
                return
            time.sleep(0.05)

    def heal(self, what: str) -> None:
        """Until each member has answered a write and a linearizable read."""
        deadline_s = time.monotonic() + WAIT_S_MAX
        began_s, self.started_s = self.started_s or time.monotonic(), None
        for node in self.nodes:
            while time.monotonic() < deadline_s:
                node.look()
                try:
                    node.api.put(rpc.PutRequest(key=b"health", value=b"good"), timeout=1)
                    node.api.range(rpc.RangeRequest(key=b"health"), timeout=1)
                    break
                except grpc.RpcError:
                    time.sleep(0.02)
            else:
                self.faults.append(f"{what}: {node.name} serves nothing after {WAIT_S_MAX:.0f} s")
        took_s = time.monotonic() - began_s
        self.heals_s.append(took_s)
        if HEAL_S_MAX < took_s < WAIT_S_MAX:
            self.faults.append(f"{what}: healed only in {took_s:.1f} s")

    def check(self) -> None:
        self.stress.pause()
        faults = check_hash(self.nodes)
        faults += check_leases(self.nodes, self.stress.leases)
        for worker in self.stress.workers:
            faults += worker.faults
            worker.faults = []
        for node in self.nodes:
            node.look()
            faults += node.faults
            node.faults = []
        try:
            status = self.nodes[0].api.status(rpc.StatusRequest(), timeout=5)
            at = max(1, status.header.revision - KEPT_REVISIONS)
            self.nodes[0].api.compact(rpc.CompactionRequest(revision=at, physical=True), timeout=60)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.OUT_OF_RANGE:  # compacted by the case itself
                faults.append(f"compaction: {error.details()}")
        try:
            for node in self.nodes:
                node.api.defragment(rpc.DefragmentRequest(), timeout=30)
        except grpc.RpcError as error:
            faults.append(f"defragmentation: {error.details()}")
        self.faults += faults

    # -- failpoints

    def arm(self, numbers: list[int], text: str) -> None:
        text = ";".join(filter(None, (self.latency, text)))
        for number in numbers:
            node = self.nodes[number]
            (self.folder / f"{node.name}.armed").write_text(text)
            if node.is_up:
                node.signal(signal.SIGUSR1)

    def dead(self) -> list[int]:
        for node in self.nodes:
            node.look()
        return [i for i, node in enumerate(self.nodes) if not node.is_up]

    def provoke(self, point: str, numbers: list[int]) -> None:
        """What the load does not do by itself."""
        node = self.nodes[self.rng.choice(numbers)]
        try:
            if point.startswith("compact"):
                at = node.api.range(rpc.RangeRequest(key=b"h"), timeout=1).header.revision
                node.api.compact(rpc.CompactionRequest(revision=at - 10), timeout=1)
            elif point.startswith("defrag"):
                node.api.defragment(rpc.DefragmentRequest(), timeout=5)
            elif point == "beforeApplyOneConfChange":
                request = rpc.MemberAddRequest(peerURLs=["http://127.0.0.1:1"], isLearner=True)
                node.api.member_add(request, timeout=2)
        except grpc.RpcError:
            pass

    def remove_learners(self) -> None:
        def is_done() -> bool:
            api = self.rng.choice(self.nodes).api
            try:
                found = api.member_list(rpc.MemberListRequest(linearizable=True), timeout=2).members
                for member in found:
                    if member.isLearner:
                        api.member_remove(rpc.MemberRemoveRequest(ID=member.ID), timeout=9)
            except grpc.RpcError:
                return False
            return not any(member.isLearner for member in found)

        self.wait_for(is_done, "a learner to be removed")

    def revive(self, numbers: list[int]) -> None:
        self.arm(numbers, "")
        self.started_s = time.monotonic()
        for number in self.dead():
            self.nodes[number].start()

    def die_at(self, point: str, numbers: list[int]) -> int:
        """How many of them reached the point; all are up again then."""
        reached = 0
        if point in SENDING + RECEIVING:
            behind = numbers[-1] if point in RECEIVING else self.others(numbers[:1])[0]
            self.nodes[behind].kill()
            until = self.index(self.others([behind])) + 2 * SNAPSHOT_COUNT + CATCHUP
            self.wait_for(lambda: self.index(self.others([behind])) > until, "the logs to be cut")
            self.arm(numbers, f"{point}=panic")
            self.nodes[behind].start()
        else:
            self.arm(numbers, f"{point}=panic")
        deadline_s = time.monotonic() + REACH_S
        while time.monotonic() < deadline_s:
            down = len(self.dead())
            if down > reached:
                reached = down
                # Without a quorum the others get nowhere.
                deadline_s = time.monotonic() + (2.0 if down < 2 else 0.5)
            if reached == len(numbers):
                break
            alive = [i for i in numbers if self.nodes[i].is_up]
            if alive:
                self.provoke(point, alive)
            time.sleep(0.02)
        self.revive(numbers)
        if point == "beforeApplyOneConfChange":
            self.remove_learners()
        return reached


def spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f} s"
    return f"{len(values)} times, {max(values):.2f} s at most"
