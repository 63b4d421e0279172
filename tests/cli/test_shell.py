"""`ctl shell`: lines from a pipe in process, and real processes on a pipe and at a terminal."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from screen import Screen

from pyetcd.cli.ctl.run import run

CTL = [sys.executable, "-m", "pyetcd.cli.main", "ctl"]
Outcome = tuple[str, str, int]


@pytest.fixture
def shell(judge) -> Callable[..., Outcome]:
    """Feeds lines to a shell."""

    def feed(lines: str, *flags: str, env: dict[str, str] | None = None) -> Outcome:
        argv = ["shell", f"--endpoints={judge.endpoint}", *flags]
        out, err, code = run(argv, env or {}, lines.encode("utf-8", "surrogateescape"))
        return out.decode("utf-8", "surrogateescape"), err.decode(), code

    return feed


def test_many_commands(shell):
    lines = """
# keys of a test
put s/a 1
put 's/b c' '{"x": 1}'   # with a comment
get s/a
get "s/b c" --print-value-only
del s/ --prefix
"""
    assert shell(lines) == ('OK\nOK\ns/a\n1\n{"x": 1}\n2\n', "", 0)


def test_each_line_is_a_command_line(judge, shell, blank):
    """What lines say is what single runs say, errors and help too."""
    lines = (
        "get nothing",
        "get",
        "get k --bogus",
        "nonsense",
        "member list -w json",
        "endpoint health",
        "endpoint status -w table",
        "put --help",
        "help lease",
        "lease revoke 1",
        "get k -w nonsense",
        "memb list",
        "--hex get nothing",
        "lease",
    )
    for line in lines:
        expected = run([f"--endpoints={judge.endpoint}", *line.split()])
        got = shell(f"{line}\n")
        assert blank(got[0].encode()) == blank(expected[0]), line
        assert blank(got[1].encode()) == blank(expected[1]), line
        assert got[2] == expected[2], line


def test_errors_go_on_and_the_last_is_the_exit_code(shell):
    out, err, code = shell("put\nnonsense\nput k v\nget k\nlease revoke zz\nget k --keys-only\n")
    assert out == "OK\nk\nv\nk\n\n"
    assert err.count("Error: ") == 4  # an unknown command is said twice
    assert code == 128


def test_exit_on_error(shell):
    for flag in ("-e", "--exit-on-error", "--exit-on-error=true"):
        assert shell("get nothing\nnonsense\nput k v\n", flag)[0::2] == ("", 1)


@pytest.mark.parametrize("word", ("exit", "quit", "  exit  "))
def test_leaving(shell, word):
    assert shell(f"put k v\n{word}\nput\n") == ("OK\n", "", 0)


def test_last_line_without_an_end(shell):
    assert shell("put k v\nget k") == ("OK\nk\nv\n", "", 0)


def test_lines_that_are_no_words(shell):
    out, err, code = shell("put k 'v\nput k2 v\n")
    assert (out, err, code) == ("OK\n", "Error: No closing quotation\n", 3)
    assert shell("put k v\\\n") == ("", "Error: No escaped character\n", 3)
    assert shell("put k 'a b'\r\nget k\r\n") == ("OK\nk\na b\n", "", 0)


def test_bytes_stay_bytes(shell):
    assert shell("put k \udcff\udc80\nget k\n") == ("OK\nk\n\udcff\udc80\n", "", 0)


def test_global_flags_are_defaults(judge, shell):
    lines = "put k v\nget k\nget k -w simple\nget k -w fields\n"
    out, _, _ = shell(lines, "-w", "json")
    put, got, simple = out.split("\n", 2)
    assert json.loads(put).keys() == {"header"}
    assert json.loads(got)["count"] == 1
    assert simple.startswith('k\nv\n"ClusterID"')
    assert shell("get k\n", "--hex")[0] == "\\x6b\n\\x76\n"
    assert shell("get k\n", env={"ETCDCTL_HEX": "true"})[0] == "\\x6b\n\\x76\n"
    assert shell("get k --hex=false\n", "--hex")[0] == "k\nv\n"


def test_a_line_with_another_connection(judge, shell, free_ports):
    (port,) = free_ports(1)
    nobody = f"--endpoints=127.0.0.1:{port} --command-timeout=100ms"
    out, err, code = shell(f"put k v\nget k {nobody}\nget k\n")
    assert (out, code) == ("OK\nk\nv\n", 1)
    assert err.endswith("Error: context deadline exceeded\n")
    argv = ["shell", *nobody.split()]
    lines = f"get k\nget k --endpoints={judge.endpoint} --command-timeout=20s\n".encode()
    assert run(argv, stdin=lines)[0::2] == (b"k\nv\n", 1)


def test_flags_of_the_shell_that_do_not_do(judge):
    assert run(["shell", "--cacert=/nonexistent"], stdin=b"get k\n")[2] == 128
    assert run(["shell", "--cert="], stdin=b"get k\n")[2] == 128
    assert run(["shell", "-w", "nonsense"], stdin=b"get k\n")[2] == 4
    assert run(["shell", "extra"])[2] == 128
    conflict = run(["shell", "--hex"], {"ETCDCTL_HEX": "true"})
    assert conflict[2] == 1 and b"shadowed" in conflict[1]


def test_the_environment_is_read_once(shell):
    out, err, code = shell("put k v\nget k\nget k\n", env={"ETCDCTL_NONSENSE": "1"})
    assert (out, code) == ("OK\nk\nv\nk\nv\n", 0)
    assert err.count("unrecognized environment variable") == 1


def test_input_of_commands_is_the_same_input(shell):
    lines = 'put k v\ntxn\nval("k") = "v"\n\nput k w\n\n\nget k\n'
    assert shell(lines) == ("OK\nSUCCESS\n\nOK\nk\nw\n", "", 0)
    shown = shell('txn -i\nval("k") = "no"\n\n\nget k\n\nget k\n')
    assert shown[0].endswith("FAILURE\n\nk\nw\nk\nw\n")
    lines = "user add shelly --interactive=false\nsecret\nuser list\nuser delete shelly\n"
    assert shell(lines) == ("User shelly created\nshelly\nUser shelly deleted\n", "", 0)


def test_values_cannot_be_read_from_the_input(shell):
    out, err, _ = shell("put k\nput k2 v\nput k --ignore-value\n")
    assert out.endswith("OK\n")
    assert "cannot be read from standard input in a shell" in err
    assert "put it on the line" in err


def test_no_shell_in_a_shell(shell):
    assert shell("shell\n") == ("", "Error: this is a shell already\n", 128)
    assert shell("shell --help\n")[2] == 0


def test_lock_with_a_command(shell):
    out, err, code = shell("lock l -- echo inside\nlock l -- false\nget k --keys-only\n")
    assert (out.splitlines()[0], err, code) == ("inside", "Error: exit status 1\n", 1)


def test_users(machine):
    """One login for many lines; a line may be somebody else."""
    endpoint = machine.single("pyetcd").endpoint

    def feed(lines: str, *flags: str, stdin_first: str = "") -> Outcome:
        out, err, code = run(
            ["shell", f"--endpoints={endpoint}", *flags], {}, (stdin_first + lines).encode()
        )
        return out.decode(), err.decode(), code

    made = """
