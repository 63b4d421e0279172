"""Splits a line into words as a POSIX shell does, without expanding anything.

Quotes and backslashes as in the standard library's `shlex`; but a `#` begins a comment only at the
start of a word, as in a shell, and a long value costs a microsecond and not a hundred.
"""

import re
from typing import Final

BLANKS: Final = " \t\r\n"
_PLAIN = re.compile(r"[^ \t\r\n]+")
_SPECIAL = re.compile(r"['\"\\#]")
_PART = re.compile(r"""[^ \t\r\n'"\\]+|'[^']*'|"(?:[^"\\]|\\.)*"|\\.""", re.DOTALL)
_ESCAPE = re.compile(r'\\(["\\])')


class BadLine(Exception):
    """A quote that is not closed, or a backslash with nothing behind it."""


def split(line: str) -> list[str]:
    """The words of a line; raises BadLine."""
    if not _SPECIAL.search(line):
        return _PLAIN.findall(line)
    words: list[str] = []
    at, end = 0, len(line)
    while True:
        while at < end and line[at] in BLANKS:
            at += 1
        if at == end or line[at] == "#":
            return words
        parts: list[str] = []
        while at < end and line[at] not in BLANKS:
            found = _PART.match(line, at)
            if found is None:
                raise BadLine(
                    "No escaped character" if line[at] == "\\" else "No closing quotation"
                )
            parts.append(_bare(found.group()))
            at = found.end()
        words.append("".join(parts))


def _bare(part: str) -> str:
    if part[0] == "'":
        return part[1:-1]
    if part[0] == '"':
        return _ESCAPE.sub(r"\1", part[1:-1])
    return part[1:] if part[0] == "\\" else part


def last_word_at(line: str) -> int:
    """Where the word begins in which the line ends; its length when it ends behind a blank. A
    quote may be open."""
    at, start, end = 0, 0, len(line)
    while at < end:
        if line[at] in BLANKS:
            at += 1
            start = at
            continue
        found = _PART.match(line, at)
        if found is None:
            return start
        at = found.end()
    return start


def quoted(word: str) -> str:
    """A word as it is typed: what a shell would read otherwise stands behind a backslash."""
    return re.sub(r"""([ \t'"\\]|^#)""", r"\\\1", word)
