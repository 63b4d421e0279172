"""What stands between rich and a terminal that a person looks at.

rich writes text and asks its file what it can; ours writes to the command's own stdout, in the
order of all other output, and keeps bytes that are no UTF-8 as they are.
"""

import io
from typing import IO, TYPE_CHECKING, cast

from pyetcd.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console


class _Out(io.TextIOBase):
    """A command's stdout or stderr as a text file."""

    encoding = "utf-8"

    def __init__(self, terminal: Terminal, *, on_stderr: bool) -> None:
        streams = terminal.streams
        self._file = streams.stderr if on_stderr else streams.stdout

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        self._file.write(text.encode("utf-8", "surrogateescape"))
        return len(text)

    def flush(self) -> None:
        self._file.flush()


def console(terminal: Terminal, env: "Mapping[str, str]", *, on_stderr: bool = False) -> "Console":
    """A console on the command's stdout. Without colours when NO_COLOR is set (no-color.org)."""
    from rich.console import Console

    return Console(
        file=cast(IO[str], _Out(terminal, on_stderr=on_stderr)),
        force_terminal=True,
        no_color=bool(env.get("NO_COLOR")),
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


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
