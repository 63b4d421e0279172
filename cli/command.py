"""The command tree: finding a command, reading its flags, its help.

Follows cobra 1.1, which etcdctl is built with, where it shows: how flags are skipped while the
command is looked for, unique prefixes (`etcdctl memb list`), suggestions, which errors are said
twice and on which stream, and the layout of the help texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pyetcd.cli import gotext
from pyetcd.cli.flags import Flag, FlagError, FlagSet, Value

VERSION, API_VERSION = "3.5.1", "3.5"


class Command:
    """One node. `run` names the function, "module:function", so that nothing loads before it runs.

    `inherited` flags also hold for the commands below; `flags` only for this one. `since` names
    what brought a command that etcd 3.5 does not have: what a prefix or a mistyped word means there
    stays so.

    No dataclass, here and in what every command loads: that module takes 7 ms, a seventh of a
    `ctl get`.
    """

    def __init__(
        self,
        use: str,
        short: str,
        run: str = "",
        flags: tuple[Flag, ...] = (),
        inherited: tuple[Flag, ...] = (),
        children: "tuple[Command, ...]" = (),
        long: str = "",
        suggest_for: tuple[str, ...] = (),
        since: str = "",
    ) -> None:
        self.use = use
        self.short = short
        self.run = run
        self.flags = flags
        self.inherited = inherited
        self.children = children
        self.long = long
        self.suggest_for = suggest_for
        self.since = since
        self.parent: Command | None = None
        self._all_flags: dict[str, Flag] = {}
        for child in children:
            child.parent = self

    @property
    def name(self) -> str:
        """The first word of `use`."""
        return self.use.partition(" ")[0]

    def path(self) -> str:
        """All names from the program's on."""
        return f"{self.parent.path()} {self.name}" if self.parent else self.name

    def local_flags(self) -> dict[str, Flag]:
        """What the help lists under OPTIONS."""
        own = (*self.flags, *self.inherited, help_flag(self))
        return {flag.name: flag for flag in sorted(own, key=lambda flag: flag.name)}

    def inherited_flags(self) -> dict[str, Flag]:
        """What the help lists under GLOBAL OPTIONS; environment variables set only these."""
        found: dict[str, Flag] = {}
        node = self.parent
        while node is not None:
            found |= {flag.name: flag for flag in node.inherited}
            node = node.parent
        return dict(sorted(found.items()))

    def all_flags(self) -> dict[str, Flag]:
        """Every flag that this command reads. Made once, when the tree is whole: a shell asks for
        each of its lines."""
        if not self._all_flags:
            self._all_flags = self.inherited_flags() | self.local_flags()
        return self._all_flags


class UsageMistake(Exception):
    """A command line that names no command, or a flag that does not exist or cannot be read.

    `stdout` and `stderr` are what is to be said about it.
    """

    def __init__(self, *, stdout: str, stderr: str) -> None:
        super().__init__(stderr)
        self.stdout = stdout
        self.stderr = stderr


class Found(NamedTuple):
    """A command with its flags read; `help` when its help was asked for or is all it has."""

    command: Command
    flags: FlagSet
    help: bool


def help_flag(command: Command) -> Flag:
    """The flag that every command has."""
    return Flag("help", "bool", "false", f"help for {command.name}", "h")


def resolve(
    root: Command, argv: Sequence[str], defaults: Mapping[str, Value] | None = None
) -> Found:
    """The command that `argv` names, with its flags; raises UsageMistake. `defaults` are values of
    the root's flags in the place of the flags' own."""
    command, rest = find(root, list(argv))
    if command is root:
        words = _words(rest, root)
        if words:
            text = unknown_command(root, words[0])
            hint = f"Run '{root.path()} --help' for usage.\n"
            raise UsageMistake(stdout="", stderr=f"Error: {text}\n{hint}Error: {text}\n")
    flags = FlagSet(command.all_flags(), dict(defaults or {}))
    try:
        flags.parse(rest)
    except FlagError as mistake:
        said = f"Error: {mistake}\n"
        raise UsageMistake(stdout=usage(command), stderr=f"{said}\n{said}") from None
    return Found(command, flags, help=flags.boolean("help") or not command.run)


def find(root: Command, argv: list[str]) -> tuple[Command, list[str]]:
    """The deepest command that the words of `argv` name, and what is left of `argv`."""
    command = root
    while command.children:
        word = argv[0] if argv else ""
        if not word or word.startswith("-"):
            word = next(iter(_words(argv, command)), "")
        child = _child(command, word) if word else None
        if child is None:
            break
        at = argv.index(word)
        argv = argv[:at] + argv[at + 1 :]
        command = child
    return command, argv


def _child(command: Command, word: str) -> Command | None:
    for child in command.children:
        if child.name == word:
            return child
    matches = [child for child in command.children if child.name.startswith(word)]
    matches = [child for child in matches if not child.since] or matches
    return matches[0] if len(matches) == 1 else None


