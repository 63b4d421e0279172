"""The 34 cases of etcd's functional tester as a table, against three real members.

    python tests/nemesis/cases.py                      all of them
    python tests/nemesis/cases.py --list
    python tests/nemesis/cases.py --only SIGTERM_LEADER --only FAILPOINTS --point walBeforeSync

Each case: the load runs, the fault is there for a while, the fault goes, and it is measured how
long it takes until every member serves reads and writes again; then the load rests and the checkers
look (tester.py, stress.py). Peer faults are made by TCP proxies. A failpoint is switched on in the
running member (armed.py), so a leader is one when it dies. The exit status is 1 if a checker finds
something or a cluster takes too long.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from proxy import STALL
from tester import HOLD_S, RECEIVING, SENDING, Case, Steps, Tester

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.store.failpoints import POINTS

DELAY_S, DELAY_SPREAD_S = 5.0, 0.5
DELAY_HOLD_S = 8.0
LATENCY = "walBeforeSync=sleep(30);beforeCommit=sleep(30)"
WITH_LATENCY = ("raftBeforeSave", "walAfterSync", "raftAfterSave", "beforeApply", "afterCommit")


# -- faults: what is done to these members, and undone


def sigterm(tester: Tester, numbers: list[int]) -> Steps:
    for number in numbers:
        tester.nodes[number].terminate()
    yield "hold"
    for number in numbers:
        tester.nodes[number].start()


def sigquit_remove(tester: Tester, numbers: list[int]) -> Steps:
    """SIGQUIT, the data is gone: removed as a member, added again, started as a new one."""
    (number,) = numbers
    node, helper = tester.nodes[number], tester.nodes[tester.others(numbers)[0]]
    status = node.status(5)
    assert status is not None
    node.quit()
    request = rpc.MemberRemoveRequest(ID=status.header.member_id)
    insist(tester, lambda: helper.api.member_remove(request, timeout=9), "the member to be removed")
    yield "hold"
    add_member(tester, helper, number, [0, 1, 2])


def add_member(tester: Tester, helper, number: int, together: list[int]) -> None:
    url = tester.cluster.peer_urls[number]
    adding = rpc.MemberAddRequest(peerURLs=[url])

    def add() -> None:
        try:
            helper.api.member_add(adding, timeout=9)
        except grpc.RpcError as error:
            if "Peer URLs already exists" not in (error.details() or ""):
                raise  # else an earlier attempt was done after all

    insist(tester, add, f"m{number} to be added")
    node = tester.nodes[number]
    cluster = ",".join(f"m{i}={tester.cluster.peer_urls[i]}" for i in together)
    node.flags_more = [f"--initial-cluster={cluster}", "--initial-cluster-state=existing"]
    node.start()
    tester.started_s = time.monotonic()
    tester.wait_for(node.serves, f"{node.name} to serve")
    know(tester)


def know(tester: Tester) -> None:
    if all(node.is_up and node.serves() for node in tester.nodes):
        tester.cluster.know()


def insist(tester: Tester, call: Callable[[], object], what: str) -> None:
    """The check of member changes wants five steady seconds; a leader may be missing, too."""

    def is_done() -> bool:
        try:
            call()
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND  # done by an earlier attempt
        return True

    tester.wait_for(is_done, what)


def restore_quorum(tester: Tester, numbers: list[int]) -> Steps:
    """A quorum is gone with its data, then the leader's machine, too; what is left is a copy of the
    leader's data directory. It is started with --force-new-cluster, and the cluster grows again."""
    (leader,) = numbers
    lost = tester.others(numbers)
    node = tester.nodes[leader]
    for number in lost:
        tester.nodes[number].quit()
    time.sleep(1)
    node.signal(signal.SIGQUIT)
    tester.wait_for(lambda: leader in tester.dead(), "the leader to be gone")
    node.faults = []
    copy = tester.folder / "copy"
    shutil.copytree(node.data_dir, copy)
    shutil.rmtree(node.data_dir)
    yield "hold"
    copy.rename(node.data_dir)
    node.flags_more = ["--force-new-cluster"]
    node.start()
    tester.wait_for(node.serves, f"{node.name} to serve alone")
    node.terminate()
    node.flags_more = []
    node.start()
    tester.wait_for(node.serves, f"{node.name} to serve alone")
    together = [leader]
    for number in lost:
        together.append(number)
        add_member(tester, node, number, together)


def blackhole(tester: Tester, numbers: list[int]) -> Steps:
    for number in numbers:
        for other in tester.others([number]):
            tester.cluster.links.fault(number, other, STALL)
            tester.cluster.links.fault(other, number, STALL)
    yield "hold"
    tester.cluster.links.heal()


def delay(tester: Tester, numbers: list[int]) -> Steps:
    yield from slow(tester, numbers, 0.0)


def random_delay(tester: Tester, numbers: list[int]) -> Steps:
    yield from slow(tester, numbers, DELAY_SPREAD_S)


def slow(tester: Tester, numbers: list[int], spread_s: float) -> Steps:
    for number in numbers:
        for other in tester.others([number]):
            tester.cluster.links.delay(number, other, DELAY_S, spread_s)
            tester.cluster.links.delay(other, number, DELAY_S, spread_s)
    yield "hold"
    tester.cluster.links.heal()


def nothing(tester: Tester, numbers: list[int]) -> Steps:
    yield "hold"


def failpoints(tester: Tester, numbers: list[int]) -> Steps:
    yield from each_point(tester, sorted(POINTS))


