"""What the help of `pyetcd ctl` lists that etcdctl 3.5.1 does not have, as a pattern."""

from collections.abc import Iterator

from pyetcd.cli.command import Command
from pyetcd.cli.ctl.tree import ROOT


def _added(command: Command) -> Iterator[str]:
    for flag in (*command.flags, *command.inherited):
        if flag.since:
            yield f"      --{flag.name}[=\\[ ]"
    for child in command.children:
        yield from [f"\t{child.name}[ \t]"] if child.since else _added(child)


ADDED = f"(?m)^(?:{'|'.join(sorted(_added(ROOT)))}).*\n|(?<=simple, table), yaml(?=\\))"
