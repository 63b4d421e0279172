"""`pyetcd ctl` with ETCDCTL_API=2 as a process, beside etcdctl: what a program of its own shows.

Watches that do not end, ^C, commands that they run, a password typed at a terminal, TLS, start-up.
etcdctl talks to etcd, and pyetcd to pyetcd: the same happens to both.
"""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Node

from pyetcd.cli.ctl2.run import run

OURS = [sys.executable, "-m", "pyetcd.cli.main", "ctl"]
PATIENCE_S = 30


@dataclass(frozen=True)
class Pair:
    """A program, and a server of its own."""

    program: list[str]
    endpoint: str

    def start(self, *argv: str, **streams: Any) -> "subprocess.Popen[bytes]":
        env = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        env |= {"ETCDCTL_API": "2", "ETCDCTL_ENDPOINTS": self.endpoint}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return subprocess.Popen([*self.program, *argv], env=env, **streams)

    def run(self, *argv: str) -> tuple[str, str, int]:
        with self.start(*argv, stdin=subprocess.DEVNULL) as process:
            out, err = process.communicate(timeout=PATIENCE_S)
            return out.decode(), err.decode(), process.returncode

    def until(self, enough: Callable[[str], bool], *argv: str) -> tuple[list[str], int]:
        """Interrupts a command when it has said enough; its lines, and its exit code."""
        with self.start(*argv, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            deadline_s = time.monotonic() + PATIENCE_S
            said = b""
            while not enough(said.decode()):
                assert time.monotonic() < deadline_s and process.poll() is None, said
                said += os.read(process.stdout.fileno(), 65536)
            process.send_signal(signal.SIGINT)
            said += process.stdout.read()
            return said.decode().splitlines(), process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: Any, machine_type: Any) -> Iterator[Any]:
    made = machine_type(tmp_path_factory.mktemp("v2process"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def pairs(machine: Any) -> list[Pair]:
    flags = ("--enable-v2", "--unsafe-no-fsync")
    return [
        Pair(program, f"http://{machine.single(kind, *flags).endpoint}")
        for program, kind in (([machine.etcdctl], "etcd"), (OURS, "pyetcd"))
    ]


def index_of(pair: Pair) -> str:
    """The store's index after a write."""
    out, _, _ = pair.run("-o", "extended", "set", "/index", "x")
    return out.split("\nIndex: ")[1].split("\n")[0]


def lines(count: int) -> Callable[[str], bool]:
    return lambda said: said.count("\n") >= count


def numbers_blanked(text: str) -> str:
    return re.sub(r"\d+", "N", text)


@pytest.mark.parametrize("output", ("simple", "extended", "json"))
def test_watching_for_ever(pairs: list[Pair], output: str) -> None:
    found = []
    for pair in pairs:
        after = index_of(pair)
        for line in ("set /w/a 1", "mkdir /w/d", "rm /w/a", "mk --in-order /w/q é", "rm -r /w"):
            assert pair.run(*line.split())[2] == 0
        watch = ("-o", output, "watch", "--after-index", after, "-f", "-r", "/w")
        said, code = pair.until(lines({"simple": 6, "extended": 23, "json": 6}[output]), *watch)
        found.append((numbers_blanked("\n".join(said)), code))
    assert found[0][1] == 0
    assert found[1] == found[0]


def test_a_watch_sees_what_comes_and_what_expires(pairs: list[Pair]) -> None:
    found = []
    for pair in pairs:
        with pair.start("watch", "-f", "/live") as watch:
            assert watch.stdout is not None
            said = b""
            deadline_s = time.monotonic() + PATIENCE_S
            while said.count(b"\n") < 2:  # from when it watches on
                assert time.monotonic() < deadline_s
                pair.run("set", "/live", "again", "--ttl", "1")
                os.set_blocking(watch.stdout.fileno(), False)
                said += watch.stdout.read() or b""
            os.set_blocking(watch.stdout.fileno(), True)
            while not said.endswith(b"\n\n"):  # an expired key has no value
                assert time.monotonic() < deadline_s
                said += os.read(watch.stdout.fileno(), 4096)
            watch.send_signal(signal.SIGINT)
            found.append((set(said.split(b"\n")), watch.wait(PATIENCE_S)))
    assert found == [({b"again", b""}, 0)] * 2


@pytest.mark.parametrize(
    "command",
    (
        ("--recursive", "/e", "--", "sh", "-c", "env | grep ETCD | sort; echo err >&2"),
        ("/e", "--", "sh", "-c", "env | grep ETCD | sort; echo err >&2"),
        ("sh", "-c", "env | grep ETCD | sort; echo err >&2", "/e"),
    ),
)
def test_exec_watch(pairs: list[Pair], command: tuple[str, ...]) -> None:
    found = []
    for pair in pairs:
        after = index_of(pair)
        assert pair.run("set", "/e", "a b")[2] == 0
        said, code = pair.until(lines(6), "exec-watch", "--after-index", after, *command)
        found.append((sorted(map(numbers_blanked, said)), code))
    assert found[0][0] == [
        "ETCDCTL_ENDPOINTS=http://N.N.N.N:N",
        "ETCD_WATCH_ACTION=set",
        "ETCD_WATCH_KEY=/e",
        "ETCD_WATCH_MODIFIED_INDEX=N",
        "ETCD_WATCH_VALUE=a b",
        "err",
    ]
    assert found[1] == found[0]
    assert found[0][1] == 0


@pytest.mark.parametrize("program", ("nosuchprogram", "/nosuch/program", "--"))
def test_exec_watch_of_no_program(pairs: list[Pair], program: str) -> None:
    found = []
    for pair in pairs:
        after = index_of(pair)
        assert pair.run("set", "/e", "1")[2] == 0
        found.append(pair.run("exec-watch", "--after-index", after, "/e", "--", program))
    assert found[0][2] == 1
    assert found[1] == found[0]


def test_exec_watch_without_a_program(pairs: list[Pair]) -> None:
    """etcdctl waits for an event, and panics at it."""
    expected = ("", "Error:  key and command to exec required\n", 128)
    assert pairs[1].run("exec-watch", "/e", "--") == expected


def test_exec_watch_of_a_directory(pairs: list[Pair]) -> None:
    found = []
    for pair in pairs:
        after = index_of(pair)
        for line in ("mkdir /ed", "set /ed/k 1", "rm -r /ed"):
            assert pair.run(*line.split())[2] == 0
        command = ("--", "echo", "ran")
        said, _ = pair.until(lines(3), "exec-watch", "-r", "--after-index", after, "/ed", *command)
        found.append(sorted(said))
    assert found[0] == ["Ignored dir /ed change"] * 2 + ["ran"]
    assert found[1] == found[0]


def test_health_for_ever(pairs: list[Pair]) -> None:
    found = []
    for pair in pairs:
        said, code = pair.until(lines(4), "cluster-health", "-f")
        found.append((re.sub("[0-9a-f]{9,}|:[0-9]+", "N", "\n".join(said)), code))
    assert found[1] == found[0]
    assert found[0][1] == 0


def test_a_watch_ends_with_its_server(machine: Any) -> None:
    found = []
    for program, kind in (([machine.etcdctl], "etcd"), (OURS, "pyetcd")):
        node = machine.single(kind, "--enable-v2", "--unsafe-no-fsync")
        pair = Pair(program, f"http://{node.endpoint}")
        with pair.start("--debug", "watch", "/k") as watch:
            assert watch.stderr is not None
            said = b""
            while b"waitIndex" not in said:
                said += os.read(watch.stderr.fileno(), 4096)
            metrics = machine.run("sh", "-c", waiting(node.endpoint))
            assert metrics.returncode == 0
            node.kill()
            err = said + watch.stderr.read()
            found.append((re.sub(rb":\d+", b":PORT", err), watch.wait(PATIENCE_S)))
    assert found[0][1] == 4
    assert found[1] == found[0]


def waiting(endpoint: str) -> str:
    """Waits until the server counts a watcher."""
    return f"""
        until {sys.executable} -c 'import sys, urllib.request as u
sys.exit(b"\\"watchers\\":1" not in u.urlopen("http://{endpoint}/v2/stats/store").read())'
        do sleep 0.05; done"""


def test_a_member_more_and_no_quorum(machine: Any) -> None:
    found = []
    for program, kind in (([machine.etcdctl], "etcd"), (OURS, "pyetcd")):
        node = machine.single(kind, "--enable-v2", "--unsafe-no-fsync", name=f"{kind}-lost")
        pair = Pair(program, f"http://{node.endpoint}")
        peer = pair.run("member", "list")[0].split("peerURLs=")[1].split(" ")[0]
        soon = "--timeout=300ms"
        said = [
            pair.run("member", "add", "m 2", peer),
            pair.run("member", "add", "m 2", "http://127.0.0.1:9"),
            pair.run(soon, "member", "add", "m 2", "http://127.0.0.1:9"),
            pair.run(soon, "set", "/a", "1"),
            pair.run("get", "/a"),
            pair.run(soon, "get", "-q", "/a"),
        ]
        found.append([(words(out, kind), words(err, kind), code) for out, err, code in said])
    assert found[1] == found[0]


def words(text: str, kind: str) -> list[str]:
    """What is said, without what differs between the clusters and in their members' order."""
    text = re.sub(rf"[0-9a-f]{{15,16}}\b|127.0.0.1:\d{{2,}}|{kind}-lost", "N", text)
    return sorted(re.split('[\n", ]', text))


def test_a_password_at_a_terminal(pairs: list[Pair]) -> None:
    for pair in pairs:
        keyboard, terminal = pty.openpty()
        with pair.start("user", "add", "typed", stdin=terminal) as process:
            assert process.stdout is not None
            asked = b""
            while b"New password: " not in asked:
                asked += os.read(process.stdout.fileno(), 100)
            time.sleep(0.2)  # stty runs behind etcdctl's question
            os.write(keyboard, b"secret\n")
            out, err = process.communicate(timeout=PATIENCE_S)
            assert (asked + out, err) == (b"New password: \nUser typed created\n", b"")
        os.set_blocking(keyboard, False)
        assert b"secret" not in echoed(keyboard)
        os.close(keyboard)
        os.close(terminal)


def echoed(keyboard: int) -> bytes:
    try:
        return os.read(keyboard, 4096)
    except BlockingIOError:
        return b""


def test_one_endpoint_of_many_is_enough(pairs: list[Pair]) -> None:
    dead = "http://127.0.0.1:1,http://127.0.0.1:2"
    env = {"ETCDCTL_ENDPOINTS": f"{dead},{pairs[1].endpoint}"}
    for number in range(8):  # the endpoints are shuffled
        value = str(number)
        for front in ([], ["--no-sync"]):
            assert run([*front, "set", "/many", value], env) == (f"{value}\n".encode(), b"", 0)
            assert run([*front, "get", "/many"], env) == (f"{value}\n".encode(), b"", 0)
            out, _, code = run([*front, "rm", "/many"], env)
            assert code == 0 if not front else code in (0, 4)  # --no-sync: it is sent once
            assert out or front


BANNED = ("pyetcd.raft", "pyetcd.store", "pyetcd.server", "grpc", "google", "apsw")
BANNED += ("typer", "click", "rich", "asyncio", "pyetcd.cli.ctl.")


def loaded(endpoint: str, version: str, *argv: str) -> list[str]:
    script = (
        "import os, sys\n"
        "def end(code):\n"
        "    print(*sys.modules)\n"
        "    sys.stdout.flush()\n"
        "    os.kill(os.getpid(), 9)\n"
        "os._exit = end\n"
        f"sys.argv = ['pyetcd', 'ctl', '--endpoints={endpoint}', *{list(argv)!r}]\n"
        "from pyetcd.cli.main import main\n"
        "main()\n"
    )
    env = {**os.environ, "ETCDCTL_API": version}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=env, timeout=30)
    return done.stdout.decode().split()


def test_neither_version_loads_the_other(pairs: list[Pair]) -> None:
    names = loaded(pairs[1].endpoint, "2", "ls", "/")
    assert "pyetcd.cli.ctl2.keys" in names
    assert not [name for name in names if name.startswith(BANNED)]
    names = loaded(pairs[1].endpoint.removeprefix("http://"), "3", "get", "k")
    assert "pyetcd.cli.ctl.kv" in names
    assert not [name for name in names if name.startswith("pyetcd.cli.ctl2")]


def test_backup(machine: Any) -> None:
    node = machine.single("pyetcd", "--enable-v2", name="saved")
    pair = Pair(OURS, f"http://{node.endpoint}")
    assert pair.run("set", "/kept", "here")[2] == 0
    source, copy = str(machine.folder / "saved"), str(machine.folder / "copy")
    flags = ("backup", f"--data-dir={source}", f"--backup-dir={copy}")
    _, err, code = pair.run(*flags)
    assert code == 1 and "Traceback" not in err  # while the member runs
    node.kill()
    _, err, code = pair.run(*flags, "--wal-dir=x")
    assert code == 0, err
    assert err.startswith(
        "Note: the keys of both APIs lie in one file; those of v3 are copied, too.\n"
        "Note: the log of pyetcd lies in the data directory; --wal-dir is unused.\n"
    )
    again = machine.single(
        "pyetcd", "--enable-v2", f"--data-dir={copy}", "--force-new-cluster", name="copied"
    )
    assert Pair(OURS, f"http://{again.endpoint}").run("get", "/kept") == ("here\n", "", 0)
    assert pair.run("backup")[2] == 1


TLS_ROWS = """
{ca} {pair} get /k
{ca} {pair} set /k v
{ca} {pair} -o json ls
{ca} {pair} cluster-health
{ca} {pair} member list
{ca} {pair} --debug get /k
{ca} {pair} watch --after-index 3 /k
{ca} get /k
{ca} --no-sync set /k v
{pair} get /k
{pair} --no-sync get /k
{other} {pair} get /k
{other} {pair} cluster-health
{other} {pair} member list
--ca-file=/dev/null {pair} get /k
{ca} --cert-file={cert} get /k
{ca} --cert-file={cert} --key-file={cert} get /k
{ca} --cert-file={key} --key-file={key} get /k
{ca} {pair} --endpoints={plain} get /k
{ca} {pair} --endpoints={dead} get /k
"""


@pytest.fixture(scope="module")
def tls(machine: Any) -> dict[str, list[str]]:
    """An etcd and a pyetcd that want a certificate; what stands for files and places in a row."""
    folder = Path(machine.folder)
    authority, other = Authority(folder), Authority(folder, "other")
    server, client = authority.issue("server"), authority.issue("client")
    flags = (f"--cert-file={server.cert}", f"--key-file={server.key}", "--client-cert-auth")
    flags += (f"--trusted-ca-file={authority.path}", "--enable-v2", "--unsafe-no-fsync")
    own = (f"--cacert={authority.path}", f"--cert={client.cert}", f"--key={client.key}")
    nodes = [
        Node(machine, f"tls-{kind}", *flags, program=kind).wait(*own) for kind in ("etcd", "pyetcd")
    ]
    return {
        "endpoint": [node.endpoint for node in nodes],
        "plain": [node.endpoint.replace("https", "http") for node in nodes],
        "dead": [f"https://127.0.0.1:1,{node.endpoint}" for node in nodes],
        "ca": [f"--ca-file={authority.path}"],
        "other": [f"--ca-file={other.path}"],
        "pair": [f"--cert-file={client.cert} --key-file={client.key}"],
        "cert": [client.cert],
        "key": [client.key],
    }


@pytest.mark.parametrize("line", TLS_ROWS.strip().split("\n"))
def test_tls(machine: Any, tls: dict[str, list[str]], line: str) -> None:
    found = []
    for at, program in enumerate(([machine.etcdctl], OURS)):
        words = {name: texts[at % len(texts)] for name, texts in tls.items()}
        out, err, code = Pair(program, words["endpoint"]).run(*line.format(**words).split())
        blanked = [
            re.sub(r"127\.0\.0\.1:\d{2,}|\b[0-9a-f]{15,16}\b|(pyetcd-|etcd-)?tls-\w+", "N", text)
            for text in (out, err)
        ]
        found.append((*blanked, code))
    assert found[1] == found[0]
