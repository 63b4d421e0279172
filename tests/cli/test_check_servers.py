"""`check perf` and `check datascale` beside etcdctl's, and against pyetcd; whole processes where a
signal or a terminal counts. How fast a server is decides no test."""

import json
import re
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from certificates import Node as SecureNode
from screen import Screen

from pyetcd.cli.ctl import check_bar, check_figures
from pyetcd.cli.ctl.check_figures import PerfLoad, ScaleLoad
from pyetcd.cli.ctl.run import run

CTL = [sys.executable, "-m", "pyetcd.cli.main", "ctl"]
MISTAKES = """
check perf --load=foo
check datascale --load=xlarge
check perf --load foo --prefix=k --endpoints=127.0.0.1:1
check perf --prefix=k
check datascale --prefix=k
check perf --prefix=
check datascale --prefix= --load=large
check perf --load=xLarge --prefix=k1 arguments are ignored
check perf --prefix=k --endpoints=
check datascale --prefix=k -w nonsense
check perf --prefix=k --cert=/nonexistent --key=/nonexistent
check perf --no-such-flag
check datascale --endpoints=127.0.0.1:1,{endpoint}
check nonsense
"""


@pytest.mark.parametrize("row", MISTAKES.strip().splitlines())
def test_mistakes(same, judge, row):
    argv = row.format(endpoint=judge.endpoint).split()
    is_told = "--endpoints" in row
    same(argv, {} if is_told else {"ETCDCTL_ENDPOINTS": judge.endpoint})


