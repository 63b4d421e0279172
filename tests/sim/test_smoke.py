"""A few seeds, and that a seed is a run. More: `python tests/sim --seeds 1-1000`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sim.disk import Disks, installed
from sim.world import run

from pyetcd.server import logs

SEEDS = 20


@pytest.fixture
def disks() -> Iterator[Disks]:
    level = logs.level_value()
    logs.set_level("error")
    with installed() as disks:
        yield disks
    logs.set_level({10: "debug", 20: "info", 30: "warn", 40: "error"}.get(level, "info"))


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_seed(tmp_path: Path, disks: Disks, seed: int) -> None:
    report, error, events = run(seed, tmp_path, disks)
    assert error is None, "\n".join([*events[-40:], repr(error), f"python tests/sim {seed} --log"])
    assert report is not None and report.entries > 0


def test_one_seed_is_one_run(tmp_path: Path, disks: Disks) -> None:
    reports = [run(21, tmp_path / name, disks)[0] for name in ("a", "b")]
    digests = [report.digest for report in reports if report is not None]
    assert len(digests) == 2 and digests[0] == digests[1]
