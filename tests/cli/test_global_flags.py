"""etcdctl 3.5.1 and `pyetcd ctl` beside each other: flags, variables, endpoints, streams.

As in test_differential.py each row runs in both programs against the same real etcd; here are the
rows about what all commands share, and commands and mistakes that have no row there.
"""

import json
import shlex
import socket
import threading
from collections.abc import Iterator

import pytest
from rows import lines, split

from pyetcd.cli.ctl.run import run

DEAD = "127.0.0.1:1"

GLOBAL_FLAGS = """
--endpoints={ep} --debug get k1
--endpoints {ep} get k1 --debug=false
--endpoints={ep} get k1 --debug=TRUE --hex
--endpoints={ep} get k1 --dial-timeout=1s
--endpoints={ep} get k1 --dial-timeout=-1s
--endpoints={ep} get k1 --command-timeout=5s
--endpoints={ep} get k1 --command-timeout=1h2m3.5s
--endpoints={ep} get k1 --command-timeout=
--endpoints={ep} get k1 --command-timeout=5
--endpoints={ep} get k1 --keepalive-time=0s
--endpoints={ep} get k1 --keepalive-time=x
--endpoints={ep} get k1 --keepalive-timeout=-3s
--endpoints={ep} get k1 --keepalive-timeout=99999999h
--endpoints={ep} get k1 --insecure-discovery=false
--endpoints={ep} get k1 --insecure-discovery=no
--endpoints={ep} get k1 --insecure-transport
--endpoints={ep} get k1 --insecure-transport=1
--endpoints={ep} get k1 --insecure-transport=yes
--endpoints={ep} get k1 --insecure-skip-tls-verify=F
--endpoints={ep} get k1 --hex=t
--endpoints={ep} get k1 --hex=True
--endpoints={ep} get k1 --hex=TrUe
--endpoints={ep} get k1 --hex=
--endpoints={ep} get k1 --write-out=
--endpoints={ep} get k1 --write-out=JSON
--endpoints={ep} get k1 -w
--endpoints={ep} get k1 -w ''
--endpoints={ep} get k1 -w json -w fields
--endpoints={ep} get k1 -wfields --hex
--endpoints={ep} get k1 --user=
--endpoints={ep} get k1 --user=u: << typed|
--endpoints={ep} get k1 --user=u << typed|
--endpoints={ep} get k1 --user=u:
--endpoints={ep} get k1 --user=u
--endpoints={ep} get k1 --user=:p
--endpoints={ep} get k1 --user=u:p:q
--endpoints={ep} get k1 --password=p
--endpoints={ep} get k1 --user=u:p --password=q
--endpoints={ep} get k1 --user=u --password=
--endpoints={ep} get k1 --discovery-srv=
--endpoints={ep} get k1 --discovery-srv-name=x
--endpoints={ep} get k1 -d
--endpoints={ep} get k1 --discovery-srv
--endpoints={ep} get k1 --cert= --key=
--endpoints={ep} get k1 --cert=/nonexistent --key=/nonexistent
--endpoints={ep} get k1 --cacert=/nonexistent
--endpoints={ep} get k1 --cacert=/
--endpoints={ep} get k1 --cert=/dev/null --key=/dev/null
--endpoints={ep} get k1 --key=/dev/null
--endpoints={ep} version --cert=
--endpoints={ep} version --command-timeout=x
--endpoints={ep} version --user=u
--endpoints={ep} help get --user=u
--endpoints={ep} lease list --debug
--endpoints={ep} member list --debug -w json
--endpoints={ep} endpoint health --debug
--endpoints={ep} endpoint status --debug -w table
--endpoints={ep} alarm list --debug
--endpoints={ep} txn --debug << |||
--endpoints={ep} -w=table get k1
--endpoints={ep} -w=table put k1 x
--endpoints={ep} get -- k1
--endpoints={ep} get -- --prefix
--endpoints={ep} get k1 -- --prefix
--endpoints={ep} -- get k1
--endpoints={ep} del -- -x
--endpoints={ep} del k1 -- k3
--endpoints={ep} put --
--endpoints={ep} put -- k1
--endpoints={ep} put k1 -- << typed
--endpoints={ep} put k1 - << typed
--endpoints={ep} get -
--endpoints={ep} get --prefix=false k
--endpoints={ep} get --prefix=0 k
--endpoints={ep} get --prefix=false --from-key=T k2
--endpoints={ep} get --prefix= k
--endpoints={ep} get --limit=-1 --prefix k
--endpoints={ep} get --limit=1e3 k
--endpoints={ep} get --limit=0b11 --prefix k
--endpoints={ep} get --limit=1_0 --prefix k
--endpoints={ep} get --rev= k1
--endpoints={ep} get --order= k1
--endpoints={ep} get --sort-by= k1
--endpoints={ep} get --consistency= k1
--endpoints={ep} get --consistency=L k1
--endpoints={ep} get -wh k1
--endpoints={ep} get -hw k1
--endpoints={ep} get k1 -w json --hex
--endpoints={ep} get k --prefix -w json --keys-only
--endpoints={ep} get k --prefix -w fields --keys-only
--endpoints={ep} get k --prefix -w protobuf --keys-only
--endpoints={ep} get k --prefix -w table --print-value-only
--endpoints={ep} get k --prefix --print-value-only --hex
--endpoints={ep} get k --prefix --print-value-only --keys-only
--endpoints={ep} get k --prefix --count-only -w json
--endpoints={ep} get k --prefix --count-only -w table
--endpoints={ep} get k --prefix --count-only -w protobuf
--endpoints={ep} get k --prefix --count-only -w bad
--endpoints={ep} get k3 k1
--endpoints={ep} get k1 ''
--endpoints={ep} del k3 k1
--endpoints={ep} del k1 ''
--endpoints={ep} del k1 --prefix=false
--endpoints={ep} del k --prefix -w bad
--endpoints={ep} put k1 x --lease=0x1
--endpoints={ep} put k1 x --lease=-1
--endpoints={ep} put k1 x --lease=ffffffffffffffff
--endpoints={ep} put k1 x --ignore-value --ignore-lease
--endpoints={ep} put k1 --ignore-value --ignore-lease
--endpoints={ep} put k1 --ignore-value << typed
--endpoints={ep} put k1 x -w bad
--endpoints={ep} put k1 x -w fields --prev-kv --hex
--endpoints={ep} get k1 --limit
--endpoints={ep} compaction 0x2
--endpoints={ep} compaction 99999999999999999999
--endpoints={ep} compaction ''
--endpoints={ep} compaction 1000000000 --physical
--endpoints={ep} compaction 1000000000 --physical=maybe
--endpoints={ep} compaction 1000000000 -w bad
--endpoints={ep} compaction 1000000000 -w json
--endpoints={ep} defrag -w json
--endpoints={ep} defrag --cluster=maybe
--endpoints={ep} version -w json
--endpoints={ep} version --hex
"""

