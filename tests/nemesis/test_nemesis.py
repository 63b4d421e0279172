"""Short runs: faults of all kinds, kills of a single member, clock jumps, three of the cases, and a
cluster that changes its shape."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CASES = ("SIGTERM_LEADER", "BLACKHOLE_PEER_PORT_TX_RX_LEADER", "EXTERNAL")


def run(folder, script, *arguments):
    done = subprocess.run(
        [sys.executable, str(HERE / script), f"--folder={folder}", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not folder.exists()
    return done.stdout


def test_nothing_acknowledged_is_lost(tmp_path):
    begin = ("--first=clock_jump", "--first=compact", "--first=save_snapshot")
    told = run(tmp_path / "members", "run.py", "--minutes=0.2", "--seed=1", *begin)
    assert "wall clocks moved" in told and "lost 0" in told


def test_one_member_is_killed(tmp_path):
    run(tmp_path / "members", "run.py", "--single=3", "--seed=1")


def test_three_cases(tmp_path):
    told = run(
        tmp_path / "members", "cases.py", "--hold=0.5", *(f"--only={name}" for name in CASES)
    )
    assert "3 cases" in told


def test_the_shape_changes_under_load(tmp_path):
    told = run(tmp_path / "members", "reshape.py", "--program=pyetcd", "--quick")
    assert "10 moves" in told and "lost 0" in told
