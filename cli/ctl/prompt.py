"""The prompt of `shell`: line editing by readline, a history file, completion.

What is completed: commands and their subcommands, flags, and for the commands that take keys the
keys of the server, up to the next `/` as a shell completes file names. Keys are asked for while the
tab key is down, so the answer is bounded in time and in number; a server that does not answer
completes nothing.

History: one line is appended as soon as it is typed, and the file is cut to its last lines when a
shell starts. Lines that hold a password are not kept, nor those that begin with a blank.
"""

import contextlib
import io
import os
import readline
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from pyetcd.cli.command import Command, find
from pyetcd.cli.context import Context
from pyetcd.cli.ctl.tree import ROOT
from pyetcd.cli.ctl.tree_live import LEAVE
from pyetcd.cli.words import BLANKS, BadLine, last_word_at, quoted, split

if TYPE_CHECKING:
    from pyetcd.cli.client import Client, Settings

PROMPT: Final = "etcd> "
HISTORY_LINES_MAX: Final = 1000
KEYS_MAX: Final = 200  # candidates that a tab shows
KEYS_S: Final = 1.0  # for all requests of one tab
_PAGE_KEYS: Final = 64
_TAKING_KEYS: Final = frozenset(("get", "put", "del", "watch", "tree", "history"))
_FORMATS: Final = ("simple", "fields", "json", "protobuf", "table", "yaml")
_SECRETS: Final = ("--password", "--user", "--dest-password", "--dest-user", "--new-user-password")


class Prompt:
    """Reads lines from a person. `run_line` returns whether to go on."""

    def __init__(
        self, context: Context, settings: "Settings", run_line: Callable[[str], bool]
    ) -> None:
        self._context = context
        self._settings = settings
        self._run_line = run_line
        self._history = _history_file(context.env)
        self._candidates: list[str] = []
        self._keys = Keys(settings)

    def run(self) -> bool:
        """Until exit, quit or Ctrl-D; False when it was a line that ended it."""
        context = self._context
        reconfigure = getattr(sys.stdin, "reconfigure", None)
        if reconfigure is not None:  # a key need not be UTF-8
            reconfigure(errors="surrogateescape")
        context.streams.stdin = cast(BinaryIO, _Typed())
        self._set_up()
        where = ",".join(self._settings.endpoints)
        context.print(f"{where}. Tab completes; help lists the commands; exit or Ctrl-D ends.")
        context.flush()
        while True:
            try:
                line = input(PROMPT)
                if line.strip(BLANKS) in LEAVE:
                    return True
                self._remember(line)
                if not self._run_line(line):
                    return False
            except EOFError:
                context.print("")
                return True
            except KeyboardInterrupt:
                context.print("")
                context.flush()

    def _set_up(self) -> None:
        readline.set_auto_history(False)
        readline.set_completer_delims(BLANKS)
        readline.set_completer(self._complete)
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
        if not self._history:
            return
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._history) or ".", mode=0o700, exist_ok=True)
            os.close(os.open(self._history, os.O_CREAT | os.O_WRONLY, 0o600))
            readline.read_history_file(self._history)
            readline.set_history_length(HISTORY_LINES_MAX)
            readline.write_history_file(self._history)

    def _remember(self, line: str) -> None:
        if not line.strip(BLANKS) or line[0] in BLANKS or _holds_secret(line):
            return
        readline.add_history(line)
        if self._history:
            with contextlib.suppress(OSError):
                readline.append_history_file(1, self._history)

    def _complete(self, text: str, state: int) -> str | None:
        """readline's hook: the candidates one by one. What it raises nobody would see."""
        if state == 0:
            end = readline.get_endidx()
            before = readline.get_line_buffer()[:end]
            start = last_word_at(before)
            known = readline.get_begidx() - start  # of the word: readline knows no backslash
            found = candidates(before, self._keys.below)
            if known:
                found = [word for word in found if word.startswith(before[start:])]
            self._candidates = [word[known:] for word in found]
        return self._candidates[state] if state < len(self._candidates) else None