VARIABLES = {
    "ETCDCTL_CACERT": "/nonexistent",
    "ETCDCTL_CERT": "/nonexistent",
    "ETCDCTL_COMMAND_TIMEOUT": "4s",
    "ETCDCTL_DEBUG": "true",
    "ETCDCTL_DIAL_TIMEOUT": "3s",
    "ETCDCTL_DISCOVERY_SRV": "",
    "ETCDCTL_DISCOVERY_SRV_NAME": "x",
    "ETCDCTL_ENDPOINTS": "{ep}",
    "ETCDCTL_HEX": "1",
    "ETCDCTL_INSECURE_DISCOVERY": "false",
    "ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "true",
    "ETCDCTL_INSECURE_TRANSPORT": "true",
    "ETCDCTL_KEEPALIVE_TIME": "20s",
    "ETCDCTL_KEEPALIVE_TIMEOUT": "5s",
    "ETCDCTL_KEY": "/nonexistent",
    "ETCDCTL_PASSWORD": "p",
    "ETCDCTL_USER": "u:p",
    "ETCDCTL_WRITE_OUT": "fields",
}

ENVIRONMENT = (
    ("get k1", {"ETCDCTL_API": ""}),
    ("get k1", {"ETCDCTL_API": "03"}),
    ("--help", {"ETCDCTL_API": "1"}),
    ("get k1", {"ETCDCTL_USER": "u", "ETCDCTL_PASSWORD": "p"}),
    ("get k1 --user=u:p", {"ETCDCTL_PASSWORD": "q"}),
    ("get k1", {"ETCDCTL_COMMAND_TIMEOUT": "x", "ETCDCTL_HEX": "maybe"}),
    ("get k1", {"ETCDCTL_LIMIT": "1"}),
    ("get k1", {"etcdctl_hex": "true"}),
    ("get k1", {"ETCDCTL_": "true"}),
    ("get k1", {"ETCDCTL_WRITE-OUT": "json"}),
    ("member list", {"ETCDCTL_WRITE_OUT": "json", "ETCDCTL_HEX": "true"}),
    ("endpoint status --cluster", {"ETCDCTL_CLUSTER": "true"}),
    ("endpoint hashkv", {"ETCDCTL_REV": "1"}),
    ("endpoint hashkv", {"ETCDCTL_CLUSTER": "true"}),
    ("lease list", {"ETCDCTL_HEX": "true"}),
    ("txn", {"ETCDCTL_INTERACTIVE": "true"}),
    ("version", {"ETCDCTL_COMMAND_TIMEOUT": "x"}),
    ("help", {"ETCDCTL_BOGUS": "x"}),
    ("get", {"ETCDCTL_BOGUS": "x"}),
    ("put k1 x -w json", {"ETCDCTL_WRITE_OUT": "json"}),
    ("watch k1 --bogus", {"ETCDCTL_BOGUS": "x"}),
)