@pytest.fixture(name="short")
def short_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads of a second; whether the tests run at a terminal makes no difference."""
    monkeypatch.setattr(check_bar, "text_width", lambda: 0)
    monkeypatch.setitem(check_figures.PERF, "s", PerfLoad(100, 10, 1))
    monkeypatch.setitem(check_figures.SCALE, "s", ScaleLoad(700, 10))


BAR = re.compile(r"\r \d+ / \d+ (?:B[om ]*!)? +[\d.]+%(?: [\dhms]+)?")
PERF = re.compile(
    r"(PASS: Throughput is|FAIL: Throughput too low:) (\d+) writes/s\n"
    r"(PASS: Slowest request took|Slowest request took too long:) \d+\.\d{6}s\n"
    r"(PASS: Stddev is|Stddev too high:) (?:\d+\.\d{6}|NaN)s\n"
    r"(PASS|FAIL)\n"
)
SCALE = re.compile(r"PASS: Approximate system memory used : -?\d+\.\d\d MB\.\n")
START = (
    "Start data scale check for work load"
    " [{} key-value pairs, 1024 bytes per key-value, {} concurrent clients].\n"
)


def without_bar(out: bytes) -> str:
    return BAR.sub("", out.decode())


def keys(endpoint: str, prefix: str = "", *flags: str) -> int:
    out, _, _ = run([f"--endpoints={endpoint}", *flags, "get", prefix, "--prefix", "-w", "json"])
    return int(json.loads(out).get("count", 0))


def begun(out: bytes, err: bytes) -> bool:
    """It writes: the bar was drawn for the second time."""
    return out.count(b"\r") >= 2


def test_perf(node, short):
    before = node.revision()
    out, err, code = node("check", "perf", "--auto-compact", "--auto-defrag")
    last = node.revision()
    done = (
        f"Compacting with revision {last}\n"
        f"Compacted with revision {last}\n"
        f'Defragmenting "{node.endpoint}"\n'
        f'Defragmented "{node.endpoint}"\n'
    )
    assert without_bar(out).startswith(f"\n{done}")
    shown = PERF.fullmatch(without_bar(out).removeprefix(f"\n{done}"))
    assert shown, out
    assert (err, code) == (b"", 0 if shown[5] == "PASS" else 1)
    bars = out.decode().split("\n")[0].split("\r")
    assert bars[1] == " 0 / 1    0.00%"
    assert bars[-1].startswith(" 1 / 1  100.00% ")
    puts = last - before - 1  # and one revision for the delete
    assert 0 < puts <= 101
    assert keys(node.endpoint) == 0
    assert b"has been compacted" in node("get", "x", f"--rev={last - 1}")[1]


def test_an_endpoint_that_is_not_there(node, short):
    """Clients that get no connection there go to the next endpoint."""
    before = node.revision()
    endpoints = f"--endpoints={node.endpoint},127.0.0.1:1"
    out, err, _ = run([endpoints, "check", "perf"])
    assert PERF.fullmatch(without_bar(out).lstrip("\n")), out
    assert err == b""
    out, err, code = run([endpoints, "check", "datascale"])
    assert (err, code) == (b"", 0)
    assert SCALE.fullmatch(without_bar(out).splitlines(keepends=True)[-1])
    assert node.revision() - before > 702
    assert keys(node.endpoint) == 0


def test_datascale(node, short):
    before = node.revision()
    out, err, code = node("check", "datascale", "--auto-compact", "--auto-defrag", "--load=small")
    assert (err, code) == (b"", 0)
    lines = without_bar(out).splitlines(keepends=True)
    assert lines[0] == START.format(700, 10)
    last = node.revision()
    assert last - before == 701
    assert lines[2] == f"Compacting with revision {last}\n"
    assert SCALE.fullmatch(lines[-1])
    assert keys(node.endpoint) == 0


def test_datascale_says_what_etcdctl_says(judge):
    argv = ["check", "datascale", f"--endpoints={judge.endpoint}"]
    texts = []
    for program in (judge.reference, judge.process):
        out, err, code = program(argv, {})
        text = re.sub(r"used : .*", "used", without_bar(out))
        last = re.sub(r" (?:\d+m)?\d+s$", "", BAR.findall(out.decode())[-1])
        texts.append((text, last, err, code))
    assert texts[0] == texts[1]


def test_interrupted_perf(judge):
    """It judges what there was, and leaves no key."""
    argv = ["check", "perf", f"--endpoints={judge.endpoint}", "--prefix=/stopped/"]
    out, err, code = judge.process(argv, {}, b"", begun)
    shown = PERF.fullmatch(without_bar(out).lstrip("\n"))
    assert shown, out
    assert (err, code) == (b"", 0 if shown[5] == "PASS" else 1)
    assert keys(judge.endpoint, "/stopped/") == 0


def test_interrupted_datascale(judge):
    argv = ["check", "datascale", f"--endpoints={judge.endpoint}", "--load=l", "--prefix=/stop/"]
    out, err, code = judge.process(argv, {}, b"", begun)
    assert (err, code) == (b"", -signal.SIGINT)
    assert without_bar(out) == START.format(1000000, 500) + "\n"
    assert keys(judge.endpoint, "/stop/") == 0


def test_interrupted_before_it_began(judge):
    """While it asks who never answers whether there are keys."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        argv = ["check", "perf", f"--endpoints=127.0.0.1:{silent.getsockname()[1]}"]
        out, err, code = judge.process(
            argv, {}, b"", lambda out, err: bool(select.select([silent], [], [], 0)[0])
        )
    assert (out, code) == (b"", 1)
    logged, said = err.splitlines()
    assert json.loads(logged)["error"].startswith("rpc error: code = Canceled desc = ")
    assert said == b"Error: context canceled"


# -- users ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(
    judge: Any, tmp_path_factory: pytest.TempPathFactory, machine_type: Any
) -> Iterator[str]:
    """A server with a root and a user who may only read."""
    machine = machine_type(tmp_path_factory.mktemp("guarded"))
    try:
        endpoint = machine.single(judge.kind, "--bcrypt-cost=4").endpoint
        for line in (
            "user add root:secret",
            "user grant-role root root",
            "role add reader",
            "role grant-permission reader read --prefix=true ''",
            "user add reader:secret",
            "user grant-role reader reader",
            "auth enable",
        ):
            argv = [word.strip("'") for word in line.split()]
            assert run([f"--endpoints={endpoint}", *argv])[2] == 0, line
        yield endpoint
    finally:
        machine.close()