user add root:r
user add bob:b
user grant-role root root
role add some
role grant-permission some readwrite s --prefix
user grant-role bob some
auth enable
"""
    assert feed(made)[2] == 0
    lines = "put s1 v\nput t1 v --user=root:r\nput t1 v\nput t1 v --user root --password=r\n"
    out, err, code = feed(lines, "--user=bob", "--password=b")
    assert (out, code) == ("OK\nOK\nOK\n", 1)
    assert err.endswith("Error: etcdserver: permission denied\n")
    assert feed("get s1\n", "--user=bob", stdin_first="b\n")[0] == "Password: \ns1\nv\n"
    assert feed("get s1\n", "--user=bob:wrong")[2] == 2


def test_talking_to_it_through_pipes(judge):
    """An answer is there before the next line is written; Ctrl-C ends a shell on a pipe."""
    pipe = subprocess.PIPE
    argv = [*CTL, "shell", f"--endpoints={judge.endpoint}"]
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None and process.stdout is not None
        for value in (b"1", b"2"):
            process.stdin.write(b"put talk " + value + b"\nget talk\n")
            process.stdin.flush()
            assert [process.stdout.readline() for _ in range(3)] == [
                b"OK\n",
                b"talk\n",
                value + b"\n",
            ]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT
        process.stdin.close()


def test_a_server_that_comes_back(machine):
    """What is sent while it is away fails; what is sent as soon as it is back does not wait."""
    node = machine.single("etcd")
    argv = [*CTL, "shell", f"--endpoints={node.endpoint}", "--command-timeout=300ms"]
    pipe = subprocess.PIPE
    said = machine.folder / "said"
    with (
        said.open("wb") as errors,
        subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=errors) as process,
    ):
        assert process.stdin is not None and process.stdout is not None

        def say(line: str) -> None:
            assert process.stdin is not None
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()

        def answer() -> bytes:
            """The first line that follows; also if there is none but the version's."""
            say("version")
            assert process.stdout is not None
            first = line = process.stdout.readline()
            while not line.startswith(b"API version:"):
                assert line, said.read_text()
                line = process.stdout.readline()
            return first

        say("put k 1")
        assert answer() == b"OK\n"
        node.kill()
        node.start().wait_healthy()
        say("put k 2 --command-timeout=20s")  # nobody has noticed yet
        assert answer() == b"OK\n", said.read_text()
        node.kill()
        for _ in range(2):
            say("put k 3")
        assert answer() != b"OK\n"
        node.start().wait_healthy()
        say("put k 4 --command-timeout=20s")
        assert answer() == b"OK\n", said.read_text()
        process.stdin.close()
        assert process.wait(30) == 1


