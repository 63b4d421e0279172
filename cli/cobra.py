"""The command lines of `etcd gateway` and `etcd grpc-proxy`: cobra's plain usage text.

Two groups with one command each. What is asked for is shown on stdout; a mistake is said before the
usage and behind it, on stderr, as etcd says it: the second time without a line's end.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pyetcd.cli.flags import Flag, FlagError, FlagSet
from pyetcd.cli.gotext import duration, parse_duration_ns

_KINDS: Final = {"list": "strings", "bool": ""}
_WIDTH_MIN: Final = 11


@dataclass(frozen=True, slots=True)
class Group:
    """`etcd NAME start`; `run` gets its flags and returns the exit code."""

    name: str
    short: str  # of the command `start`
    flags: tuple[Flag, ...]
    run: Callable[[FlagSet], int]


def main(group: Group, argv: Sequence[str]) -> int:
    """Reads the command line and runs it; returns the exit code."""
    words = list(argv)
    starts = next((word for word in words if not word.startswith("-")), "") == "start"
    help_flag = Flag("help", "bool", "false", f"help for {'start' if starts else group.name}", "h")
    known = (*group.flags, help_flag) if starts else (help_flag,)
    flags = FlagSet({flag.name: flag for flag in sorted(known, key=lambda flag: flag.name)})
    usage = _start_usage(group, flags) if starts else _group_usage(group, flags)
    if starts:
        words.remove("start")
    try:
        flags.parse(words)
    except FlagError as mistake:
        sys.stderr.write(f"Error: {mistake}\n{usage}\n{mistake}")
        sys.stderr.flush()
        return 1
    if flags.boolean("help") or not starts:
        title = group.short if starts else f"{group.name} related command"
        sys.stdout.write(f"{title}\n\n{usage}")
        sys.stdout.flush()
        return 0
    return group.run(flags)


def _group_usage(group: Group, flags: FlagSet) -> str:
    path = f"etcd {group.name}"
    return (
        f"Usage:\n  {path} [command]\n\nAvailable Commands:\n"
        f"  {'start'.ljust(_WIDTH_MIN)} {group.short}\n\nFlags:\n{_flag_lines(flags)}\n"
        f'Use "{path} [command] --help" for more information about a command.\n'
    )


def _start_usage(group: Group, flags: FlagSet) -> str:
    return f"Usage:\n  etcd {group.name} start [flags]\n\nFlags:\n{_flag_lines(flags)}"


def _flag_lines(flags: FlagSet) -> str:
    rows = []
    for flag in flags.flags.values():
        front = f"  -{flag.short}, --{flag.name}" if flag.short else f"      --{flag.name}"
        kind = _KINDS.get(flag.kind, flag.kind)
        rows.append((f"{front} {kind}".rstrip(), flag.usage + _default(flag)))
    width = max(len(front) for front, _ in rows)
    return "".join(f"{front.ljust(width)}   {text}\n" for front, text in rows)


def _default(flag: Flag) -> str:
    if flag.default in ("", "0", "false"):
        return ""
    if flag.kind == "duration":
        return f" (default {duration(parse_duration_ns(flag.default))})"
    shown = {"string": f'"{flag.default}"', "list": f"[{flag.default}]"}
    return f" (default {shown.get(flag.kind, flag.default)})"
