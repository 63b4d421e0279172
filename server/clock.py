"""Time and randomness, handed in: nobody else asks the machine for either.

Rules. Everything that measures how long something takes reads `monotonic_s`; `wall_s` is only for
what a person reads or what must survive a restart (a lease's remaining time does not need it).
The simulator gives its own Clock and a seeded Rng, so one seed replays one run.
"""

import random
import time
from typing import Protocol


class Clock(Protocol):
    """What the server may know about time."""

    def monotonic_s(self) -> float:
        """Seconds that never go back; the zero is arbitrary."""

    def wall_s(self) -> float:
        """Seconds since 1970-01-01 UTC; may jump."""


class Rng(Protocol):
    """What the server may know about chance."""

    def randrange(self, stop: int, /) -> int:
        """A number from 0 up to, not including, `stop`."""

    def random(self) -> float:
        """A number from 0.0 up to, not including, 1.0."""

    def getrandbits(self, bits: int, /) -> int:
        """A number of that many random bits."""


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()


class ManualClock:
    """A clock that stands still until told to move: the simulator's and the tests'."""

    __slots__ = ("_monotonic_s", "_wall_s")

    def __init__(self, *, monotonic_s: float = 0.0, wall_s: float = 1_700_000_000.0) -> None:
        self._monotonic_s = monotonic_s
        self._wall_s = wall_s

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def wall_s(self) -> float:
        return self._wall_s

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, "time does not go back"
        self._monotonic_s += seconds
        self._wall_s += seconds


def system_rng() -> Rng:
    """The operating system's randomness: two members started at once must not draw alike."""
    return random.SystemRandom()


def seeded_rng(seed: int) -> Rng:
    """The same numbers for the same seed, on every machine."""
    return random.Random(seed)
