"""What a person sees on a terminal, and that nobody else does."""

import re
import subprocess
import sys
from io import BytesIO

import pytest
from screen import Screen

from pyetcd.cli.ctl.run import execute, run
from pyetcd.cli.printers.person import shown
from pyetcd.cli.terminal import Streams

CTL = [sys.executable, "-m", "pyetcd.cli.main", "ctl"]
COLOURS = ("\x1b[32m", "\x1b[1;36m", "\x1b[1;31m", "\x1b[2m", "\x1b[1m")


@pytest.fixture
def look(judge, monkeypatch):
    """Runs a command in process whose stdout is a terminal, a wide one."""
    monkeypatch.setenv("COLUMNS", "140")
    assert run([f"--endpoints={judge.endpoint}", "del", "", "--prefix"])[2] == 0

    def call(
        *argv: str, env: dict[str, str] | None = None, stdin: bytes = b""
    ) -> tuple[str, str, int]:
        streams = Streams(BytesIO(stdin), BytesIO(), BytesIO(), is_terminal=True)
        code = execute([f"--endpoints={judge.endpoint}", *argv], env or {}, streams)
        assert isinstance(streams.stdout, BytesIO) and isinstance(streams.stderr, BytesIO)
        return streams.stdout.getvalue().decode(), streams.stderr.getvalue().decode(), code

    return call


NO_COLOUR = {"NO_COLOR": "1"}
PLAIN = {"ETCDCTL_PLAIN": "true"}


def plain_lines(text: str) -> list[str]:
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def plain(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in plain_lines(text)]


def test_one_key_keeps_its_two_lines(look):
    assert "OK" in look("put", "k", '{"a": 1}')[0]
    out, err, code = look("get", "k")
    assert (plain(out), err, code) == ([["k"], ['{"a":', "1}"]], "", 0)
    assert any(colour in out for colour in COLOURS)
    assert look("get", "nothing")[0].count("no key") == 1
    long = "x" * 3000
    look("put", "long", long)
    assert long in look("get", "long")[0].splitlines()  # copied, it is one line


def test_several_keys_are_a_table(look):
    for key, value in (("a", "1"), ("b", ""), ("c", "y" * 2000)):
        look("put", key, "--", value)
    rows = plain(look("get", "a", "d")[0])
    assert rows[0] == ["Key", "Value", "Version", "Changed", "at"]
    assert rows[2][:3] == ["a", "1", "1"]
    assert rows[3][:3] == ["b", "(empty)", "1"]
    text = look("get", "a", "d")[0]
    assert "2.0 kB in all" in text.replace("\n", " ") or "2.0 kB" in text
    assert rows[-1] == ["3", "keys"]
    assert plain(look("get", "a", "d", "--limit=1")[0])[-1] == ["1", "of", "3", "keys"]
    assert plain(look("get", "a", "d", "--keys-only")[0]) == [["a"], ["b"], ["c"], ["3", "keys"]]
    lease = look("lease", "grant", "100")[0].split()[1]
    look("put", "d", "v", f"--lease={lease}")
    assert lease in look("get", "a", "e")[0]
    assert plain(look("lease", "timetolive", lease, "--keys")[0])[1:] == [["d"], ["1", "keys"]]
    assert [lease] in plain(look("lease", "list")[0])
    look("lease", "revoke", lease)
    assert "has expired" in look("lease", "timetolive", lease)[0]


def test_what_would_steer_the_terminal_is_escaped(look, judge):
    feed = b"evil\x1b[31m\x07\x9b\xff\xc2\x9b\tand\nmore"
    assert run([f"--endpoints={judge.endpoint}", "put", "k"], stdin=feed)[2] == 0
    out = look("get", "k", env=NO_COLOUR)[0]
    assert "evil\\x1b[31m\\x07\\x9b\\xff\\x9b" in out
    assert "\x07" not in out and "\x9b" not in out and "\x1b[31m" not in out
    assert "and\nmore" in out
    assert shown(b"caf\xc3\xa9 \xe2\x80\xae") == "caf\xe9 \\u202e"


def test_values_alone_and_hex(look):
    look("put", "k", "v")
    assert look("get", "k", "--print-value-only")[0] == "v\n"
    assert plain(look("get", "k", "--hex")[0]) == [["\\x6b"], ["\\x76"]]


COMMANDS = (
    "get k",
    "get k --prefix",
    "get k --keys-only",
    "member list",
    "endpoint status",
    "endpoint health",
    "endpoint hashkv",
    "alarm list",
    "lease list",
    "user list",
    "role list",
    "role get pretty",
    "user get pretty",
    "txn",
    "del none",
    "put k1 x --prev-kv",
)


@pytest.fixture
def users(look):
    for line in (
        "user add pretty --no-password",
        "role add pretty",
        "role grant-permission pretty read p --prefix",
        "role grant-permission pretty readwrite q",
        "role grant-permission pretty write r --from-key",
        "user grant-role pretty pretty",
    ):
        assert look(*line.split())[2] == 0
    yield
    look("user", "delete", "pretty")
    look("role", "delete", "pretty")


@pytest.mark.parametrize(
    ("flags", "env"),
    ((("--plain",), {}), (("-w", "simple"), {}), ((), PLAIN), ((), {"TERM": "dumb"})),
)
def test_switched_off(look, users, judge, blank, flags, env):
    """By the flag, its variable, a format, or a terminal that can do nothing."""
    look("put", "k2", "v")
    for line in COMMANDS:
        argv = [*line.split(), *flags]
        look("put", "k1", "v")
        piped = run([f"--endpoints={judge.endpoint}", *line.split()], {}, b"\n\n\n")
        look("put", "k1", "v")
        out, _, code = look(*argv, env=env, stdin=b"\n\n\n")
        assert (blank(out.encode()), code) == (blank(piped[0]), piped[2]), line


