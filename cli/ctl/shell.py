"""`shell`: many commands at the cost of one start, from a prompt or from a pipe.

What a run of `ctl` does once, the shell does once: it reads the environment, the flags and the
files, and it keeps one connection. A line is then a command line of its own over the same tree: the
shell's global flags stand in the place of the flags' defaults, and a line that says something else
about the connection gets one of its own, which ends with it. So do commands that wait (watch, lock,
...): what they leave running in threads ends when their connection is closed.

A line's output is flushed before the next line is read, so that a program may talk to the shell.
Lines are read whole: their length is the reader's memory. A pipe is read by the line; the commands
that want more input (txn, watch -i, passwords) read on from where the line ended.

Ctrl-C ends the command that runs and comes back to the prompt; from a pipe it ends the process, as
it does every other command.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pyetcd.cli.command import Command, UsageMistake, resolve
from pyetcd.cli.context import Context
from pyetcd.cli.ctl.run import answer_mistake, perform
from pyetcd.cli.ctl.tree import ROOT
from pyetcd.cli.ctl.tree_live import LEAVE
from pyetcd.cli.flags import FlagSet, Value
from pyetcd.cli.terminal import BAD_ARGS, INTERRUPTED, INVALID_INPUT, Exit
from pyetcd.cli.words import BLANKS, BadLine, split

if TYPE_CHECKING:
    from pyetcd.cli.client import Client, Settings

_NOT_HERE = "the value of a key cannot be read from standard input in a shell: put it on the line"
_OF_OUTPUT: Final = frozenset(("write-out", "hex", "command-timeout", "debug", "plain"))
_WAITING: Final = frozenset(("watch", "lock", "elect", "keep-alive", "make-mirror", "save", "top"))


def shell(context: Context) -> None:
    """`shell`."""
    if context.args:
        raise context.fail(BAD_ARGS, "shell command accepts no arguments")
    shell = Shell(context, context.settings())
    if context.streams.is_terminal and context.stdin.isatty():
        from pyetcd.cli.ctl.prompt import Prompt

        with _interrupts():
            is_over = Prompt(context, shell.settings, shell.run).run()
        if not is_over:
            raise Exit(shell.failed_code)
        return
    while raw := context.stdin.readline():
        line = raw.decode("utf-8", "surrogateescape").rstrip("\r\n")
        if line.strip(BLANKS) in LEAVE or not shell.run(line):
            break
    if shell.failed_code:
        raise Exit(shell.failed_code)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C as KeyboardInterrupt; `ctl` has given it back to the system."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


class Shell:
    """What the lines share."""

    def __init__(self, context: Context, settings: "Settings") -> None:
        self.context = context
        self.settings = settings
        self.streams = context.streams
        self.failed_code = 0  # of the last command that failed
        self.is_exiting_on_error = context.flags.boolean("exit-on-error")
        self._client: Client | None = None
        self._has_failed = False  # the line before this one
        # Values that a password was asked for, or that stood in one word, are known by now.
        given = {"user": settings.user, "password": settings.password}
        self.defaults: dict[str, Value] = {
            flag.name: given.get(flag.name, context.flags.value(flag.name))
            for flag in ROOT.inherited
        }
        kinds = {flag.name: flag.kind for flag in ROOT.inherited}
        self.changed = {name for name in context.flags.changed if kinds.get(name, "list") != "list"}

    def run(self, line: str) -> bool:
        """Runs a line; returns whether to go on."""
        try:
            words = split(line)
        except BadLine as mistake:
            self.context.warn(f"Error: {mistake}")
            code = INVALID_INPUT
        else:
            code = self._execute(words) if words else 0
        self._has_failed = bool(code)
        if code:
            self.failed_code = code
        return not (code and self.is_exiting_on_error)

    def _execute(self, words: list[str]) -> int:
        try:
            found = resolve(ROOT, words, self.defaults)
        except UsageMistake as mistake:
            code = answer_mistake(mistake, self.streams)
            self.streams.stderr.flush()
            return code
        if found.command is self.context.command and not found.help:
            self.context.warn("Error: this is a shell already")
            return BAD_ARGS
        line = Line(self, found.command, found.flags, argv=words)
        try:
            return perform(found, line)
        except KeyboardInterrupt:
            line.flush()
            return INTERRUPTED

    def client(self) -> "Client":
        """The shared connection, made when a line first needs it."""
        if self._client is not None and self._has_failed and self._client.is_worn:
            self.context.close()
            self._client = None
        if self._client is None:
            try:
                self._client = self.context.dial(self.settings.endpoints, self.settings)
            except Exit:
                self.context.close()
                raise
        return self._client


class Line(Context):
    """One command of a shell."""

    def __init__(self, shell: Shell, command: Command, flags: FlagSet, *, argv: list[str]) -> None:
        streams = shell.streams
        super().__init__(command, flags, env=shell.context.env, streams=streams, argv=argv)
        self._shell = shell
        is_other = False
        if flags.changed:
            is_other = not shell.defaults.keys().isdisjoint(flags.changed - _OF_OUTPUT)
            if "user" in flags.changed:
                for name in {"password", "auth-jwt-token"} - flags.changed:
                    flags.values[name] = ""
            if "endpoints" in flags.changed and "discovery-srv" not in flags.changed:
                flags.values["discovery-srv"] = ""
        self._is_apart = is_other or command.name in _WAITING
        self._settings = None if is_other else shell.settings
        flags.changed |= shell.changed

    def read_environment(self) -> None:
        """The shell has."""

    def connection_settings(self) -> "Settings":
        """The shell's, unless the line has said something else."""
        return self._settings or super().connection_settings()

    def client(self) -> "Client":
        """The shell's, as a rule."""
        if self._is_apart:
            return super().client()
        self.check_format()
        return self._shell.client()

    def arg_or_stdin(self, position: int) -> bytes:
        """An argument: standard input holds the next commands."""
        if position < len(self.args):
            return self.arg(position)
        raise self.fail(BAD_ARGS, _NOT_HERE)

    def end_from_thread(self, code: int) -> None:
        """The shell goes on; only what ran in the thread is over."""
        self.flush()
