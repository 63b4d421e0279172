"""YAML: the fields of -w json under the same names, and what json hides made readable.

Keys and values are text; bytes that are no UTF-8 are base64 with YAML's own mark, `!!binary`, so
that any YAML reader gives back the bytes. Enums are called by their names. Each result is a
document of its own behind `---`, since some commands print many.
"""

from collections.abc import Callable
from typing import Any

import yaml

from pyetcd.cli.printers.base import Display
from pyetcd.cli.printers.values import VALUES, Number, Value, Word

# libyaml writes the same ten times faster, where it is there.
_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_WIDTH = 1 << 30  # a long value stays in one line


class _Dumper(_Base):  # type: ignore[misc]
    def ignore_aliases(self, data: object) -> bool:
        return True


def _string(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None  # the emitter quotes what a block cannot hold
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _number(dumper: Any, number: Number) -> Any:
    kind = "int" if number.lstrip("-").isdigit() else "float"
    return dumper.represent_scalar(f"tag:yaml.org,2002:{kind}", str(number))


_Dumper.add_representer(str, _string)
_Dumper.add_representer(Number, _number)


def encode(display: Display, value: Value, *, is_document: bool = True) -> str:
    """A value as block YAML, with its newline."""
    if display.decodes:
        from pyetcd.cli.printers.decoded import decoded

        value = decoded(value)
    text: str = yaml.dump(
        _readable(display, value),
        Dumper=_Dumper,
        allow_unicode=True,
        default_flow_style=False,
        explicit_start=is_document,
        sort_keys=False,
        width=_WIDTH,
    )
    return text


def _readable(display: Display, value: Value) -> Any:
    if isinstance(value, dict):
        return {name: _readable(display, inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_readable(display, inner) for inner in value]
    if isinstance(value, Word):
        return value.name
    if isinstance(value, bytes):
        if display.hexadecimal:
            return "".join(f"\\x{byte:02x}" for byte in value)
        return _text(value)
    if isinstance(value, str) and not value.isascii() and not isinstance(value, Number):
        return _text(value.encode("utf-8", "surrogateescape"))
    return value


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _printer(values: Callable[[Any], Value]) -> Callable[[Display, Any], None]:
    return lambda display, result: display.terminal.write(encode(display, values(result)).encode())


PRINTERS = {kind: _printer(values) for kind, values in VALUES.items()}