def test_with_a_user(guarded, short):
    flags = [f"--endpoints={guarded}", "--user=root:secret"]
    for name in ("perf", "datascale"):
        out, err, _ = run([*flags, "check", name])
        assert err == b""
        assert b"ERROR" not in out
    assert keys(guarded, "", "--user=root:secret") == 0
    wrong = run([f"--endpoints={guarded}", "--user=root:wrong", "check", "perf"])
    assert wrong[2] == 2
    nobody = run([f"--endpoints={guarded}", "check", "perf"])
    assert nobody[2] == 1
    assert nobody[1].endswith(b"Error: etcdserver: user name is empty\n")


def test_with_a_user_who_may_not_write(guarded, judge):
    """Beside etcdctl, which deletes twice when it is interrupted."""
    argv = ["check", "perf", f"--endpoints={guarded}", "--user=reader:secret"]
    texts = []
    for program in (judge.reference, judge.process):
        out, err, code = program(argv, {}, b"", begun)
        assert code == 1
        lines = [line for line in re.sub(r"-> \d+", "-> N", without_bar(out)).splitlines() if line]
        cleanup = "FAIL: Cleanup failed during key deletion: ERROR(etcdserver: permission denied)"
        assert cleanup in lines
        texts.append([line for line in lines if line != cleanup])
        logged = err.decode().splitlines()
        assert all("code = PermissionDenied" in line for line in logged)
        failed = int(re.findall(r"-> (\d+)", out.decode())[0])
        assert 1 <= len(logged) - failed <= 2
    assert texts[0] == texts[1]
    assert texts[0][1] == "FAIL: ERROR(etcdserver: permission denied) -> N"


# -- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=("etcd", "pyetcd"))
def secured(
    request: Any, tmp_path_factory: pytest.TempPathFactory, machine_type: Any
) -> Iterator[tuple[SecureNode, list[str]]]:
    """A server that wants to see certificates, and flags to show one."""
    folder = tmp_path_factory.mktemp("secured")
    machine = machine_type(folder)
    authority = Authority(folder)
    pair, user = authority.issue("server"), authority.issue("user")
    flags = [f"--cert-file={pair.cert}", f"--key-file={pair.key}", "--client-cert-auth"]
    flags.append(f"--trusted-ca-file={authority.path}")
    try:
        node = SecureNode(machine, "secured", *flags, program=request.param)
        shown = [f"--cert={user.cert}", f"--key={user.key}", f"--endpoints={node.endpoint}"]
        known = [*shown, f"--cacert={authority.path}"]
        assert run([*known, "--command-timeout=30s", "get", "x"])[2] == 0
        yield node, known
    finally:
        machine.close()


def test_tls(secured, short):
    _, flags = secured
    for name in ("perf", "datascale"):
        out, err, _ = run([*flags, "check", name, "--auto-defrag"])
        assert err == b""
        assert b"ERROR" not in out and b"Defragmented" in out
    assert SCALE.fullmatch(without_bar(out).splitlines(keepends=True)[-1])


def test_tls_that_is_not_verified(secured, short):
    _, flags = secured
    out, err, code = run([*flags[:3], "--insecure-skip-tls-verify", "check", "datascale"])
    assert (err, code) == (b"", 0), out


# -- a terminal ----------------------------------------------------------------------------------


def test_terminal(judge, tmp_path: Path):
    """A bar and a verdict; etcdctl's line is not for it."""
    argv = [*CTL, f"--endpoints={judge.endpoint}", "check", "datascale", "--prefix=/terminal/"]
    with Screen(argv, {}) as screen:
        assert screen.wait() == 0
        assert "check datascale" in screen.text
        assert "━━━" in screen.text and "100%" in screen.text
        assert " / 10000" not in screen.text
        assert "PASS: Approximate system memory used : " in screen.text
        assert screen.raw.count("\x1b[?25l") == screen.raw.count("\x1b[?25h") == 1


def test_terminal_interrupted(judge):
    argv = [*CTL, f"--endpoints={judge.endpoint}", "check", "perf", "--prefix=/terminal/"]
    with Screen(argv, {}) as screen:
        screen.expect("━━━")
        screen.type("\x03")
        assert screen.wait() in (0, 1)
        assert screen.raw.rindex("\x1b[?25h") > screen.raw.rindex("\x1b[?25l")
    assert keys(judge.endpoint, "/terminal/") == 0
