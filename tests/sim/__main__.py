"""Run seeds: `python tests/sim 17 --log`, `python tests/sim --seeds 1-1000`.

Prints one line for each seed. A seed that breaks something prints the check, the seed and the last
events; the exit status is then 1. The same seed gives the same run.
"""

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder is the package `sim`

from sim.disk import Disks, installed
from sim.known_bugs import BUGS, put_back
from sim.world import Report, Violation, run

from pyetcd.server import logs

MEMORY = "/dev/shm"

Result = tuple[Report | None, Exception | None, list[str]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/sim", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?")
    parser.add_argument("--seeds", help="a range, as in 1-1000")
    parser.add_argument("--log", action="store_true", help="print every event")
    parser.add_argument("--last", type=int, default=30, help="events shown of a broken run")
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("--quiet", action="store_true", help="only what breaks, and the sum")
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no seed after that")
    parser.add_argument("--bug", help="a known bug put back (known_bugs.py), or `all` of them")
    options = parser.parse_args()
    if options.seeds:
        first, _, last = options.seeds.partition("-")
        seeds = range(int(first), int(last or first) + 1)
    elif options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    else:
        parser.error("a seed, or --seeds A-B")
    logs.set_level("error")
    if options.bug is None:
        return _run(seeds, options)
    for name in BUGS if options.bug == "all" else [options.bug]:
        with put_back(name):
            _find(name, seeds, options.seconds)
    return 0


def _one(seed: int, disks: Disks, log: bool = False) -> Result:
    folder = Path(tempfile.mkdtemp(prefix="sim-", dir=MEMORY if Path(MEMORY).is_dir() else None))
    try:
        return run(seed, folder, disks, log=print if log else None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        disks.by_folder.clear()


def _find(name: str, seeds: range, seconds: float) -> None:
    """One line: after how many seeds a bug was found, and by which check."""
    began_s = time.perf_counter()
    with installed() as disks:
        for seed in seeds:
            if seconds and time.perf_counter() - began_s > seconds:
                print(f"{name}: NOT FOUND up to seed {seed}", flush=True)
                return
            _, error, _ = _one(seed, disks)
            if error is not None:
                text = f"{type(error).__name__}: {error}".split("\n")[0]
                print(f"{name}: seed {seed}, {text[:150]}", flush=True)
                return
    print(f"{name}: NOT FOUND in {seeds}", flush=True)


def _run(seeds: range, options: argparse.Namespace) -> int:
    broken: list[int] = []
    began_s, virtual_s, count = time.perf_counter(), 0.0, 0
    with installed() as disks:
        for seed in seeds:
            if options.seconds and time.perf_counter() - began_s > options.seconds:
                break
            report, error, events = _one(seed, disks, options.log)
            count += 1
            if report is not None:
                virtual_s += report.virtual_s
                if not options.quiet:
                    print(report.line(), flush=True)
                if options.log:
                    print(report)
                continue
            broken.append(seed)
            if not options.log:
                print("\n".join(line[:300] for line in events[-options.last :]))
            if not isinstance(error, Violation):
                traceback.print_exception(error)
            print(f"seed {seed}: BROKEN, {type(error).__name__}: {str(error)[:3000]}", flush=True)
            if not options.keep_going:
                break
    real_s = time.perf_counter() - began_s
    print(
        f"{count} seeds, {virtual_s:.0f} virtual seconds in {real_s:.1f} s"
        f" ({virtual_s / real_s:.0f} times real time), broken: {broken or 'none'}"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
