"""Fifty seeds, shorter ones, and that a seed is a run. More: `python tests/sim --seeds 1-1000`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sim.runner import Runner, Task, outcomes
from sim.shape import EMPTY_BYTES
from sim.shrink import shrink

from pyetcd.server import logs
from pyetcd.store.backend import Backend

SEEDS = range(1, 51)
TASK = Task(settings=("chaos_s=8",))


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    level = logs.level_value()
    logs.set_level("error")
    yield
    logs.set_level({10: "debug", 20: "info", 30: "warn", 40: "error"}.get(level, "info"))


@pytest.fixture
def runner() -> Iterator[Runner]:
    with Runner(TASK) as runner:
        yield runner


@pytest.mark.parametrize("seed", SEEDS)
def test_seed(runner: Runner, seed: int) -> None:
    outcome = runner.run(seed)
    again = f"python tests/sim {seed} --set {TASK.settings[0]} --log"
    assert not outcome.broken, "\n".join([*outcome.events, outcome.broken, again])
    assert outcome.entries > 0


def test_what_the_quota_is_reckoned_from(tmp_path: Path) -> None:
    """Below it no compaction makes room."""
    backend = Backend.open(str(tmp_path / "kv.db"), create=True)
    assert backend.size_bytes == EMPTY_BYTES
    backend.close()


def test_one_seed_is_one_run_in_whichever_process(runner: Runner) -> None:
    here = [runner.run(seed).line.split()[-1] for seed in (21, 22, 21)]
    there = [found.line.split()[-1] for found in outcomes([21, 22], TASK, jobs=2)]
    assert there == here[:2] and here[2] == here[0]


def test_a_broken_seed_is_made_small(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("members=3", "chaos_s=4", "clients=2", "watchers=1", "faults=kill,clog", "v2=false")
    task = Task(settings=settings, bug="answers_before_fsync")
    assert shrink(1, task, jobs=1, seconds=1.0) == 1
    printed = capsys.readouterr().out.splitlines()
    assert "committed_is_durable_inv" in printed[0]
    assert printed[-1].startswith("python tests/sim ")
    assert "--bug answers_before_fsync" in printed[-1]


def test_a_worker_that_dies_is_told_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Runner.run

    def dying(self: Runner, seed: int) -> object:
        return os._exit(9) if seed == 2 else run(self, seed)

    monkeypatch.setattr(Runner, "run", dying)
    found = list(outcomes([1, 2, 3], Task(settings=("chaos_s=1", "members=1")), jobs=2))
    assert [outcome.seed for outcome in found] == [1, 2, 3]
    assert [outcome.broken for outcome in found] == ["", "its process ended with status 9", ""]
