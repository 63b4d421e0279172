"""How one option is described: kind, flag, YAML key, help, effect. The table is config_tables.py.

A row of the table is a dataclass field made by one of the functions below (`text`, `number`, ...):
the field's name and type are what the code uses, its metadata is an `Option` with the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from pyetcd.proto import gotext
from pyetcd.proto.gotext import quote
from pyetcd.server import config_values as values
from pyetcd.server.config_values import Url, parse_urls

T = TypeVar("T")


class ConfigError(Exception):
    """A mistake in flags, environment or file: one line to print, and the exit code."""

    def __init__(self, text: str, exit_code: int = 1, *, usage: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.exit_code = exit_code
        self.usage = usage  # Go's flag package prints the usage after the line


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log, once the log is there."""

    level: str
    msg: str
    fields: Mapping[str, object]


class Kind(Enum):
    """Go's flag types; the value is what the documentation calls them."""

    STRING = "string"
    BOOL = "boolean"
    UINT = "unsigned integer"
    INT = "integer"
    DURATION = "duration"
    URLS = "URL list"
    ORIGINS = "URL list or *"
    LIST = "list"
    SET = "set"
    CHOICE = "choice"
    CHOICES = "choice list"


class Effect(Enum):
    """Whether giving the option changes anything."""

    NOW = "yes"
    LATER = "not yet"  # accepted; the log says that it does nothing so far
    REFUSED = "refused"  # ignoring it would be dangerous: start is refused until it exists
    NONE = "none"  # means something only inside etcd (bbolt, Go); accepted for compatibility


@dataclass(frozen=True, slots=True)
class Option:
    flag: str
    kind: Kind
    section: str
    help: str
    effect: Effect
    yaml: str  # key, or map.key; "" when it cannot be set from a file
    choices: tuple[str, ...] = ()
    value_max: int = values.UINT64_MAX
    default_text: str = ""

    @property
    def env(self) -> str:
        return env_name(self.flag)

    @property
    def is_bool(self) -> bool:
        return self.kind is Kind.BOOL

    def parse(self, text: str) -> object:
        """The value of a flag or variable. Raises ValueError with Go's text."""
        return _PARSERS[self.kind](self, text)


def env_name(flag: str) -> str:
    return "ETCD_" + flag.replace("-", "_").upper()


def _duration(option: Option, text: str) -> object:
    try:
        return gotext.parse_duration_ns(text) / 1e9
    except ValueError:
        raise ValueError("parse error") from None  # Go's flag package hides the reason


def _choice(option: Option, text: str) -> object:
    if text not in option.choices:
        raise ValueError("invalid value")
    return text


def _choices(option: Option, text: str) -> object:
    for one in text.split(","):
        if one not in option.choices:
            raise ValueError(f"invalid value {quote(one)}")
    return text


def _set(option: Option, text: str) -> object:
    return tuple(sorted(set(text.split(","))))


def _origins(option: Option, text: str) -> object:
    return ("*",) if text == "*" else tuple(sorted({url.text for url in parse_urls(text)}))


_PARSERS: Mapping[Kind, Callable[[Option, str], object]] = {
    Kind.STRING: lambda option, text: text,
    Kind.BOOL: lambda option, text: values.parse_bool(text),
    Kind.UINT: lambda option, text: values.parse_uint(text, option.value_max),
    Kind.INT: lambda option, text: values.parse_int(text),
    Kind.DURATION: _duration,
    Kind.URLS: lambda option, text: parse_urls(text),
    Kind.ORIGINS: _origins,
    Kind.LIST: lambda option, text: tuple(text.split(",")),
    Kind.SET: _set,
    Kind.CHOICE: _choice,
    Kind.CHOICES: _choices,
}


class Section:
    """Makes the rows of one section of the table."""

    __slots__ = ("_map", "_strip", "name")

    def __init__(self, name: str, *, yaml_map: str = "", strip: str = "") -> None:
        self.name = name
        self._map = yaml_map  # the YAML map these options live in, and the prefix they lose there
        self._strip = strip

    def _row(
        self, default: T, kind: Kind, flag: str, help: str, effect: Effect, yaml: str | None,
        shown: str, choices: tuple[str, ...] = (), value_max: int = values.UINT64_MAX,
    ) -> T:  # fmt: skip
        if yaml is None:
            yaml = f"{self._map}.{flag.removeprefix(self._strip)}" if self._map else flag
        option = Option(flag, kind, self.name, help, effect, yaml, choices, value_max, shown)
        return field(default=default, metadata={"option": option})

    def text(
        self, flag: str, default: str, help: str, *,
        effect: Effect = Effect.NOW, yaml: str | None = None,
    ) -> str:  # fmt: skip
        return self._row(default, Kind.STRING, flag, help, effect, yaml, default)

    def choice(
        self, flag: str, choices: tuple[str, ...], help: str, *,
        effect: Effect = Effect.NOW, several: bool = False,
    ) -> str:  # fmt: skip
        """The first choice is the default."""
        kind = Kind.CHOICES if several else Kind.CHOICE
        return self._row(choices[0], kind, flag, help, effect, None, choices[0], choices)

    def boolean(
        self, flag: str, help: str, *,
        default: bool = False, effect: Effect = Effect.NOW, yaml: str | None = None,
    ) -> bool:  # fmt: skip
        shown = str(default).lower()
        return self._row(default, Kind.BOOL, flag, help, effect, yaml, shown)

    def number(
        self, flag: str, default: int, help: str, *,
        effect: Effect = Effect.NOW, signed: bool = False, value_max: int = values.UINT64_MAX,
        yaml: str | None = None,
    ) -> int:  # fmt: skip
        kind = Kind.INT if signed else Kind.UINT
        shown = str(default)
        return self._row(default, kind, flag, help, effect, yaml, shown, (), value_max)

    def duration(
        self, flag: str, default_s: float, help: str, *,
        effect: Effect = Effect.NOW, yaml: str | None = None,
    ) -> float:  # fmt: skip
        shown = gotext.duration(round(default_s * 1e9))
        return self._row(default_s, Kind.DURATION, flag, help, effect, yaml, shown)

    def urls(
        self, flag: str, default: str, help: str, *, effect: Effect = Effect.NOW
    ) -> tuple[Url, ...]:
        parsed = parse_urls(default) if default else ()
        return self._row(parsed, Kind.URLS, flag, help, effect, None, default)

    def strings(
        self, flag: str, kind: Kind, default: tuple[str, ...], help: str, *,
        effect: Effect = Effect.NOW,
    ) -> tuple[str, ...]:  # fmt: skip
        return self._row(default, kind, flag, help, effect, None, ",".join(default))