# (argv, stdin): what a shell passes through, byte for byte.
RAW = (
    ([b"put", b"\xff\xfe", b"\x80"], b""),
    ([b"put", b"raw"], b"\x00\xff\x0a\x0d\x0a"),
    ([b"put", b"raw"], b"\n"),
    ([b"put", b"raw", b"-w", b"fields", b"--prev-kv"], b"\xc3\x28"),
    ([b"get", b"\xff"], b""),
    ([b"get", b"\xff", b"--prefix"], b""),
    ([b"get", b"\xff", b"--prefix", b"-w", b"json"], b""),
    ([b"get", b"\xff", b"--prefix", b"-w", b"fields"], b""),
    ([b"get", b"\xff", b"--prefix", b"--hex"], b""),
    ([b"get", b"\xff\xff", b"--prefix"], b""),
    ([b"get", "ключ".encode(), b"-w", b"fields"], b""),
    ([b"put", "ключ".encode(), "値".encode(), b"-w", b"json"], b""),
    ([b"put", b"\xff", b"--lease=\xff"], b""),
    ([b"put", b"k1", b"x", b"--bogus\xff"], b""),
    ([b"put", b"k1", b"x", b"-\xff"], b""),
    ([b"get", b"k1", b"-w", b"\xff"], b""),
    ([b"get", b"k1", b"--sort-by=\xff"], b""),
    ([b"get", b"k1", b"--consistency=\xff"], b""),
    ([b"get", b"k1", b"--limit=\xff"], b""),
    ([b"\xff"], b""),
    ([b"del", b"\xff", b"--prev-kv"], b""),
    ([b"txn"], b'val("\xff") = "x"\n\nput \xff \xfe\n\nget \xff\n\n'),
    ([b"txn"], b'val("\\xff") != "x"\n\nput "\\xff" "a\\tb"\nget "\\xff"\n\n\n'),
    ([b"user", b"add", b"\xff:p"], b""),
    ([b"role", b"add", b"\xff"], b""),
    ([b"user", b"get", b"\xff"], b""),
    ([b"lease", b"revoke", b"\xff"], b""),
)

