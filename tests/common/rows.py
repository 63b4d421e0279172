"""Rows of a table test: command lines, and what stands for something else in them."""

import shlex

FORMATS = ("simple", "json", "fields", "table", "protobuf")


def lines(text: str) -> list[str]:
    found: list[str] = []
    for line in text.strip("\n").split("\n"):
        found += [line.replace("{f}", f) for f in FORMATS] if "{f}" in line else [line]
    return found


def split(line: str, places: dict[str, str]) -> tuple[list[str], bytes]:
    """The words of a line and its stdin."""
    command, arrow, typed = line.partition(" << ")
    for name, endpoint in places.items():
        command = command.replace("{" + name + "}", endpoint)
    return shlex.split(command), typed.replace("|", "\n").encode() if arrow else b""
