"""Every scenario in testdata, replayed; see transcript.py for the language."""

import os
from pathlib import Path
from types import ModuleType

import pytest

TESTDATA = Path(__file__).with_name("testdata")


@pytest.mark.parametrize("path", sorted(TESTDATA.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path, sim: ModuleType, transcript: ModuleType) -> None:
    expected, actual = transcript.replay(path, sim.Cluster())
    if os.environ.get("RAFT_REWRITE"):
        path.write_text(actual)
    else:
        assert actual == expected