# {hang} takes connections and says nothing, {http} is a web server, {dead} nobody's port.
ENDPOINTS = """
--endpoints={hang} --command-timeout=300ms get k1
--endpoints={hang} --command-timeout=300ms put k1 x
--endpoints={hang} --command-timeout=300ms endpoint status
--endpoints={hang} --command-timeout=300ms endpoint health
--endpoints={hang} --command-timeout=300ms --dial-timeout=100ms get k1 --user=u:p
--endpoints={http} --command-timeout=1s get k1
--endpoints={http} --command-timeout=1s endpoint health
--endpoints={dead},{dead} --command-timeout=300ms get k1
--endpoints={dead},{ep} get k1
--endpoints={ep},{dead} get k1
--endpoints={dead},{ep} --command-timeout=300ms endpoint status
--endpoints={dead},{ep} --command-timeout=300ms endpoint hashkv
--endpoints={dead},{ep} --command-timeout=300ms defrag
--endpoints={dead} --command-timeout=300ms lease grant 10
--endpoints={dead} --command-timeout=300ms lease revoke 1
--endpoints={dead} --dial-timeout=100ms lease keep-alive 1
--endpoints={hang} --dial-timeout=100ms lease keep-alive 1 -w json
--endpoints={dead} --command-timeout=300ms alarm list
--endpoints={dead} --command-timeout=300ms alarm disarm
--endpoints={dead} --command-timeout=300ms compaction 1
--endpoints={dead} --command-timeout=300ms move-leader 1
--endpoints={dead} --command-timeout=300ms member add x --peer-urls=http://127.0.0.1:1
--endpoints={dead} --command-timeout=300ms member remove 1
--endpoints={dead} --command-timeout=300ms endpoint health --cluster
--endpoints={dead} --command-timeout=300ms auth status
--endpoints={dead} --command-timeout=300ms auth enable
--endpoints={dead} --dial-timeout=200ms get k1 --user=u:p
--endpoints=localhost --command-timeout=300ms get k1
--endpoints=:1 --command-timeout=300ms get k1
--endpoints=http:// --command-timeout=300ms get k1
--endpoints=127.0.0.1:99999 --command-timeout=300ms get k1
--endpoints=127.0.0.1:http --command-timeout=300ms get k1
--endpoints=unix:///nonexistent/socket --command-timeout=300ms get k1
--endpoints=unix:/nonexistent/socket --command-timeout=300ms get k1
--endpoints=ftp://{ep} --command-timeout=300ms get k1
--endpoints={ep}/path --command-timeout=300ms get k1
--endpoints=http://{ep}/path get k1
--endpoints=,{ep} --command-timeout=300ms get k1
--endpoints={ep}, --command-timeout=300ms get k1
--endpoints=http://{ep},https://{ep} --command-timeout=300ms get k1
--endpoints={ep} --endpoints={ep} endpoint health
--endpoints='{ep}, {ep}' get k1
--endpoints='"{ep}"' get k1
--endpoints='"{ep}' get k1
"""


@pytest.fixture(scope="module")
def places(judge) -> Iterator[dict[str, str]]:
    """Endpoints by what is behind them."""
    with socket.create_server(("127.0.0.1", 0)) as hang, socket.create_server(("", 0)) as http:
        hosts = {name: f"127.0.0.1:{s.getsockname()[1]}" for name, s in
                 (("hang", hang), ("http", http))}  # fmt: skip
        thread = threading.Thread(target=_answer, args=(http,), daemon=True)
        thread.start()
        yield {"ep": judge.endpoint, "dead": "127.0.0.1:1", **hosts}
        http.shutdown(socket.SHUT_RDWR)
        thread.join()


def _answer(server: socket.socket) -> None:
    """Whatever is asked, as a web server that speaks no HTTP/2."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("line", lines(GLOBAL_FLAGS))
def test_global_flag(same, judge, line):
    argv, stdin = split(line, {"ep": judge.endpoint})
    same(argv, {}, stdin)


@pytest.mark.parametrize("line", lines(ENDPOINTS))
def test_endpoint(same, places, line):
    argv, stdin = split(line, places)
    same(argv, {}, stdin)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("command", ("get k1", "get k1 {flag}", "version"))
def test_variable(same, judge, variable, command):
    """A variable alone, and in conflict with its flag."""
    value = VARIABLES[variable].replace("{ep}", judge.endpoint)
    name = variable.removeprefix("ETCDCTL_").lower().replace("_", "-")
    argv = shlex.split(command.replace("{flag}", f"--{name}={value}"))
    same(argv, {"ETCDCTL_ENDPOINTS": judge.endpoint, variable: value})


@pytest.mark.parametrize(("line", "env"), ENVIRONMENT)
def test_environment(same, judge, line, env):
    same(shlex.split(line), {"ETCDCTL_ENDPOINTS": judge.endpoint, **env})


@pytest.mark.parametrize(("argv", "stdin"), RAW)
def test_bytes(same, judge, argv, stdin):
    words = [word.decode("utf-8", "surrogateescape") for word in argv]
    if judge.kind == "pyetcd" and argv[0] in (b"user", b"role"):
        # A name that is not UTF-8: the server takes none (docs/differences.md).
        _, err, code = judge.reference(words, {"ETCDCTL_ENDPOINTS": judge.endpoint}, stdin)
        assert (b"invalid UTF-8" in err, code) == (True, 1)
        return
    same(words, {"ETCDCTL_ENDPOINTS": judge.endpoint}, stdin)


def test_health_in_the_order_given(judge):
    for endpoints in ([DEAD, judge.endpoint], [judge.endpoint, DEAD]):
        argv = [f"--endpoints={','.join(endpoints)}", "--command-timeout=300ms"]
        out, err, code = run([*argv, "endpoint", "health", "-w", "json"])
        assert [each["endpoint"] for each in json.loads(out)] == endpoints
        assert err.endswith(b"Error: unhealthy cluster\n")
        assert code == 1
