"""The monitor sees what the invariants see, whichever node the last step was of, and remembers."""

import random
import runpy
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from pyetcd.raft.confchange import Configuration
from pyetcd.raft.invariants import InvariantBroken, NodeView, check
from pyetcd.raft.monitor import Monitor
from pyetcd.raft.types import Entry, Role

EXAMPLES = runpy.run_path(str(Path(__file__).with_name("test_invariants.py")))
BROKEN_STATES, BROKEN_STEPS = EXAMPLES["BROKEN_STATES"], EXAMPLES["BROKEN_STEPS"]
node = EXAMPLES["node"]
CONF = Configuration(frozenset({1, 2, 3}))


def shown(*nodes: NodeView) -> Monitor:
    monitor = Monitor()
    for each in nodes:
        monitor.step(each)
    return monitor


@pytest.mark.parametrize(("name", "nodes"), BROKEN_STATES)
def test_each_broken_state_is_seen_in_any_order(name: str, nodes: list[NodeView]) -> None:
    """At the latest with the last view: which check speaks first depends on the order."""
    seen = set()
    for order in permutations(nodes):
        with pytest.raises(InvariantBroken) as caught:
            shown(*order)
        seen.add(str(caught.value).split(":")[0])
    # Who commits an entry of his own first is seen to do so without a quorum.
    assert name in seen or name == "log_inv"


@pytest.mark.parametrize(("name", "then", "now"), BROKEN_STEPS)
def test_each_broken_step_is_seen(name: str, then: NodeView, now: NodeView) -> None:
    # Others hold what is committed, so that only the step is wrong.
    others = [replace(then, id=id, role=Role.FOLLOWER, commit=0, applied=0) for id in (2, 3)]
    monitor = shown(*others, then)
    with pytest.raises(InvariantBroken):
        monitor.step(now)


def test_a_healthy_run_passes() -> None:
    monitor = Monitor()
    for step in (
        node(1), node(2), node(3),
        node(1, 1, role=Role.LEADER), node(2, 1), node(1, 1, commit=1, role=Role.LEADER),
        node(3, 1, commit=1), node(2, 1, 2, role=Role.LEADER, commit=1), node(3, 1, 2, commit=1),
        node(2, 1, 2, role=Role.LEADER, commit=2), node(1, 1, 2, commit=2),
    ):  # fmt: skip
        monitor.step(step)
    assert monitor.commit == 2 and monitor.entries_total == 2 and monitor.stored(3) == 2


# What only a memory can see.


def test_two_leaders_of_one_term_one_after_the_other() -> None:
    monitor = shown(node(1, term=4, role=Role.LEADER), node(1, term=4), node(2), node(3))
    with pytest.raises(InvariantBroken, match="more_than_one_leader_inv"):
        monitor.step(node(2, term=4, role=Role.LEADER))


def test_an_entry_of_a_term_that_was_another_and_is_gone() -> None:
    monitor = shown(node(1, 1, 2), node(2, 1), node(3, 1), node(1, 1, 3))
    other = node(2, 1, 2)
    other = replace(other, log=[other.log[0], replace(other.log[1], data=b"other")])
    with pytest.raises(InvariantBroken, match="log_matching_inv"):
        monitor.step(other)


def test_a_committed_entry_that_nobody_holds_any_more() -> None:
    monitor = shown(node(2, 1, 1), node(3), node(1, 1, 1, commit=2, role=Role.LEADER))
    monitor.step(node(3, 1, 1))
    monitor.step(replace(node(1, 1), start=-1), after_crash=True)
    with pytest.raises(InvariantBroken, match="committed_is_durable_inv: 2 was committed"):
        monitor.step(replace(node(2, 1), start=-1), after_crash=True)


def test_a_committed_entry_that_is_another_later() -> None:
    monitor = shown(node(2, 1, 1), node(3), node(1, 1, 1, commit=2, role=Role.LEADER))
    with pytest.raises(InvariantBroken, match="log_inv"):
        monitor.step(node(3, 1, 2, commit=2))


def test_a_disk_that_forgets_what_it_had_acknowledged() -> None:
    leader = node(1, 1, 1, commit=2, role=Role.LEADER)
    monitor = shown(node(2, 1, 1), node(3), leader)
    with pytest.raises(InvariantBroken, match="committed_is_durable_inv"):
        monitor.step(replace(node(2, 1, 1), durable=1))


def test_a_log_that_begins_where_nobody_committed() -> None:
    monitor = shown(node(2, 1, 1), node(1, 1, 1, commit=2))
    with pytest.raises(InvariantBroken, match="log_inv"):
        monitor.step(replace(node(3), first=4, prev_term=1, log=[], durable=3))


def test_windows_and_snapshots_stand_for_the_whole_log() -> None:
    whole = node(2, 1, 1, 2, 2, commit=4)
    log = [*whole.log]
    monitor = shown(replace(node(1, 1, 1, 2, 2), id=1), whole)
    tail = replace(node(3), first=4, prev_term=2, log=log[3:], durable=4, commit=4, applied=4)
    monitor.step(tail)
    with pytest.raises(InvariantBroken, match="log_matching_inv"):
        monitor.step(replace(tail, log=[Entry(2, 4, data=b"other")]))


# Beside invariants.check.


def random_step(rng: random.Random, known: dict[int, NodeView]) -> NodeView:
    """A node becomes something: sometimes what raft could make of it, sometimes not."""
    id = rng.randint(1, 3)
    then = known[id]
    log = list(then.log)
    term, commit = then.term, then.commit
    choice = rng.random()
    if choice < 0.3 and len(log) < 6:
        at = rng.choice([0, 0, 0, rng.randint(0, len(log))])
        log = log[: len(log) - at]
        last = log[-1].term if log else 0
        entry_term = rng.randint(max(1, last), max(1, last, term))
        log.append(
            Entry(
                entry_term, len(log) + 1, data=b"%d" % (entry_term if rng.random() < 0.95 else 99)
            )
        )
        term = max(term, entry_term)
    elif choice < 0.55:
        other = known[rng.randint(1, 3)]
        log = list(other.log[: rng.randint(min(commit, len(other.log)), len(other.log))])
        term = max(term, log[-1].term if log else 0)
    elif choice < 0.75:
        commit = rng.randint(commit, max(commit, len(log)))
    elif choice < 0.9:
        term += 1
    role = Role.LEADER if rng.random() < 0.2 else Role.FOLLOWER
    durable = len(log) if rng.random() < 0.9 else rng.randint(0, len(log))
    commit = min(commit, len(log))
    return NodeView(id, term, 0, role, commit, min(commit, durable), 1, 0, log, durable, CONF)


def test_it_is_never_milder_than_the_invariants() -> None:
    rng = random.Random(1)
    judged = broken = 0
    for _ in range(1500):
        monitor = Monitor()
        known = {id: node(id) for id in (1, 2, 3)}
        for each in known.values():
            monitor.step(each)
        for _ in range(30):
            now = random_step(rng, known)
            before, known = known, {**known, now.id: now}
            judged += 1
            try:
                check(known, before)
            except InvariantBroken:
                with pytest.raises(InvariantBroken):
                    monitor.step(now)
                broken += 1
                break
            try:
                monitor.step(now)
            except InvariantBroken:
                break  # it remembers something
    assert broken > 300 and judged > 4000, (judged, broken)
