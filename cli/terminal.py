"""How a command speaks and ends: its streams, its exit codes, its errors.

stdout and stderr keep the order in which they were written, as Go's unbuffered writes do: a line on
stderr flushes stdout first.
"""

from typing import BinaryIO

# Exit codes: etcd's pkg/cobrautl/error.go.
ERROR, BAD_CONNECTION, INVALID_INPUT, BAD_FEATURE, INTERRUPTED, BAD_ARGS = 1, 2, 3, 4, 5, 128


class Exit(Exception):
    """The command is over; all that had to be said has been said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Streams:
    """Where a command reads and writes. `is_terminal` is about stdout."""

    def __init__(
        self, stdin: BinaryIO, stdout: BinaryIO, stderr: BinaryIO, is_terminal: bool = False
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.is_terminal = is_terminal


class Terminal:
    """Standard input, output and error of one command."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    @property
    def streams(self) -> Streams:
        """Where it reads and writes."""
        return self._streams

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads stdout."""
        return self._streams.is_terminal

    def print(self, line: str | bytes) -> None:
        """One line on stdout."""
        raw = line if isinstance(line, bytes) else line.encode("utf-8", "surrogateescape")
        self._streams.stdout.write(raw + b"\n")

    def write(self, raw: bytes) -> None:
        """Bytes on stdout."""
        self._streams.stdout.write(raw)

    def flush(self) -> None:
        """Lets a reader of stdout see what there is by now: Go does not buffer."""
        self._streams.stdout.flush()

    def warn(self, line: str) -> None:
        """One line on stderr, after all of stdout."""
        self._streams.stdout.flush()
        self._streams.stderr.write(line.encode("utf-8", "surrogateescape") + b"\n")
        self._streams.stderr.flush()

    def fail(self, code: int, text: str) -> Exit:
        """Says the error; the caller raises what it gets."""
        self.warn(f"Error: {text}")
        return Exit(code)

    @property
    def stdin(self) -> BinaryIO:
        """Standard input."""
        return self._streams.stdin
