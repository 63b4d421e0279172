"""A member's wall clock that jumps while it runs, without touching the machine's.

A small library (wallclock.c) is compiled once and preloaded into the member: everything in the
process, not only Python, is then told another time. Without a compiler the member's `time` module
is given the same offset instead (wallclock_site/sitecustomize.py): less, but all that the server
itself asks.
"""

import functools
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


@functools.cache
def library() -> Path | None:
    """The compiled library; None where there is no compiler. The file lives as long as this
    process."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="wallclock-")
    KEPT.append(folder)
    path = Path(folder.name) / "wallclock.so"
    argv = [compiler, "-shared", "-fPIC", "-O1", "-o", str(path), str(HERE / "wallclock.c"), "-ldl"]
    subprocess.run(argv, check=True, timeout=60)
    return path


KEPT: list[tempfile.TemporaryDirectory[str]] = []


class WallClock:
    """What one member takes for the time of day, from its next start on."""

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        """`environment` of the member is changed; the offset is kept in the file `path`."""
        self._path = path
        self.offset_s = 0
        path.write_bytes(struct.pack("=q", 0))
        environment["WALLCLOCK_FILE"] = str(path)
        preload = library()
        if preload is not None:
            environment["LD_PRELOAD"] = str(preload)
        else:
            before = os.environ.get("PYTHONPATH")
            parts = [str(HERE / "wallclock_site"), *([before] if before else [])]
            environment["PYTHONPATH"] = os.pathsep.join(parts)

    def set(self, offset_s: int) -> None:
        """In one write, so that nobody sees half of it."""
        self.offset_s = offset_s
        with self._path.open("r+b") as file:
            file.write(struct.pack("=q", offset_s))
