"""A program on a pseudo terminal: what it shows, and keys for it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

WAIT_S = 60.0
_LAUNCH = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " os.execv(sys.argv[1], sys.argv[1:])"
)
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][0-9A-B]|[=>78])|[\x00-\x08\x0f]|\r")


class Screen:
    """A process whose terminal we are. Leaving the block ends it."""

    def __init__(self, argv: list[str], env: dict[str, str], columns: int = 100) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._pty = ours
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8", **env},
            start_new_session=True,
        )
        os.close(theirs)
        self.raw = ""
        self._seen = 0

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._pty)

    @property
    def text(self) -> str:
        """All that it showed, without colours and movements."""
        return _SEQUENCE.sub("", self.raw)

    def type(self, keys: str) -> None:
        """Control keys mean what they mean to the mode that the terminal is in: they need a wait
        for a prompt, or `edit`."""
        os.write(self._pty, keys.encode())

    def expect(self, text: str) -> str:
        """Waits until this shows up behind what was expected before; what came up to its end."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            shown = self.text
            at = shown.find(text, self._seen)
            if at >= 0:
                before, self._seen = self._seen, at + len(text)
                return shown[before : self._seen]
            assert self._read(deadline_s), (text, shown[self._seen :])

    def interrupt(self, text: str) -> None:
        """Presses Ctrl-C until this shows up: Python does not see a signal that comes just before
        readline waits for the next key."""
        deadline_s = time.monotonic() + WAIT_S
        while text not in self.text[self._seen :]:
            assert time.monotonic() < deadline_s, (text, self.text[self._seen :])
            self.type("\x03")
            self.look(1.0, text)
        self.expect(text)

    def terminate(self) -> None:
        self._process.terminate()

    def look(self, for_s: float, text: str = "") -> None:
        """Takes in what comes within this time, or until this is there."""
        deadline_s = time.monotonic() + for_s
        while self._read(deadline_s):
            if text and text in self.text[self._seen :]:
                return

    def wait(self) -> int:
        """Its exit code, when it has ended by itself."""
        deadline_s = time.monotonic() + WAIT_S
        while self._read(deadline_s):
            pass
        return self._process.wait(max(deadline_s - time.monotonic(), 1))

    def edit(self, keys: str) -> None:
        """Types as soon as the program reads single keys."""
        deadline_s = time.monotonic() + WAIT_S
        while self.is_line_mode():
            assert time.monotonic() < deadline_s
            self.look(0.01)
        self.type(keys)

    def is_line_mode(self) -> bool:
        """Whether the terminal collects lines, as it does when no program says otherwise."""
        return bool(termios.tcgetattr(self._pty)[3] & termios.ICANON)

    def _read(self, deadline_s: float) -> bool:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not select.select([self._pty], [], [], left_s)[0]:
            return False
        try:
            data = os.read(self._pty, 65536)
        except OSError:  # nobody has the other end open
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)
