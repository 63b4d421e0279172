"""The command tree of the v2 API: its nodes and their help texts.

The texts are laid out as urfave/cli 1.22 does it, which etcdctl's v2 commands are built with, along
with what looks like slips there: the help of a group differs when it is asked for by `help GROUP`,
by `GROUP -h` and by `GROUP help`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pyetcd.cli import gotext
from pyetcd.cli.command import VERSION as ETCD_VERSION
from pyetcd.cli.ctl2.flags import Flag

PROGRAM = "etcdctl"


@dataclass(frozen=True, slots=True)
class Command:
    """One node. `run` names the function, "module:function"; a group has children instead."""

    name: str
    usage: str
    run: str = ""
    arguments: str = ""
    flags: tuple[Flag, ...] = ()
    children: tuple["Command", ...] = ()
    description: str = ""
    usage_text: str = ""
    alias: str = ""

    def child(self, word: str) -> "Command | None":
        """The command below that is called so; each group has `help`, too."""
        for child in (*self.children, HELP_COMMAND):
            if word and word in (child.name, child.alias):
                return child
        return None


HELP_COMMAND = Command(
    "help", "Shows a list of commands or help for one command", arguments="[command]", alias="h"
)


def app_help(
    path: str, node: Command, flags: Iterable[Flag], *, commands: Iterable[Command]
) -> str:
    """The help of the program, and of a group that is asked for it by `GROUP help`."""
    return _aligned(
        f"NAME:\n   {path} - {node.usage}\n\n"
        f"USAGE:\n   {path} [global options] command [command options] [arguments...]\n\n"
        f"VERSION:\n   {ETCD_VERSION}\n\n"
        f"COMMANDS:{_command_lines(commands)}\n\n"
        "GLOBAL OPTIONS:\n   " + "\n   ".join(_flag_line(flag) for flag in flags) + "\n"
    )


def group_help(
    path: str, node: Command, flags: Iterable[Flag], *, commands: Iterable[Command]
) -> str:
    """The help of a group: `GROUP` and `GROUP -h`."""
    return _aligned(
        f"NAME:\n   {path} - {node.usage}\n\n"
        f"USAGE:\n   {path} command [command options] [arguments...]\n\n"
        f"COMMANDS:{_command_lines(commands)}\n\n"
        "OPTIONS:\n   " + "".join(f"{_flag_line(flag)}\n   " for flag in flags) + "\n"
    )


def command_help(path: str, node: Command) -> str:
    """The help of a command."""
    options = " [command options]" if node.flags else ""
    line = node.usage_text or f"{path}{options} {node.arguments or '[arguments...]'}"
    parts = [f"NAME:\n   {path} - {node.usage}\n\nUSAGE:\n   {line}"]
    if node.description:
        parts.append(f"\n\nDESCRIPTION:\n   {node.description}")
    if node.flags:
        parts.append("\n\nOPTIONS:\n   ")
        parts += [f"{_flag_line(flag)}\n   " for flag in node.flags]
    return _aligned("".join(parts) + "\n")


def _command_lines(commands: Iterable[Command]) -> str:
    lines = []
    for node in commands:
        names = f"{node.name}, {node.alias}" if node.alias else node.name
        lines.append(f"\n   {names}\t{node.usage}")
    return "".join(lines)


def _flag_line(flag: Flag) -> str:
    usage, placeholder = flag.usage, "value"
    if usage.count("`") > 1:  # the first word in quotes names the value
        before, placeholder, behind = usage.split("`", 2)
        usage = before + placeholder + behind
    if flag.kind in ("int", "duration"):
        usage += f" (default: {flag.default})"
    elif flag.default:
        usage += f" (default: {gotext.quote(flag.default.encode())})"
    value = "" if flag.kind == "bool" else f" {placeholder}"
    names = ", ".join(f"{'-' if len(name) == 1 else '--'}{name}{value}" for name in flag.names)
    return f"{names}\t{usage}"


def _aligned(text: str) -> str:
    """text/tabwriter with a padding of two spaces: neighbouring lines that have a tab line up."""
    out: list[str] = []
    block: list[tuple[str, str]] = []
    for line in [*text.split("\n"), ""]:
        front, tab, behind = line.partition("\t")
        if tab:
            block.append((front, behind))
            continue
        width = max((len(front) for front, _ in block), default=0) + 2
        out += [front.ljust(width) + behind for front, behind in block]
        block.clear()
        out.append(line)
    return "\n".join(out[:-1])
