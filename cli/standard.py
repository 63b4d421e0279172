"""The standard streams of a process, whatever state they were left in, and signals it ignores.

A program of etcd's that was started without one of them (`<&-`, a daemon's child) works: nothing
is read there, and what is written is gone. Output that cannot be written (a full disk) is another
thing: a backup made by a redirection is cut short, so it is said once on stderr and the exit code
is not 0. A pipe that somebody else has made non-blocking is waited for. stderr that cannot be
written changes nothing.

Limits. A directory as stdin ends Python itself before it comes here.
"""

import io
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Final

from pyetcd.cli.terminal import ERROR, Exit, Streams

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BUFFER_BYTES: Final = 1 << 16
# What ends a process unless it says otherwise, and no program in Go.
_IGNORED: Final = ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR")


def mend() -> None:
    """Gives each missing stream its number back, before a socket or a file takes it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, os.O_WRONLY if number else os.O_RDONLY)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def open_streams() -> Streams:
    """The streams of a command."""
    output = io.BufferedWriter(_Output(1, "wb", closefd=False), BUFFER_BYTES)
    errors = io.BufferedWriter(_Errors(2, "wb", closefd=False))
    return Streams(sys.stdin.buffer, output, errors, sys.stdout.isatty())


def ignore_signals() -> None:
    """A server is not ended by what somebody's log rotation or timer sends it."""
    for number in (getattr(signal, name, None) for name in _IGNORED):
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)


class _Output(io.FileIO):
    """stdout: the first failure ends the command, what comes behind it is dropped."""

    has_failed = False

    def write(self, data: "ReadableBuffer", /) -> int:
        if self.has_failed:
            return memoryview(data).nbytes
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as failure:
            self.has_failed = True
            _say(f"Error: write /dev/stdout: {_reason(failure)}\n")
            raise Exit(ERROR) from None
        return written


class _Errors(io.FileIO):
    """stderr: there is nobody to be told that it fails."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError:
            return memoryview(data).nbytes
        return written


def _say(text: str) -> None:
    try:
        os.write(2, text.encode())
    except OSError:
        return  # the exit code says it, too


def _reason(failure: OSError) -> str:
    text = failure.strerror or "unknown error"
    return text[:1].lower() + text[1:]
