"""docs/ctl.md, made of the command tree: python -m pyetcd.cli.ctl.document > docs/ctl.md

A test compares the page with the tree, so that neither a flag nor a command is without its line.
"""

import sys
from collections.abc import Iterator

from pyetcd.cli.command import Command
from pyetcd.cli.ctl.tree import ROOT
from pyetcd.cli.flags import Flag

_HEAD = """# pyetcd ctl

Made by `python -m pyetcd.cli.ctl.document > docs/ctl.md`; `pyetcd ctl COMMAND --help` says the
same.

The commands, flags, output and exit codes are etcdctl's; where they differ is told in
[differences.md](differences.md). A flag may stand before or behind the command and its arguments;
what follows `--` is no flag. A command's name may be shortened as far as it stays the only one.

Each global flag can be given by a variable, too: `ETCDCTL_` and its name in capitals, such as
`ETCDCTL_ENDPOINTS` for --endpoints. A flag and its variable together end the command.
`ETCDCTL_API` is 3 or, for the commands of the v2 API, 2.

| exit code | what it means |
|---|---|
| 0 | done |
| 1 | the server or the command line refused |
| 2 | no connection, or authentication failed |
| 3 | what was read from standard input is not understood |
| 4 | the format cannot show this, or a flag takes no such word |
| 5 | interrupted: the server ended a watch, a snapshot could not be saved |
| 128 | wrong arguments |
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD, "\n## Global flags\n\n", _table(ROOT.inherited), "\n## Commands\n\n"]
    found = list(_leaves(ROOT))
    parts += [f"- [{title}](#{_anchor(title)}): {_cell(node.short)}\n" for title, node in found]
    parts += [_section(title, node) for title, node in found]
    return "".join(parts)


def _leaves(command: Command, path: str = "") -> Iterator[tuple[str, Command]]:
    for child in sorted(command.children, key=lambda child: child.name):
        title = f"{path} {child.name}".strip()
        if child.run:
            yield title, child
        yield from _leaves(child, title)


def _section(title: str, command: Command) -> str:
    front = title.rpartition(" ")[0]
    line = " ".join(part for part in ("pyetcd ctl", front, command.use) if part)
    parts = [f"\n### {title}\n\n{_sentence(command.short)}"]
    if command.since:
        since = _since(command.since)
        parts.append(f" {since[0].upper()}{since[1:]}.")
    parts.append(f"\n\n```\n{line}\n```\n")
    if command.long:
        parts.append(f"\n```\n{command.long.strip()}\n```\n")
    flags = (*command.flags, *command.inherited)
    node = command.parent
    while node is not None and node.parent is not None:
        flags += node.inherited
        node = node.parent
    if flags:
        parts.append("\n" + _table(flags))
    return "".join(parts)


def _table(flags: tuple[Flag, ...]) -> str:
    rows = ["| flag | kind | default | what it does |\n|---|---|---|---|\n"]
    for flag in sorted(flags, key=lambda flag: flag.name):
        short = f", -{flag.short}" if flag.short else ""
        default = f"`{_cell(flag.default)}`" if flag.default else ""
        since = f" ({_since(flag.since)})" if flag.since else ""
        rows.append(
            f"| `--{flag.name}`{short} | {flag.kind} | {default} | {_cell(flag.usage)}{since} |\n"
        )
    return "".join(rows)


def _since(name: str) -> str:
    return f"since etcd {name}" if name[0].isdigit() else f"only in {name}"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else text + "."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _anchor(title: str) -> str:
    return title.replace(" ", "-")


if __name__ == "__main__":
    sys.stdout.write(page())
