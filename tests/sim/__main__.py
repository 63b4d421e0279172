"""Run seeds: `python tests/sim 17 --log`, `python tests/sim --seeds 1-1000 --jobs 4`.

Prints one line for each seed, and one for all of them. A seed that breaks something prints the
last events, the check and the seed; the exit status is then 1. The same seed gives the same run.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder is the package `sim`

from sim.checkers import RaftChecker
from sim.known_bugs import BUGS
from sim.runner import Outcome, Task, first_found, outcomes
from sim.settings import BadSetting
from sim.shape import KINDS, has
from sim.shrink import shrink

from pyetcd.server import logs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/sim", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?")
    parser.add_argument("--seeds", help="a range, as in 1-1000")
    parser.add_argument(
        "--only", metavar="KINDS",
        help="of the seeds only those with users (auth) or v2 keys (v2), as in auth,v2",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="so many processes")
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no seed after that")
    parser.add_argument("--keep-going", action="store_true", help="after a broken seed, too")
    parser.add_argument("--quiet", action="store_true", help="only what breaks, and the sum")
    parser.add_argument("--log", action="store_true", help="print every event")
    parser.add_argument("--last", type=int, default=30, help="events shown of a broken run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="over what the seed has drawn: members=3, faults=kill,power, network.loss=0.1",
    )  # fmt: skip
    parser.add_argument("--shrink", type=int, metavar="SEED", help="a broken seed, made small")
    parser.add_argument("--bug", help="a known bug put back (known_bugs.py), or `all` of them")
    parser.add_argument(
        "--reference", action="store_true", help="judge each step by raft/invariants.py, too"
    )
    options = parser.parse_args()
    seeds: Sequence[int]
    if options.seeds:
        first, _, last = options.seeds.partition("-")
        seeds = range(int(first), int(last or first) + 1)
    elif options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    elif options.shrink is not None:
        seeds = range(options.shrink, options.shrink + 1)
    else:
        parser.error("a seed, or --seeds A-B, or --shrink SEED")
    if options.only:
        kinds = options.only.split(",")
        if not set(kinds) <= set(KINDS):
            parser.error(f"--only takes {', '.join(KINDS)}")
        seeds = [seed for seed in seeds if any(has(kind, seed) for kind in kinds)]
    logs.set_level("error")
    RaftChecker.reference = options.reference
    task = Task(tuple(options.settings), options.bug, options.last, options.log)
    try:
        if options.shrink is not None:
            return shrink(options.shrink, task, jobs=options.jobs, seconds=options.seconds)
        if options.bug is not None:
            return _find(seeds, task, options)
        return _run(seeds, task, options)
    except BadSetting as error:
        parser.error(str(error))


def _run(seeds: Sequence[int], task: Task, options: argparse.Namespace) -> int:
    broken: list[int] = []
    began_s, count, cpu_s = time.monotonic(), 0, 0.0
    virtual_s, answers, faults, entries, starts = 0.0, 0, 0, 0, 0
    for outcome in outcomes(seeds, task, jobs=options.jobs, seconds=options.seconds):
        count += 1
        if outcome.broken:
            broken.append(outcome.seed)
            _show_broken(outcome, options.log)
            if not options.keep_going:
                break
            continue
        if not options.quiet:
            print(outcome.line, flush=True)
        cpu_s += outcome.cpu_s
        virtual_s += outcome.virtual_s
        answers += outcome.answers
        faults += outcome.faults
        entries += outcome.entries
        starts += outcome.starts
    real_s = time.monotonic() - began_s
    print(
        f"{count} seeds, {virtual_s:.0f} virtual seconds in {real_s:.1f} s:"
        f" {virtual_s / real_s:.0f} times real time, {virtual_s / max(cpu_s, 1e-9):.0f} a core;"
        f" {entries} entries, {answers} answers, {faults} faults, {starts} starts;"
        f" broken: {broken or 'none'}"
    )
    return 1 if broken else 0


def _show_broken(outcome: Outcome, has_log: bool) -> None:
    if not has_log:
        print("\n".join(outcome.events))
    print(f"seed {outcome.seed}: BROKEN, {outcome.broken}", flush=True)


def _find(seeds: Sequence[int], task: Task, options: argparse.Namespace) -> int:
    """One line for each known bug: by which seed it was found first, and by which check. A seed
    that breaks without the bug, too, has found something else."""
    missed = 0
    for name in BUGS if options.bug == "all" else [options.bug]:
        found, tried = first_found(
            seeds, replace(task, bug=name), jobs=options.jobs, seconds=options.seconds
        )
        if found is not None:
            text = found.broken.split("\n")[0]
            print(f"{name}: seed {found.seed}, {text[:150]}", flush=True)
        else:
            missed += 1
            print(f"{name}: NOT FOUND in {tried} seeds from {seeds[0]} on", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
