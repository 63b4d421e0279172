"""How fast a dead leader is replaced, and that nothing disturbs one that lives.

Ticks stand for time: election_ticks 10, heartbeat every tick, messages arrive within the tick.
"""

import random
from types import ModuleType
from typing import Any

from pyetcd.raft.types import ConfState

ELECTION_TICKS = 10
TRIALS = 300


def cluster_of(sim: ModuleType, seed: int, count: int = 3) -> Any:
    cluster = sim.Cluster(check_each=False)
    conf = ConfState(voters=tuple(range(1, count + 1)))
    for node in conf.voters:
        cluster.add(node, conf, rng=random.Random(f"{seed}.{node}"), election_ticks=ELECTION_TICKS)
    return cluster


def ticks_until_leader(cluster: Any, limit: int) -> int:
    for ticks in range(1, limit + 1):
        for member in cluster.up():
            member.node.tick()
        cluster.run()
        if any(member.node.is_leader for member in cluster.up()):
            return ticks
    raise AssertionError("no leader")


def test_a_dead_leader_is_replaced_within_two_election_timeouts(sim: ModuleType) -> None:
    """In 99 of 100 cases (the bar for fail-over)."""
    late = 0
    for seed in range(TRIALS):
        cluster = cluster_of(sim, seed, 3 if seed % 2 else 5)
        ticks_until_leader(cluster, 100)
        (leader,) = [m for m in cluster.up() if m.node.is_leader]
        cluster.crash(leader.id)
        late += ticks_until_leader(cluster, 100) > 2 * ELECTION_TICKS
    assert late <= TRIALS // 100


def test_a_steady_cluster_keeps_its_leader(sim: ModuleType) -> None:
    cluster = cluster_of(sim, 1)
    ticks_until_leader(cluster, 100)
    term = cluster[1].term
    for _ in range(3000):
        for member in cluster.up():
            member.node.tick()
        cluster.run()
    assert {cluster[node].term for node in (1, 2, 3)} == {term}


def test_a_node_that_comes_back_causes_no_election(sim: ModuleType) -> None:
    for seed in range(50):
        cluster = cluster_of(sim, seed)
        ticks_until_leader(cluster, 100)
        (leader,) = [m for m in cluster.up() if m.node.is_leader]
        lonely = leader.id % 3 + 1
        term = leader.node.term
        cluster.isolate(lonely)
        for _ in range(100):
            for member in cluster.up():
                member.node.tick()
            cluster.run()
        cluster.heal()
        for _ in range(40):
            for member in cluster.up():
                member.node.tick()
            cluster.run()
        assert leader.node.is_leader and leader.node.term == term
        assert cluster[lonely].leader == leader.id


def test_a_stall_of_half_an_election_timeout_causes_no_election(sim: ModuleType) -> None:
    for seed in range(50):
        cluster = cluster_of(sim, seed)
        ticks_until_leader(cluster, 100)
        (leader,) = [m for m in cluster.up() if m.node.is_leader]
        term = leader.node.term
        for _ in range(20):
            for member in cluster.up():
                member.node.tick()
            cluster.run()
        for _ in range(ELECTION_TICKS // 2):
            for member in cluster.up():
                if member is not leader:
                    member.node.tick()
        cluster.run()
        for _ in range(5):
            for member in cluster.up():
                member.node.tick()
            cluster.run()
        assert leader.node.is_leader and leader.node.term == term


def test_a_candidate_learns_the_term_of_one_who_cannot_win(sim: ModuleType) -> None:
    """Without pre-vote. 2 has not heard that 1 was promoted, 3 is gone: 1 alone can lead, with the
    vote of 2, which is ahead in terms and raises its own at the same pace."""
    for seed in range(20):
        cluster = sim.Cluster(check_each=False)
        for node, voters in ((1, (1, 2, 3)), (2, (2, 3))):
            cluster.add(
                node,
                ConfState(voters=voters),
                rng=random.Random(f"{seed}.{node}"),
                election_ticks=ELECTION_TICKS,
                pre_vote=False,
            )
        cluster.isolate(1)
        for _ in range(20 * ELECTION_TICKS):
            cluster[2].tick()
            cluster.run()
        cluster.heal()
        ticks_until_leader(cluster, 40 * ELECTION_TICKS)
        assert cluster[1].is_leader
