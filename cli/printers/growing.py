"""A result whose rows are written as they come: one JSON object, or YAML document, that ends in a
list. Each row is one line of the JSON.
"""

from pyetcd.cli.printers.base import Display
from pyetcd.cli.printers.values import Value


class Growing:
    """`head`: the fields before the list, which is called `name`."""

    def __init__(self, display: Display, head: dict[str, Value], name: str) -> None:
        assert display.format in ("json", "yaml")
        self._display = display
        self._head = head
        self._name = name
        self._has_rows = False

    def add(self, row: Value) -> None:
        """One more row; with the first one goes what is before it, so that a command that fails
        at once has written nothing."""
        if self._display.format == "json":
            text = (",\n" if self._has_rows else f"{self._front()}\n") + _json(self._display, row)
        else:
            text = "" if self._has_rows else f"{self._front()}\n"
            text += _yaml(self._display, [row], is_document=False)
        self._display.terminal.write(text.encode())
        self._has_rows = True

    def end(self) -> None:
        """That was all."""
        if self._display.format == "json":
            text = "\n]}\n" if self._has_rows else f"{self._front()}]}}\n"
        else:
            text = "" if self._has_rows else f"{self._front()} []\n"
        self._display.terminal.write(text.encode())

    def _front(self) -> str:
        """What is before the rows."""
        if self._display.format == "json":
            return f'{_json(self._display, self._head)[:-1]},"{self._name}":['
        return f"{_yaml(self._display, self._head, is_document=True)}{self._name}:"


def _json(display: Display, value: Value) -> str:
    from pyetcd.cli.printers import json

    if not display.decodes:
        return json.encode(value)
    from pyetcd.cli.printers.decoded import decoded

    return json.readable(decoded(value))


def _yaml(display: Display, value: Value, *, is_document: bool) -> str:
    from pyetcd.cli.printers import yaml

    return yaml.encode(display, value, is_document=is_document)
