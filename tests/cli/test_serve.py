"""`pyetcd server` at its edges: one plain line and an exit code, never a traceback."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyetcd.cli import serve
from pyetcd.server import logs
from pyetcd.server.config import Config, load
from pyetcd.server.startup import StartupRefused

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def pyetcd(tmp_path: Path) -> Run:
    """Runs the server with arguments it must refuse, in an empty folder that must stay empty."""

    def run(*argv: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        folder = tmp_path / "cwd"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from pyetcd.cli.serve import main\n"
             "sys.exit(main(sys.argv[1:]))", *argv],
            cwd=folder, env={"PATH": os.environ["PATH"], **(env or {})}, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert list(folder.iterdir()) == []
        assert "Traceback" not in done.stderr
        return done

    return run


def test_version_and_help(pyetcd: Run) -> None:
    done = pyetcd("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "etcd Version: 3.5.1"
    done = pyetcd("--help")
    assert done.returncode == 0
    assert done.stderr.startswith("Usage:") and "--max-txn-ops '128'" in done.stdout


def test_flag_mistake_is_2_with_usage(pyetcd: Run) -> None:
    done = pyetcd("--bogus")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("flag provided but not defined: -bogus\nUsage:\n")


@pytest.mark.parametrize(
    ("argv", "start"),
    [
        (["extra"], "'extra' is not a valid flag"),
        (["--heartbeat-interval=0"], "--heartbeat-interval must be >0"),
        (["--config-file=/nonexist"], "open /nonexist: no such file or directory"),
        (["--log-outputs=/nonexist/log"], "open /nonexist/log: no such file or directory"),
        (["--data-dir=/dev/null"], "/dev/null: not a directory"),
    ],
)
def test_one_line_and_1(pyetcd: Run, argv: list[str], start: str) -> None:
    done = pyetcd(*argv)
    assert done.returncode == 1
    assert done.stderr.startswith(start) and done.stderr.count("\n") == 1


@pytest.mark.parametrize("busy", ["client", "peer"])
def test_port_in_use(pyetcd: Run, busy: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        free = "http://127.0.0.1:0"
        client, peer = (url, free) if busy == "client" else (free, url)
        done = pyetcd(
            f"--listen-client-urls={client}", "--advertise-client-urls=http://a:1",
            f"--listen-peer-urls={peer}",
        )  # fmt: skip
    assert done.returncode == 1
    address = url.removeprefix("http://")
    assert done.stderr.startswith(f"listen tcp {address}: bind: address already in use")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Callable[[Config], int]], tuple[int, str, list[dict[str, object]]]]:
    """Serves with a runner in place of the member: exit status, standard error, log lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(logs, "install_bridges", lambda: None)
    monkeypatch.setattr(logs, "_level", logs.level_value())  # a start sets it for the process

    def run(
        runner: Callable[[Config], int], *flags: str
    ) -> tuple[int, str, list[dict[str, object]]]:
        log = tmp_path / "log"
        status = serve._serve([f"--log-outputs={log}", "--enable-pprof", *flags], runner)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return status, capsys.readouterr().err, lines

    return run


def test_notes_reach_the_log(
    served: Callable[..., tuple[int, str, list[dict[str, object]]]],
) -> None:
    def runner(config: Config) -> int:
        assert config.enable_pprof
        return 143

    status, stderr, lines = served(runner)
    assert (status, stderr) == (143, "")
    assert lines[0]["msg"] == "Running: "
    assert lines[-1]["msg"] == "starting an etcd server" and lines[-1]["name"] == "default"
    assert any(line.get("option") == "--enable-pprof" for line in lines)


def test_refusal_and_bug(served: Callable[..., tuple[int, str, list[dict[str, object]]]]) -> None:
    def refuse(config: Config) -> int:
        raise StartupRefused("no; do that")

    def bug(config: Config) -> int:
        raise AssertionError("broken\nmore")

    assert served(refuse)[:2] == (1, "no; do that\n")
    status, stderr, lines = served(bug)
    assert status == 1
    assert stderr == (
        "pyetcd: internal error: AssertionError: broken; please report it with the log\n"
    )
    assert lines[-1]["level"] == "fatal" and "in bug" in str(lines[-1]["trace"])


def test_end_by_signal() -> None:
    script = (
        "import signal\nfrom pyetcd.cli import serve\n"
        f"serve._run_member = lambda config: 128 + {int(signal.SIGTERM)}\n"
        "serve.check_data_dir = lambda path: None\nserve.main(['--log-level=fatal'])"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == -signal.SIGTERM


@pytest.mark.parametrize("level", ("WARN", "Error", "", "dpanic"))
def test_levels_as_zap_reads_them(served: Any, level: str) -> None:
    assert load([f"--log-level={level}"], {}).log_level == level
    assert served(lambda config: 0, f"--log-level={level}")[0] == 0


def test_no_outputs_are_the_default(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    script = (
        "from pyetcd.cli import serve\n"
        "serve._run_member = lambda config: serve.logs.release() or 0\n"
        "serve.check_data_dir = lambda path: None\n"
        f"serve.main(['--config-file={path}'])"
    )
    path.write_text("log-outputs: []\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert b'"msg":"starting an etcd server"' in done.stderr


def test_signals_that_end_no_program_in_go() -> None:
    script = (
        "import os, signal\nfrom pyetcd.cli import serve\n"
        "def run(config):\n"
        "    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):\n"
        "        os.kill(os.getpid(), number)\n"
        "    return 7\n"
        "serve._run_member = run\n"
        "serve.check_data_dir = lambda path: None\n"
        "raise SystemExit(serve.main(['--log-level=fatal']))"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == 7
