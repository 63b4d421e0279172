"""Many seeds: here, or over processes, and always told in the order of their numbers.

Strategy. Each worker is a process of its own that is given one seed after another over a pipe, so
it is known which seed a worker that dies or hangs had. Seeds are begun in order; an outcome waits
until all before it are there.

Limits. A seed that takes longer than PATIENCE_S of real time is a broken one: its worker is ended.
No garbage is collected during a run: a run makes some megabytes of cycles, and ends soon.
"""

import gc
import multiprocessing
import shutil
import tempfile
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sim.disk import Disks, installed
from sim.known_bugs import put_back
from sim.settings import override
from sim.world import Violation, World, run

MEMORY = "/dev/shm"
PATIENCE_S = 600.0
EVENT_CHARACTERS = 300  # of one line of the log of a broken run


@dataclass
class Task:
    """What is the same for all seeds."""

    settings: tuple[str, ...] = ()  # "name=value", over what the seed has drawn
    bug: str | None = None  # put back
    last: int = 30  # events kept of a broken run
    has_log: bool = False  # every event is printed as it comes

    def prepare(self, world: World) -> None:
        for setting in self.settings:
            override(world.shape, setting)


@dataclass
class Outcome:
    """One seed; pickled from process to process."""

    seed: int
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    line: str = ""
    answers: int = 0
    faults: int = 0
    entries: int = 0
    starts: int = 0
    checks: int = 0
    broken: str = ""  # the check and what it says, or how it ended
    check: str = ""  # the name of what broke
    events: list[str] = field(default_factory=list)  # the last ones, and a traceback of a bug


def run_seed(seed: int, disks: Disks, task: Task) -> Outcome:
    memory = MEMORY if Path(MEMORY).is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="sim-", dir=memory))
    started_s = time.process_time()
    try:
        report, error, events = run(
            seed, folder, disks, log=print if task.has_log else None, prepare=task.prepare
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        disks.by_folder.clear()
    outcome = Outcome(seed, cpu_s=time.process_time() - started_s)
    if report is not None:
        outcome.virtual_s, outcome.line = report.virtual_s, report.line()
        outcome.answers = sum(
            count for text, count in report.answers.items() if ":" not in text and text != "gave up"
        )
        outcome.faults = sum(report.faults.values())
        outcome.entries, outcome.starts = report.entries, report.starts
        outcome.checks = report.checks
        return outcome
    assert error is not None
    outcome.events = [line[:EVENT_CHARACTERS] for line in events[-task.last :]]
    outcome.check = error.check if isinstance(error, Violation) else type(error).__name__
    if not isinstance(error, Violation):
        outcome.events += "".join(traceback.format_exception(error)).splitlines()
    outcome.broken = f"{type(error).__name__}: {str(error)[:3000]}"
    return outcome


class Runner:
    """Runs seeds in this process, one after another."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._stack = ExitStack()

    def __enter__(self) -> "Runner":
        if self._task.bug is not None:
            self._stack.enter_context(put_back(self._task.bug))
        self._disks = self._stack.enter_context(installed())
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(self, *rest: object) -> None:
        self._stack.close()
        gc.enable()
        gc.unfreeze()

    def run(self, seed: int) -> Outcome:
        outcome = run_seed(seed, self._disks, self._task)
        gc.collect()
        return outcome


def outcomes(
    seeds: Sequence[int], task: Task, *, jobs: int, seconds: float = 0.0
) -> Generator[Outcome]:
    """In the order of the seeds; no seed is begun after so many seconds, if any."""
    ends_s = time.monotonic() + seconds if seconds else float("inf")
    if jobs > 1:
        yield from _Pool(task, jobs).run(seeds, ends_s)
        return
    with Runner(task) as runner:
        for seed in seeds:
            if time.monotonic() > ends_s:
                return
            yield runner.run(seed)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    seed: int | None = None
    began_s: float = 0.0


class _Pool:
    def __init__(self, task: Task, jobs: int) -> None:
        self._task = task
        self._context = multiprocessing.get_context("fork")
        self._workers = [self._begin() for _ in range(jobs)]

    def _begin(self) -> _Worker:
        mine, its = self._context.Pipe()
        process = self._context.Process(target=_work, args=(its, self._task), daemon=True)
        process.start()
        its.close()
        return _Worker(process, mine)

    def run(self, seeds: Sequence[int], ends_s: float) -> Iterator[Outcome]:
        waiting = iter(seeds)
        found: dict[int, Outcome] = {}
        begun: list[int] = []  # in order, not told yet
        try:
            while True:
                for worker in self._workers:
                    if worker.seed is None and time.monotonic() < ends_s:
                        seed = next(waiting, None)
                        if seed is not None:
                            self._give(worker, seed)
                            begun.append(seed)
                while begun and begun[0] in found:
                    yield found.pop(begun.pop(0))
                if not begun:
                    return
                for outcome in self._collect():
                    found[outcome.seed] = outcome
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()

    def _give(self, worker: _Worker, seed: int) -> None:
        worker.seed, worker.began_s = seed, time.monotonic()
        worker.pipe.send(seed)

    def _collect(self) -> Iterator[Outcome]:
        busy = [worker for worker in self._workers if worker.seed is not None]
        ready = wait([worker.pipe for worker in busy], timeout=1.0)
        for worker in busy:
            seed = worker.seed
            assert seed is not None
            if worker.pipe in ready:
                try:
                    yield worker.pipe.recv()
                    worker.seed = None
                    continue
                except EOFError:
                    worker.process.join()
                    why = f"its process ended with status {worker.process.exitcode}"
            elif time.monotonic() - worker.began_s > PATIENCE_S:
                why = f"it took longer than {PATIENCE_S:.0f} s"
            else:
                continue
            yield Outcome(seed, broken=why, check="process")
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
            self._workers[self._workers.index(worker)] = self._begin()


def _work(pipe: Connection, task: Task) -> None:
    with Runner(task) as runner:
        while True:
            try:
                seed = pipe.recv()
            except EOFError:
                return
            pipe.send(runner.run(seed))


def first_found(
    seeds: Sequence[int], task: Task, *, jobs: int, seconds: float = 0.0
) -> tuple[Outcome | None, int]:
    """The first seed that breaks with the task's bug and not without it, and how many were tried.
    `seconds` is for each stretch between two that break either way."""
    tried = 0
    while seeds:
        outcome = None
        with closing(outcomes(seeds, task, jobs=jobs, seconds=seconds)) as runs:
            for outcome in runs:
                tried += 1
                if outcome.broken:
                    break
        if outcome is None or not outcome.broken:
            return None, tried
        without = range(outcome.seed, outcome.seed + 1)
        if not any(run.broken for run in outcomes(without, replace(task, bug=None), jobs=1)):
            return outcome, tried
        seeds = seeds[seeds.index(outcome.seed) + 1 :]
    return None, tried
