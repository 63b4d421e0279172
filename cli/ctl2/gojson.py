"""JSON as Go's encoding/json reads and writes it."""

import json
import re
from json import JSONDecodeError
from typing import Any

_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028"}
_ESCAPED |= {"\u2029": "\\u2029", "\\b": "\\u0008", "\\f": "\\u000c", "\\\\": "\\\\"}
_OTHER = re.compile(r"\\\\|\\b|\\f|[<>&\u2028\u2029]")


class BadJSON(Exception):
    """What is no JSON, or not the JSON that was expected; the text is Go's."""


def loads(raw: bytes) -> Any:
    """Raises BadJSON."""
    text = raw.decode("utf-8", "replace")
    try:
        return json.loads(text, parse_constant=_refuse)
    except JSONDecodeError as failure:
        raise BadJSON(_words(failure, text)) from None
    except RecursionError:
        raise BadJSON("exceeded max depth") from None


def fields(raw: bytes) -> dict[str, Any]:
    """An object; raises BadJSON."""
    found = loads(raw)
    if not isinstance(found, dict):
        kind = {list: "array", str: "string", bool: "bool"}.get(type(found), "number")
        raise BadJSON(f"json: cannot unmarshal {kind} into Go value")
    return found


def dumps(text: str) -> str:
    """A string, escaped for HTML."""
    return _OTHER.sub(lambda found: _ESCAPED[found[0]], json.dumps(text, ensure_ascii=False))


def _refuse(word: str) -> None:
    raise JSONDecodeError("Expecting value", word, 0)


def _words(failure: JSONDecodeError, text: str) -> str:
    if failure.pos >= len(text) or failure.msg.startswith("Unterminated string"):
        return "unexpected end of JSON input"
    shown = text[failure.pos]
    shown = "'\\''" if shown == "'" else f"'{shown}'"
    where = {
        "Extra data": "after top-level value",
        "Expecting property name enclosed in double quotes": (
            "looking for beginning of object key string"
        ),
        "Expecting ':' delimiter": "after object key",
        "Expecting ',' delimiter": "after array element",
    }.get(failure.msg, "looking for beginning of value")
    return f"invalid character {shown} {where}"