def test_no_color(look, users):
    look("put", "k1", "v")
    for line in COMMANDS:
        out, err, code = look(*line.split(), env=NO_COLOUR, stdin=b"\n\n\n")
        assert (err, code) == ("", 0), line
        assert not any(f"\x1b[{number}" in out for number in ("3", "1;3")), line
    assert "\x1b[" in look("get", "k1", env={"NO_COLOR": ""})[0]


def test_tables(look, users, judge, monkeypatch):
    members = plain(look("member", "list")[0])
    assert members[0] == ["ID", "Name", "State", "Peer", "URLs", "Client", "URLs"]
    assert members[2][2] == "started"
    status = plain(look("endpoint", "status")[0])
    assert status[2][0] == judge.endpoint and "leader" in status[2]
    monkeypatch.setenv("COLUMNS", "80")
    assert [row[0] for row in plain(look("endpoint", "status")[0])][0::2] == [
        "Endpoint",
        judge.endpoint,
    ]
    assert {len(line) <= 80 for line in plain_lines(look("endpoint", "status")[0])} == {True}
    assert plain(look("endpoint", "health")[0])[2][:2] == [judge.endpoint, "healthy"]
    assert plain(look("endpoint", "hashkv")[0])[2][0] == judge.endpoint
    assert plain(look("alarm", "list")[0]) == [["no", "alarm"]]
    assert plain(look("user", "list")[0])[-1] == ["1", "user"]
    assert plain(look("user", "get", "pretty")[0])[2] == ["pretty", "pretty"]
    rights = plain(look("role", "get", "pretty")[0])
    assert ["read", "p", "all", "with", "this", "prefix"] in rights
    assert ["readwrite", "q", "this", "key", "alone"] in rights
    assert ["write", "r", "the", "last", "key"] in rights


def test_an_endpoint_that_is_away(look, free_ports, judge):
    (port,) = free_ports(1)
    away = f"127.0.0.1:{port}"
    argv = (f"--endpoints={judge.endpoint},{away}", "--command-timeout=300ms")
    out, _, code = look("endpoint", "health", *argv)
    rows = {row[0]: row[1] for row in plain(out)[2:]}
    assert (rows[away], code) == ("unhealthy", 1)


def test_transactions_and_deletes(look):
    look("put", "k", "v")
    look("put", "j", "u")
    out = look("txn", stdin=b'val("k") = "v"\n\nput k w\nget k\ndel j --prev-kv\n\n\n')[0]
    assert [row for row in plain(out) if row] == [
        ["SUCCESS"],
        ["OK"],
        ["k"],
        ["w"],
        ["1", "key", "deleted"],
        ["j"],
        ["u"],
    ]


def test_other_formats_stay(look, judge):
    look("put", "k", "v")
    for format in ("json", "fields", "table"):
        argv = ["endpoint", "status", "-w", format]
        assert "\x1b" not in look(*argv)[0]
    assert look("get", "k", "-w", "json")[0].startswith('{"header"')


def test_rich_is_loaded_for_a_person_alone(judge):
    """Neither by a pipe nor by a terminal that is asked for a format."""
    script = (
        "import sys\n"
        "from io import BytesIO\n"
        "from pyetcd.cli.ctl.run import execute\n"
        "from pyetcd.cli.terminal import Streams\n"
        "for is_terminal, flags in ((False, []), (True, ['-wsimple']), (True, ['--plain'])):\n"
        "    streams = Streams(BytesIO(), BytesIO(), BytesIO(), is_terminal)\n"
        f"    argv = ['--endpoints={judge.endpoint}', 'get', 'k', *flags]\n"
        "    assert execute(argv, {}, streams) == 0\n"
        "    assert 'rich' not in sys.modules, flags\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_on_a_terminal(judge, tmp_path):
    """Real processes: a table, a watch, a bar; the same without one."""
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint}
    run([f"--endpoints={judge.endpoint}", "put", "k", "v"])
    with Screen([*CTL, "get", "k"], env) as screen:
        assert screen.wait() == 0
        assert screen.text == "k\nv\n" and "\x1b[1;36mk" in screen.raw
    with Screen([*CTL, "watch", "k", "--rev=1"], env) as screen:
        screen.expect("PUT  revision ")
        assert "\x1b[32mPUT" in screen.raw
    for flags in ([], ["--plain"]):
        path = tmp_path / f"snapshot{len(flags)}"
        with Screen([*CTL, "snapshot", "save", str(path), *flags], env) as screen:
            assert screen.wait() == 0
            assert ("\u2501" in screen.text) != bool(flags)
            assert f"Snapshot saved at {path}" in screen.text
        assert path.stat().st_size > 0 and not path.with_suffix(".part").exists()
    with Screen([*CTL, "defrag"], env) as screen:
        assert screen.wait() == 0
        assert f"defragmenting {judge.endpoint}" in screen.text
        assert "Finished defragmenting" in screen.text


def test_shell_lines_are_for_the_same_person(judge):
    env = {"ETCDCTL_ENDPOINTS": judge.endpoint, "PYETCD_HISTORY": ""}
    for flags, said in (([], "\x1b[32mOK"), (["--plain"], "OK")):
        with Screen([*CTL, "shell", *flags], env) as screen:
            screen.expect("etcd> ")
            screen.type("put k v\r")
            screen.expect("OK")
            screen.expect("etcd> ")
            screen.type("exit\r")
            assert screen.wait() == 0
            assert said in screen.raw
            assert ("\x1b[32m" in screen.raw) == (not flags)
