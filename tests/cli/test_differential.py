"""etcdctl 3.5.1 and `pyetcd ctl` with the same command line against the same etcd.

Each row runs in both programs, from the same keys and values; stdout, stderr and the exit code must
be equal after ids, times and sizes, which differ from run to run, are blanked. `pyetcd ctl` runs in
process, through the function that its entry point calls; test_process.py runs real processes.
"""

import re
import shlex

import pytest

from pyetcd.cli.ctl.run import run
from pyetcd.proto import rpc_pb2 as rpc

DEAD = "--endpoints=127.0.0.1:1 --command-timeout=150ms"
FORMATS = ("simple", "json", "fields", "table", "protobuf")

# A line is a command line; " << " starts its stdin, in which "|" stands for a line's end.
KV = """
put k1 new
put k1 new --prev-kv
put k1 new --prev-kv --hex
put k9
put k9 << from stdin
put k9 << two|lines|
put
put k1 a b c
put -- k1 -value
put k1 -- -value
put k1 -value
put k1 --ignore-value
put k1 x --ignore-value
put nokey --ignore-value
put k1 x --ignore-lease
put nokey x --ignore-lease
put k1 x --lease=zz
put k1 x --lease=1
put k1 x --lease=0
put k1 x --lease=
put '' x
put k1 ''
put k1 x --prev-kv=false
put k1 x --prev-kv=maybe
put k1 'ünïcödé' --prev-kv
get k1
get k1 --hex
get nokey
get ''
get
get k1 k3
get k --prefix
get k --prefix --keys-only
get k --prefix --keys-only=false
get k --prefix --limit=2
get k --prefix --limit 0x2
get k --prefix --limit=x
get k --prefix --limit
get k --prefix --print-value-only
get k --prefix --count-only
get k --prefix --count-only -w fields
get k --prefix --keys-only --count-only
get k2 --from-key
get k2 --from-key --prefix
get k2 k3 --prefix
get k2 k3 --from-key
get '' --prefix
get '' --from-key
get '' --from-key --limit=1 -w fields
get k1 --consistency=s
get k1 --consistency=l
get k1 --consistency=q
get k --prefix --order=DESCEND
get k --prefix --order=descend --sort-by=key
get k --prefix --order=ASCEND --sort-by=VALUE
get k --prefix --sort-by=VERSION
get k --prefix --sort-by=modify --order=descend
get k --prefix --sort-by=create --order=descend
get k --prefix --sort-by=FOO
get k --prefix --order=FOO
get k1 --rev=1000000000
get k1 --rev=-5
get k1 --rev 1
get k1 --rev=abc
get k1 --rev=99999999999999999999
get --prefix k
get k1 extra words here
get bin --hex
get bin -w json
get bin -w fields
get k1 -w json --print-value-only
get k1 -wjson
get k1 -w=json
get k1 --write-out json
get k1 --write-out=xml
get k1 -w
get -w json k1
-w json get k1
--endpoints {ep} get k1
get k1 --hex=true
get k1 --hex=0
get k1 --hex=T
get k1 --hex false
get k1 -z
get k1 --zz
get k1 ---x
get k1 --=x
get k1 -h
get k1 --help=false
del k1
del k1 --prev-kv
del k1 --prev-kv --hex
del nokey
del k --prefix
del k --prefix --prev-kv
del k2 --from-key
del k1 k3
del k1 k3 k4
del
del k1 k2 --prefix
del k1 --prefix --from-key
del ''
del '' --prefix
ge k1
g k1
compaction
compaction x
compaction 1000000000
compaction 1 2
compaction -- -1
comp 1000000000
"""

TXN = """
txn << |||
txn -i << |||
txn --interactive=false << |||
txn x
txn <<
txn << |
txn << ||
txn << val("k1") = "v1"||get k1||get k2||
txn << value("k1") = "nope"||get k1||get k2||
txn << val("k1") < "v2"|val("k1") > "v0"|val("k1") != "x"||put k1 x|get k1|del k2|||
txn << ver("k1") = "1"||get k1 --keys-only||get k2||
txn << version("nokey") = "0"||put new "a b"|get new||get k2||
txn << c("nokey") = "0"||get k1||get k2||
txn << create("k1") > "0"||get k1||get k2||
txn << m("k1") > "0"||get k1||get k2||
txn << mod("k1") < "0"||get k1||get k2 --hex||
txn << bogus("k1") = "zzz"||||
txn << val"k1" = "zzz"||||
txn << val("k1")= "zzz"||||
txn << val("k1") = zzz||||
txn << val(k1) = "zzz"||||
txn << ver("k1") = "x"||||
txn << ver("k1") >= "1"||||
txn << lease("k1") = "1"||||
txn << val("k1") = "v1" trailing||get k1|||
txn << val(`k1`) = `v1`||get k1|||
txn << val("\\x6b1") = "v1"||get k1|||
txn << |foo k1|||
txn << |put||
txn << |put k1||
txn << |put k1 x --bogus||
txn << |get k1 --limit=x||
txn << |get k --prefix --limit=1|||
txn << |get k1 --consistency=q|||
txn << |del k --prefix --prev-kv|||
txn << |put "q k" "q v"|get "q k"|||
txn << |put k1 a|put k1 b|||
txn << |get ''|||
txn -w json << val("k1") = "v1"||put k1 x --prev-kv|get k1|del k2 --prev-kv|||
txn -w fields << val("k1") = "v1"||put k1 x --prev-kv|get k1|del k2 --prev-kv|||
txn -w protobuf << val("k1") = "v1"||get k1|||
txn -w table << |||
"""

