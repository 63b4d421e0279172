"""What a put costs in `pyetcd ctl shell`, fed by a pipe, beside the same puts by a bare grpc stub.

    python tests/bench/shell.py [ENDPOINT] [rounds]

The stub's time is the server's and the transport's. A shell's time is that of 1,001 puts less that
of one put, so that its start is not in it. Without ENDPOINT a pyetcd server is started for it.
Prints microseconds a put: the medians of the rounds, which alternate between the two.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from pyetcd.proto import rpc_pb2 as rpc

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))
from ports import free_ports

PUTS = 1000
CTL = [sys.executable, "-m", "pyetcd.cli.main", "ctl"]


def shell_s(endpoint: str, puts: int) -> float:
    """A whole process that puts so many keys."""
    lines = "".join(f"put bench/{i % 100} value-{i}\n" for i in range(puts)).encode()
    begun_s = time.perf_counter()
    done = subprocess.run(
        [*CTL, "shell", f"--endpoints={endpoint}"], input=lines, capture_output=True, check=True
    )
    took_s = time.perf_counter() - begun_s
    assert done.stdout == b"OK\n" * puts, done
    return took_s


def stub_s(endpoint: str, puts: int) -> float:
    """So many puts over a connection that is open."""
    with grpc.insecure_channel(endpoint) as channel:
        put = channel.unary_unary(
            "/etcdserverpb.KV/Put",
            request_serializer=rpc.PutRequest.SerializeToString,
            response_deserializer=rpc.PutResponse.FromString,
        )
        put(rpc.PutRequest(key=b"bench/0", value=b"first"), wait_for_ready=True)
        begun_s = time.perf_counter()
        for i in range(puts):
            put(rpc.PutRequest(key=b"bench/%d" % (i % 100), value=b"value-%d" % i))
        return time.perf_counter() - begun_s


@contextmanager
def server() -> Iterator[str]:
    """A pyetcd of its own."""
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "pyetcd.cli.main", "server", f"--data-dir={folder}/data"]
        argv += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
        argv += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        argv += [f"--initial-cluster=default={peer}"]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        endpoint = client.removeprefix("http://")
        try:
            ready = [*CTL, "get", "k", f"--endpoints={endpoint}", "--command-timeout=30s"]
            subprocess.run(ready, check=True)
            yield endpoint
        finally:
            process.terminate()
            process.wait()


def measure(endpoint: str, rounds: int) -> None:
    shells, stubs, starts = [], [], []
    for _ in range(rounds):
        starts.append(shell_s(endpoint, 1))
        shells.append((shell_s(endpoint, PUTS + 1) - starts[-1]) / PUTS * 1e6)
        stubs.append(stub_s(endpoint, PUTS) / PUTS * 1e6)
    ours, theirs = statistics.median(shells), statistics.median(stubs)
    print(f"start and one put {statistics.median(starts) * 1000:.0f} ms")
    print(f"shell {ours:.0f} us a put ({min(shells):.0f}-{max(shells):.0f})")
    print(f"grpc stub {theirs:.0f} us a put ({min(stubs):.0f}-{max(stubs):.0f})")
    print(f"beyond the stub {ours - theirs:+.0f} us a put; the bar is 1000")


def main() -> None:
    os.environ.pop("ETCDCTL_ENDPOINTS", None)
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    if len(sys.argv) > 1:
        measure(sys.argv[1], rounds)
        return
    with server() as endpoint:
        measure(endpoint, rounds)


if __name__ == "__main__":
    main()
