"""Text as etcdctl writes and reads it with Go: quoting, numbers, durations, tab-aligned columns.

`ctl` answers byte for byte like etcdctl, which prints with Go's fmt, strconv, time and
text/tabwriter packages. What of them etcdctl's output shows is here, and only that.
"""

import re

from pyetcd.proto import gotext
from pyetcd.proto.gotext import duration

__all__ = [
    "ParseFailure",
    "align_tabs",
    "duration",
    "human_bytes",
    "parse_bool",
    "parse_duration_ns",
    "parse_int",
    "quote",
    "unquote",
]

_UNQUOTED = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, '"': 34}


class ParseFailure(Exception):
    """A value that Go's strconv or time package refuses; the text is theirs."""


def quote(raw: bytes) -> str:
    """strconv.Quote: printable runes stay, bytes that are no UTF-8 become \\x escapes."""
    return gotext.quote(raw.decode("utf-8", "surrogateescape"))


def unquote(text: str) -> str:
    """strconv.Unquote of a double-quoted string; raises ParseFailure."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"' or "\n" in text:
        raise ParseFailure("invalid syntax")
    out = bytearray()
    at, end = 1, len(text) - 1
    while at < end:
        char = text[at]
        if char == '"':
            raise ParseFailure("invalid syntax")
        if char != "\\":
            out += char.encode("utf-8", "surrogateescape")
            at += 1
            continue
        at += _escape(text, at + 1, end, out)
    return out.decode("utf-8", "surrogateescape")


def _escape(text: str, at: int, end: int, out: bytearray) -> int:
    """Appends what the escape behind the backslash means; returns its whole length."""
    char = text[at] if at < end else ""
    if char in _UNQUOTED and char:
        out.append(_UNQUOTED[char])
        return 2
    width = {"x": 2, "u": 4, "U": 8}.get(char, 0)
    digits = text[at + 1 : at + 1 + width] if width else text[at : at + 3]
    base = 16 if width else 8
    if len(digits) != (width or 3) or at + (width or 2) >= end:
        raise ParseFailure("invalid syntax")
    try:
        value = int(digits, base)
    except ValueError:
        raise ParseFailure("invalid syntax") from None
    if width > 2:
        try:
            out += chr(value).encode()
        except (ValueError, UnicodeEncodeError):
            raise ParseFailure("invalid syntax") from None
    elif value > 255:
        raise ParseFailure("invalid syntax")
    else:
        out.append(value)
    return 2 + width if width else 4


def parse_int(text: str, base: int, *, signed: bool = True) -> int:
    """strconv.ParseInt or ParseUint with 64 bits; base 0 reads 0x, 0o, 0b and underscores."""
    name = "ParseInt" if signed else "ParseUint"
    failure = f"strconv.{name}: parsing {quote(text.encode('utf-8', 'surrogateescape'))}: "
    digits = text[1:] if signed and text[:1] in ("+", "-") else text
    legal = re.fullmatch("[0-9a-zA-Z]+" if base else "[0-9a-zA-Z][0-9a-zA-Z_]*", digits)
    prefixed = base == 16 and digits[:2] in ("0x", "0X")  # which Python would take
    if legal is None or not digits.isascii() or prefixed:
        raise ParseFailure(failure + "invalid syntax")
    try:
        if base == 0 and re.fullmatch("0[0-7_]+", digits):
            value = int(digits, 8)  # Go still reads a leading zero as octal
        else:
            value = int(digits, base)
    except ValueError:
        raise ParseFailure(failure + "invalid syntax") from None
    if text[0] == "-":
        value = -value
    low, high = (-(1 << 63), 1 << 63) if signed else (0, 1 << 64)
    if not low <= value < high:
        raise ParseFailure(failure + "value out of range")
    return value


def parse_bool(text: str) -> bool:
    """strconv.ParseBool."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    quoted = quote(text.encode("utf-8", "surrogateescape"))
    raise ParseFailure(f"strconv.ParseBool: parsing {quoted}: invalid syntax")


def parse_duration_ns(text: str) -> int:
    """time.ParseDuration."""
    try:
        return gotext.parse_duration_ns(text)
    except ValueError as failure:
        raise ParseFailure(str(failure)) from None


def human_bytes(size_bytes: int) -> str:
    """humanize.Bytes: powers of 1000, one decimal below ten."""
    if size_bytes < 10:
        return f"{size_bytes} B"
    power = 0
    while size_bytes >= 1000 ** (power + 1) and power < 6:
        power += 1
    value = int(size_bytes / 1000**power * 10 + 0.5) / 10
    unit = ("B", "kB", "MB", "GB", "TB", "PB", "EB")[power]
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"


def align_tabs(text: str) -> str:
    """text/tabwriter with tab width 8, padding 1 and tabs as padding.

    A column is a run of neighbouring lines that have a tab-ended cell at the same place; it is as
    wide as its widest cell. What follows the last tab of a line belongs to no column.
    """
    lines = [line.split("\t") for line in text.split("\n")]
    out = [""] * len(lines)
    _align(lines, out, 0, len(lines), 0)
    return "\n".join(out)


def _align(lines: list[list[str]], out: list[str], first: int, last: int, column: int) -> None:
    at = first
    while at < last:
        if column >= len(lines[at]) - 1:
            out[at] += lines[at][column] if column < len(lines[at]) else ""
            at += 1
            continue
        end = at
        while end < last and column < len(lines[end]) - 1:
            end += 1
        width = max(len(lines[i][column]) for i in range(at, end)) + 1
        width = (width + 7) // 8 * 8
        for i in range(at, end):
            cell = lines[i][column]
            out[i] += cell + "\t" * ((width - len(cell) + 7) // 8)
        _align(lines, out, at, end, column + 1)
        at = end
