"""The invariants must be able to fail: each is shown a small state that breaks it, and only it."""

from dataclasses import replace

import pytest

from pyetcd.raft.confchange import Configuration
from pyetcd.raft.invariants import STEPS, InvariantBroken, NodeView, check
from pyetcd.raft.types import Entry, Role

CONF = Configuration(frozenset({1, 2, 3}))


def node(
    node_id: int, *terms: int, term: int = 0, commit: int = 0, role: Role = Role.FOLLOWER
) -> NodeView:
    """A log with these terms, all of it stored, and as much applied as is committed."""
    log = [Entry(t, i, data=b"%d" % t) for i, t in enumerate(terms, 1)]
    current = term or (terms[-1] if terms else 0)
    return NodeView(node_id, current, 0, role, commit, commit, 1, 0, log, len(log), CONF)


def views(*nodes: NodeView) -> dict[int, NodeView]:
    return {each.id: each for each in nodes}


def test_a_healthy_cluster_passes() -> None:
    good = views(node(1, 1, 1, 2, role=Role.LEADER, commit=3), node(2, 1, 1, 2), node(3, 1))
    check(good, good)


def forged(view: NodeView, index: int, data: bytes) -> NodeView:
    log = list(view.log)
    log[index - 1] = replace(log[index - 1], data=data)
    return replace(view, log=log)


BROKEN_STATES: list[tuple[str, list[NodeView]]] = [
    ("log_inv", [node(1, 1, 2, commit=2), node(2, 1, 3, commit=2), node(3, 1)]),
    (
        "more_than_one_leader_inv",
        [node(1, term=4, role=Role.LEADER), node(2, term=4, role=Role.LEADER)],
    ),
    ("election_safety_inv", [node(1, 1, role=Role.LEADER), node(2, 1, 1)]),
    ("log_matching_inv", [node(1, 1, 2), forged(node(2, 1, 2), 1, b"other")]),
    ("log_matching_inv", [node(1, 1, 3, 3), node(2, 2, 2, 3)]),
    ("quorum_log_inv", [node(1, 1, 1, commit=2), node(2, 1), node(3, 1)]),
    (
        "more_up_to_date_correct_inv",
        [node(1, 1, 1, commit=2), node(2, 1, 1), node(3, 1, 3)],
    ),
    (
        "leader_completeness_inv",
        [node(1, 1, 1, commit=2), node(2, 1, 1), node(3, 1, term=2, role=Role.LEADER)],
    ),
    (
        "committed_is_durable_inv",
        [
            replace(node(1, 1, commit=1, role=Role.LEADER), durable=0, applied=0),
            replace(node(2, 1), durable=0),
            node(3, 1),
        ],
    ),
    ("committed_is_durable_inv", [replace(node(1, 1, commit=1), durable=0), node(2, 1)]),
]


@pytest.mark.parametrize(("name", "nodes"), BROKEN_STATES)
def test_each_is_broken_by_its_own_state(name: str, nodes: list[NodeView]) -> None:
    with pytest.raises(InvariantBroken, match=f"^{name}:"):
        check(views(*nodes))


THEN = node(1, 1, 1, 2, commit=2, role=Role.LEADER)


BROKEN_STEPS: list[tuple[str, NodeView, NodeView]] = [
    ("term_grows", THEN, replace(THEN, term=1, role=Role.FOLLOWER)),
    ("vote_sticks", replace(THEN, vote=1), replace(THEN, vote=2)),
    ("commit_grows", THEN, replace(THEN, commit=1, applied=1)),
    ("commit_grows", THEN, replace(THEN, applied=1)),
    ("committed_stays", THEN, replace(forged(THEN, 1, b"!"), role=Role.FOLLOWER)),
    ("leader_appends_only", THEN, replace(THEN, log=THEN.log[:2], durable=2)),
    ("role_follows_term", replace(THEN, role=Role.FOLLOWER), THEN),
]


@pytest.mark.parametrize(("name", "then", "now"), BROKEN_STEPS)
def test_each_step_is_judged(name: str, then: NodeView, now: NodeView) -> None:
    (step,) = [step for step in STEPS if step.__name__ == name]
    assert list(step(then, now)) and not list(step(then, then))


def test_a_restart_may_forget_the_commit_index_but_not_what_was_applied() -> None:
    others = [node(2, 1, 1, 2), node(3, 1, 1, 2)]
    then = replace(THEN, applied=1, role=Role.FOLLOWER)
    check(views(replace(then, commit=1, start=1), *others), views(then))
    with pytest.raises(InvariantBroken, match="commit_grows"):
        check(views(replace(then, commit=0, applied=0, start=1), *others), views(then))


def test_compacted_logs_are_compared_where_they_overlap() -> None:
    whole = node(1, 1, 1, 2, 2, commit=4)
    tail = replace(node(2), first=4, prev_term=2, log=whole.log[3:], durable=4, commit=4, applied=4)
    check(views(whole, tail, node(3, 1)))
    other = replace(tail, prev_term=9, log=[Entry(9, 4)])
    with pytest.raises(InvariantBroken, match="log_inv"):
        check(views(whole, other))
