"""`--set name=value`: a field of a drawn shape, written as text.

    members=3   pre_vote=false   commit_s=0.001,0.02   faults=kill,power   network.loss=0.1

The value is read as the type of what was drawn; nothing after `=` is an empty list.
"""

import dataclasses
from typing import Any


class BadSetting(ValueError):
    """There is no such field, or the value is not of its type."""


def override(shape: Any, setting: str) -> None:
    path, equals, text = setting.partition("=")
    *owners, name = path.split(".")
    owner = shape
    for each in owners:
        owner = getattr(owner, each, None)
    if not equals or not dataclasses.is_dataclass(owner) or not hasattr(owner, name):
        raise BadSetting(f"no field {path!r} of the shape: {', '.join(names(shape))}")
    drawn = getattr(owner, name)
    try:
        setattr(owner, name, parse(text, drawn))
    except ValueError as error:
        raise BadSetting(f"{path} is like {drawn!r}, not {text!r}") from error


def parse(text: str, like: Any) -> Any:
    if isinstance(like, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if isinstance(like, tuple):
        parts = text.split(",") if text else []
        if like and isinstance(like[0], float):
            if len(parts) != len(like):
                raise ValueError(text)
            return tuple(map(float, parts))
        return tuple(parts)
    if dataclasses.is_dataclass(like):
        raise ValueError(text)  # its fields are set one by one
    return type(like)(text)


def show(value: Any) -> str:
    """What parse makes the value of again."""
    if isinstance(value, tuple):
        return ",".join(map(show, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def names(shape: Any) -> list[str]:
    found = []
    for field in dataclasses.fields(shape):
        value = getattr(shape, field.name)
        if dataclasses.is_dataclass(value):
            found += [f"{field.name}.{inner}" for inner in names(value)]
        else:
            found.append(field.name)
    return found