def _words(argv: Sequence[str], command: Command) -> list[str]:
    """`argv` without flags and their values. A flag not known here is taken to have a value."""
    flags = dict(command.all_flags())
    del flags["help"]  # cobra adds it to a command once it has found it
    words = []
    rest = list(reversed(argv))
    while rest:
        word = rest.pop()
        if word == "--":
            break
        if word.startswith("--") and "=" not in word:
            takes_value = word[2:] not in flags or flags[word[2:]].kind != "bool"
        elif word.startswith("-") and "=" not in word and len(word) == 2:
            known = [flag for flag in flags.values() if flag.short == word[1]]
            takes_value = not known or known[0].kind != "bool"
        else:
            takes_value = False
            if word and not word.startswith("-"):
                words.append(word)
        if takes_value:
            if len(rest) <= 1:
                break
            rest.pop()
    return words


def unknown_command(root: Command, word: str) -> str:
    """The error text, with the commands that look alike."""
    quoted = gotext.quote(word.encode("utf-8", "surrogateescape"))
    text = f'unknown command {quoted} for "{root.path()}"'
    near = [
        child
        for child in root.children
        if _distance(word.lower(), child.name.lower()) <= 2
        or child.name.lower().startswith(word.lower())
    ]
    alike = [child.name for child in near if not child.since] or [child.name for child in near]
    if alike:
        text += "\n\nDid you mean this?\n" + "".join(f"\t{name}\n" for name in alike)
    return text


def _distance(left: str, right: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (a != b)))
    return row[-1]


def usage(command: Command, *, help_listed: bool = True) -> str:
    """The help text. Only `help <nonsense>` leaves the --help flag out, in cobra and so here."""
    titled = command.path().partition(" ")[2] or command.name
    parts = [f"NAME:\n\t{titled} - {command.short}\n\nUSAGE:\n\t{_use_line(command)}\n"]
    if command.parent is None:
        parts.append(f"\nVERSION:\n\t{VERSION}\n")
    if command.children:
        parts.append(f"\nAPI VERSION:\n\t{API_VERSION}\n\n\nCOMMANDS:\n")
        for below in _below(command):
            if below.run:
                shown = below.path()[len(command.path()) + 1 :]
                parts.append(f"\t{shown}\t{below.short}\n")
    if command.long:
        lines = command.long.strip("\n\t ").split("\n")
        parts.append("\nDESCRIPTION:\n" + "".join(f"\t{line}\n" for line in lines))
    options = command.local_flags()
    if not help_listed:
        del options["help"]
    parts.append("\nOPTIONS:\n" + _flag_lines(options))
    if command.parent is not None:
        parts.append("\nGLOBAL OPTIONS:\n" + _flag_lines(command.inherited_flags()))
    return gotext.align_tabs("".join(parts) + "\n")


def _use_line(command: Command) -> str:
    front = command.parent.path() + " " if command.parent else ""
    return f"{front}{command.use} [flags]"


def _below(command: Command) -> Iterator[Command]:
    for child in sorted(command.children, key=lambda child: child.name):
        yield child
        yield from _below(child)


def _flag_lines(flags: dict[str, Flag]) -> str:
    out = []
    for flag in flags.values():
        front = f"  -{flag.short}, --" if flag.short else "      --"
        default = f'"{flag.default}"' if flag.kind == "string" else flag.default
        if flag.kind == "list":
            default = f"[{flag.default}]"
        value = f"[={default}]" if flag.kind == "bool" else f"={default}"
        out.append(f"{front}{flag.name}{value}\t{flag.usage}\n")
    return "".join(out)


def plain_usage(command: Command) -> str:
    """cobra's own usage text, which etcdctl shows only for a mistake inside a txn request."""
    rows = []
    for flag in command.local_flags().values():
        front = f"  -{flag.short}, --{flag.name}" if flag.short else f"      --{flag.name}"
        kind = {"bool": "", "int": " int", "string": " string"}[flag.kind]
        shown = flag.default not in ("", "0", "false") or (flag.kind, flag.default) == (
            "string",
            "0",
        )
        default = f'"{flag.default}"' if flag.kind == "string" else flag.default
        rows.append((front + kind, flag.usage + (f" (default {default})" if shown else "")))
    width = max(len(front) for front, _ in rows)
    lines = "".join(f"{front.ljust(width)}   {text}\n" for front, text in rows)
    return f"Usage:\n   {command.use} [flags]\n\nFlags:\n{lines}"


def options_text(root: Command) -> str:
    """The flags that every command has, alone."""
    flags = {flag.name: flag for flag in sorted(root.inherited, key=lambda flag: flag.name)}
    title = "The following options can be passed to any command:\n\n"
    return gotext.align_tabs(title + _flag_lines(flags) + "\n")
