"""Reads, watchers, leases and three nodes: pyetcd beside real etcd 3.5.1, in one run.

    python tests/bench/others.py

Servers take turns on the disk of the current folder, as in compare.py; rates per second.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import grpc
from compare import MAIN, REAL, Node, free_port

from pyetcd.proto.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
    WatchRequest,
    WatchResponse,
)

SERVERS = {"etcd": [str(REAL / "etcd")], "pyetcd": [*MAIN, "server"]}
WATCHERS, FANNED_PUTS, LEASES = 1000, 300, 10_000


def bench(endpoints: str, *words: str) -> float:
    done = subprocess.run(
        [*MAIN, "bench", words[0], "--endpoints", endpoints, "--json", *words[1:]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert not found.get("errors"), found
    return float(found["requests_per_s"])


def watch_events(endpoint: str) -> float:
    """Events a second to watchers of one key, ten streams of a hundred watchers each."""
    channel = grpc.insecure_channel(endpoint)
    watch = channel.stream_stream("/etcdserverpb.Watch/Watch")
    ready, done = threading.Barrier(11), threading.Barrier(11)
    ended = threading.Event()

    def one() -> None:
        def requests() -> Iterator[bytes]:
            for _ in range(WATCHERS // 10):
                request = WatchRequest()
                request.create_request.key = b"watched"
                yield request.SerializeToString()
            ended.wait()

        created = events = 0
        for answer in watch(requests()):
            response = WatchResponse.FromString(answer)
            created += response.created
            events += len(response.events)
            if response.created and created == WATCHERS // 10:
                ready.wait()
            if events == FANNED_PUTS * WATCHERS // 10:
                break
        done.wait()

    threads = [threading.Thread(target=one) for _ in range(10)]
    for thread in threads:
        thread.start()
    ready.wait()
    put = channel.unary_unary("/etcdserverpb.KV/Put")
    begun_s = time.monotonic()
    for _ in range(FANNED_PUTS):
        put(PutRequest(key=b"watched", value=b"v" * 256).SerializeToString())
    done.wait()
    took_s = time.monotonic() - begun_s
    ended.set()
    for thread in threads:
        thread.join()
    return FANNED_PUTS * WATCHERS / took_s


def keep_alives(endpoint: str) -> float:
    """Answers a second to keep-alives of many leases on one stream."""
    channel = grpc.insecure_channel(endpoint)
    grant = channel.unary_unary("/etcdserverpb.Lease/LeaseGrant")
    for first in range(1, LEASES + 1, 1000):  # more at a time are "too many requests"
        ids = range(first, first + 1000)
        granted = [grant.future(LeaseGrantRequest(TTL=600, ID=i).SerializeToString()) for i in ids]
        for each in granted:
            each.result()
    requests = [LeaseKeepAliveRequest(ID=id).SerializeToString() for id in range(1, LEASES + 1)]
    begun_s = time.monotonic()
    answers = sum(
        1 for _ in channel.stream_stream("/etcdserverpb.Lease/LeaseKeepAlive")(iter(requests))
    )
    assert answers == LEASES, answers
    return LEASES / (time.monotonic() - begun_s)


def ranges(endpoint: str) -> float:
    """Ranges a second over all of the keys that the puts have left."""
    channel = grpc.insecure_channel(endpoint, [("grpc.max_receive_message_length", -1)])
    ask = channel.unary_unary("/etcdserverpb.KV/Range")
    request = RangeRequest(key=b"\0", range_end=b"\0").SerializeToString()
    found = len(RangeResponse.FromString(ask(request)).kvs)
    assert found > 9_000, found
    begun_s = time.monotonic()
    for _ in range(15):
        for each in [ask.future(request) for _ in range(4)]:
            each.result()
    return 60 / (time.monotonic() - begun_s)


def mixed(endpoint: str) -> float:
    """Half gets and half puts at the same time; the slower half's rate."""
    found: list[float] = []
    halves = [("range", "-"), ("put", "--val-size=256")]
    threads = []
    for word, option in halves:
        words = [word, *([option] if option != "-" else []), *LOAD, "--total=30000"]
        threads.append(threading.Thread(target=lambda w=words: found.append(bench(endpoint, *w))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return min(found)


LOAD = ("--clients=500", "--conns=50", "--key-size=16", "--key-space-size=10000")
WORK: dict[str, Callable[[str], float]] = {
    "puts, before the rest": lambda at: bench(at, "put", *LOAD, "--val-size=256", "--total=50000"),
    "gets, linearizable": lambda at: bench(at, "range", *LOAD, "--total=60000"),
    "gets, serializable": lambda at: bench(at, "range", *LOAD, "--consistency=s", "--total=60000"),
    "gets beside as many puts": mixed,
    "ranges of 10,000 keys": ranges,
    "events to 1,000 watchers": watch_events,
    "keep-alives, 10,000 leases": keep_alives,
}


class Cluster:
    """Three nodes on fresh folders."""

    def __init__(self, head: list[str], folder: str) -> None:
        peers = [free_port() for _ in range(3)]
        clients = [free_port() for _ in range(3)]
        urls = [f"http://127.0.0.1:{port}" for port in peers]
        initial = ",".join(f"m{n}={url}" for n, url in enumerate(urls))
        self._processes = [
            subprocess.Popen(
                [
                    *head, f"--name=m{n}", f"--data-dir={folder}/m{n}", "--log-level=error",
                    f"--listen-client-urls=http://127.0.0.1:{clients[n]}",
                    f"--advertise-client-urls=http://127.0.0.1:{clients[n]}",
                    f"--listen-peer-urls={urls[n]}", f"--initial-cluster={initial}",
                    f"--initial-advertise-peer-urls={urls[n]}",
                ],
                stderr=subprocess.DEVNULL,
            )
            for n in range(3)
        ]  # fmt: skip
        self.endpoints = ",".join(f"127.0.0.1:{port}" for port in clients)
        channel = grpc.insecure_channel(f"127.0.0.1:{clients[0]}")
        put = channel.unary_unary("/etcdserverpb.KV/Put")
        put(PutRequest(key=b"k").SerializeToString(), timeout=30, wait_for_ready=True)
        channel.close()
        time.sleep(1)  # the others listen now, too

    def require(self, revision: int) -> None:
        """Every member has applied every put."""
        for endpoint in self.endpoints.split(","):
            with grpc.insecure_channel(endpoint) as channel:
                ask = channel.unary_unary("/etcdserverpb.KV/Range")
                answer = RangeResponse.FromString(ask(RangeRequest(key=b"k").SerializeToString()))
                assert answer.header.revision == revision, answer.header

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()


def main() -> None:
    figures: dict[str, list[float]] = {}
    for head in SERVERS.values():
        folder = tempfile.mkdtemp(dir=".")
        node = Node(head, folder)
        try:
            for name, work in WORK.items():
                figures.setdefault(name, []).append(work(node.endpoint))
        finally:
            node.stop()
            shutil.rmtree(folder)
        folder = tempfile.mkdtemp(dir=".")
        cluster = Cluster(head, folder)
        try:
            puts = bench(cluster.endpoints, "put", *LOAD, "--val-size=256", "--total=40000")
            figures.setdefault("puts, three nodes", []).append(puts)
            cluster.require(40_002)
        finally:
            cluster.stop()
            shutil.rmtree(folder)
    for name, (theirs, ours) in figures.items():
        print(f"{name}: etcd {theirs:,.0f}, pyetcd {ours:,.0f}, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    sys.exit(main())
