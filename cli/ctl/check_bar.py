"""How far a check has come: etcdctl's line of text, or a bar with live figures on a terminal.

The text is that of cheggaaa/pb 1.0.28: `\\r`, the line, five times a second, and a newline when all
is done. Its width is that of the terminal which the process belongs to, even when stdout is a pipe;
without one there is no width, and then no bar between the numbers. rich draws for a person.
"""

import contextlib
import os
from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING, Protocol

from pyetcd.cli import gotext

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

REFRESH_S = 0.2
_SECOND_NS = 10**9


class Bar(Protocol):
    """What a check tells how far it is."""

    def show(self, current: int, now_s: float, note: str) -> None:
        """Draws, when it is time to; the first call starts."""

    def finish(self, now_s: float) -> None:
        """All is done; what is shown after it is not."""

    def leave(self) -> None:
        """Not all is done, and nothing more comes: ends the line. Not after `finish`."""


class TextBar:
    """etcdctl's line."""

    def __init__(self, total: int, width: int, write: Callable[[bytes], None]) -> None:
        self._total = total
        self._width = width
        self._write = write
        self._start_s = self._changed_s = 0.0
        self._drawn_s: float | None = None
        self._current = 0
        self._is_over = False

    def show(self, current: int, now_s: float, note: str) -> None:
        """Draws every 0.2 s."""
        if self._is_over:
            return
        if self._drawn_s is None:
            self._start_s = self._changed_s = now_s
        elif now_s - self._drawn_s < REFRESH_S:
            return
        self._drawn_s = now_s
        if current != self._current:
            self._current, self._changed_s = current, now_s
        passed_ns = int((self._changed_s - self._start_s) * _SECOND_NS)
        still_ns = int((now_s - self._changed_s) * _SECOND_NS)
        self._draw(current, time_left(current, self._total, passed_ns, still_ns))

    def finish(self, now_s: float) -> None:
        """The last line, with the time that it took."""
        if not self._is_over:
            self._is_over = True
            passed_ns = int(now_s - self._start_s) * _SECOND_NS
            self._draw(self._total, f" {gotext.duration(passed_ns)}")
            self._write(b"\n")

    def leave(self) -> None:
        """Ends the line as it is."""
        if not self._is_over:
            self._is_over = True
            if self._drawn_s is not None:
                self._write(b"\n")

    def _draw(self, current: int, time: str) -> None:
        self._write(b"\r" + line(current, self._total, time, self._width).encode())


def line(current: int, total: int, time: str, width: int) -> str:
    """One state of the text bar; `width` 0 leaves the bar out."""
    front, back = f" {current} / {total} ", f" {current * 100 / total:6.2f}%{time}"
    room = width - len(front) - len(back) - len("B!")
    if room <= 0:
        return (front + back).ljust(width)
    done = min(room, ceil(current / total * room))
    drawn = "o" * done if done == room else ("o" * (done - 1) + "m" if done else "")
    return f"{front}B{drawn.ljust(room)}!{back}"


def time_left(current: int, total: int, passed_ns: int, still_ns: int) -> str:
    """What is left at the pace until the last change, less what has passed since; empty below a
    second."""
    if current <= 0:
        return ""
    left_s = ((total - current) * (passed_ns // current) - still_ns) // _SECOND_NS
    if left_s <= 0:
        return ""
    text = ""
    if left_s > 86400:
        text, left_s = f"{left_s // 86400}d", left_s % 86400
    if left_s > 3600:
        text, left_s = f"{text}{left_s // 3600}h", left_s % 3600
    return f" {text}{left_s // 60:02d}m{left_s % 60:02d}s"


class RichBar:
    """For a person."""

    def __init__(self, total: int, title: str, console: "Console") -> None:
        self._total = total
        self._title = title
        self._console = console
        self._progress: Progress | None = None
        self._drawn_s = 0.0
        self._is_over = False

    def show(self, current: int, now_s: float, note: str) -> None:
        """Draws every 0.2 s."""
        if self._is_over:
            return
        if self._progress is None:
            self._progress = self._start()
        elif now_s - self._drawn_s < REFRESH_S:
            return
        self._drawn_s = now_s
        self._progress.update(self._progress.task_ids[0], completed=current, note=note)
        self._progress.refresh()

    def _start(self) -> "Progress":
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = "{task.description}", "{task.percentage:>3.0f}%", "{task.fields[note]}"
        title, percent, note = (TextColumn(column, markup=False) for column in columns)
        progress = Progress(
            title,
            BarColumn(),
            percent,
            TimeRemainingColumn(),
            note,
            console=self._console,
            auto_refresh=False,
        )
        progress.add_task(self._title, total=self._total, note="")
        progress.start()
        return progress

    def finish(self, now_s: float) -> None:
        """The full bar stays."""
        if self._progress is not None and not self._is_over:
            self._progress.update(self._progress.task_ids[0], completed=self._total)
        self.leave()

    def leave(self) -> None:
        """Gives the terminal back."""
        if self._progress is not None and not self._is_over:
            self._progress.stop()
        self._is_over = True


def text_width() -> int:
    """Columns of the terminal that this process belongs to; 0 without one."""
    with contextlib.suppress(OSError), open("/dev/tty", "rb", buffering=0) as terminal:
        return os.get_terminal_size(terminal.fileno()).columns
    return 0
