"""A short run of the nemesis: a quarter of a minute of faults, a few kills of a single member."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")


@pytest.mark.parametrize("arguments", [["--minutes=0.2", "--seed=1"], ["--single=3", "--seed=1"]])
def test_nothing_acknowledged_is_lost(arguments, tmp_path):
    folder = tmp_path / "members"
    done = subprocess.run(
        [sys.executable, str(RUN), f"--folder={folder}", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not folder.exists()
