"""Each known bug can still be put back, and the simulator finds some of them at once."""

import inspect
from typing import Any

import pytest
from sim.known_bugs import BUGS, put_back
from sim.runner import Task, first_found

# Quick ones; docs/bugs.md has all of them.
QUICK = {
    "proposal_retried": {"log"},
    "ids_begin_anew": {"log", "answers", "apply"},
    "key_stays_with_its_old_lease": {"apply", "watch"},
    "vote_not_persisted": {"raft"},
    "append_cuts_what_matches": {"raft"},
}
SEEDS = range(1, 13)


@pytest.mark.parametrize("name", QUICK)
def test_it_is_found_at_once(name: str) -> None:
    found, tried = first_found(SEEDS, Task(bug=name), jobs=1)
    assert found is not None, f"not in {tried} seeds"
    assert found.check in QUICK[name], found.broken


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_replaces_what_there_is_and_is_taken_out_again(name: str) -> None:
    patches = BUGS[name]()
    assert patches
    before = [vars(owner).get(attribute) for owner, attribute, _ in patches]
    assert all(value is not None for value in before), "what it patches is somewhere else now"
    with put_back(name):
        for (owner, attribute, _), old in zip(patches, before, strict=True):
            assert vars(owner)[attribute] is not old
    assert [vars(owner)[attribute] for owner, attribute, _ in patches] == before


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_called_as_what_it_replaces(name: str) -> None:
    """Else it ends a member at once, and that would count as found."""
    for owner, attribute, replacement in BUGS[name]():
        real = vars(owner)[attribute]
        if inspect.isfunction(real) and inspect.isfunction(replacement):
            assert takes(replacement, real), (attribute, inspect.signature(real))


def takes(replacement: Any, real: Any) -> bool:
    """Whether it takes every call that the real one takes."""
    has = inspect.signature(replacement).parameters.values()
    if any(one.kind is one.VAR_POSITIONAL for one in has):
        return True
    names = {one.name for one in has if one.kind is not one.VAR_KEYWORD}
    if any(one.kind is one.VAR_KEYWORD for one in has):
        return True
    wanted = inspect.signature(real).parameters
    return (
        len(names) == len(wanted)
        and {one.name for one in wanted.values() if one.kind is one.KEYWORD_ONLY} <= names
    )


def test_there_are_enough() -> None:
    assert len(BUGS) >= 25
