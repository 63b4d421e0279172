"""Real processes under kills, pauses and cut links; every promise checked afterwards.

    python tests/nemesis/run.py --minutes 10 --seed 1                 three members, all faults
    python tests/nemesis/run.py --minutes 5 --only kill_leader        one kind of fault
    python tests/nemesis/run.py --single 100                          one member, 100 SIGKILLs

The exit status is 1 if anything was violated; the folder with logs and data is kept then. The seed
decides the faults and the clients' choices, not the timing of the processes.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import grpc
from clients import Client, Op, Prober, Watcher, replay
from cluster import Api, Cluster
from history import (
    History,
    check_answers,
    check_leases,
    check_once,
    check_order,
    check_watch,
)
from proxy import CUT, STALL

from pyetcd.proto import rpc_pb2 as rpc

CLIENTS = 8
WATCHERS = 3
HEAL_S = 3.0  # the bar
HEAL_S_MAX = 30.0  # after this the run is over


class Nemesis:
    """Does one thing to the cluster after the other, and measures how soon writes work again."""

    def __init__(self, cluster: Cluster, probers: list[Prober], rng: random.Random) -> None:
        self.cluster = cluster
        self.probers = probers
        self.rng = rng
        self.count: Counter[str] = Counter()
        self.heal_s: dict[str, list[float]] = defaultdict(list)
        self.failover_s: list[float] = []
        self.stop_s: list[float] = []
        self.faults: list[str] = []

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


def three(arguments: argparse.Namespace, folder: Path) -> list[str]:
    rng = random.Random(arguments.seed)
    cluster = Cluster(folder, 3, *arguments.flag)
    stop = threading.Event()
    try:
        cluster.start()
        endpoints = [node.endpoint for node in cluster.nodes]
        seed = arguments.seed * 1000
        clients = [Client(i, endpoints, seed + i, stop) for i in range(CLIENTS)]
        probers = [Prober(i, endpoint, stop) for i, endpoint in enumerate(endpoints)]
        watchers = [Watcher(i, endpoints, seed + 100 + i, stop) for i in range(WATCHERS)]
        threads = [*clients, *probers, *watchers]
        for thread in threads:
            thread.start()
        nemesis = Nemesis(cluster, probers, rng)
        names = arguments.only or sorted(nemesis.kinds())
        deadline_s = time.monotonic() + arguments.minutes * 60
        turn: list[str] = []
        while time.monotonic() < deadline_s and not nemesis.faults:
            turn = turn or rng.sample(names, len(names))
            time.sleep(rng.uniform(0.2, 1.5))
            nemesis.act(turn.pop())
        stop.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), f"{thread} hangs"
        return judge(cluster, nemesis, clients, probers, watchers)
    finally:
        stop.set()
        cluster.close()


def judge(cluster, nemesis, clients, probers, watchers) -> list[str]:
    faults = list(nemesis.faults)
    for node in cluster.nodes:
        node.look()
        faults += node.faults
    if faults:
        return faults + logs(cluster)
    faults += expire(cluster)
    final = cluster.nodes[0].api.put(rpc.PutRequest(key=b"z", value=b"end"), timeout=10)
    last = final.header.revision
    hashes = set()
    histories = []
    for node in cluster.nodes:
        node.api.range(rpc.RangeRequest(key=b"z"), timeout=10)  # has applied it all
        found = node.api.hash_kv(rpc.HashKVRequest(revision=last), timeout=30)
        hashes.add((found.hash, found.compact_revision))
        histories.append(list(replay(node.api, last, 120)))
    if len(hashes) != 1:
        faults.append(f"hashes differ: {hashes}")
    if any(events != histories[0] for events in histories[1:]):
        faults.append("the members tell different histories")
    history = History(histories[0])
    ops: list[Op] = [op for source in (*clients, *probers) for op in source.ops]
    check_answers(history, ops)
    check_order(history, ops)
    check_once(history)
    watches = [seen for watcher in watchers for seen in watcher.seen]
    watched = sum(check_watch(history, seen) for seen in watches)
    ended = check_leases(history, clients, watches)
    for watcher in watchers:
        faults += watcher.errors[:3]
    report(cluster, nemesis, ops, history)
    print(f"watches {len(watches)}, their events {watched}; leases seen to end {ended}")
    return faults + history.faults + logs(cluster)


def expire(cluster: Cluster) -> list[str]:
    """Nobody keeps a lease alive any more: all of them end."""
    deadline_s = time.monotonic() + 15
    left = {}
    while time.monotonic() < deadline_s:
        try:
            left = {
                node.name: len(node.api.leases(rpc.LeaseLeasesRequest(), timeout=2).leases)
                for node in cluster.nodes
            }
        except grpc.RpcError:
            continue
        if not any(left.values()):
            return []
        time.sleep(0.2)
    return [f"leases never ended: {left}"]


def logs(cluster: Cluster) -> list[str]:
    return [line for node in cluster.nodes for line in node.bad_log_lines()][:20]


def report(cluster, nemesis, ops: list[Op], history: History) -> None:
    counts = Counter(op.kind for op in ops)
    unknown = Counter(op.error for op in ops if op.error)
    print(f"faults {sum(nemesis.count.values())}: {dict(nemesis.count)}")
    kills = sum(node.kills for node in cluster.nodes)
    print(f"SIGKILLs {kills}; ops {len(ops)}: {dict(counts)}; revisions {history.last}")
    for text, count in unknown.most_common(12):
        print(f"  {count} x {text[:150]}")
    every = [s for values in nemesis.heal_s.values() for s in values]
    print(f"healed: {spread(every)}")
    for name, values in sorted(nemesis.heal_s.items()):
        print(f"  {name}: {spread(values)}")
    print(f"leader killed until next acknowledged write: {spread(nemesis.failover_s)}")
    print(f"SIGTERM until exit: {spread(nemesis.stop_s)}")
    for node in cluster.nodes:
        print(f"{node.name}: {node.rss_mb_max} MB, {node.fds_max} files at most")


def spread(values: list[float]) -> str:
    if not values:
        return "none"
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    over = sum(value > HEAL_S for value in ordered)
    return (
        f"n {len(ordered)}, p50 {at(0.5):.2f}, p95 {at(0.95):.2f}, max {ordered[-1]:.2f} s, "
        f"{over} over {HEAL_S:.0f} s"
    )


def single(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """One member, killed again and again under load; all that was acknowledged is looked for."""
    rng = random.Random(arguments.seed)
    cluster = Cluster(folder, 1, *arguments.flag)
    node = cluster.nodes[0]
    faults: list[str] = []
    restart_s: list[float] = []
    acknowledged: dict[bytes, tuple[bytes, int]] = {}
    checked = 0
    try:
        cluster.start()
        for kill in range(arguments.single):
            stop = threading.Event()
            writers = [Writer(f"{kill}.{i}", node.endpoint, stop) for i in range(CLIENTS)]
            for writer in writers:
                writer.start()
            time.sleep(rng.uniform(0.05, 0.6))
            node.kill()
            stop.set()
            for writer in writers:
                writer.join()
                acknowledged |= writer.acknowledged
            began_s = time.monotonic()
            for _ in range(rng.choice((0, 0, 1, 2))):  # killed while it starts
                node.start()
                time.sleep(rng.uniform(0, 0.8))
                node.kill()
            node.start()
            began_s = time.monotonic()
            while not node.serves():
                node.look()
                if not node.is_up or time.monotonic() > began_s + 30:
                    return [*node.faults, f"does not start after kill {kill}", *logs(cluster)]
                time.sleep(0.02)
            restart_s.append(time.monotonic() - began_s)
            got = node.api.range(rpc.RangeRequest(key=b"w", range_end=b"x"), timeout=60)
            there = {kv.key: (kv.value, kv.mod_revision) for kv in got.kvs}
            checked += len(acknowledged)
            for key, wanted in acknowledged.items():
                if there.get(key) != wanted:
                    faults.append(f"kill {kill}: {key!r} is {there.get(key)}, not {wanted}")
            if faults:
                break
        print(f"SIGKILLs {node.kills}, acknowledged {len(acknowledged)}, looked up {checked}")
        print(f"restart: {spread(restart_s)}; {node.rss_mb_max} MB, {node.fds_max} files at most")
        return faults[:20] + node.faults + logs(cluster)
    finally:
        cluster.close()


class Writer(threading.Thread):
    """Puts ever new keys until the member is gone."""

    def __init__(self, name: str, endpoint: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.acknowledged: dict[bytes, tuple[bytes, int]] = {}
        self._prefix = name
        self._endpoint = endpoint
        self._halt = stop

    def run(self) -> None:
        api = Api(self._endpoint)
        sequence = 0
        while not self._halt.is_set():
            sequence += 1
            key = f"w{self._prefix}.{sequence}".encode()
            try:
                answer = api.put(rpc.PutRequest(key=key, value=key * 5), timeout=5)
            except grpc.RpcError:
                break
            self.acknowledged[key] = (key * 5, answer.header.revision)
        api.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--single", type=int, default=0, metavar="KILLS")
    parser.add_argument("--only", action="append", help="this kind of fault; may be repeated")
    parser.add_argument("--flag", action="append", default=[], help="passed on to the servers")
    parser.add_argument("--folder", type=Path, help="where the members' files go")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="nemesis-"))
    folder.mkdir(parents=True, exist_ok=True)
    faults = (single if arguments.single else three)(arguments, folder)
    for fault in faults:
        print(f"VIOLATION {fault}")
    if faults:
        print(f"logs and data: {folder}")
        return 1
    shutil.rmtree(folder)
    print("no violation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
