"""One million keys: how long a start takes after SIGKILL at the worst moments.

    python tests/bench/restart.py [keys]

Killed right after loading (with what the -wal files then hold), idle, while a compaction is under
way, and while a defragmentation is; each time from start to a healthy answer, with the sizes of
the files that were left behind.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from million import ENDPOINT, MAIN, OPTIONS, ask, load, start

from pyetcd.proto.rpc_pb2 import CompactionRequest, DefragmentRequest, RangeRequest, RangeResponse


def call(path: str, request: Any) -> bytes:
    with grpc.insecure_channel(ENDPOINT, OPTIONS) as channel:
        return ask(channel, path, request)


def beside(work: Callable[[], object], seconds: float) -> None:
    """Begin `work`, and return while it is under way."""

    def run() -> None:
        try:
            work()
        except grpc.RpcError:
            pass  # the server was killed

    threading.Thread(target=run, daemon=True).start()
    time.sleep(seconds)


def compaction() -> None:
    found = RangeResponse.FromString(
        call("/etcdserverpb.KV/Range", RangeRequest(key=b"k", count_only=True))
    )
    at = found.header.revision
    call("/etcdserverpb.KV/Compact", CompactionRequest(revision=at, physical=True))


def defragmentation() -> None:
    call("/etcdserverpb.Maintenance/Defragment", DefragmentRequest())


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Restarts:
    """The server; each `kill` prints how long the start after it took."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.process, first_s = start([*MAIN, "server"], folder)
        print(f"first start: {first_s:.2f} s", flush=True)

    def kill(self, name: str) -> None:
        self.process.kill()
        self.process.wait()
        files = sorted(Path(self.folder, "data", "member").glob("*.db*"))
        sizes = ", ".join(f"{each.name} {each.stat().st_size >> 20} MB" for each in files)
        self.process, took_s = start([*MAIN, "server"], self.folder)
        used_s = cpu_s(self.process)  # what else runs on the machine does not count here
        print(f"{name}: healthy after {took_s:.2f} s, {used_s:.2f} s of CPU; {sizes}", flush=True)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def main(keys: int) -> None:
    folder = tempfile.mkdtemp(dir=".")
    server = Restarts(folder)
    try:
        print(f"load: {load(keys, b'v' * 256):,.0f} puts/s in transactions of 100", flush=True)
        server.kill("killed after loading")
        server.kill("killed again")
        beside(lambda: load(keys, b"w" * 256), 3.0)
        server.kill("killed while loading")
        load(keys // 2, b"x" * 256)
        for seconds in (0.1, 1.0):
            beside(compaction, seconds)
            server.kill(f"killed {seconds} s into a compaction")
        for seconds in (0.1, 1.0):
            beside(defragmentation, seconds)
            server.kill(f"killed {seconds} s into a defragmentation")
        server.kill("killed idle")
    finally:
        server.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
