"""Command-line flags as Go's flag package and urfave/cli 1.22 read them.

The commands of the v2 API have other rules than those of v3 (pyetcd.cli.flags): `-ttl` is `--ttl`,
letters are not joined, a value of a boolean needs `=`, and reading stops at the first word that is
no flag. A command moves its flags to the front before that, each with the word behind it; the words
behind a boolean flag so come to stand before the other flags, and those are then no flags any more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pyetcd.cli import gotext
from pyetcd.cli.gotext import ParseFailure

Value = bool | int | str | list[str]


class FlagMistake(Exception):
    """A command line that cannot be read; the text is Go's."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag with all its names. `kind` is bool, string, int, duration or list."""

    names: tuple[str, ...]
    kind: str
    usage: str
    default: str = ""

    @property
    def name(self) -> str:
        """The name that the code asks for."""
        return self.names[0]

    def parse(self, text: str) -> Value:
        """The value of `text`; raises ParseFailure with the reason alone."""
        try:
            if self.kind == "bool":
                return gotext.parse_bool(text)
            if self.kind == "int":
                return gotext.parse_int(text, 0)
            if self.kind == "duration":
                return gotext.parse_duration_ns(text)
        except ParseFailure as failure:
            is_range = self.kind == "int" and str(failure).endswith("value out of range")
            raise ParseFailure("value out of range" if is_range else "parse error") from None
        return [text] if self.kind == "list" else text


def boolean(*names: str, usage: str) -> Flag:
    """A boolean flag; off unless given."""
    return Flag(names, "bool", usage)


def text(*names: str, usage: str, default: str = "") -> Flag:
    """A string flag."""
    return Flag(names, "string", usage, default)


def integer(name: str, usage: str) -> Flag:
    """A 64-bit integer flag; 0 unless given."""
    return Flag((name,), "int", usage, "0")


def span(name: str, usage: str, default: str) -> Flag:
    """A duration flag."""
    return Flag((name,), "duration", usage, default)


HELP = boolean("help", "h", usage="show help")
VERSION = boolean("version", "v", usage="print the version")


@dataclass(slots=True)
class FlagSet:
    """The flags of one level of a command line, with their values."""

    flags: Sequence[Flag]
    args: list[str] = field(default_factory=list)
    _values: dict[str, Value] = field(default_factory=dict)
    _given: list[str] = field(default_factory=list)  # by the name that was used

    def boolean(self, name: str) -> bool:
        """The value of a boolean flag."""
        return bool(self._values.get(name, False))

    def text(self, name: str) -> str:
        """The value of a string flag."""
        return str(self._values.get(name, self._flag(name).default))

    def integer(self, name: str) -> int:
        """The value of an int or duration flag (durations in nanoseconds)."""
        value = self._values.get(name)
        if value is None:
            flag = self._flag(name)
            value = flag.parse(flag.default)
        assert isinstance(value, int)
        return value

    def texts(self, name: str) -> list[str]:
        """The value of a list flag: an empty word beside others is dropped, once."""
        found = self._values.get(name, [])
        assert isinstance(found, list)
        if "" in found and len(found) > 1:
            at = found.index("")
            return found[:at] + found[at + 1 :]
        return found

    def _flag(self, name: str) -> Flag:
        return next(flag for flag in self.flags if flag.name == name)

    def parse(self, argv: Sequence[str]) -> None:
        """Reads a command line up to the first word that is no flag; raises FlagMistake."""
        rest = list(reversed(argv))
        while rest and len(rest[-1]) > 1 and rest[-1].startswith("-"):
            word = rest.pop()
            if word == "--":
                break
            name = word[2:] if word.startswith("--") else word[1:]
            if name.startswith(("-", "=")):
                raise FlagMistake(f"bad flag syntax: {word}")
            name, equals, given = name.partition("=")
            flag = next((flag for flag in self.flags if name in flag.names), None)
            if flag is None:
                raise FlagMistake(f"flag provided but not defined: -{name}")
            if not equals and flag.kind == "bool":
                given = "true"
            elif not equals:
                if not rest:
                    raise FlagMistake(f"flag needs an argument: -{name}")
                given = rest.pop()
            self._set(flag, name, given)
        self.args = rest[::-1]

    def _set(self, flag: Flag, name: str, given: str) -> None:
        try:
            value = flag.parse(given)
        except ParseFailure as failure:
            quoted = gotext.quote(given.encode("utf-8", "surrogateescape"))
            what = "boolean value" if flag.kind == "bool" else "value"
            place = f"-{name}" if flag.kind == "bool" else f"flag -{name}"
            raise FlagMistake(f"invalid {what} {quoted} for {place}: {failure}") from None
        if isinstance(value, list):
            before = self._values.get(flag.name, [])
            assert isinstance(before, list)
            value = before + value
        self._values[flag.name] = value
        self._given.append(name)

    def check_forms(self) -> None:
        """Raises FlagMistake when a flag was given by two of its names."""
        for flag in self.flags:
            used = [name for name in flag.names if name in self._given]
            if len(used) > 1:
                both = f"{used[1]} {used[0]}"
                raise FlagMistake(f"Cannot use two forms of the same flag: {both}")


def reorder(flags: Iterable[Flag], argv: Sequence[str]) -> list[str]:
    """A command's words with its flags moved to the front, as urfave/cli moves them."""
    names = {name for flag in flags for name in flag.names}
    front: list[str] = []
    behind: list[str] = []
    may_be_value = False
    for at, word in enumerate(argv):
        if word == "--":
            behind += argv[at:]
            break
        if may_be_value and not word.startswith("-"):
            may_be_value = False
            front.append(word)
        elif _is_flag(word, names):
            front.append(word)
            may_be_value = "=" not in word
        else:
            behind.append(word)
    return front + behind


def _is_flag(word: str, names: set[str]) -> bool:
    if word == "-" or not word.startswith("-"):
        return False
    # urfave/cli takes all hyphens of "--in-order" up to the second, then one more in front.
    if word.startswith("--"):
        word = word.replace("-", "", 2)
    word = word.removeprefix("-") if word.startswith("-") else word
    return word.partition("=")[0] in names
