"""Runs one `ctl` command line: finds the command, reads its flags, calls its function."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

from pyetcd.cli.command import Found, UsageMistake, find, options_text, resolve, usage
from pyetcd.cli.context import Context
from pyetcd.cli.ctl.tree import ROOT
from pyetcd.cli.terminal import BAD_ARGS, Exit, Streams


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
    environment = dict(env)
    version = environment.pop("ETCDCTL_API", "")
    if version not in ("", "3"):
        streams.stderr.write(f"unsupported API version: {version}\n".encode())
        return 1
    try:
        found = resolve(ROOT, argv)
    except UsageMistake as mistake:
        return answer_mistake(mistake, streams)
    return perform(
        found,
        Context(found.command, found.flags, env=environment, streams=streams, argv=list(argv)),
    )


def answer_mistake(mistake: UsageMistake, streams: Streams) -> int:
    """Says what is wrong with a command line; its exit code."""
    streams.stdout.write(mistake.stdout.encode("utf-8", "surrogateescape"))
    streams.stdout.flush()
    streams.stderr.write(mistake.stderr.encode("utf-8", "surrogateescape"))
    return 1


def perform(found: Found, context: Context) -> int:
    """Calls the command's function, or shows its help; returns the exit code."""
    if found.help:
        context.write(usage(found.command).encode())
        context.flush()
        return 0
    try:
        _function(found.command.run)(context)
    except Exit as end:
        return end.code
    finally:
        context.close()
        context.flush()
    return 0


def _function(where: str) -> Callable[[Context], None]:
    module, _, name = where.partition(":")
    function: Callable[[Context], None] = getattr(importlib.import_module(module), name)
    return function


def help(context: Context) -> None:
    """`help [command]`: the help of a command, or of everything for one that does not exist."""
    command, rest = find(ROOT, context.args)
    unknown = command is ROOT and bool(rest)
    if unknown:
        context.warn("Unknown help topic [" + " ".join(f"`{word}`" for word in rest) + "]")
    context.write(usage(command, help_listed=not unknown).encode())


def completion(context: Context) -> None:
    """`completion <shell>`: a script for the shell."""
    from pyetcd.cli.completion import SHELLS, script

    if len(context.args) != 1 or context.args[0] not in SHELLS:
        raise context.fail(BAD_ARGS, f"completion command needs a shell: {', '.join(SHELLS)}")
    context.write(script(ROOT, context.args[0]).encode())


def options(context: Context) -> None:
    """`options`: the flags that every command has."""
    context.write(options_text(ROOT).encode())
