"""etcdctl 3.5.1 and `pyetcd ctl`, both with ETCDCTL_API=2: the same command lines, in the same
order, to servers that were empty before: etcd and pyetcd with --enable-v2, one of each for each
program.

stdout, stderr and the exit code are those of etcdctl with etcd, byte for byte after ids, ports and
times, which differ from run to run, are blanked. Indexes are equal: all four count the same writes.
`pyetcd ctl` runs in process; test_v2_process.py runs real processes.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from v2store import level

from pyetcd.cli.ctl2.run import run

Outcome = tuple[bytes, bytes, int]
DEAD = "--endpoints=http://127.0.0.1:1"

# A line is a command line; " << " starts its stdin, in which "|" stands for a line's end.
ALONE = """
--help
-h
-help
--h
-h --help
-v
--version
--version get
help
h
help get
help set
help member
help help
help h
help bogus
h bogus
help ''
help backup
help -h
help --bogus
bogus
''
-
- get
-- bogus
-- --help
--bogus
--bogus get
---x
--=x
-o
--output
--timeout=x get /a
--timeout 5 get /a
--total-timeout= get /a
--debug=x get /a
--debug=maybe
--output=a -o b get /a
-o a --output b --bogus
--version=x
member
member ''
member -h
member --help=false
member -h --help
member -h bogus
member -x
member bogus
member help
member h
member help add
member help help
member help -h
member help ''
member help bogus
member h bogus
user
user -h
user help
role
role help
auth
auth --help
auth bogus
get -h
get a --help
get --help=x
get --bogus
get -h --bogus
get -q --quorum /a
get ---x
get -=x
mk -h
mkdir -h
rm -h
rmdir -h
rmdir --dir a
ls -h
set -h
set --ttl=x a b
set --ttl a b
set a b --ttl
set a b --ttl=99999999999999999999
set a --ttl= b
set a -b
setdir -h
update -h
updatedir -h
watch -h
watch --after-index=x a
exec-watch -h
cluster-health -h
backup -h
member list -h
member add -h
member add --help x
member remove -h
member update -h
user add -h
user get -h
user list -h
user remove -h
user grant -h
user revoke -h
user passwd -h
role add -h
role get -h
role list -h
role remove -h
role grant -h
role revoke -h
auth enable -h
auth disable --help
member list x
member add
member add x
member remove
member update x
user list x
user add
user get
user remove a b
user grant x
user grant
user grant x --roles=
user revoke x
user passwd
role list x
role add
role get
role remove
role grant x
role grant x --path=a
role grant x --path=/a//b/
role grant x --path=/a
role grant x --path=/a --read --write
role grant --path=/a --rw
role revoke x --path=/a --rw --readwrite
auth enable x
auth disable x
--cert-file=/nofile get a
--key-file=/nofile get a
--cert-file=/nofile --key-file=/nofile get a
--ca-file=/nofile get a
--ca-file=/nofile cluster-health
--ca-file=/ get a
--endpoints=127.0.0.1:2379 get a
--endpoints=http://[::1 get a
--endpoints=http://x:y get a
--endpoints=:x get a
--endpoints=http://a%zz get a
--endpoints=http://1%2:1 get a
--endpoints='http://a b' get a
--endpoints=localhost:1 get a
--endpoints=ftp://127.0.0.1:1 get a
--endpoints=http://127.0.0.1:99999 get a
--endpoints=http://127.0.0.1:99999 --no-sync mk a b
--endpoints=http://[::1]:1 get a
--endpoints=/x get a
--endpoints=/x mk a b
--endpoints=unix://127.0.0.1:1 get a
"""

UNREACHABLE = f"""
{DEAD} get
{DEAD} get a
{DEAD} --no-sync get
{DEAD} --no-sync get a
{DEAD} --no-sync set a b
{DEAD} --no-sync set a
{DEAD} --no-sync mk a b
{DEAD} --no-sync mkdir a
{DEAD} --no-sync rm a
{DEAD} --no-sync rmdir a
{DEAD} --no-sync ls
{DEAD} --no-sync watch a
{DEAD} --no-sync exec-watch a b
{DEAD} --no-sync mk --in-order a b
{DEAD} --no-sync member list
{DEAD} --no-sync member add x http://127.0.0.1:2
{DEAD} --no-sync member remove x
{DEAD} --no-sync member update x http://127.0.0.1:2
{DEAD} --no-sync user list
{DEAD} --no-sync user add x:y
{DEAD} --no-sync user get x
{DEAD} --no-sync role list
{DEAD} --no-sync role add x
{DEAD} --no-sync role get x
{DEAD} --no-sync role grant x --path=/a --read
{DEAD} --no-sync auth enable
{DEAD} -o json --no-sync get a
{DEAD} member list
{DEAD} user list
{DEAD} cluster-health
{DEAD} --debug get a
{DEAD} --debug --no-sync get a
{DEAD} --debug --no-sync set a 'b c'
{DEAD} --debug --no-sync user list
{DEAD} --debug --no-sync cluster-health
{DEAD} --total-timeout=0 get a
{DEAD} --total-timeout=-1s member list
{DEAD},http://127.0.0.1:2 get a
{DEAD},http://127.0.0.1:2 --no-sync mk a b
"""

# Each of the four servers gets these in this order.
SERVED = """
get /a
ls
ls /
ls /nope
set /a 1
set /a 2
get /a
get a
get //a/
get /a/b
get /nope
-o extended get /a
-o json get /a
-o bad get /a
-o json get /nope
-o extended set /a 3
-o json set /a 4
get -q /a
get --quorum --sort /a
get --quorum=false /a
get
get ''
get /
get /a b c
set
set /a
set /a << from stdin|
set /b << two|lines
get /a
-o json get /b
set '' x
set / x
set /a 'a<b>&"\\ é	z'
get /a
-o json get /a
set '/k é?#%&+' v
get '/k é?#%&+'
set -- /a -1
get /a
set /a -- -2
set /a ''
get /a
set /a/b x
set %41 1
get A
get %41
set 'key?x=1#f' 1
get 'key?x=1#f'
set '/*' 1
set '/x/../y' 1
get /y/
user get ../x
member remove ''
--endpoints='{ep}?x=y' --no-sync get %41
--endpoints='{ep}#f' --no-sync get %41
--total-timeout=2000000h get %41
set --ttl 100 /t v
-o json get /t
-o extended get /t
set --ttl -5 /t v
set --ttl 0x10 /t v
set --ttl 9223372037 /t v
set --ttl 9223372036 /t v
-o extended get /t
set --swap-with-value v /t w
set --swap-with-value v /t w
set --swap-with-index 1 /t w
set --swap-with-index=-1 /t w
set --swap-with-value v --swap-with-index 1 /t w
-o json set --swap-with-value w /t v
set --swap-with-value x /nope w
mk /m 1
mk /m 1
mk /a/b 1
mk
mk /m2
-o extended mk /m2 1
-o json mk --ttl 100 /m3 1
mk --in-order /q 1
mk --in-order --ttl 50 /q 2
-o json mk --in-order /q 3
mk --in-order /m 1
ls /q --sort
ls --sort -p /q
mkdir /d
mkdir /d
mkdir /m
mkdir
mkdir ''
mkdir --ttl 100 /dt
-o json mkdir /d2
-o extended mkdir /d3
setdir /d
setdir /d4
setdir --ttl 100 /d5
setdir /m
-o json setdir /d6
update /m 2
update /nope 2
update /d x
update /m
update --ttl 100 /m 3
-o json update /m 4
-o extended update /m 5
update /m << stdin
updatedir /d
updatedir /nope
updatedir /m
updatedir /d --ttl 100
-o json updatedir /d
updatedir
set /d/x/y 1
set /d/x/z 2
set /d/_h 2
ls /d
ls /d/x --sort
ls --sort -r /d
ls --sort -r -p /d
ls -p --sort --recursive /d
ls -q --sort /d/x
ls /d/x/y
ls -p /d/x/y
ls /d/_h
-o json ls /d/_h
-o json ls --sort -r /d
-o extended ls --sort -r /d
-o bad ls /d
ls /d -p x --sort
ls -p /d x
get /d
get -o json /d
-o json get /d/x/y
rm /nope
rm
rm /d
rm --dir /d
rm --dir /d/x/y
rm --with-value 9 /d/x/z
rm --with-index 1 /d/x/z
rm --with-index 1 --with-value 9 /d/x/z
rm --with-value 2 /d/x/z
-o json rm /m2
-o extended rm /m3
rm -r /d
rm -r /nope
rm -r /
rm --dir /d2
-o json rm --dir /d3
-o json rm -r /d4
rmdir /d6
rmdir /d6
rmdir /q
rmdir /m
rmdir
rmdir /
-o extended rmdir /d5
watch
watch --after-index 3 /a
watch --after-index 3 -r /
watch --after-index 4 --recursive /
-o json watch --after-index 3 /a
-o extended watch --after-index 4 /a
-o json watch --after-index 20 -r /d
-o bad watch --after-index 3 /a
watch --after-index 3 / -r
watch --after-index 3 -f=false /a
exec-watch
exec-watch /a
exec-watch --after-index 3
member list
cluster-health
cluster-health x y
member add x foo
member add x ftp://127.0.0.1:1
member add x http://foo
member add x http://127.0.0.1:1/path
member add x http://127.0.0.1:y
member remove m1
member remove zz
member update zz http://127.0.0.1:3
member update 1 http://127.0.0.1:3,http://127.0.0.1:2
member update 1 x
--debug member list
--debug get /a
--debug --no-sync get /a
--debug set /a 'x y&z'
--debug mkdir /dd
--debug rm -r /dd
--debug mk --in-order --ttl 5 /q x
--debug watch --after-index 3 /a
--debug user list
--debug role get root
--debug auth disable
--debug cluster-health
--timeout=0 get /a
--timeout=-1s get /a
--total-timeout=1m get /a
-C {ep} get /a
--peers {ep} --endpoint http://127.0.0.1:1 --no-sync get /a
--peers {ep} --endpoint http://127.0.0.1:1 --endpoints http://127.0.0.1:2 --no-sync get /a
--endpoints=,{ep} get /a
--no-sync --endpoints={ep},{ep} get /a
--endpoints={ep}/ get /a
--endpoints={ep}/pre --no-sync get /a
--endpoints={ep}/pre get /a
--endpoints={ep}/pre member list
--endpoints={ep}/pre user list
--endpoints={ep}/pre user get x
--endpoints={ep}/pre role list
--endpoints={ep}/pre role get x
--endpoints={ep}/pre auth enable
--endpoints={ep}/pre cluster-health
user list
user get x
user add x:pw
user add x:pw
user add y << pw|
user add y2 << |
user add z << pw
user add z:
user add a:b:c
user add 'é ü:p'
user add ''
user list
user get x
user grant x --roles r1
user grant x --roles root
user grant x --roles root
user grant nope --roles root
user get x
user revoke x --roles root
user revoke x --roles root
user passwd x << new|
user passwd x << |
user passwd nope << new|
user remove z
user remove z
user remove nope
role list
role add r1
role add r1
role add root
role add ''
role get r1
role get root
role get nope
role grant r1 --path /a --read
role grant r1 --path /a --read
role grant r1 --path '/b/*' --rw
role grant r1 --path /c --write
role get r1
role revoke r1 --path /a --read
role revoke r1 --path /a --read
role revoke r1 --path /nope --readwrite
role grant nope --path /a --read
role grant root --path /a --read
role get r1
role list
user grant x --roles r1
user grant y --roles r1 --roles root
user get y
role remove r2
role remove root
auth disable
auth enable
user add root:rpw
auth enable
auth enable
get /a
set /a 1
-u root:rpw auth disable
-u root:rpw auth enable
-u root:rpw auth enable
-u root:rpw role get guest
-u root:rpw role revoke guest --path '/*' --rw
get /a
set /a 1
-o json get /a
ls
mk /z z
rm /a
watch /a
user list
role list
role get r1
role add r9
member list
member remove x
member add x http://127.0.0.1:1
cluster-health
auth disable
-u x:new get /a
-u x:new get /b
-u x:new set /b/c d
-u x:new get /b/c
-u x:wrong get /b/c
-u nope:x get /b/c
-u x get /b/c << new|
-u x get /b/c << |
-u '' get /b/c
-u :pw get /b/c
--username=x:new user list
-u x:new auth disable
-u root:wrong user list
-u root:rpw user list
-u root:rpw user get x
-u root:rpw role remove r1
-u root:rpw user remove x
-u root:rpw member list
-u root:rpw auth disable
-u root:rpw get /a
auth disable
"""

ENVIRONMENT = (
    ("get /a", {"ETCDCTL_ENDPOINT": "{ep}"}),
    ("get /a", {"ETCDCTL_PEERS": "{ep}"}),
    ("get /a", {"ETCDCTL_PEERS": "http://127.0.0.1:1", "ETCDCTL_ENDPOINT": "{ep}"}),
    ("--endpoint={ep} get /a", {"ETCDCTL_ENDPOINT": "http://127.0.0.1:1"}),
    ("--endpoint={ep} get /a", {"ETCDCTL_ENDPOINTS": "http://127.0.0.1:1"}),
    ("--endpoints={ep} get /a", {"ETCDCTL_ENDPOINTS": "http://127.0.0.1:1"}),
    ("get /a", {"ETCDCTL_ENDPOINTS": "{ep}", "ETCDCTL_CA_FILE": "/nofile"}),
    ("get /a", {"ETCDCTL_ENDPOINTS": "{ep}", "ETCDCTL_CERT_FILE": "/nofile"}),
    ("get /a", {"ETCDCTL_ENDPOINTS": "{ep}", "ETCDCTL_KEY_FILE": "/nofile"}),
    ("get /a", {"ETCDCTL_ENDPOINTS": "{ep}", "ETCDCTL_USERNAME": "x:y"}),
    ("get /a", {"ETCDCTL_ENDPOINTS": "{ep}", "ETCDCTL_OUTPUT": "json"}),
    ("get /a", {"ETCDCTL_ENDPOINTS": "{ep}", "ETCDCTL_BOGUS": "x"}),
    ("get /a", {"ETCDCTL_ENDPOINTS": "{ep}", "ETCDCTL_DEBUG": "true"}),
)

_BLANKS = [
    (rb"127\.0\.0\.1:\d{4,}", b"127.0.0.1:PORT"),
    (rb"\b[0-9a-f]{15,16}\b", b"ID"),
    (rb"TTL: [1-9]\d*", b"TTL: N"),
    (rb'"ttl":\d+', b'"ttl":N'),
    (rb'"expiration":"[^"]*"', b'"expiration":T'),
    (rb"stty: [^\n]*\n", b""),  # etcdctl runs it also where there is no terminal
]


def rows(text: str) -> list[str]:
    return text.strip("\n").split("\n")


def blanked(outcome: Outcome) -> tuple[str, str, int]:
    out, err, code = outcome
    for pattern, instead in _BLANKS:
        out, err = re.sub(pattern, instead, out), re.sub(pattern, instead, err)
    return out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), code


@dataclass(frozen=True)
class Programs:
    """etcdctl, and the servers: two of etcd, of pyetcd two; the first of each is etcdctl's."""

    etcdctl: str
    etcds: tuple[str, str]
    pyetcds: tuple[str, str]

    def reference(
        self, line: str, env: dict[str, str], endpoint: str
    ) -> Callable[[], tuple[str, str, int]]:
        """Starts etcdctl; what is returned waits for its end."""
        argv, env, stdin = filled(line, env, endpoint)
        env = {"PATH": os.environ["PATH"], "ETCDCTL_API": "2", **env}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [self.etcdctl, *argv], env=env, stdin=pipe, stdout=pipe, stderr=pipe
        )

        def finish() -> tuple[str, str, int]:
            with process:
                try:
                    out, err = process.communicate(stdin, timeout=30)
                finally:
                    process.kill()
            return blanked((out, err, process.returncode))

        return finish


