"""`top`: the cluster at work. A live view for a person, one table or one document for a program.

The live view asks in a thread and draws in this one, so that a member that does not answer holds up
neither the picture nor the keys. It takes over the terminal: another screen, keys one by one; both
are given back whatever ends it (q, Ctrl-C, SIGTERM).

Once: two samples an interval apart, since rates need two.
"""

import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pyetcd.cli import gotext
from pyetcd.cli.client import BadSettings, ClientError
from pyetcd.cli.context import Context
from pyetcd.cli.ctl.sample import Sampler
from pyetcd.cli.printers.cluster import View
from pyetcd.cli.terminal import BAD_ARGS, BAD_CONNECTION, ERROR, Exit

INTERVAL_S_MIN: Final = 0.1
HISTORY: Final = 60  # samples whose rate is drawn
LOOK_S: Final = 0.05  # for keys, and for new samples
_QUIT: Final = (b"q", b"Q", b"\x03", b"\x04", b"")  # the last: nobody types any more


class _Ended(Exception):
    """A key or a signal."""


def top(context: Context) -> None:
    """`top`."""
    if context.args:
        raise context.fail(BAD_ARGS, "top command accepts no arguments")
    interval_s = context.flags.integer("interval") / 1e9
    if interval_s < INTERVAL_S_MIN:
        shown = gotext.duration(int(INTERVAL_S_MIN * 1e9))
        raise context.fail(BAD_ARGS, f"--interval must not be below {shown}")
    settings = context.settings()
    try:
        sampler = Sampler(settings)
    except BadSettings as failure:
        raise context.fail(failure.code, failure.text) from None
    try:
        sampler.log_in()
    except ClientError as failure:
        sampler.close()
        raise context.fail(BAD_CONNECTION, failure.text) from None
    if context.is_for_person and not context.flags.boolean("once"):
        _live(context, sampler, interval_s)
        return
    try:
        _once(context, sampler, interval_s)
    finally:
        sampler.close()


def _once(context: Context, sampler: Sampler, interval_s: float) -> None:
    begun_s = time.monotonic()
    sampler.look()
    time.sleep(max(begun_s + interval_s - time.monotonic(), 0))
    view = sampler.look()
    context.display().show("top", view)
    if not view.is_whole:
        raise Exit(ERROR)


def _live(context: Context, sampler: Sampler, interval_s: float) -> None:
    from pyetcd.cli.printers.live import Picture

    samples: queue.Queue[View] = queue.Queue(1)  # full: the picture is late, the sampler waits
    is_over = threading.Event()
    asking = threading.Thread(
        target=_sample, args=(sampler, samples, interval_s, is_over), daemon=True
    )
    rates: list[float] = []
    with _signals(), _keys(), Picture(context, interval_s) as picture:
        asking.start()
        try:
            while True:
                if not samples.empty():
                    view = samples.get()
                    if view.writes_s is not None:
                        rates = [*rates[1 - HISTORY :], view.writes_s]
                    picture.draw(view, rates)
                _wait_for_key()
        except (_Ended, KeyboardInterrupt):
            pass
        finally:
            is_over.set()


def _sample(
    sampler: Sampler, samples: "queue.Queue[View]", interval_s: float, is_over: threading.Event
) -> None:
    """As a thread: it also closes what it uses, since a member may hold it up for a while."""
    next_s = time.monotonic()
    while not is_over.is_set():
        view = sampler.look()
        while not is_over.is_set():
            try:
                samples.put(view, timeout=LOOK_S)
                break
            except queue.Full:
                continue
        next_s = max(next_s + interval_s, time.monotonic())
        is_over.wait(next_s - time.monotonic())
    sampler.close()


def _wait_for_key() -> None:
    """A moment; raises _Ended for a key that ends the view."""
    if not sys.stdin.isatty():
        time.sleep(LOOK_S)
        return
    terminal = sys.stdin.fileno()
    if select.select([terminal], [], [], LOOK_S)[0] and os.read(terminal, 1) in _QUIT:
        raise _Ended


def _end(number: int, frame: object) -> None:
    raise _Ended


@contextmanager
def _signals() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = [signal.signal(number, _end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, old, strict=True):
            signal.signal(number, handler)


@contextmanager
def _keys() -> Iterator[None]:
    """Keys one by one, unseen, when a person types."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    mode = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, mode)
