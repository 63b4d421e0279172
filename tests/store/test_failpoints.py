"""Failpoints: what a text arms, what the actions do, and that every name has its place."""

import re
import subprocess
import sys
import timeit
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyetcd.store import failpoints
from pyetcd.store.db import StorageFailure
from pyetcd.store.failpoints import PANIC_EXIT, POINTS, arm, hit

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("store", "server", "cli", "raft")


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("", sleep=lambda _: None)


def no_sleep(pause_s: float) -> None:
    raise AssertionError


def test_every_name_has_exactly_one_place() -> None:
    found: list[str] = []
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            for call in re.findall(r"\bhit\(([^)]*)\)", path.read_text()):
                found += re.findall(r'"(\w+)"', call)
    found.remove("walBeforeSync")  # in the docstring
    assert sorted(found) == sorted(POINTS)


def test_off_it_does_nothing_and_costs_nothing() -> None:
    hit("walBeforeSync")
    assert min(timeit.repeat(lambda: hit("walBeforeSync"), number=1000, repeat=20)) < 0.001


def test_an_error_is_that_of_the_place_from_the_nth_time_on() -> None:
    arm("walBeforeSync=error@3; beforeCommit=error", sleep=no_sleep)
    hit("walBeforeSync")
    hit("walBeforeSync")
    hit("walAfterSync")
    for _ in range(2):
        with pytest.raises(StorageFailure, match="failpoint walBeforeSync"):
            hit("walBeforeSync")
    with pytest.raises(OSError, match="beforeCommit"):
        hit("beforeCommit", OSError)


def test_sleeping() -> None:
    slept: list[float] = []
    arm("beforeApply=sleep(50)@2", sleep=slept.append)
    for _ in range(3):
        hit("beforeApply")
    assert slept == [0.05, 0.05]


def test_a_panic_ends_the_process_at_once() -> None:
    code = (
        "import atexit; from pyetcd.store.failpoints import arm, hit\n"
        "atexit.register(print, 'an orderly end'); arm('afterApply=panic', sleep=print)\n"
        "hit('afterApply')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (PANIC_EXIT, "")
    assert done.stderr == "failpoint afterApply: panic\n"


@pytest.mark.parametrize(
    "text", ["walBeforeSync", "walBeforeSync=kill", "nowhere=panic", "afterApply=sleep", "=panic"]
)
def test_a_mistake_arms_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=text.partition("=")[0] or "name="):
        arm(f"afterApply=error;{text}", sleep=no_sleep)
    hit("afterApply")
