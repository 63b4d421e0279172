"""What stands between rich and a terminal that a person looks at.

rich writes text and asks its file what it can; ours writes to the command's own stdout, in the
order of all other output, and keeps bytes that are no UTF-8 as they are.
"""

import io
from typing import IO, TYPE_CHECKING, cast

from pyetcd.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from rich.console import Console


class _Out(io.TextIOBase):
    """A command's stdout as a text file."""

    encoding = "utf-8"

    def __init__(self, terminal: Terminal) -> None:
        self._file = terminal.streams.stdout

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        self._file.write(text.encode("utf-8", "surrogateescape"))
        return len(text)

    def flush(self) -> None:
        self._file.flush()


def console(
    terminal: Terminal, env: "Mapping[str, str]", *, hides_cursor: bool = False
) -> "Console":
    """A console on the command's stdout. Without colours when NO_COLOR is set (no-color.org).

    A bar leaves the cursor where it can be seen, since Ctrl-C ends a command on the spot: only who
    catches that may hide it.
    """
    from rich.console import Console

    class Shown(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return super().show_cursor(show) if hides_cursor else False

    return Shown(
        file=cast(IO[str], _Out(terminal)),
        force_terminal=True,
        no_color=bool(env.get("NO_COLOR")),
        highlight=False,
        markup=False,
        emoji=False,
    )


class Bar:
    """How many bytes of how many have come, as long as the block lasts; then it is gone."""

    def __init__(self, terminal: Terminal, env: "Mapping[str, str]", title: str) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console(terminal, env),
            transient=True,
        )
        self._task = self._progress.add_task(title, total=None)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done_bytes: int, total_bytes: int) -> None:
        """Where it stands."""
        self._progress.update(self._task, completed=done_bytes, total=total_bytes)


def waiting(
    terminal: Terminal, env: "Mapping[str, str]", title: str
) -> "AbstractContextManager[object]":
    """A sign of life, as long as the block lasts."""
    from rich.text import Text

    return console(terminal, env).status(Text(title))


def shown(raw: bytes) -> str:
    """Bytes as a person reads them: text, and \\x.. for what is none and for what would move the
    cursor or change colours. Line ends and tabs stay."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )
