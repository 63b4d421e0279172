"""Membership changes: a configuration is a value, a change makes the next one.

Strategy: pure functions from Configuration to Configuration. Which progress the leader keeps for
whom follows from the configuration and is not decided here.

    simple        one voter at a time: any two majorities of neighbours overlap (thesis 4.1)
    enter_joint   several at once: both the old and the new majority must agree (thesis 4.3)
    leave_joint   the old majority retires

Worked example, demoting voter 3 and adding voter 4 at once:

    voters (1 2 3)
    enter_joint(+4, learner 3)   voters (1 2 4) outgoing (1 2 3) learners_next (3)
    leave_joint                  voters (1 2 4) learners (3)

3 may not be a learner while it still votes in the outgoing half, so it waits in learners_next.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pyetcd.raft.types import (
    ConfChange,
    ConfChangeInvalid,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
)

EMPTY: frozenset[int] = frozenset()


@dataclass(slots=True, frozen=True)
class Configuration:
    voters: frozenset[int] = EMPTY
    outgoing: frozenset[int] = EMPTY
    learners: frozenset[int] = EMPTY
    learners_next: frozenset[int] = EMPTY
    auto_leave: bool = False

    @property
    def joint(self) -> bool:
        return bool(self.outgoing)

    @property
    def all_voters(self) -> frozenset[int]:
        """Everyone whose vote counts in either half."""
        return self.voters | self.outgoing

    @property
    def members(self) -> frozenset[int]:
        return self.voters | self.outgoing | self.learners


def apply_change(config: Configuration, change: ConfChange | ConfChangeV2) -> Configuration:
    """The configuration after a committed change. ConfChangeInvalid if there is none."""
    v2 = as_v2(change)
    if leaves_joint(v2):
        return leave_joint(config)
    if v2.transition != ConfChangeTransition.AUTO or len(v2.changes) > 1:
        auto_leave = v2.transition != ConfChangeTransition.JOINT_EXPLICIT
        return enter_joint(config, v2.changes, auto_leave=auto_leave)
    return simple(config, v2.changes)


def as_v2(change: ConfChange | ConfChangeV2) -> ConfChangeV2:
    if isinstance(change, ConfChangeV2):
        return change
    single = ConfChangeSingle(change.type, change.node_id)
    return ConfChangeV2((single,), context=change.context)


def leaves_joint(change: ConfChangeV2) -> bool:
    return not change.changes and change.transition == ConfChangeTransition.AUTO


def simple(config: Configuration, changes: Iterable[ConfChangeSingle]) -> Configuration:
    if config.joint:
        raise ConfChangeInvalid("a simple change while the configuration is joint")
    after = _apply(config, changes)
    if len(config.voters ^ after.voters) > 1:
        raise ConfChangeInvalid("more than one voter changed without a joint configuration")
    return _checked(after)


def enter_joint(
    config: Configuration, changes: Iterable[ConfChangeSingle], *, auto_leave: bool
) -> Configuration:
    if config.joint:
        raise ConfChangeInvalid("the configuration is joint already")
    if not config.voters:
        raise ConfChangeInvalid("a configuration without voters cannot become joint")
    return _checked(
        replace(_apply(replace(config, outgoing=config.voters), changes), auto_leave=auto_leave)
    )


def leave_joint(config: Configuration) -> Configuration:
    if not config.joint:
        raise ConfChangeInvalid("the configuration is not joint")
    return _checked(
        Configuration(voters=config.voters, learners=config.learners | config.learners_next)
    )


def _apply(config: Configuration, changes: Iterable[ConfChangeSingle]) -> Configuration:
    """Changes touch the incoming half only; the outgoing one stays as it was."""
    voters, learners, staged = set(config.voters), set(config.learners), set(config.learners_next)
    for change in changes:
        node = change.node_id
        if node == 0 or change.type == ConfChangeType.UPDATE_NODE:
            # 0: the application refused a committed change; it still applies it, as a no-op.
            continue
        known = node in voters or node in learners or node in config.outgoing
        if change.type == ConfChangeType.ADD_LEARNER_NODE and node in learners:
            continue
        if change.type == ConfChangeType.REMOVE_NODE and not known:
            continue
        for group in (voters, learners, staged):
            group.discard(node)
        if change.type == ConfChangeType.ADD_NODE:
            voters.add(node)
        elif change.type == ConfChangeType.ADD_LEARNER_NODE:
            (staged if node in config.outgoing else learners).add(node)
        elif change.type != ConfChangeType.REMOVE_NODE:
            raise ConfChangeInvalid(f"unknown type of change {change.type}")
    if not voters:
        raise ConfChangeInvalid("the change removes every voter")
    return replace(
        config,
        voters=frozenset(voters),
        learners=frozenset(learners),
        learners_next=frozenset(staged),
    )


def _checked(config: Configuration) -> Configuration:
    """Our own functions breaking a rule is a bug."""
    fault = _fault(config)
    assert not fault, fault
    return config


def _fault(config: Configuration) -> str:
    """The rule that a configuration breaks, or ""."""
    rules = (
        ("a staged learner is no outgoing voter", config.learners_next <= config.outgoing),
        ("a staged learner is an incoming voter", not config.learners_next & config.voters),
        ("a voter is a learner as well", not config.learners & config.all_voters),
        ("leftovers of a joint state", config.joint or not config.learners_next),
        ("nothing to leave by itself", config.joint or not config.auto_leave),
        ("no voters", bool(config.voters) or not (config.outgoing or config.learners)),
    )
    return next((text for text, holds in rules if not holds), "")


def restore(state: ConfState) -> Configuration:
    """From a stored or a received ConfState. One that breaks the rules is not ours to assert."""
    config = Configuration(
        frozenset(state.voters),
        frozenset(state.voters_outgoing),
        frozenset(state.learners),
        frozenset(state.learners_next),
        state.auto_leave,
    )
    fault = _fault(config)
    if fault:
        raise ConfChangeInvalid(f"{fault}: {state}")
    return config


def to_state(config: Configuration) -> ConfState:
    """Sorted, so that equal configurations are equal bytes."""
    return ConfState(
        tuple(sorted(config.voters)),
        tuple(sorted(config.learners)),
        tuple(sorted(config.outgoing)),
        tuple(sorted(config.learners_next)),
        config.auto_leave,
    )
