"""Go's encoding/json where Python's differs: what is said of bad input.

Strategy: Python's parser does the work. Only when it refuses something are the bytes walked here,
by the states of Go's scanner (encoding/json/scanner.go), for the words of the refusal.
"""

import base64
import re
from typing import Final

DEPTH_MAX: Final = 10_000  # nested arrays and objects, as Go's maxNestingDepth

_SPACE: Final = b" \t\r\n"
_DIGITS: Final = b"0123456789"
_HEX: Final = b"0123456789abcdefABCDEF"
_LITERALS: Final = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}


class Broken(ValueError):
    """Bytes that are no JSON value; the text is Go's."""


def why_broken(data: bytes, *, whole: bool) -> str:
    """What Go says of it; empty if it takes it. `whole`: json.Unmarshal, else json.Decoder, which
    reads one value and does not look behind it."""
    scan = _Scan(data, whole=whole)
    try:
        scan.value()
    except Broken as broken:
        return str(broken)
    return ""


class _Scan:
    """One walk. Nesting is a stack: Python's own is too shallow for ten thousand levels."""

    def __init__(self, data: bytes, *, whole: bool) -> None:
        self._data = data
        self._whole = whole
        self._at = 0

    def value(self) -> None:
        open_: list[int] = []  # the brackets that are open
        while True:
            byte = self._next("looking for beginning of value")
            if byte in b"{[":
                open_.append(byte)
                if len(open_) > DEPTH_MAX:
                    raise Broken("exceeded max depth")
                if self._peek() == (ord("}") if byte == ord("{") else ord("]")):
                    self._at += 1
                    open_.pop()
                else:
                    if byte == ord("{"):
                        self._key()
                    continue
            else:
                self._scalar(byte)
            if not self._closed(open_):
                return

    def _closed(self, open_: list[int]) -> bool:
        """Behind a value: whether another one follows."""
        while open_:
            inside_object = open_[-1] == ord("{")
            what = "after object key:value pair" if inside_object else "after array element"
            byte = self._next(what)
            if byte == ord(","):
                if inside_object:
                    self._key()
                return True
            if byte != (ord("}") if inside_object else ord("]")):
                self._refuse(byte, what)
            open_.pop()
        if self._whole and (behind := self._peek()) is not None:
            self._refuse(behind, "after top-level value")
        return False

    def _key(self) -> None:
        byte = self._next("looking for beginning of object key string")
        if byte != ord('"'):
            self._refuse(byte, "looking for beginning of object key string")
        self._string()
        byte = self._next("after object key")
        if byte != ord(":"):
            self._refuse(byte, "after object key")

    def _scalar(self, byte: int) -> None:
        if byte == ord('"'):
            self._string()
        elif byte in _LITERALS:
            word = _LITERALS[byte]
            for expected in word[1:]:
                found = self._byte()
                if found != expected:
                    self._refuse(found, f"in literal {word.decode()} (expecting {_char(expected)})")
        elif byte == ord("-") or byte in _DIGITS:
            self._number(byte)
        else:
            self._refuse(byte, "looking for beginning of value")

    def _string(self) -> None:
        while (byte := self._byte()) != ord('"'):
            if byte < 0x20:
                self._refuse(byte, "in string literal")
            if byte != ord("\\"):
                continue
            escaped = self._byte()
            if escaped == ord("u"):
                for _ in range(4):
                    if (digit := self._byte()) not in _HEX:
                        self._refuse(digit, "in \\u hexadecimal character escape")
            elif escaped not in b'bfnrt\\/"':
                self._refuse(escaped, "in string escape code")

    def _number(self, byte: int) -> None:
        if byte == ord("-"):
            byte = self._byte()
            if byte not in _DIGITS:
                self._refuse(byte, "in numeric literal")
        if byte != ord("0"):
            self._digits()
        if self._here() == ord("."):
            self._at += 1
            self._digit("after decimal point in numeric literal")
            self._digits()
        if self._here() in (ord("e"), ord("E")):
            self._at += 1
            if self._here() in (ord("+"), ord("-")):
                self._at += 1
            self._digit("in exponent of numeric literal")
            self._digits()

    def _digit(self, what: str) -> None:
        if (byte := self._byte()) not in _DIGITS:
            self._refuse(byte, what)

    def _digits(self) -> None:
        while (byte := self._here()) is not None and byte in _DIGITS:
            self._at += 1

    def _here(self) -> int | None:
        return self._data[self._at] if self._at < len(self._data) else None

    def _peek(self) -> int | None:
        """The next byte that is no space, which stays."""
        while (byte := self._here()) is not None and byte in _SPACE:
            self._at += 1
        return byte

    def _next(self, what: str) -> int:
        """The next byte that is no space."""
        self._peek()
        return self._byte()

    def _byte(self) -> int:
        byte = self._here()
        if byte is None:
            raise Broken("unexpected end of JSON input" if self._whole else "unexpected EOF")
        self._at += 1
        return byte

    def _refuse(self, byte: int, what: str) -> None:
        raise Broken(f"invalid character {_char(byte)} {what}")


def _char(byte: int) -> str:
    """Go's quoteChar: the byte taken for a character."""
    if byte == ord("'"):
        return "'\\''"
    if byte == ord('"'):
        return "'\"'"
    char = chr(byte)
    if char in "\a\b\f\n\r\t\v\\":
        return "'" + char.encode("unicode_escape").decode() + "'"
    return f"'{char}'" if char.isprintable() else f"'\\x{byte:02x}'"


def base64_bytes(text: str) -> bytes:
    """base64.StdEncoding: padded, line breaks are skipped. Raises ValueError with Go's words."""
    if len(text) % 4 or _BASE64.match(text) is None:
        at = _bad_base64(text.encode("utf-8", "replace"))
        if at is not None:
            raise ValueError(f"illegal base64 data at input byte {at}")
        text = text.replace("\r", "").replace("\n", "")
    return base64.b64decode(text)


_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}\Z")
_ALPHABET: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def _bad_base64(data: bytes) -> int | None:
    """Where Go's decodeQuantum stops; None when it takes everything."""
    at = 0
    while True:
        held = 0  # of the four characters of a quantum
        while held < 4:
            if at == len(data):
                return None if held == 0 else at - held
            byte = data[at]
            at += 1
            if byte in _ALPHABET:
                held += 1
            elif byte == ord("="):
                return _bad_padding(data, at, held)
            elif byte not in b"\r\n":
                return at - 1


def _bad_padding(data: bytes, at: int, held: int) -> int | None:
    """Behind the first `=`."""
    if held < 2:
        return at - 1
    if held == 2:
        at = _after_breaks(data, at)
        if at == len(data):
            return at
        if data[at] != ord("="):
            return at - 1
        at += 1
    at = _after_breaks(data, at)
    return at if at < len(data) else None


def _after_breaks(data: bytes, at: int) -> int:
    while at < len(data) and data[at] in b"\r\n":
        at += 1
    return at
