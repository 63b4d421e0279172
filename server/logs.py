"""Structured logs in etcd's shape: one JSON object per line, never blocking the caller.

    {"level":"info","ts":"2026-01-02T15:04:05.999Z","caller":"server/member.py:12","msg":"...",...}

Strategy. A call formats its line and appends it to a bounded buffer; one writer thread joins what
is there and writes it. So a slow disk or a full pipe behind the log delays nobody (a log that
blocks the loop makes a leader that cannot send heartbeats). Before `configure` and after `close`
there is no thread and lines go straight to standard error: start-up and last words need no buffer.

Rules. Field names are written with dashes (`local_member_id=` becomes `local-member-id`). `fatal`
is a level, not an exit: the caller ends the process. No key, value, token or password of a user is
ever a field.

Limits. See LINES_MAX and LINE_BYTES_MAX below. `systemd/journal` as an output is standard error,
which is the journal under systemd.
"""

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import TracebackType

from pyetcd.server.log_files import Output, RotatingFile, Rotation, StreamOutput

# When the buffer holds this many lines, debug and info lines are dropped and counted. Warnings and
# errors may use a reserve of LINES_RESERVE more; beyond it they are dropped and counted as well.
LINES_MAX = 8192
LINES_RESERVE = 1024
# A longer line is cut: a log is no place for a payload.
LINE_BYTES_MAX = 64 * 1024
# `held` keeps lines back until a second has passed in which the process only waited (for a lock,
# for other members): that must be seen. A start that works is over soon, on a slow machine later.
HOLD_S = 1.0
HOLD_CPU_S = 0.01
HOLD_S_MAX = 30.0

LEVELS: Mapping[str, int] = {
    "debug": 10,
    "info": 20,
    "warn": 30,
    "error": 40,
    "dpanic": 45,
    "panic": 46,
    "fatal": 50,
}
DEBUG, INFO, WARN, ERROR, FATAL = 10, 20, 30, 40, 50
_NAMES = {value: name for name, value in LEVELS.items()}


def get(name: str = "") -> "Log":
    """A logger; `name` becomes the field `logger` when it is not empty and not a module name."""
    return Log("" if name.startswith(("pyetcd.", "__")) else name)


def configure(
    level: str,
    outputs: Sequence[str],
    rotation: Rotation | None = None,
    *,
    held: bool = False,
) -> None:
    """Open the outputs and start the writer. Raises OSError when a file cannot be opened.

    `outputs`: default, stderr, stdout, systemd/journal, or file paths, as --log-outputs.
    `held`: write nothing yet, so that a refused start can leave one plain line on standard error
    and no log around it; `release` lets the lines out, or a start that waits.
    """
    global _level, _writer
    opened: list[Output] = []
    try:
        names = dict.fromkeys(_canonical(output) for output in outputs)
        opened.extend(_open(name, rotation) for name in names)
    except OSError:
        for one in opened:
            one.close()
        raise
    close()
    _level = LEVELS[level]
    _writer = _Writer(opened, held=held)


def release() -> None:
    """The start went well (or takes long): write what was held back."""
    if _writer is not None:
        _writer.release()


def close(timeout_s: float = 5.0, *, drop_held: bool = False) -> None:
    """Write out what is buffered and stop the writer; a stuck output is given up after a while.

    `drop_held`: lines still held back go to files, but not to standard error or output.
    """
    global _writer
    writer, _writer = _writer, None
    if writer is not None:
        writer.close(timeout_s, drop_held=drop_held)


def flush(timeout_s: float = 5.0) -> bool:
    """Wait until every line so far is written; False when that takes too long."""
    return _writer is None or _writer.flush(timeout_s)


def set_level(level: str) -> None:
    global _level
    _level = LEVELS[level]


def level_value() -> int:
    """The level now in force, as one of DEBUG, INFO, ... ."""
    return _level


def dropped() -> int:
    """Lines lost so far because the output was too slow."""
    return _dropped


