"""Where log lines end: a descriptor, or a file that is rotated by size.

Only the log's writer thread comes here, so a write may wait. An output that fails (full disk,
closed pipe) loses its lines and nothing else: a member does not stop because its log did.

Rotation follows --log-rotation-config-json: at `maxsize` MiB the file is renamed to
`<stem>-<time><suffix>`, backups beyond `maxbackups` or older than `maxage` days are removed (0
keeps all), `compress` gzips a backup.
"""

import gzip
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MIB = 1024 * 1024
DAY_S = 86_400.0


class Output(Protocol):
    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Rotation:
    size_mib_max: int = 100
    age_days_max: int = 0
    backups_max: int = 0
    local_time: bool = False
    compress: bool = False

    @staticmethod
    def parse(text: str) -> "Rotation":
        """Raises ValueError with a text that names the mistake."""
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise ValueError(f"improperly formatted log rotation config: {error}") from None
        if not isinstance(raw, dict):
            raise ValueError("invalid log rotation config: not a JSON object")
        numbers = {key: raw.get(key, 0) for key in ("maxsize", "maxage", "maxbackups")}
        for key, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"invalid log rotation config: {key} must be a whole number")
        flags = {key: raw.get(key, False) for key in ("localtime", "compress")}
        for key, value in flags.items():
            if not isinstance(value, bool):
                raise ValueError(f"invalid log rotation config: {key} must be true or false")
        return Rotation(
            size_mib_max=numbers["maxsize"] or 100,  # lumberjack: 0 means 100
            age_days_max=numbers["maxage"],
            backups_max=numbers["maxbackups"],
            local_time=flags["localtime"],
            compress=flags["compress"],
        )


class StreamOutput:
    """An open descriptor."""

    def __init__(self, descriptor: int, *, owned: bool = False) -> None:
        self._descriptor = descriptor
        self.is_owned = owned  # a file of ours, not standard error or output

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BlockingIOError:
            pass  # a non-blocking pipe that nobody empties: these lines are lost
        except OSError:
            pass  # closed pipe or full disk: the member goes on without its log

    def close(self) -> None:
        if self.is_owned:
            os.close(self._descriptor)


class RotatingFile:
    """A file that is renamed away when it would grow beyond its limit."""

    def __init__(self, path: str, rotation: Rotation) -> None:
        self._path = Path(path)
        self._rotation = rotation
        self._limit_bytes = rotation.size_mib_max * MIB
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        self._size_bytes = os.fstat(descriptor).st_size
        self._stream = StreamOutput(descriptor, owned=True)

    def write(self, data: bytes) -> None:
        if self._size_bytes and self._size_bytes + len(data) > self._limit_bytes:
            try:
                self._rotate()
            except OSError:
                pass  # cannot rename: the old file goes on growing, no line is lost
        self._stream.write(data)
        self._size_bytes += len(data)

    def close(self) -> None:
        self._stream.close()

    def _rotate(self) -> None:
        now = time.localtime() if self._rotation.local_time else time.gmtime()
        stamp = (
            time.strftime("%Y-%m-%dT%H-%M-%S", now) + f".{time.time_ns() // 1_000_000 % 1000:03d}"
        )
        backup = self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")
        os.rename(self._path, backup)
        self._stream.close()
        self._open()
        if self._rotation.compress:
            packed = backup.with_name(backup.name + ".gz")
            with backup.open("rb") as source, gzip.open(packed, "wb") as target:
                shutil.copyfileobj(source, target)
            backup.unlink()
        self._remove_old()

    def _remove_old(self) -> None:
        pattern = f"{self._path.stem}-????-??-??T*{self._path.suffix}*"
        backups = sorted(self._path.parent.glob(pattern), reverse=True)
        keep = self._rotation.backups_max or len(backups)
        oldest_s = time.time() - self._rotation.age_days_max * DAY_S
        for number, backup in enumerate(backups):
            expired = self._rotation.age_days_max and backup.stat().st_mtime < oldest_s
            if number >= keep or expired:
                backup.unlink()