OTHER = """
lease
lease bogus
lease grant
lease grant x
lease grant 99999999999
lease grant 1 2
lease revoke
lease revoke 1
lease revoke zz
lease revoke 1 -w json
lease revoke 99999999999999999
lease timetolive
lease timetolive 1
lease timetolive 1 --keys
lease timetolive zz
lease timetolive 1 -w json
lease timetolive 1 -w fields
lease timetolive 1 -w table
lease list
lease list -w json
lease list -w fields
lease list -w protobuf
lease list -w table
lease keep-alive
lease keep-alive 1
lease keep-alive 1 -w json
lease keep-alive 1 --once
lease keep-alive zz
lease keep-alive 1 --bogus
member list
member list -w json
member list -w json --hex
member list -w fields
member list -w table
member list -w protobuf
member list -w bad
member
member add
member add x
member add x http://127.0.0.1:1
member add x y --peer-urls=http://127.0.0.1:1
member add x --peer-urls=foo
member add x --peer-urls=http://foo
member add x --peer-urls=http://127.0.0.1:1/path
member add x --peer-urls=ftp://127.0.0.1:1
member add x --peer-urls=http://[::1
member add x --peer-urls=http://127.0.0.1:1,http://[::1]
member add x --peer-urls='http://a b:1'
member add x --peer-urls=http://h:x
member add x --peer-urls=:1
member add x --peer-urls=unix://h
member remove
member remove zz
member remove 1
member update
member update 1
member update zz --peer-urls=http://127.0.0.1:1
member update 1 --peer-urls=http://127.0.0.1:1
member promote
member promote 1
member promote zz
endpoint
endpoint health
endpoint health --cluster
endpoint health -w json
endpoint health -w fields
endpoint health -w table
endpoint health -w protobuf
endpoint health -w bad
endpoint status
endpoint status --cluster
endpoint status --cluster=false -w json
endpoint status -w fields
endpoint status -w table
endpoint status -w protobuf
endpoint hashkv
endpoint hashkv -w json
endpoint hashkv -w fields
endpoint hashkv -w table
endpoint hashkv --rev=1000000000
endpoint hashkv --cluster --rev=x
endpoint hashkv -w protobuf
alarm
alarm list
alarm list x
alarm list -w json
alarm list -w fields
alarm list -w table
alarm list -w protobuf
alarm disarm
alarm disarm x
alarm disarm -w json
alarm disarm -w fields
alarm disarm -w protobuf
defrag
defrag x
defrag --cluster
defrag -w bad
move-leader
move-leader zz
--endpoints={ep} move-leader 1
version
version x -w bad
watch
watch --
watch k1 --
watch a b --prefix
watch k1 --rev=x
watch -i
watch -i << foo
watch -i << foo||progress x|watch|
watch -i << watch k1 --bogus|
watch -i << watch k1 k2 --prefix|
watch -i << watch k1 --|
watch k1 -w bad
help
help put
help lease
help lease grant
help bogus
help lease bogus
--help
-h
lease -h
lease grant --help
put --help
get --help
del --help
txn --help
watch --help
compaction --help
lease timetolive --help
lease keep-alive --help
member add --help
member list --help
member promote --help
endpoint --help
endpoint health --help
endpoint status --help
endpoint hashkv --help
defrag --help
move-leader --help
user --help
user add --help
user get --help
user passwd --help
role grant-permission --help
role revoke-permission --help
auth --help
snapshot --help
snapshot restore --help
check perf --help
check datascale --help
make-mirror --help
lock --help
elect --help
help help

bogus
puts k1 v
e
le
--bogus
--version
--bogus get k1
--endpoints
-w
--help=x
get k1 --command-timeout 5
get k1 --command-timeout=x
get k1 --command-timeout=5x
get k1 --dial-timeout=
get k1 --debug=x
get k1 --cert=x
get k1 --key=x
get k1 --cert=x --key=y
get k1 --cacert=x
get k1 --cacert=
get k1 --cert=
get k1 --key=
get k1 --keepalive-time=1m --keepalive-timeout=3s
get k1 --insecure-transport=true --insecure-skip-tls-verify
"""