class Log:
    """A source of lines. A call below the level costs one comparison."""

    __slots__ = ("_fields", "name")

    def __init__(self, name: str = "", fields: Mapping[str, object] | None = None) -> None:
        self.name = name
        self._fields = dict(fields or {})

    def bind(self, **fields: object) -> "Log":
        """A logger that adds these fields to each of its lines."""
        return Log(self.name, {**self._fields, **fields})

    def debug(self, msg: str, **fields: object) -> None:
        if _level <= DEBUG:
            self._write(DEBUG, msg, fields)

    def info(self, msg: str, **fields: object) -> None:
        if _level <= INFO:
            self._write(INFO, msg, fields)

    def warn(self, msg: str, **fields: object) -> None:
        if _level <= WARN:
            self._write(WARN, msg, fields)

    def error(self, msg: str, **fields: object) -> None:
        if _level <= ERROR:
            self._write(ERROR, msg, fields)

    def fatal(self, msg: str, **fields: object) -> None:
        """The last line before the caller ends the process; says where it was called from."""
        stack = "".join(traceback.format_stack(sys._getframe(1), limit=20))
        self._write(FATAL, msg, {**fields, "stacktrace": stack})

    def _write(self, level: int, msg: str, fields: Mapping[str, object]) -> None:
        if self._fields:
            fields = {**self._fields, **fields}
        frame = sys._getframe(2)
        caller = f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"
        _emit(level, format_line(level, time.time(), caller, msg, fields, logger=self.name))


def format_line(
    level: int,
    wall_s: float,
    caller: str,
    msg: str,
    fields: Mapping[str, object],
    *,
    logger: str = "",
) -> bytes:
    """One line, with its newline, in the order zap writes it."""
    seconds, millis = divmod(int(wall_s * 1000), 1000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    line: dict[str, object] = {"level": _NAMES[level], "ts": f"{stamp}.{millis:03d}Z"}
    if logger:
        line["logger"] = logger
    line["caller"] = caller
    line["msg"] = msg
    stack = None
    for name, value in fields.items():
        if name == "stacktrace":
            stack = value
        else:
            line[name.replace("_", "-")] = value
    if stack is not None:
        line["stacktrace"] = stack
    text = json.dumps(line, separators=(",", ":"), ensure_ascii=False, default=_plain)
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > LINE_BYTES_MAX:
        line = {key: line[key] for key in ("level", "ts", "caller")}
        line["msg"] = msg[:1024]
        line["cut-bytes"] = len(data)
        data = json.dumps(line, separators=(",", ":")).encode()
    return data + b"\n"


def _plain(value: object) -> object:
    """What JSON has no word for."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


_short_names: dict[str, str] = {}  # one entry per source file: bounded by the program's size


def _short(filename: str) -> str:
    """The last folder and the file, as zap's short caller."""
    short = _short_names.get(filename)
    if short is None:
        short = _short_names[filename] = "/".join(PurePath(filename).parts[-2:])
    return short


# ---- the writer ----

_level = INFO
_writer: "_Writer | None" = None
_dropped = 0


def _emit(level: int, line: bytes) -> None:
    if _writer is not None:
        _writer.put(level, line)
        return
    try:
        sys.stderr.write(line.decode("utf-8", "replace"))
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # standard error is gone: there is nobody left to tell


class _Writer:
    """The bounded buffer and its thread."""

    def __init__(self, outputs: Sequence[Output], *, held: bool) -> None:
        self._outputs = outputs
        self._released = threading.Event()
        if not held:
            self._released.set()
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._closing = False
        self._lost_now = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, level: int, line: bytes) -> None:
        global _dropped
        size = len(self._lines)
        if size >= LINES_MAX and (level < WARN or size >= LINES_MAX + LINES_RESERVE):
            self._lost_now += 1
            _dropped += 1
            return
        # Cleared before the line is there, so that flush() cannot see an idle writer and a line.
        self._idle.clear()
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def release(self) -> None:
        self._released.set()

    def flush(self, timeout_s: float) -> bool:
        self._released.set()
        self._wake.set()
        return self._idle.wait(timeout_s)

    def close(self, timeout_s: float, *, drop_held: bool) -> None:
        if drop_held and not self._released.is_set():
            self._outputs = [
                one for one in self._outputs if not isinstance(one, StreamOutput) or one.is_owned
            ]
        self._closing = True
        self._released.set()
        self._wake.set()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            for output in self._outputs:
                output.close()

    def _hold(self) -> None:
        used_s = time.process_time()
        for _ in range(int(HOLD_S_MAX / HOLD_S)):
            if self._released.wait(HOLD_S):
                return
            before_s, used_s = used_s, time.process_time()
            if used_s - before_s < HOLD_CPU_S:
                break
        self._released.set()

    def _run(self) -> None:
        self._hold()
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._lines:
                self._write_some()
            self._idle.set()
            if self._lines:  # a line came between the last look and set()
                self._idle.clear()
                self._wake.set()
            elif self._closing:
                return

    def _write_some(self) -> None:
        batch = [self._lines.popleft() for _ in range(min(len(self._lines), 512))]
        lost, self._lost_now = self._lost_now, 0
        if lost:
            note = format_line(
                WARN, time.time(), "server/logs.py:0", "dropped log lines", {"count": lost}
            )
            batch.append(note)
        data = b"".join(batch)
        for output in self._outputs:
            output.write(data)


