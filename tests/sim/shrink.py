"""A broken seed made small: fewer faults, members and clients, and less time, as long as the same
check breaks.

Strategy. A shape is what the seed drew and some settings over it. Each candidate adds or changes
one setting; the first that still breaks the same check is kept, until none is. Another run
of the same seed may meet the same bug elsewhere, so a candidate is also tried under a few
neighbouring seeds before it is given up.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sim.runner import Outcome, Task, outcomes
from sim.settings import override, show
from sim.shape import Shape

NEIGHBOURS = 6
# What to try, the largest gain first: (field, smaller values).
SIZES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("members", (1, 3)),
    ("chaos_s", (2.0, 4.0, 8.0, 15.0)),
    ("clients", (1, 2, 3)),
    ("watchers", (0, 1)),
    ("keys", (1, 3)),
    ("auth", (False,)),
    ("v2", (False,)),
    ("membership", (False,)),
    ("caretaker", (False,)),
    ("compactor", (False,)),
    ("disaster", (False,)),
    ("drift", (0.0,)),
    ("large_values", (0.0,)),
    ("network.encoded", (False,)),
    ("network.loss", (0.0,)),
    ("network.duplication", (0.0,)),
    ("network.reordering", (0.0,)),
    ("pre_vote", (True,)),
    ("message_bytes_max", (512 * 1024,)),
    ("committed_bytes_max", (4 << 20,)),
    ("snapshot_count", (1000,)),
    ("tail_entries", (10_000,)),
    ("kv_wal_bytes", (64 << 20,)),
)


class Shrinker:
    def __init__(self, seed: int, task: Task, *, jobs: int, seconds: float) -> None:
        self._task = task
        self._jobs = jobs
        self._ends_s = time.monotonic() + seconds if seconds else float("inf")
        self._settings: dict[str, str] = {}
        for setting in task.settings:
            name, _, text = setting.partition("=")
            self._settings[name] = text
        self.seed = seed
        self.check = ""
        self.tried = 0
        self.outcome: Outcome | None = None

    def run(self) -> bool:
        """False if the seed is not broken."""
        self.outcome = self._broken(self._settings, [self.seed])
        if self.outcome is None:
            return False
        self.check = self.outcome.check
        print(f"{self.command}: {self.outcome.broken.splitlines()[0][:150]}", flush=True)
        progress = True
        while progress and time.monotonic() < self._ends_s:
            progress = False
            for name, value in self._candidates():
                if time.monotonic() < self._ends_s and self._try(name, value):
                    progress = True
        for name in list(self._settings):
            if name not in MAIN:
                self._try_without(name)
        return True

    @property
    def command(self) -> str:
        settings = "".join(f" --set {name}={text}" for name, text in self._settings.items())
        bug = f" --bug {self._task.bug}" if self._task.bug else ""
        return f"python tests/sim {self.seed}{bug}{settings}"

    def _shape(self) -> Shape:
        shape = Shape.draw(random.Random(self.seed))
        for name, text in self._settings.items():
            override(shape, f"{name}={text}")
        return shape

    def _candidates(self) -> Iterator[tuple[str, Any]]:
        """Smaller values of what is now; each is asked for only after the last was judged."""
        faults = self._shape().faults
        if len(faults) > 2:  # halves first
            yield "faults", faults[: len(faults) // 2]
            yield "faults", faults[len(faults) // 2 :]
        for fault in faults:
            now = self._shape().faults
            if fault in now:
                yield "faults", tuple(each for each in now if each != fault)
        for name, smaller in SIZES:
            for value in smaller:
                drawn = _get(self._shape(), name)
                if drawn is None or drawn == value:
                    break
                if name not in LARGER and drawn < value:
                    break
                yield name, value

    def _try(self, name: str, value: Any) -> bool:
        settings = {**self._settings, name: show(value)}
        seeds = [self.seed, *range(self.seed + 1, self.seed + 1 + NEIGHBOURS)]
        found = self._broken(settings, seeds)
        if found is None:
            return False
        self._settings, self.seed, self.outcome = settings, found.seed, found
        print(f"  {self.command}", flush=True)
        return True

    def _try_without(self, name: str) -> None:
        """What matters little is in the command only if it must be."""
        settings = {other: text for other, text in self._settings.items() if other != name}
        found = self._broken(settings, [self.seed])
        if found is not None:
            self._settings, self.outcome = settings, found

    def _broken(self, settings: dict[str, str], seeds: list[int]) -> Outcome | None:
        """The first of the seeds that breaks the check, if any."""
        given = tuple(f"{name}={text}" for name, text in settings.items())
        for outcome in outcomes(seeds, replace(self._task, settings=given), jobs=self._jobs):
            self.tried += 1
            if outcome.broken and self.check in ("", outcome.check):
                return outcome
        return None


MAIN = ("members", "chaos_s", "clients", "watchers", "faults", "membership", "disaster")
# Fields whose dull value is a large one.
LARGER = ("message_bytes_max", "committed_bytes_max", "snapshot_count", "tail_entries",
          "kv_wal_bytes", "pre_vote")  # fmt: skip


def _get(shape: Shape, name: str) -> Any:
    found: Any = shape
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def shrink(seed: int, task: Task, *, jobs: int, seconds: float) -> int:
    shrinker = Shrinker(seed, task, jobs=jobs, seconds=seconds)
    if not shrinker.run():
        print(f"seed {seed} is not broken")
        return 0
    assert shrinker.outcome is not None
    print("\n".join(shrinker.outcome.events))
    print(f"seed {shrinker.seed}: BROKEN, {shrinker.outcome.broken}")
    print(f"after {shrinker.tried} runs, the smallest that shows it:\n{shrinker.command}")
    return 1
