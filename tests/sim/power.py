"""Power cuts of a single member: `python tests/sim/power.py --cuts 1000`.

Strategy. Seeds of the simulator with one member and no fault but the loss of power: between two
events, at the n-th change of the disk from some moment on, or at a failpoint: whatever the member
is doing there (a commit, a checkpoint, a cut of the log, a compaction, its start). Of what was not
synced the disk keeps any sectors of a drawn subset. All checks of the simulator are on: after
each cut the log must hold what was promised, in the end every acknowledged write must be there.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder is the package `sim`

from sim.runner import Runner, Task
from sim.world import World

from pyetcd.server import logs

SETTINGS = (
    "members=1", "faults=power,fuse,fuse,failpoint", "fault_every_s=0.5", "chaos_s=30.0",
    "membership=false", "disaster=false", "caretaker=true",
)  # fmt: skip


@dataclass
class PowerTask(Task):
    """Counts the cuts of all its worlds."""

    cuts: int = 0

    def prepare(self, world: World) -> None:
        super().prepare(world)
        crash = world.crash

        def counted(member, *, power, why, down_s=0.0):
            self.cuts += 1  # whatever ended the process ends the power, too
            crash(member, power=True, why=why, down_s=down_s or world.rng.uniform(0.01, 0.5))

        world.crash = counted  # type: ignore[method-assign]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/sim/power.py", description=__doc__)
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    options = parser.parse_args()
    logs.set_level("error")
    return run(options.cuts, options.seed)


def run(cuts: int, seed: int) -> int:
    began_s = time.monotonic()
    task = PowerTask(SETTINGS)
    seeds = answers = starts = 0
    with Runner(task) as runner:
        while task.cuts < cuts:
            outcome = runner.run(seed + seeds)
            seeds += 1
            if outcome.broken:
                print("\n".join(outcome.events))
                print(f"seed {outcome.seed}: BROKEN, {outcome.broken}")
                return 1
            answers += outcome.answers
            starts += outcome.starts
    took_s = time.monotonic() - began_s
    print(
        f"{task.cuts} power cuts of a single member in {seeds} seeds and {took_s:.1f} s,"
        f" {starts} starts, {answers} answers: nothing acknowledged was lost"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