def _canonical(output: str) -> str:
    return "stderr" if output in ("default", "systemd/journal") else output


def _open(output: str, rotation: Rotation | None) -> Output:
    if output == "stderr":
        return StreamOutput(2)
    if output == "stdout":
        return StreamOutput(1)
    if rotation is not None:
        return RotatingFile(output, rotation)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    # Who collects logs is seldom who writes them; RotatingFile is as narrow as etcd's.
    return StreamOutput(os.open(_path(output), flags, 0o644), owned=True)


def _path(output: str) -> str:
    """An output is a path, or a URL of one."""
    return output.removeprefix("file://localhost").removeprefix("file://")


# ---- what other code says through other doors ----


class _Bridge(logging.Handler):
    """Lines of the standard logging module (asyncio, warnings, libraries) as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        level = max(
            value
            for value in (DEBUG, INFO, WARN, ERROR, FATAL)
            if value <= max(record.levelno, DEBUG)
        )
        if level < _level:
            return
        fields: dict[str, object] = {}
        if record.exc_info and record.exc_info[0] is not None:
            fields["error"] = f"{record.exc_info[0].__name__}: {record.exc_info[1]}"
            fields["stacktrace"] = "".join(traceback.format_exception(*record.exc_info))
        caller = f"{_short(record.pathname)}:{record.lineno}"
        name = "" if record.name == "root" else record.name
        _emit(
            level,
            format_line(level, record.created, caller, record.getMessage(), fields, logger=name),
        )


def install_bridges() -> None:
    """From here on nothing prints a traceback: all doors lead into the log."""
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(_level)
    logging.captureWarnings(True)
    sys.excepthook = _excepthook
    threading.excepthook = _thread_excepthook


def loop_exception_handler(loop: object, context: Mapping[str, object]) -> None:
    """For `loop.set_exception_handler`: an exception that no Task or callback took."""
    fields: dict[str, object] = {}
    error = context.get("exception")
    if isinstance(error, BaseException):
        fields["error"] = f"{type(error).__name__}: {error}"
        fields["stacktrace"] = "".join(traceback.format_exception(error))
    for name in ("task", "future", "handle", "transport"):
        if name in context:
            fields[name] = repr(context[name])[:512]
    message = str(context.get("message", "unhandled exception in the event loop"))
    get().error(message, **fields)


def _excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    get().error("unhandled exception", error=f"{kind.__name__}: {error}", stacktrace=text)


def _thread_excepthook(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _excepthook(args.exc_type, args.exc_value, args.exc_traceback)
