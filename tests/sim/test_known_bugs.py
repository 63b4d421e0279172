"""Each known bug can still be put back, and the simulator finds some of them at once."""

import pytest
from sim.known_bugs import BUGS, put_back

# Quick ones, with a seed that finds them and the check that sees them: of docs/bugs.md.
QUICK: dict[str, tuple[int, str]] = {}


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


def test_there_are_enough() -> None:
    assert len(BUGS) >= 25
