"""Runs one command line of the v2 API: finds the command, reads its flags, calls its function."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

from pyetcd.cli.command import VERSION
from pyetcd.cli.ctl2.command import (
    HELP_COMMAND,
    PROGRAM,
    Command,
    app_help,
    command_help,
    group_help,
)
from pyetcd.cli.ctl2.context import Context
from pyetcd.cli.ctl2.flags import HELP, FlagMistake, FlagSet, reorder
from pyetcd.cli.ctl2.flags import VERSION as VERSION_FLAG
from pyetcd.cli.ctl2.tree import ROOT
from pyetcd.cli.terminal import ERROR, Exit, Streams, Terminal

UNKNOWN_COMMAND = 3
_APP_FLAGS = (*ROOT.flags, HELP, VERSION_FLAG)
_APP_COMMANDS = (*ROOT.children, HELP_COMMAND)
_VERSION_TEXT = f"{PROGRAM} version: {VERSION}\nAPI version: 2\n"


def run(
    argv: Sequence[str], env: Mapping[str, str] | None = None, stdin: bytes = b""
) -> tuple[bytes, bytes, int]:
    """Runs a command in process: what it prints on stdout and stderr, and its exit code."""
    streams = Streams(BytesIO(stdin), BytesIO(), BytesIO())
    code = execute(argv, env or {}, streams)
    assert isinstance(streams.stdout, BytesIO)
    assert isinstance(streams.stderr, BytesIO)
    return streams.stdout.getvalue(), streams.stderr.getvalue(), code


def execute(argv: Sequence[str], env: Mapping[str, str], streams: Streams) -> int:
    """Runs a command on these streams; returns its exit code."""
    terminal = Terminal(streams)
    try:
        _run_app(terminal, argv, env)
    except Exit as end:
        return end.code
    finally:
        terminal.flush()
    return 0


def _run_app(terminal: Terminal, argv: Sequence[str], env: Mapping[str, str]) -> None:
    flags = FlagSet(_APP_FLAGS)
    _read(terminal, flags, argv, _root_help())
    if flags.boolean("help"):
        return _say(terminal, _root_help())
    if flags.boolean("version"):
        return _say(terminal, _VERSION_TEXT)
    word, *rest = flags.args or [""]
    node = ROOT.child(word)
    if node is None:
        return _help_about(terminal, word) if flags.args else _say(terminal, _root_help())
    if node.children:
        return _run_group(terminal, node, rest, flags, env)
    return _run_command(terminal, PROGRAM, node, rest, flags, env)


def _run_group(
    terminal: Terminal, group: Command, argv: Sequence[str], outer: FlagSet, env: Mapping[str, str]
) -> None:
    path, shown = f"{PROGRAM} {group.name}", _group_help(group)
    flags = FlagSet((HELP,))
    _read(terminal, flags, argv, shown, forms_gap="\n")
    if flags.boolean("help") or not flags.args:
        return _say(terminal, shown)
    word, *rest = flags.args
    node = group.child(word)
    if node is None:
        return _help_about(terminal, word, group)
    return _run_command(terminal, path, node, rest, outer, env, group=group)


def _read(
    terminal: Terminal, flags: FlagSet, argv: Sequence[str], shown: str, *, forms_gap: str = ""
) -> None:
    """Reads the flags of the program or a group."""
    mistake = None
    try:
        flags.parse(argv)
    except FlagMistake as found:
        mistake = found
    try:
        flags.check_forms()
    except FlagMistake as two_forms:
        raise _refusal(terminal, f"{two_forms}\n{forms_gap}{shown}", two_forms) from None
    if mistake is not None:
        raise _refusal(terminal, f"Incorrect Usage. {mistake}\n\n{shown}", mistake)


def _run_command(
    terminal: Terminal,
    front: str,
    node: Command,
    argv: Sequence[str],
    outer: FlagSet,
    env: Mapping[str, str],
    *,
    group: Command | None = None,
) -> None:
    # urfave/cli has no path for the program's own help command.
    path = "" if node is HELP_COMMAND and group is None else f"{front} {node.name}"
    flags = FlagSet((*node.flags, HELP))
    try:
        flags.parse(reorder(flags.flags, argv))
        flags.check_forms()
    except FlagMistake as mistake:
        shown = command_help(path, node)
        raise _refusal(terminal, f"Incorrect Usage: {mistake}\n\n{shown}", mistake) from None
    if flags.boolean("help"):
        return _say(terminal, command_help(path, node))
    if node is HELP_COMMAND:
        if flags.args:
            return _help_about(terminal, flags.args[0], group)
        return _say(terminal, _root_help() if group is None else _help_of_group(group))
    context = Context(node, flags, outer, env=env, streams=terminal.streams)
    return _function(node.run)(context)


def _help_about(terminal: Terminal, word: str, group: Command | None = None) -> None:
    """`help WORD`, and a word that is no command."""
    if not word:  # urfave/cli shows the program as if it were a group
        return _say(terminal, _group_help(group))
    node = (group or ROOT).child(word)
    if node is None:
        terminal.warn(f"No help topic for '{word}'")
        raise Exit(UNKNOWN_COMMAND)
    front = f"{PROGRAM} {group.name}" if group else PROGRAM
    path = "" if node is HELP_COMMAND and group is None else f"{front} {node.name}"
    return _say(terminal, command_help(path, node))


def _root_help() -> str:
    return app_help(PROGRAM, ROOT, _APP_FLAGS, commands=_APP_COMMANDS)


def _group_help(group: Command | None) -> str:
    if group is None:
        return group_help(PROGRAM, ROOT, _APP_FLAGS, commands=_APP_COMMANDS)
    return group_help(f"{PROGRAM} {group.name}", group, (HELP,), commands=group.children)


def _help_of_group(group: Command) -> str:
    return app_help(f"{PROGRAM} {group.name}", group, (HELP,), commands=group.children)


def _say(terminal: Terminal, text: str) -> None:
    terminal.write(text.encode())


def _refusal(terminal: Terminal, shown: str, mistake: FlagMistake) -> Exit:
    terminal.write(shown.encode("utf-8", "surrogateescape"))
    terminal.warn(str(mistake))
    return Exit(ERROR)


def _function(where: str) -> Callable[[Context], None]:
    module, _, name = where.partition(":")
    function: Callable[[Context], None] = getattr(importlib.import_module(module), name)
    return function
