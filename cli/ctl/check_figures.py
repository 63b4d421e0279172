"""What `check` asks of a cluster, and how it judges the answer: loads, figures, verdict.

Loads, limits and lines are etcdctl's, with its oddities: the throughput shown is one above the
whole number below it, and two of the three lines about a failure do not begin with FAIL. Errors are
listed by their text, where etcdctl's order is chance.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

SHARE_MIN = 0.9  # of the writes asked for, that must have been done
SLOWEST_MAX_S, STDDEV_MAX_S = 0.5, 0.1
PERF_KEY_BYTES, PERF_VALUE_BYTES = 256, 1024
SCALE_KEY_BYTES, SCALE_VALUE_BYTES = 512, 512


class PerfLoad(NamedTuple):
    """A load of `check perf`."""

    writes_per_s: int
    clients: int
    duration_s: int = 60


class ScaleLoad(NamedTuple):
    """A load of `check datascale`."""

    keys: int
    clients: int


PERF: Final = {
    "s": PerfLoad(150, 50),
    "m": PerfLoad(1000, 200),
    "l": PerfLoad(8000, 500),
    "xl": PerfLoad(15000, 1000),
}
SCALE: Final = {
    "s": ScaleLoad(10_000, 50),
    "m": ScaleLoad(100_000, 200),
    "l": ScaleLoad(1_000_000, 500),
    "xl": ScaleLoad(3_000_000, 1000),
}
ALIASES: Final = {name: name for name in PERF} | {
    "small": "s",
    "medium": "m",
    "large": "l",
    "xLarge": "xl",
}


class Figures(NamedTuple):
    """What came of a load."""

    writes_per_s: float
    slowest_s: float
    stddev_s: float  # NaN when nothing was written
    errors: Mapping[str, int]


def figures(latencies_s: Sequence[float], took_s: float, errors: Mapping[str, int]) -> Figures:
    """Of the writes that were done, and how many failed with which error."""
    count = len(latencies_s)
    if not count:
        return Figures(0.0, 0.0, math.nan, errors)
    average_s = sum(latencies_s) / count
    variance = sum((latency_s - average_s) ** 2 for latency_s in latencies_s) / count
    return Figures(count / took_s, max(latencies_s), math.sqrt(variance), errors)


def verdict(found: Figures, limit: int) -> tuple[list[str], bool]:
    """The lines about a load of `limit` writes a second, without the last; whether all is well."""
    lines = error_lines(found.errors)
    shown = int(found.writes_per_s) + 1
    is_fast = found.writes_per_s / limit > SHARE_MIN
    if is_fast:
        lines.append(f"PASS: Throughput is {shown} writes/s")
    else:
        lines.append(f"FAIL: Throughput too low: {shown} writes/s")
    is_slow = found.slowest_s > SLOWEST_MAX_S
    slow = "Slowest request took too long:" if is_slow else "PASS: Slowest request took"
    lines.append(f"{slow} {_seconds(found.slowest_s)}")
    is_uneven = found.stddev_s > STDDEV_MAX_S
    uneven = "Stddev too high:" if is_uneven else "PASS: Stddev is"
    lines.append(f"{uneven} {_seconds(found.stddev_s)}")
    return lines, is_fast and not is_slow and not is_uneven and not found.errors


def error_lines(errors: Mapping[str, int]) -> list[str]:
    """What is said about writes that failed."""
    if not errors:
        return []
    rows = [f"FAIL: ERROR({text}) -> {count}" for text, count in sorted(errors.items())]
    return ["FAIL: too many errors", *rows]


def memory_line(before_bytes: float, after_bytes: float) -> str:
    """What the keys of `check datascale` cost."""
    used_mib = (after_bytes - before_bytes) / (1 << 20)
    return f"PASS: Approximate system memory used : {used_mib:.2f} MB."


def _seconds(value_s: float) -> str:
    return "NaNs" if math.isnan(value_s) else f"{value_s:f}s"
