"""Real processes: the same answers as in process, streams, watches, start-up, what is imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ENTRY = [sys.executable, "-m", "pyetcd.cli.main"]

PROCESS_ROWS = (
    "put p1 v1",
    "get p1",
    "get p1 --bogus",
    "get",
    "member list",
    "endpoint status -w table",
    "lease keep-alive 1",
    "nonsense",
)


@pytest.mark.parametrize("line", PROCESS_ROWS)
def test_row(judge, blank, line):
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint}
    expected = judge.reference(line.split(), env)
    got = judge.process(line.split(), env)
    assert [blank(got[0]), blank(got[1]), got[2]] == [
        blank(expected[0]),
        blank(expected[1]),
        expected[2],
    ]


WATCH_ROWS = (
    ("watch w1 --rev={rev}", b""),
    ("watch w1 --rev={rev} --prev-kv", b""),
    ("watch w --prefix --rev={rev}", b""),
    ("watch w1 w3 --rev={rev}", b""),
    ("watch w1 --rev={rev} -w json", b""),
    ("watch w1 --rev={rev} -w fields --prev-kv", b""),
    ("watch w1 --rev={rev} --hex", b""),
    ("watch w1 --rev={rev} -w table", b""),
    ("watch w1 --rev={rev} -- echo seen", b""),
    ("watch w1 --rev={rev} -- sh -c 'env | grep ETCD_WATCH_KEY'", b""),
    ("watch w1 --rev={rev} -- /nonexistent", b""),
    ("watch w1 --rev={rev} -- false", b""),
    ("watch w1 --rev=1", b""),
    ("watch w1 --rev=1 -w json", b""),
    ("watch w1 --rev=1 -w fields", b""),
)


@pytest.fixture(scope="module")
def history(judge):
    """Some events, and the revision of the first; what was before is compacted."""
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint}
    out, _, _ = judge.reference(["put", "w1", "1", "-w", "json"], env)
    revision = int(out.split(b'"revision":')[1].split(b",")[0])
    for line in ("put w1 2", "put w2 x", "del w1", "put w1 3"):
        judge.reference(line.split(), env)
    judge.reference(["compaction", str(revision)], env)
    return revision


@pytest.mark.parametrize(("line", "stdin"), WATCH_ROWS)
def test_watch(judge, blank, history, quiet, as_much_as, line, stdin):
    import shlex

    env = {"ETCDCTL_ENDPOINTS": judge.endpoint}
    argv = shlex.split(line.format(rev=history + 1))
    expected = judge.reference(argv, env, stdin, quiet())
    got = judge.process(argv, env, stdin, as_much_as(expected))
    assert got[2] == expected[2]
    assert blank(got[0]) == blank(expected[0])
    assert blank(got[1]) == blank(expected[1])


def test_watch_from_variables(judge, history, quiet, as_much_as):
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint, "ETCDCTL_WATCH_KEY": "w1"}
    argv = ["watch", f"--rev={history + 1}", "--", "echo", "seen"]
    expected = judge.reference(argv, env, b"", quiet())
    assert judge.process(argv, env, b"", as_much_as(expected)) == expected


def test_keep_alive_renews(judge):
    """More than once, while the lease lives."""
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint}
    out, _, _ = judge.process(["lease", "grant", "6"], env)
    lease = out.split()[1].decode()
    argv = ["lease", "keep-alive", lease]
    once = judge.process([*argv, "--once"], env)
    assert once == (f"lease {lease} keepalived with TTL(6)\n".encode(), b"", 0)
    judge.process(argv, env, b"", lambda out, err: out.count(b"keepalived") >= 2)
    out, _, _ = judge.process(["lease", "timetolive", lease, "--keys"], env)
    assert out.startswith(f"lease {lease} granted with TTL(6s), remaining(".encode())
    assert out.endswith(b"attached keys([])\n")
    revoked = judge.process(["lease", "revoke", lease], env)
    assert revoked == (f"lease {lease} revoked\n".encode(), b"", 0)


def test_server_is_never_imported(judge):
    """`ctl get` loads no raft, store or server, no typer and no rich, nor grpc."""
    script = (
        "import os, sys\n"
        "from pyetcd.cli.ctl.run import run\n"
        f"out = run(['--endpoints={judge.endpoint}', 'get', 'nokey'])\n"
        "assert out == (b'', b'', 0), out\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    banned = ("pyetcd.raft", "pyetcd.store", "pyetcd.server", "typer", "click", "rich", "apsw")
    banned += ("grpc", "asyncio", "hpack", "google.protobuf.internal.python_message")
    banned += ("dataclasses", "inspect", "logging", "json", "subprocess")
    assert not [name for name in loaded if name.startswith(banned)]


@pytest.mark.parametrize("name", ("etcdctl", "etcdutl"))
def test_called_by_its_name(tmp_path: Path, name: str):
    script = f"#!{sys.executable}\nimport sys\nfrom pyetcd.cli.main import main\nsys.exit(main())\n"
    link = tmp_path / name
    link.write_text(script)
    link.chmod(0o755)
    done = subprocess.run([link, "version"], capture_output=True, check=True)
    assert done.stdout == f"{name} version: 3.5.1\nAPI version: 3.5\n".encode()


INTERRUPTED = """
import os, signal, sys
from pyetcd.cli.main import main