def candidates(before: str, keys: Callable[[bytes], Iterable[tuple[bytes, bool]]]) -> list[str]:
    """What the last word of a line may become; a word that is whole has a blank behind it. `keys`
    gives what begins so on the server, and whether it is a whole key."""
    at = last_word_at(before)
    word = before[at:]
    try:
        words = split(before[:at])
        typed = "".join(split(word))
    except BadLine:
        return []
    command, rest = find(ROOT, words)
    awaiting = _flag_awaiting(command, words[-1] if words else "")
    if awaiting:
        return _starting(_FORMATS if awaiting == "write-out" else (), word)
    if word.startswith("-"):
        return _starting(_flags(command), word)
    if command.children:
        if any(not each.startswith("-") for each in rest):
            return []  # of a command that does not exist
        names = [child.name for child in command.children]
        return _starting([*names, *LEAVE] if command is ROOT and not words else names, word)
    arguments = [each for each in rest if not each.startswith("-")]
    if command.name in _TAKING_KEYS and not (command.name == "put" and arguments):
        return list(_typed_keys(keys(typed.encode("utf-8", "surrogateescape"))))
    return []


def _flag_awaiting(command: Command, last: str) -> str:
    """The flag whose value comes next; empty when none does."""
    for flag in command.all_flags().values():
        if last in (f"--{flag.name}", f"-{flag.short}") and flag.kind != "bool":
            return flag.name
    return ""


def _flags(command: Command) -> list[str]:
    return sorted(
        f"--{flag.name}" + ("" if flag.kind == "bool" else "=")
        for flag in command.all_flags().values()
    )


def _starting(words: "list[str] | tuple[str, ...]", start: str) -> list[str]:
    found = sorted(word for word in words if word.startswith(start))
    return [word if word.endswith("=") else word + " " for word in found]


def _typed_keys(names: Iterable[tuple[bytes, bool]]) -> Iterator[str]:
    for raw, is_whole in names:
        name = raw.decode("utf-8", "surrogateescape")
        if name.isprintable():
            yield quoted(name) + (" " if is_whole else "")


class Keys:
    """The server's keys, asked for over a connection that says nothing about its failures."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._client: Client | None = None

    def close(self) -> None:
        """Closes the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def below(self, start: bytes) -> Iterator[tuple[bytes, bool]]:
        """(name, whether it is a key) of what begins so, up to its next slash."""
        from pyetcd.cli.client import BadSettings, Client, ClientError

        try:
            if self._client is None:
                self._client = Client(
                    self._settings.endpoints, self._settings, warn=lambda line: None
                )
                self._client.authenticate()
            yield from _names(self._client, start)
        except (ClientError, BadSettings):
            self.close()


def _names(client: "Client", start: bytes) -> Iterator[tuple[bytes, bool]]:
    """Page by page; a folder that is known is jumped over."""
    from pyetcd.cli import client as calls
    from pyetcd.proto import rpc_pb2 as rpc
    from pyetcd.proto.keys import FROM_KEY, prefix_end

    deadline_s = time.monotonic() + KEYS_S
    end = prefix_end(start) if start else FROM_KEY
    request = rpc.RangeRequest(
        key=start or FROM_KEY, range_end=end, limit=_PAGE_KEYS, keys_only=True, serializable=True
    )
    found = 0
    while True:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return
        answer = client.call(calls.RANGE, request, timeout_s=left_s)
        folder = b""
        for pair in answer.kvs:
            if folder and pair.key.startswith(folder):
                continue
            # From an empty word on the first slash of "/a/b" is no end.
            slash = pair.key.find(b"/", max(len(start), 1))
            folder = pair.key[: slash + 1] if slash >= 0 else b""
            yield folder or pair.key, not folder
            found += 1
            if found == KEYS_MAX:
                return
        if not answer.more:
            return
        request.key = prefix_end(folder) if folder else answer.kvs[-1].key + b"\0"


def _holds_secret(line: str) -> bool:
    try:
        words = split(line)
    except BadLine:
        words = line.split()
    if any(word.partition("=")[0] in _SECRETS for word in words):
        return True
    return bool(words) and "user".startswith(words[0]) and "add" in words  # user add NAME:PASSWORD


def _history_file(env: Mapping[str, str]) -> str:
    if "PYETCD_HISTORY" in env:
        return env["PYETCD_HISTORY"]
    folder = env.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(folder, "pyetcd", "history")


class _Typed(io.RawIOBase):
    """What a command reads from a person, with line editing; Ctrl-D is its end."""

    def readable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> bytes:
        try:
            return input().encode("utf-8", "surrogateescape") + b"\n"
        except EOFError:
            return b""
