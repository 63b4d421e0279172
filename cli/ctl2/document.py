"""docs/ctl2.md, made of the command tree: python -m pyetcd.cli.ctl2.document > docs/ctl2.md

A test compares the page with the tree.
"""

import sys
from collections.abc import Iterator

from pyetcd.cli.ctl2.command import Command
from pyetcd.cli.ctl2.flags import Flag
from pyetcd.cli.ctl2.tree import ROOT

_HEAD = """# pyetcd ctl with ETCDCTL_API=2

Made by `python -m pyetcd.cli.ctl2.document > docs/ctl2.md`; `ETCDCTL_API=2 pyetcd ctl COMMAND -h`
says the same.

The commands for etcd's v2 API, which a member serves with `--enable-v2`: those of etcdctl 3.5, with
its flags, output and exit codes; where they differ is told in [differences.md](differences.md).
They speak HTTP. Their keys are not those of the v3 API.

```console
$ export ETCDCTL_API=2
$ pyetcd ctl set /colour/sky blue
blue
$ pyetcd ctl ls -p -r
/colour/
/colour/sky
$ pyetcd ctl -o extended get /colour/sky
Key: /colour/sky
Created-Index: 4
Modified-Index: 4
TTL: 0
Index: 4

blue
$ pyetcd ctl watch --after-index 3 /colour/sky
blue
```

Global flags stand before the command, a command's own flags before or behind its arguments. A value
that begins with a hyphen stands behind `--`: `set -- /temperature -3`. `-ttl` is `--ttl`.

Before its work a command asks for the members and goes on with their client URLs; with `--no-sync`
it stays with the endpoints that it was given. They are shuffled; when one does not answer, the next
one is asked, except for a write that must not be done twice (`rm`, `rmdir`, `mk`, `mkdir`).

| variable | in the place of |
|---|---|
| `ETCDCTL_ENDPOINTS`, `ETCDCTL_ENDPOINT`, `ETCDCTL_PEERS` | the flags of these names |
| `ETCDCTL_CERT_FILE`, `ETCDCTL_KEY_FILE`, `ETCDCTL_CA_FILE` | the flags of these names |
| `ETCDCTL_USERNAME` | `--username` |
| `ETCDCTL_DISCOVERY_SRV`, `ETCDCTL_INSECURE_DISCOVERY` | the flags of these names |
| `ETCDCTL_DISCOVERY_SRV_NAME` | no flag: the service's name in the records |
| `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` | no flag: the way to servers on other hosts |

| exit code | what it means |
|---|---|
| 0 | done |
| 1 | the command line, `get` of a directory, or a member, user, role or auth command was refused |
| 2 | no connection |
| 3 | no such command |
| 4 | the server refused, or gave no answer |
| 5 | `cluster-health`: not all members are healthy |
| 128 | wrong arguments |
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD, "\n## Global flags\n\n", _table(ROOT.flags), "\n## Commands\n"]
    parts += [_section(title, node) for title, node in _leaves(ROOT)]
    return "".join(parts)


def _leaves(group: Command, path: str = "") -> Iterator[tuple[str, Command]]:
    for child in sorted(group.children, key=lambda child: child.name):
        title = f"{path} {child.name}".strip()
        if child.run:
            yield title, child
        yield from _leaves(child, title)


def _section(title: str, node: Command) -> str:
    about = node.usage_text or f"{node.usage}."
    options = " [options]" if node.flags else ""
    line = f"pyetcd ctl {title}{options} {node.arguments.strip()}".strip()
    parts = [f"\n### {title}\n\n{about[0].upper()}{about[1:]}\n\n```\n{line}\n```\n"]
    if node.flags:
        parts.append("\n" + _table(node.flags))
    return "".join(parts)


def _table(flags: tuple[Flag, ...]) -> str:
    rows = ["| flag | kind | default | what it does |\n|---|---|---|---|\n"]
    for flag in sorted(flags, key=lambda flag: flag.name):
        names = ", ".join(f"`{'-' if len(name) == 1 else '--'}{name}`" for name in flag.names)
        default = f"`{flag.default}`" if flag.default else ""
        usage = flag.usage.replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| {names} | {flag.kind} | {default} | {usage} |\n")
    return "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(page())
