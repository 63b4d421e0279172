"""One run of a v2 command: its flags, the environment, its streams, its errors."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import NoReturn

from pyetcd.cli.ctl2.command import Command
from pyetcd.cli.ctl2.flags import FlagSet
from pyetcd.cli.terminal import BAD_ARGS, ERROR, Exit, Streams, Terminal

# Exit codes: etcd's pkg/cobrautl/error.go. 3 and 4 have other meanings than in the v3 commands.
BAD_CONNECTION, SERVER_ERROR, NOT_HEALTHY = 2, 4, 5
INTERRUPTED_AT_PROMPT = 255


class Context(Terminal):
    """What a command function gets. `globals` are the program's flags, `flags` the command's."""

    def __init__(
        self,
        command: Command,
        flags: FlagSet,
        globals: FlagSet,
        *,
        env: Mapping[str, str],
        streams: Streams,
    ) -> None:
        super().__init__(streams)
        self.command = command
        self.flags = flags
        self.args = flags.args
        self.globals = globals
        self.env = env

    @property
    def output(self) -> str:
        """--output: the format."""
        return self.globals.text("output")

    @property
    def debugs(self) -> bool:
        """--debug."""
        return self.globals.boolean("debug")

    def from_flag_or_env(self, name: str, variable: str) -> str:
        """A program's flag, or where it is empty its variable."""
        return self.globals.text(name) or self.env.get(variable, "")

    def key(self) -> str:
        """The first argument; exits without."""
        if not self.args:
            raise self.refuse("key required")
        return self.args[0]

    def value(self) -> str:
        """The second argument, or all of stdin in its place; exits without."""
        if len(self.args) > 1:
            return self.args[1]
        raw = self.stdin.read()
        if not raw:
            raise self.refuse("value required")
        return raw.decode("utf-8", "surrogateescape")

    def say(self, text: str) -> None:
        """Text on stderr as it is, without a line's end."""
        self.flush()
        self.streams.stderr.write(text.encode("utf-8", "surrogateescape"))
        self.streams.stderr.flush()

    def refuse(self, text: str) -> Exit:
        """A command's wrong arguments; the caller raises what it gets."""
        return self.failed(text, BAD_ARGS)

    def failed(self, text: str, code: int) -> Exit:
        """An error in the words of the key commands, which have two spaces."""
        self.warn(f"Error:  {text}")
        return Exit(code)

    def fatal(self, text: str) -> Exit:
        """An error in the words of the other commands."""
        self.warn(text)
        return Exit(ERROR)

    def ask_password(self, prompt: str) -> str:
        """Without an echo from a terminal, else a line of stdin."""
        self.write(prompt.encode())
        self.flush()
        if self.stdin.isatty():
            line = self._ask_terminal()
        else:
            line = self.stdin.readline().decode("utf-8", "surrogateescape")
        self.write(b"\n")
        return line.strip()

    def _ask_terminal(self) -> str:
        import termios

        device = self.stdin.fileno()
        before = termios.tcgetattr(device)
        silent = [*before]
        silent[3] &= ~termios.ECHO
        # ^C must not leave the terminal without its echo.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            termios.tcsetattr(device, termios.TCSADRAIN, silent)
            return self.stdin.readline().decode("utf-8", "surrogateescape")
        except KeyboardInterrupt:
            self.print("")
            raise Exit(INTERRUPTED_AT_PROMPT) from None
        finally:
            termios.tcsetattr(device, termios.TCSADRAIN, before)
            signal.signal(signal.SIGINT, handler)

    @contextlib.contextmanager
    def ended_by_interrupt(self) -> Iterator[None]:
        """While it lasts, ^C is how the command is meant to end."""
        before = signal.signal(signal.SIGINT, self._end)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _end(self, number: int, frame: FrameType | None) -> NoReturn:
        with contextlib.suppress(RuntimeError):  # in the middle of a write
            self.flush()
        os._exit(0)