# Rows whose endpoints stand on the command line: no ETCDCTL_ENDPOINTS for them.
UNREACHABLE = f"""
{DEAD} get k1
{DEAD} put k1 x
{DEAD} member list
{DEAD} endpoint status
{DEAD} endpoint status -w json
{DEAD} endpoint status -w table
{DEAD} endpoint health
{DEAD} endpoint hashkv
{DEAD} endpoint status --cluster
{DEAD} defrag
--endpoints=foo --command-timeout=150ms get k1
--endpoints= get k1
--endpoints=127.0.0.1:1,{{ep}} get k1
--endpoints={{ep}} --endpoints=127.0.0.1:1 get k1
--endpoints={{ep}},{{ep}} endpoint status
--endpoints=http://{{ep}} get k1
--endpoints=https://{{ep}} --command-timeout=150ms get k1
--endpoints={{ep}} --insecure-transport=false --command-timeout=150ms get k1
--endpoints={{ep}} --user=root:pw get k1
--endpoints={{ep}} --user=root --password=pw get k1
"""

ENVIRONMENT = (
    ("get k1", {"ETCDCTL_HEX": "true"}),
    ("get k1", {"ETCDCTL_WRITE_OUT": "json"}),
    ("get k1", {"ETCDCTL_WRITE_OUT": "bad"}),
    ("get k1 -w json", {"ETCDCTL_WRITE_OUT": "fields"}),
    ("get k1", {"ETCDCTL_BOGUS": "1"}),
    ("get k1", {"ETCDCTL_DIAL_TIMEOUT": "x"}),
    ("get k1 --hex", {"ETCDCTL_HEX": ""}),
    ("get k1", {"ETCDCTL_API": "3"}),
    ("get k1", {"ETCDCTL_API": "4"}),
    ("get k1", {"ETCDCTL_PREFIX": "true"}),
    ("get k1", {"ETCDCTL_WATCH_KEY": "k1"}),
    ("version", {"ETCDCTL_BOGUS": "1"}),
    ("endpoint status", {"ETCDCTL_CLUSTER": "true"}),
    ("endpoint health", {"ETCDCTL_CLUSTER": "true"}),
    ("defrag", {"ETCDCTL_CLUSTER": "true"}),
    ("move-leader 1", {}),
    ("--endpoints={ep} get k1", {}),
    ("watch", {"ETCDCTL_WATCH_RANGE_END": "k1"}),
    ("watch k1", {"ETCDCTL_WATCH_KEY": "k1"}),
)

_MESSAGES = {"get": rpc.RangeResponse, "put": rpc.PutResponse, "txn": rpc.TxnResponse}


def without_revisions(kind: str, raw: bytes) -> str:
    """A protobuf answer as text, with its revisions blanked."""
    message = _MESSAGES.get(kind, rpc.ResponseHeader).FromString(raw)
    return re.sub(r"revision: \d+", "revision: N", str(message))


def rows(text: str) -> list[str]:
    return [line for line in text.strip("\n").split("\n") if line or text is OTHER]


@pytest.fixture
def keys(judge):
    """Puts the same keys back, before each run of each program."""
    pairs = (("k1", "v1"), ("k2", "v2"), ("k3", "v3"), ("other", "o"))
    lines = "".join(f"put {key} {value}\n" for key, value in pairs)
    lines += 'put bin "\\x00\\xff\\"<>\\n"\n'
    endpoint = f"--endpoints={judge.endpoint}"

    def restore() -> None:
        assert run([endpoint, "del", "", "--prefix"])[2] == 0
        out, err, code = run([endpoint, "txn"], stdin=f"\n{lines}\n\n".encode())
        assert code == 0, (out, err)

    return restore


def compare(judge, keys, blank, line: str, env: dict[str, str]) -> None:
    command, arrow, typed = line.partition(" <<")
    argv = shlex.split(command.replace("{ep}", judge.endpoint))
    stdin = typed.removeprefix(" ").replace("|", "\n").encode() if arrow else b""
    keys()
    out, err, code = judge.reference(argv, env, stdin)
    keys()
    ours_out, ours_err, ours_code = run(argv, env, stdin)
    assert blank(ours_err).decode("utf-8", "replace") == blank(err).decode("utf-8", "replace")
    if "protobuf" in argv:
        kind = argv[0]
        assert without_revisions(kind, ours_out) == without_revisions(kind, out)
    else:
        assert blank(ours_out).decode("utf-8", "replace") == blank(out).decode("utf-8", "replace")
    assert ours_code == code


@pytest.mark.parametrize("line", rows(KV) + rows(TXN) + rows(OTHER))
def test_row(judge, keys, blank, line):
    env = {} if "{ep}" in line else {"ETCDCTL_ENDPOINTS": judge.endpoint}
    compare(judge, keys, blank, line, env)


@pytest.mark.parametrize("line", rows(UNREACHABLE))
def test_endpoints(judge, keys, blank, line):
    compare(judge, keys, blank, line, {})


@pytest.mark.parametrize(("line", "env"), ENVIRONMENT)
def test_environment(judge, keys, blank, line, env):
    compare(judge, keys, blank, line, {"ETCDCTL_ENDPOINTS": judge.endpoint, **env})


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "command",
    ("put k1 x --prev-kv", "get k --prefix", "del k --prefix --prev-kv", "put k1 x", "get nokey"),
)
def test_format(judge, keys, blank, command, format):
    compare(judge, keys, blank, f"{command} -w {format}", {"ETCDCTL_ENDPOINTS": judge.endpoint})