def filled(
    line: str, env: dict[str, str], endpoint: str
) -> tuple[list[str], dict[str, str], bytes]:
    def fill(text: str) -> str:
        return text.replace("{ep}", endpoint)

    command, arrow, typed = line.partition(" <<")
    stdin = typed.removeprefix(" ").replace("|", "\n").encode() if arrow else b""
    return shlex.split(fill(command)), {name: fill(text) for name, text in env.items()}, stdin


@pytest.fixture(scope="module")
def programs(tmp_path_factory: Any, machine_type: Any) -> Iterator[Programs]:
    machines = [machine_type(tmp_path_factory.mktemp("v2")) for _ in range(4)]
    try:
        kinds = ("etcd", "etcd", "pyetcd", "pyetcd")
        nodes = [
            machine.single(kind, "--enable-v2", "--unsafe-no-fsync", name="m1")
            for machine, kind in zip(machines, kinds, strict=True)
        ]
        urls = [f"http://{node.endpoint}" for node in nodes]
        level(urls)
        yield Programs(machines[0].etcdctl, (urls[0], urls[1]), (urls[2], urls[3]))
    finally:
        for machine in machines:
            machine.close()


@pytest.fixture(scope="module")
def etcdctl(machine_type: Any, tmp_path_factory: Any) -> Programs:
    machine = machine_type(tmp_path_factory.mktemp("v2alone"))
    return Programs(machine.etcdctl, ("", ""), ("", ""))