def test_closed_pipe_ends_quietly(judge):
    shell = f"{' '.join(CTL)} shell --endpoints={judge.endpoint}"
    command = f"yes 'get --help' | head -200 | {shell} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, check=True)
    assert done.stdout == b"NAME:\n"
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr


@pytest.fixture
def screen(judge, tmp_path: Path):
    history = tmp_path / "history"
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint, "PYETCD_HISTORY": str(history)}
    assert run(["del", "", "--prefix"], {"ETCDCTL_ENDPOINTS": judge.endpoint})[2] == 0
    with Screen([*CTL, "shell"], env) as shown:
        shown.expect("etcd> ")
        yield shown


def test_prompt(screen, tmp_path):
    screen.type("put p/one 1\r")
    screen.expect("OK\n")
    screen.expect("etcd> ")
    screen.type("put p/two 'a b'\r")
    screen.expect("etcd> ")
    screen.type("nonsense\r")
    screen.expect('Error: unknown command "nonsense"')
    screen.expect("etcd> ")
    screen.type("get p/o\t\r")  # the tab makes it p/one
    screen.expect("get p/one")
    screen.expect("1\n")
    screen.expect("etcd> ")
    screen.type("mem\tli\t\r")
    screen.expect("member list")
    screen.expect("etcd> ")
    screen.type("get p/two --print-v\t\r")
    screen.expect("a b\n")
    screen.expect("etcd> ")
    screen.type(" put p/hidden 1\r")
    screen.expect("etcd> ")
    screen.type("user add secret:word\r")
    screen.expect("etcd> ")
    screen.type("user delete secret\r")
    screen.expect("etcd> ")
    screen.type("nothing of it")
    screen.expect("nothing of it")
    screen.interrupt("etcd> ")
    screen.type("exit\r")
    assert screen.wait() == 0
    kept = (tmp_path / "history").read_text()
    assert (tmp_path / "history").stat().st_mode & 0o777 == 0o600
    assert "put p/one 1\n" in kept
    assert "hidden" not in kept and "word" not in kept


