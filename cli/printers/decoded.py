"""--decode: bytes as text, values that are JSON as JSON.

Rules.
1. Bytes that are UTF-8 become text. Others stay base64, under another name, so that nothing can be
   taken for something else: `value_base64` in the place of `value`.
2. A value that is a JSON object or array becomes one, if nothing of it is lost: no name twice in an
   object, and numbers keep their digits. A bare number or string stays text: what type a value has
   must not depend on what it happens to look like.
3. Enums are called by their names.
"""

import base64
import json
from typing import Any

from pyetcd.cli.printers.values import Number, Value, Word


def decoded(value: Value) -> Value:
    """The value with all bytes in it made readable."""
    if isinstance(value, list):
        return [decoded(inner) for inner in value]
    if isinstance(value, dict):
        found: dict[str, Value] = {}
        for name, inner in value.items():
            if isinstance(inner, bytes):
                _put(found, name, inner)
            else:
                found[name] = decoded(inner)
        return found
    return value.name if isinstance(value, Word) else value


def _put(found: dict[str, Value], name: str, raw: bytes) -> None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        found[f"{name}_base64"] = base64.b64encode(raw).decode()
        return
    found[name] = nested(text) if name == "value" else text


def nested(text: str) -> Value:
    """The object or array that the text is; else the text."""
    if text.lstrip(" \t\n\r")[:1] not in ("{", "["):
        return text
    try:
        value: Value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair has no UTF-8
    except (ValueError, RecursionError):
        return text
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _refuse(text: str) -> None:
    raise ValueError(text)  # NaN and Infinity, which Python takes and JSON has not


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=_refuse
)
