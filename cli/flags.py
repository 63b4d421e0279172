"""Command-line flags as Go's pflag reads them.

pflag accepts flags between arguments, `--flag=value`, `--flag value`, `-wjson`, `-w json`,
`-w=json` and, for booleans, `--flag` and `--flag=false` but never `--flag false`. Its error texts
are part of etcdctl's surface, so they are pflag's here.
"""

from typing import NamedTuple

from pyetcd.cli import gotext
from pyetcd.cli.gotext import ParseFailure


class FlagError(Exception):
    """A command line that pflag refuses; the text is what it says."""


class Flag(NamedTuple):
    """One flag. `kind` is bool, string, int, uint, duration or list; `default` is its text.

    `since` names what brought a flag that etcd 3.5 does not have.
    """

    name: str
    kind: str
    default: str
    usage: str
    short: str = ""
    since: str = ""

    def parse(self, text: str) -> "Value":
        """The value of `text`; raises ParseFailure."""
        if self.kind == "bool":
            return gotext.parse_bool(text)
        if self.kind == "int":
            return gotext.parse_int(text, 0)
        if self.kind == "uint":
            return gotext.parse_int(text, 0, signed=False)
        if self.kind == "duration":
            return gotext.parse_duration_ns(text)
        if self.kind == "list":
            return _read_list(text)
        return text


def boolean(name: str, usage: str, *, on: bool = False, short: str = "") -> Flag:
    """A boolean flag."""
    return Flag(name, "bool", "true" if on else "false", usage, short)


def text(name: str, usage: str, default: str = "", *, short: str = "") -> Flag:
    """A string flag."""
    return Flag(name, "string", default, usage, short)


def integer(name: str, usage: str, default: int = 0, *, since: str = "") -> Flag:
    """A 64-bit integer flag."""
    return Flag(name, "int", str(default), usage, since=since)


def span(name: str, usage: str, default: str) -> Flag:
    """A duration flag."""
    return Flag(name, "duration", default, usage)


Value = bool | int | str | list[str]


def _read_list(text: str) -> list[str]:
    if not text:
        return []
    fields, at = [], 0
    while True:
        if text[at : at + 1] == '"':
            field, at = _quoted_field(text, at)
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            field = text[at:end]
            if '"' in field:
                column = _column(text, at + field.index('"'))
                raise ParseFailure(f'parse error on line 1, column {column}: bare " in'
                                   " non-quoted-field")  # fmt: skip
            at = end
        fields.append(field)
        if at == len(text):
            return fields
        at += 1


def _quoted_field(text: str, start: int) -> tuple[str, int]:
    """A field in quotes as Go's encoding/csv reads it, and where it ends."""
    extraneous = 'extraneous or missing " in quoted-field'
    at, field = start + 1, ""
    while True:
        quote = text.find('"', at)
        if quote < 0:
            place = "record on line 1; parse error on line 2, column 0"
            raise ParseFailure(f"{place}: {extraneous}")
        field += text[at:quote]
        at = quote + 1
        if text[at : at + 1] == '"':
            field, at = field + '"', at + 1
        elif text[at : at + 1] in ("", ","):
            return field, at
        else:
            place = f"parse error on line 1, column {_column(text, quote)}"
            raise ParseFailure(f"{place}: {extraneous}")


def _column(text: str, at: int) -> int:
    return len(text[:at].encode("utf-8", "surrogateescape"))


def show(value: Value) -> str:
    """A value as Go prints it with %v."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ",".join(value) + "]"
    return str(value)


class FlagSet:
    """The flags of one command with their values: its own and the inherited ones."""

    def __init__(self, flags: dict[str, Flag], values: dict[str, Value] | None = None) -> None:
        self.flags = flags
        self.values = values if values is not None else {}
        self.changed: set[str] = set()
        self.args: list[str] = []

    def boolean(self, name: str) -> bool:
        """The value of a boolean flag."""
        value = self.value(name)
        assert isinstance(value, bool)
        return value

    def text(self, name: str) -> str:
        """The value of a string flag."""
        value = self.value(name)
        assert isinstance(value, str)
        return value

    def integer(self, name: str) -> int:
        """The value of an int or duration flag (durations in nanoseconds)."""
        value = self.value(name)
        assert isinstance(value, int)
        return value

    def texts(self, name: str) -> list[str]:
        """The value of a list flag."""
        value = self.value(name)
        assert isinstance(value, list)
        return value

    def shown(self, name: str) -> str:
        """The value as `--debug` prints it."""
        if self.flags[name].kind == "duration":
            return gotext.duration(self.integer(name))
        return show(self.value(name))

    def value(self, name: str) -> Value:
        """The value of any flag."""
        if name in self.values:
            return self.values[name]
        flag = self.flags[name]
        return flag.parse(flag.default)

    def set(self, name: str, text: str) -> None:
        """Sets a flag from its text; a list grows after the first time. Raises ParseFailure."""
        flag = self.flags[name]
        value = flag.parse(text)
        if isinstance(value, list) and name in self.changed:
            value = self.texts(name) + value
        self.values[name] = value
        self.changed.add(name)

    def parse(self, argv: list[str]) -> None:
        """Reads a command line; raises FlagError at its first mistake."""
        rest = list(reversed(argv))
        while rest:
            word = rest.pop()
            if len(word) < 2 or word[0] != "-":
                self.args.append(word)
            elif word == "--":
                self.args += reversed(rest)
                return
            elif word[1] == "-":
                self._parse_long(word, rest)
            else:
                self._parse_short(word[1:], rest)

    def _parse_long(self, word: str, rest: list[str]) -> None:
        name, equals, value = word[2:].partition("=")
        if not name or name[0] == "-":
            raise FlagError(f"bad flag syntax: {word}")
        flag = self.flags.get(name)
        if flag is None:
            raise FlagError(f"unknown flag: --{name}")
        if not equals:
            if flag.kind == "bool":
                value = "true"
            elif rest:
                value = rest.pop()
            else:
                raise FlagError(f"flag needs an argument: {word}")
        self._set_parsed(flag, value)

    def _parse_short(self, letters: str, rest: list[str]) -> None:
        while letters:
            letter, tail = letters[0], letters[1:]
            flag = next((f for f in self.flags.values() if f.short == letter), None)
            if flag is None:
                raise FlagError(f"unknown shorthand flag: {_rune(letter)} in -{letters}")
            if len(letters) > 2 and tail[0] == "=":
                value, tail = tail[1:], ""
            elif flag.kind == "bool":
                value = "true"
            elif tail:
                value, tail = tail, ""
            elif rest:
                value = rest.pop()
            else:
                raise FlagError(f"flag needs an argument: {_rune(letter)} in -{letters}")
            self._set_parsed(flag, value)
            letters = tail

    def _set_parsed(self, flag: Flag, text: str) -> None:
        try:
            self.set(flag.name, text)
        except ParseFailure as failure:
            label = f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"
            quoted = gotext.quote(text.encode("utf-8", "surrogateescape"))
            raise FlagError(f'invalid argument {quoted} for "{label}" flag: {failure}') from None


def _rune(letter: str) -> str:
    raw = letter.encode("utf-8", "surrogateescape")
    return f"'{chr(raw[0])}'"  # pflag looks at one byte
