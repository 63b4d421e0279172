"""JSON puts per second of pyetcd's gateway beside real etcd 3.5.1's, in one run on one machine.

    python tests/bench/gateway.py [rounds] [puts per round]

One node each, fsync on; 100 HTTP/1.1 connections that send the next put when the last is answered,
256-byte values, from a process of its own. The two take turns; the ratio is what counts.
"""

import asyncio
import base64
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from compare import MAIN, REAL, Node

CONNECTIONS, VALUE_BYTES = 100, 256


class Poster(asyncio.Protocol):
    """One connection: the next request when the answer is whole."""

    def __init__(self, left: list[int], lost: Callable[[bool], None]) -> None:
        self._left, self._lost = left, lost
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's has no type that says it can write
        self._post()

    def _post(self) -> None:
        if self._left[0] == 0:
            self._transport.close()
            return
        self._left[0] -= 1
        key = base64.b64encode(b"key-%012d" % random.randrange(100_000))
        value = base64.b64encode(random.randbytes(VALUE_BYTES))
        body = b'{"key":"%b","value":"%b"}' % (key, value)
        self._transport.write(
            b"POST /v3/kv/put HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(body) >= length:
            assert head.startswith(b"HTTP/1.1 200"), self._received
            self._received = b""
            self._left[1] += 1
            self._post()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(self._left[0] > 0)


async def load(port: int, total: int) -> float:
    import uvloop

    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    left = [total, 0]  # to be sent, answered
    broken: list[bool] = []
    began_s = time.perf_counter()
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Poster(left, broken.append), "127.0.0.1", port)
    while left[1] < total:
        await asyncio.sleep(0.01)
        assert not any(broken), "a connection was lost"
    return total / (time.perf_counter() - began_s)


def main(rounds: int, total: int) -> None:
    servers = {"etcd": [str(REAL / "etcd")], "pyetcd": [*MAIN, "server"]}
    figures: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(rounds):
        for name, head in servers.items():
            folder = tempfile.mkdtemp(dir=".")
            node = Node(head, folder)
            try:
                port = node.endpoint.rpartition(":")[2]
                done = subprocess.run(
                    [sys.executable, __file__, "load", port, str(total)],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                figures[name].append(float(done.stdout))
                print(f"round {number + 1} {name}: {figures[name][-1]:,.0f} puts/s", flush=True)
            finally:
                node.stop()
                shutil.rmtree(folder)
    pairs = zip(figures["pyetcd"], figures["etcd"], strict=True)
    ratios = [ours / theirs for ours, theirs in pairs]
    print(f"pyetcd / etcd: median {statistics.median(ratios):.2f}, min {min(ratios):.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(runner.run(load(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        numbers = [int(text) for text in sys.argv[1:]]
        main(*(*numbers, *(3, 20_000)[len(numbers) :]))