AT = sys.argv[1]

class Interrupts:
    def find_spec(self, name, path, target=None):
        if name == AT:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
signal.signal(signal.SIGINT, {handler})
sys.argv = ["pyetcd", *sys.argv[2:]]
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module, argv",
    (
        ("pyetcd.server.member", "server"),
        ("pyetcd.server.config", "server"),
        ("pyetcd.cli.ctl.run", "ctl version"),
        ("pyetcd.cli.ctl2.run", "ctl --version"),
        ("pyetcd.cli.utl.run", "utl version"),
        ("uvloop", "bench put"),
        ("pyetcd.cli.gateway", "gateway start"),
        ("pyetcd.cli.proxy", "proxy start"),
        ("typer", "version"),
    ),
)
def test_an_interrupt_of_the_start_is_silent(tmp_path: Path, module: str, argv: str):
    """It was a traceback from the middle of an import."""
    script = INTERRUPTED.format(handler="signal.default_int_handler")
    env = {**os.environ, "ETCDCTL_API": "2" if "ctl2" in module else "3"}
    words = [sys.executable, "-c", script, module, *argv.split()]
    done = subprocess.run(words, capture_output=True, timeout=30, cwd=tmp_path, env=env)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert done.returncode == -signal.SIGINT


@pytest.mark.parametrize("program", ("ctl", "utl"))
def test_an_interrupt_that_is_ignored(program: str):
    """As a shell does for what runs in its background."""
    script = INTERRUPTED.format(handler="signal.SIG_IGN")
    words = [sys.executable, "-c", script, f"pyetcd.cli.{program}.run", program, "version"]
    done = subprocess.run(words, capture_output=True, check=False)
    assert b"API version: 3.5" in done.stdout
    assert (done.stderr, done.returncode) == (b"", 0)


def test_top_level_help_and_version():
    env = {**os.environ, "TERM": "dumb", "COLUMNS": "100"}
    done = subprocess.run([*ENTRY, "--help"], capture_output=True, env=env, check=True)
    for program in (b"server", b"ctl", b"utl", b"bench", b"version"):
        assert program in done.stdout
    done = subprocess.run([*ENTRY, "nonsense"], capture_output=True, env=env, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_closed_pipe_ends_quietly(judge):
    command = f"{sys.executable} -m pyetcd.cli.main ctl --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, check=True)
    assert done.stdout == b"NAME:\n"
    assert done.stderr == b""
