"""Runs one `utl` command line: finds the command, reads its flags, calls its function.

etcdutl shows cobra's own usage text, on stdout when it was asked for and on stderr after a mistake,
which is said before it and behind it.
"""

import importlib
import signal
from collections.abc import Callable, Sequence
from io import BytesIO

from pyetcd.cli.command import (
    API_VERSION,
    VERSION,
    Command,
    find,
    unknown_command,
)
from pyetcd.cli.flags import Flag, FlagError, FlagSet
from pyetcd.cli.standard import open_streams
from pyetcd.cli.terminal import ERROR, Exit, Streams, Terminal
from pyetcd.cli.utl.tree import ARGUMENTS, DEPRECATED, REQUIRED, ROOT


class Run(Terminal):
    """What a command function gets."""

    def __init__(self, command: Command, flags: FlagSet, streams: Streams) -> None:
        super().__init__(streams)
        self.command = command
        self.flags = flags
        self.args = flags.args


def main(argv: list[str]) -> int:
    """The entry point; returns the exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    streams = open_streams()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # there are files to put away
    try:
        code = execute(argv, streams)
        streams.stdout.flush()
        streams.stderr.flush()
        return code
    except Exit as end:  # stdout cannot be written
        return end.code
    except KeyboardInterrupt:  # the temporary files are gone by now
        return 128 + signal.SIGINT


def run(argv: Sequence[str]) -> tuple[bytes, bytes, int]:
    """Runs a command in process: what it prints on stdout and stderr, and its exit code."""
    streams = Streams(BytesIO(), BytesIO(), BytesIO())
    code = execute(argv, streams)
    assert isinstance(streams.stdout, BytesIO)
    assert isinstance(streams.stderr, BytesIO)
    return streams.stdout.getvalue(), streams.stderr.getvalue(), code


def execute(argv: Sequence[str], streams: Streams) -> int:
    """Runs a command on these streams; returns its exit code."""
    command, rest = find(ROOT, list(argv))
    flags = FlagSet(command.all_flags())
    terminal = Run(command, flags, streams)
    try:
        _prepare(terminal, rest)
        if flags.boolean("help") or not command.run:
            terminal.write(usage(command).encode())
        else:
            function_of(command.run)(terminal)
    except Exit as end:
        return end.code
    finally:
        terminal.flush()
    return 0


def _prepare(terminal: Run, rest: list[str]) -> None:
    """Reads the flags and checks what cobra checks."""
    command, flags = terminal.command, terminal.flags
    try:
        flags.parse(rest)
    except FlagError as mistake:
        raise _refusal(terminal, str(mistake)) from None
    if command is ROOT and flags.args:
        text = unknown_command(ROOT, flags.args[0])
        terminal.warn(f"Error: {text}\nRun '{ROOT.path()} --help' for usage.\nError: {text}")
        raise Exit(ERROR)
    path = path_of(command)
    if path in DEPRECATED:
        terminal.warn(f'Command "{command.name}" is deprecated, {DEPRECATED[path]}')
    if flags.boolean("help") or not command.run:
        return
    wanted = ARGUMENTS.get(path, len(flags.args))
    if wanted != len(flags.args):
        raise _refusal(terminal, f"accepts {wanted} arg(s), received {len(flags.args)}")
    missing = [name for name in REQUIRED.get(path, ()) if name not in flags.changed]
    if missing:
        listed = ", ".join(f'"{name}"' for name in missing)
        raise _refusal(terminal, f"required flag(s) {listed} not set")


def _refusal(terminal: Run, text: str) -> Exit:
    terminal.warn(f"Error: {text}\n{usage(terminal.command)}\nError: {text}")
    return Exit(ERROR)


def path_of(command: Command) -> str:
    """`snapshot restore`"""
    return command.path().partition(" ")[2]


def function_of(where: str) -> Callable[[Run], None]:
    """Loads the module only now."""
    module, _, name = where.partition(":")
    function: Callable[[Run], None] = getattr(importlib.import_module(module), name)
    return function


def usage(command: Command, *, help_listed: bool = True) -> str:
    """cobra's usage text. Only `help <nonsense>` leaves the --help flag out."""
    parts = []
    options = command.local_flags()
    if not help_listed:
        del options["help"]
    if command.run:
        parts.append(f"Usage:\n  {_use_line(command)}\n")
    else:
        listed = [child for child in command.children if path_of(child) not in DEPRECATED]
        width = max(11, *(len(child.name) for child in listed))
        rows = "".join(
            f"  {child.name.ljust(width)} {child.short}\n"
            for child in sorted(listed, key=lambda child: child.name)
        )
        parts.append(f"Usage:\n  {command.path()} [command]\n\nAvailable Commands:\n{rows}")
    parts.append(f"Flags:\n{_flag_lines(options)}")
    if command.parent is not None:
        parts.append(f"Global Flags:\n{_flag_lines(command.inherited_flags())}")
    if not command.run:
        parts.append(
            f'Use "{command.path()} [command] --help" for more information about a command.\n'
        )
    return "\n".join(parts)


def _use_line(command: Command) -> str:
    parent = command.parent
    assert parent is not None
    end = "" if path_of(command) in DEPRECATED else " [flags]"
    return f"{parent.path()} {command.use}{end}"


def _flag_lines(flags: dict[str, Flag]) -> str:
    rows = []
    for flag in flags.values():
        front = f"  -{flag.short}, --{flag.name}" if flag.short else f"      --{flag.name}"
        kind = "" if flag.kind == "bool" else f" {flag.kind}"
        default = f'"{flag.default}"' if flag.kind == "string" else flag.default
        is_zero = flag.default in ("", "0", "false")
        rows.append((front + kind, flag.usage + ("" if is_zero else f" (default {default})")))
    width = max(len(front) for front, _ in rows)
    return "".join(f"{front.ljust(width)}   {text}\n" for front, text in rows)


def help(terminal: Run) -> None:
    """`help [command]`: the usage of a command, or of everything for one that does not exist."""
    command, rest = find(ROOT, list(terminal.args))
    if command is ROOT and rest:
        topic = "Unknown help topic [" + " ".join(f"`{word}`" for word in rest) + "]"
        return terminal.warn(f"{topic}\n{usage(command, help_listed=False)}".rstrip("\n"))
    return terminal.write(usage(command).encode())


def version(terminal: Run) -> None:
    """`version`."""
    terminal.print(f"etcdutl version: {VERSION}")
    terminal.print(f"API version: {API_VERSION}")


def completion(terminal: Run) -> None:
    """`completion <shell>`."""
    from pyetcd.cli.completion import SHELLS, script

    shell = terminal.args[0]
    if shell not in SHELLS:
        raise _refusal(terminal, f'invalid argument "{shell}" for "etcdutl completion"')
    terminal.write(script(ROOT, shell).encode())