@pytest.mark.parametrize("line", [*rows(ALONE), *rows(UNREACHABLE)])
def test_alone(etcdctl: Programs, line: str) -> None:
    finish = etcdctl.reference(line, {}, "")
    argv, env, stdin = filled(line, {}, "")
    got = run(argv, env, stdin)
    if "http://127.0.0.1:2" in line:  # it is left to chance which of two is tried first
        assert unordered(blanked(got)) == unordered(finish())
    else:
        assert blanked(got) == finish()


def unordered(outcome: tuple[str, str, int]) -> tuple[str, list[str], int]:
    out, err, code = outcome
    return out, sorted(re.sub(r"#\d|127.0.0.1:\d", "", err).split(";")), code


@pytest.mark.parametrize("line", rows(SERVED))
def test_served(programs: Programs, line: str) -> None:
    check(programs, line, {"ETCDCTL_ENDPOINTS": "{ep}"} if "{ep}" not in line else {})


@pytest.mark.parametrize(("line", "env"), ENVIRONMENT)
def test_environment(programs: Programs, line: str, env: dict[str, str]) -> None:
    check(programs, line, env)


def check(programs: Programs, line: str, env: dict[str, str]) -> None:
    finish = [programs.reference(line, env, urls[0]) for urls in (programs.etcds, programs.pyetcds)]
    outcomes = []
    for _, endpoint in (programs.etcds, programs.pyetcds):
        argv, environment, stdin = filled(line, env, endpoint)
        outcomes.append(blanked(run(argv, environment, stdin)))
    expected, same = finish[0](), finish[1]()
    assert outcomes == [expected, expected]
    assert same == expected
