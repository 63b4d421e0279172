"""Random clusters under loss, duplication, reordering, crashes, and membership changes.

One seed is one run: the shape of the cluster, the faults and the load are all drawn from it. The
raft invariants hold after every step (cluster.py), every linearizable read is checked against
the commit index at the time it was asked, and after the faults stop the cluster must recover.
Replay one: pytest tests/raft/test_network.py -k 'test_faults[17]'; more: RAFT_SEEDS=1000:2000.
"""

import os
import random
from types import ModuleType
from typing import Any

import pytest

from pyetcd.raft.types import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    ProposalDropped,
    Role,
)

FIRST, LAST = (int(n) for n in os.environ.get("RAFT_SEEDS", "0:150").split(":"))
STEPS = 400
NODES_MAX = 6


class Run:
    def __init__(self, sim: ModuleType, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.cluster: Any = sim.Cluster()
        count = rng.choice((1, 2, 3, 3, 3, 5))
        self.conf = ConfState(voters=tuple(range(1, count + 1)))
        self.options = {
            "pre_vote": rng.random() < 0.7,
            "check_quorum": rng.random() < 0.7,
            "election_ticks": rng.choice((4, 10)),
            "message_bytes_max": rng.choice((0, 40, 1 << 20)),
            "committed_bytes_max": rng.choice((0, 60, 1 << 20)),
            "uncommitted_bytes_max": rng.choice((50, 1 << 20)),
            "inflight_max": rng.choice((1, 2, 256)),
            "step_down_on_removal": rng.random() < 0.8,
        }
        for node in self.conf.voters:
            self.cluster.add(node, self.conf, rng=random.Random(rng.random()), **self.options)
        self.loss = rng.choice((0.0, 0.05, 0.3))
        self.copies = rng.choice((0.0, 0.1))
        self.crashes = rng.choice((0.0, 0.01, 0.03))
        self.changes = rng.choice((0.0, 0.01, 0.03))
        self.partitions = rng.choice((0.0, 0.02, 0.05))
        self.asked: dict[bytes, tuple[int, int]] = {}
        self.serial = 0
        self.seen_reads = 0

    def step(self) -> None:
        rng, cluster = self.rng, self.cluster
        up = cluster.up()
        if rng.random() < self.crashes:
            self.crash_or_restart()
        elif rng.random() < self.partitions:
            cluster.heal()
            if rng.random() < 0.7:
                # A cut-off leader is where stale reads and doomed entries come from.
                leaders = [member.id for member in up if member.node.is_leader]
                cluster.isolate(rng.choice(leaders or list(cluster.members)))
        elif up:
            member = rng.choice(up)
            if rng.random() < self.changes:
                self.change(member)
            else:
                self.act(member)
        for _ in range(rng.randrange(4)):
            self.deliver_one()
        self.check_reads()

    def act(self, member: Any) -> None:
        rng, cluster, node = self.rng, self.cluster, member.id
        match rng.randrange(13):
            case 0 | 1 | 2 | 12:
                cluster.tick(node, rng.randrange(1, 4))
            case 3 | 4:
                self.propose(member)
            case 5:
                self.read(member)
            case 6 if rng.random() < 0.2:
                member.node.transfer_leader(rng.choice(list(cluster.members)))
            case 7 if rng.random() < 0.3:
                self.compact(member)
            case 8 if rng.random() < 0.2:
                member.node.report_unreachable(rng.choice(list(cluster.members)))
            case 9 if rng.random() < 0.2:
                for peer, view in member.node.status().progress.items():
                    if view.state == 2:
                        member.node.report_snapshot(peer, ok=rng.random() < 0.5)
            case _:
                self.work(member)
        cluster.verify(node)

    def work(self, member: Any) -> None:
        """Half a Ready or a whole one."""
        if member.outstanding is not None:
            self.cluster.finish(member.id)
        elif member.node.has_ready():
            self.cluster.begin(member.id)
            if self.rng.random() < 0.5:
                self.cluster.finish(member.id)

    def propose(self, member: Any) -> None:
        self.serial += 1
        try:
            member.node.propose(
                [f"{self.serial}.{i}".encode() for i in range(self.rng.choice((1, 3)))]
            )
        except ProposalDropped:
            pass

    def read(self, member: Any) -> None:
        self.serial += 1
        context = b"%d" % self.serial
        committed = max(m.node.commit for m in self.cluster.up())
        self.asked[context] = (committed, member.id)
        member.node.read_index(context)

    def check_reads(self) -> None:
        for member in self.cluster.members.values():
            for state in member.reads:
                committed, node = self.asked.pop(state.context, (0, member.id))
                assert node == member.id and state.index >= committed, "a stale read"
            member.reads.clear()

    def compact(self, member: Any) -> None:
        if member.node.applied > member.storage._snapshot.meta.index and not member.outstanding:
            self.cluster.snapshot(member.id)
            if member.storage.first_index() <= member.node.applied:
                member.storage.compact(
                    self.rng.randint(member.storage.first_index(), member.node.applied)
                )

    def change(self, member: Any) -> None:
        rng = self.rng
        singles = []
        for _ in range(rng.choice((1, 1, 2))):
            node = rng.randint(1, NODES_MAX)
            kind = rng.choice(
                (
                    ConfChangeType.ADD_NODE,
                    ConfChangeType.ADD_LEARNER_NODE,
                    ConfChangeType.REMOVE_NODE,
                )
            )
            if node not in self.cluster.members and kind != ConfChangeType.REMOVE_NODE:
                self.cluster.add(node, self.conf, rng=random.Random(rng.random()), **self.options)
            singles.append(ConfChangeSingle(kind, node))
        try:
            if len(singles) == 1 and rng.random() < 0.7:
                single = singles[0]
                member.node.propose_conf_change(ConfChange(single.type, single.node_id))
            elif rng.random() < 0.2:
                member.node.propose_conf_change(ConfChangeV2())
            else:
                transition = rng.choice(list(ConfChangeTransition))
                member.node.propose_conf_change(ConfChangeV2(tuple(singles), transition))
        except ProposalDropped:
            pass

    def crash_or_restart(self) -> None:
        member = self.rng.choice(list(self.cluster.members.values()))
        if member.up:
            self.cluster.crash(member.id)
        else:
            self.cluster.restart(member.id)

    def deliver_one(self) -> None:
        rng, network = self.rng, self.cluster.network
        if not network:
            return
        # Mostly in order, as a connection keeps it; sometimes anything.
        message = network.pop(0 if rng.random() < 0.8 else rng.randrange(len(network)))
        if rng.random() < self.copies:
            network.append(message)
        if rng.random() >= self.loss:
            self.cluster.deliver(message)

    def recover(self) -> None:
        """Everybody is back and the network is whole: one leader, and equal logs, soon."""
        cluster = self.cluster
        cluster.heal()
        for member in cluster.members.values():
            if not member.up:
                cluster.restart(member.id)
        for _ in range(60 * self.options["election_ticks"]):
            for member in cluster.members.values():
                cluster.tick(member.id)
            cluster.run()
            for leader in cluster.members.values():
                for peer, view in leader.node.status().progress.items():
                    if view.state == 2 and peer != leader.id:
                        leader.node.report_snapshot(peer, ok=True)
            if self.settled():
                return
        raise AssertionError("no recovery: " + " ".join(map(str, self.summary())))

    def settled(self) -> bool:
        leaders = [m for m in self.cluster.up() if m.node.role == Role.LEADER]
        if not leaders:
            return False
        leader = max(leaders, key=lambda m: m.node.term)
        members = leader.node.raft.conf.members
        if leader.id not in members or leader.node.commit != leader.node.last_index:
            return False
        followers = [self.cluster.members[node] for node in members]
        return all(f.node.applied == leader.node.last_index for f in followers) and all(
            f.applied == leader.applied for f in followers
        )

    def summary(self) -> list[object]:
        return [
            (m.id, m.node.role.name, m.node.term, m.node.commit, m.node.last_index, m.conf_state)
            for m in self.cluster.members.values()
        ]


@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_faults(sim: ModuleType, seed: int) -> None:
    run = Run(sim, seed)
    for _ in range(STEPS):
        run.step()
    if not run.changes:
        # With random removals the rest may be a majority that nobody can reach any more.
        run.recover()
