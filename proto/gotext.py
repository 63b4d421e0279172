"""Text as Go writes and reads it, where both the server and `ctl` show it: quotes, JSON, durations.

etcd and etcdctl print with Go's strconv, encoding/json and time packages, and scripts compare what
they print. Each parser raises ValueError whose text is what Go would say.
"""

import re
from typing import Final

INT64_MAX: Final = (1 << 63) - 1

_JSON: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_QUOTED: Final = _JSON | {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}
# What encoding/json escapes; of it what would end a script in a web page need not be.
JSON_SPECIAL: Final = re.compile('["\\\\\x00-\x1f<>&\u2028\u2029\ud800-\udfff]')
JSON_NEEDED: Final = re.compile('["\\\\\x00-\x1f\ud800-\udfff]')

_SECOND_NS: Final = 1_000_000_000
_UNITS_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000}
_UNITS_NS |= {"s": _SECOND_NS, "m": 60 * _SECOND_NS, "h": 3600 * _SECOND_NS}
_DURATION_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")


def quote(text: str) -> str:
    """strconv.Quote, the %q of Go's texts. A byte that was not UTF-8 is a surrogate escape here and
    becomes \\x."""
    out = []
    for char in text:
        code = ord(char)
        if char in _QUOTED:
            out.append(_QUOTED[char])
        elif char.isprintable():
            out.append(char)
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def json_string(text: str, special: re.Pattern[str] = JSON_SPECIAL) -> str:
    """A JSON string. Half a surrogate pair is no character, and Go puts a mark for it."""
    return f'"{special.sub(_json_escape, text)}"' if special.search(text) else f'"{text}"'


def _json_escape(match: re.Match[str]) -> str:
    char = match.group()
    if "\ud800" <= char <= "\udfff":
        return "\\ufffd"
    return _JSON.get(char) or f"\\u{ord(char):04x}"


def parse_duration_ns(text: str) -> int:
    """time.ParseDuration: `300ms`, `-1.5h`, `2h45m`; a bare 0 needs no unit."""
    invalid = ValueError(f"time: invalid duration {quote(text)}")
    negative = text.startswith("-")
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    while rest:
        part = _DURATION_PART.match(rest)
        if part is None or not (part[1] or part[2]):
            raise invalid
        unit = part[3]
        if not unit:
            raise ValueError(f"time: missing unit in duration {quote(text)}")
        if unit not in _UNITS_NS:
            raise ValueError(f"time: unknown unit {quote(unit)} in duration {quote(text)}")
        total += int(part[1] or "0") * _UNITS_NS[unit]
        if part[2]:
            total += int(part[2]) * _UNITS_NS[unit] // 10 ** len(part[2])
        rest = rest[part.end() :]
    if total > INT64_MAX:
        raise invalid
    return -total if negative else total


def duration(value_ns: int) -> str:
    """time.Duration.String: `1m30s`, `1.5ms`, `0s`."""
    sign, left_ns = ("-", -value_ns) if value_ns < 0 else ("", value_ns)
    if left_ns == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if left_ns < size * 1_000:
            return f"{sign}{_decimal(left_ns, size)}{unit}"
    minutes, left_ns = divmod(left_ns, 60_000_000_000)
    text = f"{_decimal(left_ns, 1_000_000_000)}s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = (f"{hours}h" if hours else "") + f"{minutes}m" + text
    return sign + text


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(size)) - 1, '0').rstrip('0')}"