def failpoints_with_latency(tester: Tester, numbers: list[int]) -> Steps:
    """Every fsync of the log and every commit of the keyspace takes 30 ms longer, everywhere."""
    tester.latency = LATENCY
    tester.arm([0, 1, 2], "")
    yield from each_point(tester, list(WITH_LATENCY))
    tester.latency = ""
    tester.arm([0, 1, 2], "")


def each_point(tester: Tester, points: list[str]) -> Steps:
    wanted = tester.arguments.point
    for point in points:
        if wanted and not any(word in point for word in wanted):
            continue
        results = []
        for target in ("follower", "leader", "quorum", "all"):
            if (target == "leader" and point in (*RECEIVING, "raftBeforeFollowerSend")) or (
                target == "follower" and point in (*SENDING, "raftBeforeLeaderSend")
            ):
                results.append(f"{target} -")
                continue
            numbers = tester.choose(target)
            reached = tester.die_at(point, numbers)
            yield f"{point} {target}"
            results.append(f"{target} {reached}/{len(numbers)} {tester.heals_s[-1]:.1f} s")
            if not reached:
                tester.faults.append(f"{point}: no {target} reached it")
        print(f"  {point}: {', '.join(results)}", flush=True)


def external(tester: Tester, numbers: list[int]) -> Steps:
    """A program of the caller's: `PROGRAM enable PID`, later `PROGRAM disable PID`."""
    argv = tester.arguments.external
    pid = str(tester.nodes[numbers[0]].pid)
    default = {"enable": ["kill", "-STOP", pid], "disable": ["kill", "-CONT", pid]}
    for verb in ("enable", "disable"):
        subprocess.run([argv, verb, pid] if argv else default[verb], check=True, timeout=60)
        if verb == "enable":
            yield "hold"


TARGETS = {
    "follower": ("ONE_FOLLOWER", "one follower"),
    "leader": ("LEADER", "the leader"),
    "quorum": ("QUORUM", "the leader and one follower"),
    "all": ("ALL", "all three"),
}
LOGS_CUT = ", until the others' logs are cut"


def cases() -> list[Case]:
    found = []

    def family(prefix, what, fault, targets, hold_s=HOLD_S):
        for target in targets:
            part, whom = TARGETS[target]
            found.append(Case(f"{prefix}_{part}", target, what.format(whom), fault, hold_s=hold_s))
            if target in ("follower", "leader"):
                name = f"{prefix}_{part}_UNTIL_TRIGGER_SNAPSHOT"
                found.append(Case(name, target, what.format(whom) + LOGS_CUT, fault, True))

    every = tuple(TARGETS)
    family("SIGTERM", "SIGTERM to {}", sigterm, every)
    removed = "SIGQUIT and wipe {}; removed, added, started anew"
    family("SIGQUIT_AND_REMOVE", removed, sigquit_remove, every[:2])
    found.append(
        Case(
            "SIGQUIT_AND_REMOVE_QUORUM_AND_RESTORE_LEADER_SNAPSHOT_FROM_SCRATCH",
            "leader",
            "two members wiped, then the leader's machine lost; a copy of its data directory "
            "starts with --force-new-cluster, two members are added",
            restore_quorum,
            hold_s=1.0,
        )
    )
    port = "PEER_PORT_TX_RX"
    family(f"BLACKHOLE_{port}", "nothing to or from {}", blackhole, every)
    later = "peer traffic of {} 5 s later"
    family(f"DELAY_{port}", later, delay, every, DELAY_HOLD_S)
    family(f"RANDOM_DELAY_{port}", later + " ± 0.5 s", random_delay, every, DELAY_HOLD_S)
    found += [
        Case("NO_FAIL_WITH_STRESS", "all", "nothing but the load", nothing),
        Case(
            "NO_FAIL_WITH_NO_STRESS_FOR_LIVENESS", "all", "nothing at all", nothing, has_load=False
        ),
        Case("FAILPOINTS", "all", "at every failpoint dies one, leader, quorum, all", failpoints),
        Case(
            "FAILPOINTS_WITH_DISK_IO_LATENCY",
            "all",
            "the same at five points, each fsync and commit 30 ms slower",
            failpoints_with_latency,
        ),
        Case("EXTERNAL", "leader", "a program given with --external; else a pause", external),
    ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="this case; repeatable")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--point", action="append", help="failpoints with this in their name")
    parser.add_argument("--external", help="program of the case EXTERNAL")
    parser.add_argument("--hold", type=float, help="seconds that a fault stays")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the members' files go")
    arguments = parser.parse_args()
    table = {case.name: case for case in cases()}
    if arguments.list:
        print("\n".join(f"{name}: {case.what}" for name, case in table.items()))
        return 0
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="cases-"))
    folder.mkdir(parents=True, exist_ok=True)
    wanted = arguments.only or list(table)
    if unknown := [name for name in wanted if name not in table]:
        parser.error(f"no such case: {', '.join(unknown)}")
    tester = Tester(folder, arguments)
    print("| case | what is done | answered meanwhile | healed in |\n|---|---|---|---|", flush=True)
    try:
        bad = [name for name in wanted if not tester.run(table[name])]
        done, failed = tester.stress.counts()
        print(f"{len(wanted)} cases; calls {dict(done)}; failed {dict(failed)}")
        faults = [line for node in tester.nodes for line in node.bad_log_lines()]
        faults += tester.faults
    finally:
        tester.close()
    for fault in faults:
        print(f"VIOLATION {fault}")
    if faults or bad:
        print(f"logs and data: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
