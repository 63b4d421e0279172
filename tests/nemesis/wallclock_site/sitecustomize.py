"""wallclock.c in Python, for machines without a compiler; imported at the start of the process."""

import mmap
import os
import struct
import time

_time_ns = time.time_ns

if path := os.environ.get("WALLCLOCK_FILE"):
    with open(path, "rb") as file:
        _page = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)

    def time_ns() -> int:
        offset_s: int = struct.unpack("=q", _page[:8])[0]
        return _time_ns() + offset_s * 1_000_000_000

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