def test_waiting_commands_end_by_the_interrupt_key(judge, screen):
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint}
    screen.type("watch w\r")
    screen.expect("watch w\n")
    for value in ("1", "2"):
        # The watch may not be open yet: what it misses is written again.
        while f"\nw\n{value}\n" not in screen.text:
            assert run(["put", "w", value], env)[2] == 0
            screen.look(0.2)
    screen.interrupt("etcd> ")
    screen.type("lock l\r")
    screen.expect("l/")
    screen.interrupt("etcd> ")
    assert run(["get", "l/", "--prefix"], env)[0] == b""
    screen.type("watch -i\r")
    screen.type("watch w --rev=1\r")
    screen.expect("PUT  revision ")
    screen.interrupt("etcd> ")
    screen.type("get w\r")
    screen.expect("2\n")
    screen.expect("etcd> ")
    screen.type("\x04")
    assert screen.wait() == 0
    assert "Traceback" not in screen.text and "canceled" not in screen.text.replace(
        "Error: context canceled", ""
    )


def test_live_view_at_the_prompt(screen):
    screen.type("top --interval=100ms\r")
    screen.expect("q quits")
    screen.type("q")
    screen.expect("etcd> ")
    screen.type("get nothing\r")
    screen.expect("no key")
    screen.expect("etcd> ")
    screen.type("exit\r")
    assert screen.wait() == 0


def test_transaction_at_the_prompt(screen):
    screen.type("txn -i\r")
    for heading in ("compares:", "success requests (get, put, del):", "failure requests"):
        screen.expect(heading)
        screen.type("put t 1\r\r" if heading.startswith("success") else "\r")
    screen.expect("SUCCESS\n")
    screen.type("get t\r")
    screen.expect("\n1\n")
    screen.expect("etcd> ")
    screen.type("txn -i\r")
    screen.expect("compares:")
    screen.edit("\x04")  # an end of input ends the command, not the shell
    screen.expect("Error: EOF")
    screen.expect("etcd> ")
    screen.type("\x04")
    assert screen.wait() == 0


def test_history_of_an_earlier_shell(judge, tmp_path):
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint, "PYETCD_HISTORY": str(tmp_path / "a" / "history")}
    for keys, shown in (("put h first\r", "OK"), ("\x1b[A\r", "put h first")):
        with Screen([*CTL, "shell"], env) as screen:
            screen.expect("etcd> ")
            screen.type(keys)
            screen.expect(shown)
            screen.expect("etcd> ")
            screen.type("\x04")
            assert screen.wait() == 0


def test_candidates(judge):
    from pyetcd.cli.ctl.prompt import candidates

    names = {b"": [(b"a/", False), (b"b c", True)], b"a/": [(b"a/x", True), (b"a/\xff", True)]}

    def keys(start: bytes) -> list[tuple[bytes, bool]]:
        return names.get(start, [])

    assert "member " in candidates("mem", keys)
    assert {"exit ", "get "} <= set(candidates("", keys))
    assert candidates("member l", keys) == ["list "]
    assert candidates("get ", keys) == ["a/", "b\\ c "]
    assert candidates("get --prefix a/", keys) == ["a/x "]
    assert candidates("put a/x ", keys) == []
    assert candidates("get --print", keys) == ["--print-value-only "]
    assert "--endpoints=" in candidates("get --e", keys)
    assert candidates("get k -w j", keys) == ["json "]
    assert candidates("get 'a", keys) == []
    assert candidates("nonsense ", keys) == []


def test_keys_of_the_server(judge):
    from pyetcd.cli.client import Settings
    from pyetcd.cli.ctl.prompt import Keys

    env = {"ETCDCTL_ENDPOINTS": judge.endpoint}
    puts = [f"put /c/{folder}/{i:03} v" for folder in "ab" for i in range(100)]
    assert run(["shell"], env, "\n".join([*puts, "put /c/single v"]).encode())[2] == 0

    keys = Keys(Settings([judge.endpoint], 2.0, 10_000, 6_000))
    folders = [(b"/c/a/", False), (b"/c/b/", False)]
    assert list(keys.below(b"/c/")) == [*folders, (b"/c/single", True)]
    assert len(list(keys.below(b"/c/a/"))) == 100
    assert list(keys.below(b"/nothing")) == []
    keys.close()
    keys = Keys(Settings(["127.0.0.1:1"], 2.0, 10_000, 6_000))
    assert list(keys.below(b"/c/")) == []
    keys.close()
