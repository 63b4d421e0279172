"""Real processes under kills, pauses and cut links; every promise checked afterwards.

    python tests/nemesis/run.py --minutes 10 --seed 1                 three members, all faults
    python tests/nemesis/run.py --minutes 5 --only kill_leader        one kind of fault
    python tests/nemesis/run.py --single 1000                         one member (single.py)

Compactions take only what has been recorded before; the wall clocks jump by a preloaded library.
The exit status is 1 if anything was violated; the folder with logs and data is kept then. The seed
decides the faults and the clients' choices, not the timing of the processes.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
from clients import Client, Op, Prober, Watcher, replay
from cluster import Cluster
from history import (
    History,
    check_answers,
    check_leases,
    check_once,
    check_order,
    check_watch,
)
from nemesis import HEAL_S, Nemesis
from single import single

from pyetcd.proto import rpc_pb2 as rpc

CLIENTS = 8
WATCHERS = 3
# Members fall behind far enough for a snapshot of the keyspace now and then.
FLAGS = ("--snapshot-count=500", "--experimental-snapshot-catchup-entries=100")


def three(arguments: argparse.Namespace, folder: Path) -> list[str]:
    rng = random.Random(arguments.seed)
    cluster = Cluster(folder, 3, *FLAGS, *arguments.flag)
    nemesis = Nemesis(cluster, rng)
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
        nemesis.probers = probers
        names = arguments.only or sorted(nemesis.kinds())
        deadline_s = time.monotonic() + arguments.minutes * 60
        turn: list[str] = arguments.first[::-1]
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
        histories.append(list(replay(node.api, last, 120, nemesis.recorded_to + 1)))
    if len(hashes) != 1:
        faults.append(f"hashes differ: {hashes}")
    if any(events != histories[0] for events in histories[1:]):
        faults.append("the members tell different histories")
    history = History(nemesis.recorded + histories[0])
    ops: list[Op] = [op for source in (*clients, *probers) for op in source.ops]
    check_answers(history, ops)
    check_order(history, ops)
    check_once(history)
    watches = [seen for watcher in watchers for seen in watcher.seen]
    watched = sum(check_watch(history, seen) for seen in watches)
    ended = check_leases(history, clients, watches)
    for watcher in watchers:
        faults += watcher.errors[:3]
    # An id that was used before: only a clock that went back could bring that about.
    faults += [f"id used twice: {op}" for op in ops if "already exists" in op.error][:3]
    report(cluster, nemesis, ops, history)
    print(f"HashKV at revision {last}, compact revision: {sorted(hashes)}, of 3 members")
    print(f"watches {len(watches)}, their events {watched}; leases seen to end {ended}")
    acknowledged = sum(op.wrote for op in ops)
    lost = [fault for fault in history.faults if fault.startswith("acknowledged")]
    print(f"acknowledged writes {acknowledged}, lost {len(lost)}")
    print(f"healed {nemesis.last_healed_s:.2f} s after the last fault")
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
    if nemesis.clock_moved_s:
        low_s, high_s = min(nemesis.clock_moved_s), max(nemesis.clock_moved_s)
        print(f"wall clocks moved {low_s:+.0f} to {high_s:+.0f} s, as the members saw it")
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--single", type=int, default=0, metavar="KILLS")
    parser.add_argument("--only", action="append", help="this kind of fault; may be repeated")
    parser.add_argument("--first", action="append", default=[], help="begin with this fault")
    parser.add_argument("--flag", action="append", default=[], help="passed on to the servers")
    parser.add_argument("--folder", type=Path, help="where the members' files go")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="nemesis-"))
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.single:
        faults = single(folder, arguments.seed, arguments.single, arguments.flag)
    else:
        faults = three(arguments, folder)
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
