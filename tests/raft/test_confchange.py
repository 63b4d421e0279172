"""confchange.py: the worked example, the rules, and that no sequence of changes breaks them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyetcd.raft.confchange import (
    Configuration,
    apply_change,
    as_v2,
    enter_joint,
    leave_joint,
    restore,
    simple,
    to_state,
)
from pyetcd.raft.types import (
    ConfChange,
    ConfChangeInvalid,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
)

ADD, REMOVE = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE
LEARNER, UPDATE = ConfChangeType.ADD_LEARNER_NODE, ConfChangeType.UPDATE_NODE
singles = st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), st.integers(0, 6))


def single(kind: ConfChangeType, node: int) -> ConfChangeSingle:
    return ConfChangeSingle(kind, node)


def voters(*ids: int, learners: tuple[int, ...] = ()) -> Configuration:
    return Configuration(frozenset(ids), learners=frozenset(learners))


def test_the_example_of_the_docstring() -> None:
    changes = (single(ADD, 4), single(LEARNER, 3))
    joint = enter_joint(voters(1, 2, 3), changes, auto_leave=True)
    assert to_state(joint) == ConfState((1, 2, 4), (), (1, 2, 3), (3,), auto_leave=True)
    assert joint.members == {1, 2, 3, 4} and joint.all_voters == {1, 2, 3, 4}
    assert to_state(leave_joint(joint)) == ConfState((1, 2, 4), (3,))


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (voters(1), single(ADD, 2), voters(1, 2)),
        (voters(1), single(ADD, 1), voters(1)),
        (voters(1), single(ADD, 0), voters(1)),
        (voters(1), single(UPDATE, 9), voters(1)),
        (voters(1), single(REMOVE, 9), voters(1)),
        (voters(1, 2), single(REMOVE, 2), voters(1)),
        (voters(1), single(LEARNER, 2), voters(1, learners=(2,))),
        (voters(1, learners=(2,)), single(LEARNER, 2), voters(1, learners=(2,))),
        (voters(1, learners=(2,)), single(ADD, 2), voters(1, 2)),
        (voters(1, learners=(2,)), single(REMOVE, 2), voters(1)),
        (voters(1, 2), single(LEARNER, 2), voters(1, learners=(2,))),
        (voters(), single(ADD, 1), voters(1)),
    ],
)
def test_simple(before: Configuration, change: ConfChangeSingle, after: Configuration) -> None:
    assert simple(before, [change]) == after


@pytest.mark.parametrize(
    ("before", "change", "text"),
    [
        (voters(1), ConfChange(REMOVE, 1), "removes every voter"),
        (voters(), ConfChange(LEARNER, 1), "removes every voter"),
        (voters(1), ConfChangeV2(), "not joint"),
        (voters(), ConfChangeV2((single(ADD, 1), single(ADD, 2))), "without voters"),
        (Configuration(frozenset({1}), frozenset({1, 2})), ConfChange(ADD, 3), "is joint"),
        (
            Configuration(frozenset({1}), frozenset({1, 2})),
            ConfChangeV2((single(ADD, 3), single(ADD, 4))),
            "joint already",
        ),
    ],
)
def test_refused(before: Configuration, change: ConfChange | ConfChangeV2, text: str) -> None:
    with pytest.raises(ConfChangeInvalid, match=text):
        apply_change(before, change)


def test_more_than_one_voter_needs_a_joint_configuration() -> None:
    with pytest.raises(ConfChangeInvalid, match="more than one voter"):
        simple(voters(1), [single(ADD, 2), single(ADD, 3)])


@pytest.mark.parametrize(
    ("transition", "count", "joint", "auto"),
    [
        (ConfChangeTransition.AUTO, 1, False, False),
        (ConfChangeTransition.AUTO, 2, True, True),
        (ConfChangeTransition.JOINT_IMPLICIT, 1, True, True),
        (ConfChangeTransition.JOINT_EXPLICIT, 1, True, False),
    ],
)
def test_transitions(transition: ConfChangeTransition, count: int, joint: bool, auto: bool) -> None:
    change = ConfChangeV2(tuple(single(ADD, 2 + n) for n in range(count)), transition)
    after = apply_change(voters(1), change)
    assert (after.joint, after.auto_leave) == (joint, auto)


def test_the_first_form_is_a_simple_change_of_the_second() -> None:
    assert as_v2(ConfChange(ADD, 3, b"url")) == ConfChangeV2((single(ADD, 3),), context=b"url")


@given(st.lists(st.lists(singles, max_size=4), max_size=8), st.booleans())
def test_any_sequence_keeps_the_rules_and_survives_a_restart(
    batches: list[list[ConfChangeSingle]], auto: bool
) -> None:
    """_checked asserts the rules; a ConfState holds all there is to know."""
    conf = voters(1, 2, 3)
    for batch in batches:
        try:
            before, conf = conf, enter_joint(conf, batch, auto_leave=auto)
        except ConfChangeInvalid:
            continue
        assert conf.outgoing == before.voters
        assert restore(to_state(conf)) == conf
        conf = leave_joint(conf)
        assert restore(to_state(conf)) == conf and not conf.joint


@given(st.lists(singles, max_size=12))
def test_simple_changes_move_at_most_one_voter(changes: list[ConfChangeSingle]) -> None:
    conf = voters(1, 2, 3)
    for change in changes:
        try:
            after = simple(conf, [change])
        except ConfChangeInvalid:
            continue
        assert len(after.voters ^ conf.voters) <= 1 and not after.joint
        conf = after


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (ConfState(learners=(1,)), "no voters"),
        (ConfState((1,), (1,)), "a learner as well"),
        (ConfState((1,), (), (), (2,)), "no outgoing voter"),
        (ConfState((1, 2), (), (1, 2), (2,)), "an incoming voter"),
        (ConfState((1,), auto_leave=True), "leave by itself"),
    ],
)
def test_a_damaged_state_is_refused(state: ConfState, text: str) -> None:
    with pytest.raises(ConfChangeInvalid, match=text):
        restore(state)
