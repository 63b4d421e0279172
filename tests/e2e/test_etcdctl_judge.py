"""The same command lines in the same order against real etcd 3.5.1 and against pyetcd.

Three servers, each with a history of its own: real etcd asked by the real etcdctl, which is the
judge; pyetcd asked by the real etcdctl; pyetcd asked by `pyetcd ctl`. Stdout, stderr and exit code
must be equal, revisions included; blanked are ids, ports, times, sizes and raft's indexes. Only
`pyetcd ctl` runs in process, but for watches, which end by an interrupt.
"""

import json
import re
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from later import ADDED

from pyetcd.cli.ctl.run import run as ctl
from pyetcd.proto import rpc_pb2 as rpc

FORMATS = ("simple", "json", "fields", "table", "protobuf")
WATCH_S, WATCH_S_MAX, QUIET_S = 4.0, 20.0, 0.7
QUOTA_BYTES = 2 << 20

Outcome = tuple[bytes, bytes, int]

# "<<" starts stdin, in which "|" stands for a line's end. {f} is each format in turn.
KV = r"""
get nokey -w {f}
put k1 v1 -w {f}
put k1 v1b --prev-kv -w {f}
put k2 'two words' -w {f}
put k3 "" --prev-kv -w {f}
put "\x01\xff" 'üñ' -w {f}
get k1 -w {f}
get k --prefix -w {f}
get k --prefix --limit=1 -w {f}
get k --prefix --keys-only -w {f}
get k --prefix --count-only -w {f}
get k1 k3 -w {f}
get k2 --from-key -w {f}
get "" --prefix --sort-by=MODIFY --order=DESCEND -w {f}
get k --prefix --sort-by=VALUE --order=ASCEND -w {f}
get k --prefix --sort-by=VERSION -w {f}
get k1 --rev=2 -w {f}
get k1 --rev=100000 -w {f}
get k1 --rev=-4 -w {f}
get k1 --consistency=s -w {f}
get k --prefix --hex -w {f}
get k --prefix --print-value-only -w {f}
put k9 x --ignore-value -w {f}
put k9 --ignore-value -w {f}
put k1 --ignore-value --prev-kv -w {f}
put k1 x --lease=123 -w {f}
put k1 x --ignore-lease -w {f}
put "" x -w {f}
get "" -w {f}
del "" -w {f}
txn -w {f} << value("k1") = "x"||put k1 y --prev-kv|get k --prefix|del k2 --prev-kv|||
txn -w {f} << value("k1") = "x"|mod("k9") = "0"||put k1 y|||get k1|put k9 z||
txn -w {f} << ver("k1") > "1"||get k1 --rev=1000000|||
txn -w {f} << create("nope") != "0"||get k1|||
txn -w {f} << |put k1 a|put k1 b|||
txn -w {f} << |put k1 a --lease=77|||
txn -w {f} << |del k9|put k9 new||
txn -w {f} << |get k9 --limit=1 --prefix|del "" --prefix --prev-kv|||
del k1 -w {f}
put d1 1
put d2 2
del d --prefix --prev-kv -w {f}
del d --prefix -w {f}
compaction 1000000 -w {f}
compaction -- -3
"""

COMPACTION = r"""
put a 1
put a 2
del a
put a 3
put b 1
get a --rev=2
compaction 4
get a --rev=3
get a --rev=4
get a --rev=5
compaction 4
compaction 3
compaction 6 --physical
compaction 7 -w json
get a --rev=5 -w json
put c 1
endpoint hashkv
endpoint hashkv --rev=7
endpoint hashkv --rev=3
endpoint hashkv --rev=100000
endpoint hashkv -w json
endpoint hashkv -w fields
endpoint hashkv -w table
endpoint hashkv -w protobuf
"""

LEASES = r"""
lease grant 1
lease grant 0 -w {f}
lease grant -- -5
lease grant 9000000001 -w {f}
lease grant 100 -w {f}
put l1 v --lease={lease} -w {f}
put l2 v --lease={lease} --prev-kv -w {f}
get l1 -w {f}
lease timetolive {lease}
lease timetolive {lease} --keys -w {f}
lease keep-alive {lease} --once -w {f}
put l1 w --ignore-lease -w {f}
put l2 w
lease timetolive {lease} --keys
lease revoke {lease} -w {f}
lease revoke {lease} -w {f}
lease timetolive {lease} -w {f}
lease keep-alive {lease} --once -w {f}
lease keep-alive {lease} -w {f}
get l --prefix -w {f}
lease revoke zz
"""

CLUSTER = r"""
member list -w {f}
member list --hex -w {f}
endpoint health -w {f}
endpoint status -w {f}
endpoint health --cluster -w {f}
endpoint status --cluster -w {f}
alarm list -w {f}
alarm disarm -w {f}
defrag -w {f}
defrag --cluster
move-leader 1 -w {f}
move-leader {id}
move-leader zz
member remove 1 -w {f}
member promote 1 -w {f}
member promote {id}
member update 1 --peer-urls=http://127.0.0.1:1 -w {f}
member update {id} --peer-urls=http://127.0.0.1:{peer} -w {f}
member add x --peer-urls=nourl
member add x --peer-urls=http://127.0.0.1:{peer}
member add x
version
"""

QUOTA = r"""
put small w
put small ""
txn << |put small w|||
lease grant 10
get small
endpoint health
endpoint health -w json
del small
alarm list -w table
"""

AFTER_COMPACTION = r"""
put small w
defrag
put small w
alarm list
alarm disarm
alarm list
put small w
get small --print-value-only
endpoint health
"""

WATCHES = (
    "watch w1 --rev={rev}",
    "watch w1 --rev={rev} -w json",
    "watch w1 --rev={rev} -w fields",
    "watch w --prefix --rev={rev} --prev-kv",
    "watch w --prefix --rev={rev} --prev-kv -w json",
    "watch w1 w3 --rev={rev} --hex",
    "watch w2 --from-key --rev={rev}",
    "watch w1 --rev={old}",
    "watch w1 --rev={old} -w json",
    "watch w1 --rev=1000000",
    "watch w3 w1 --rev={rev}",
    "watch w1 --rev={rev} -- echo event",
    'watch w1 --rev={rev} -- sh -c "env | grep ETCD_WATCH | sort"',
    "watch -i << watch w1 --rev={rev}|",
    "watch w --prefix --progress-notify --rev={rev} -w json",
)


@dataclass
class Side:
    """One server and what runs a command line against it; it remembers the ids it blanks."""

    endpoint: str
    peer_port: str
    execute: Callable[[list[str], bytes], Outcome]
    program: list[str]
    words: dict[str, str] = field(default_factory=dict)
    lease: str = "1"

    def __post_init__(self) -> None:
        with grpc.insecure_channel(self.endpoint) as channel:
            header = rpc.StatusResponse.FromString(
                channel.unary_unary("/etcdserverpb.Maintenance/Status")(b"", timeout=5)
            ).header
        self.member_id = f"{header.member_id:x}"
        for id, name in ((header.member_id, "MEMBER"), (header.cluster_id, "CLUSTER")):
            self.name_id(id, name)
        self.words[self.endpoint] = "ENDPOINT"
        self.words[f":{self.peer_port}"] = ":PEER"

    def name_id(self, id: int, name: str) -> None:
        for text in (f"{id:016x}", f"{id:x}", str(id)):
            self.words.setdefault(text, name)

    def play(self, line: str) -> str:
        """A command's outcome as one text."""
        command, arrow, typed = line.partition(" << ")
        stdin = typed.replace("|", "\n").encode() if arrow else b""
        command = command.replace("{lease}", self.lease).replace("{id}", self.member_id)
        argv = shlex.split(command.replace("{peer}", self.peer_port))
        out, err, code = self.execute(argv, stdin)
        if argv[:2] == ["lease", "grant"] and code == 0:
            self._remember_lease(out)
        return f"{line}\n{self._text(argv, out)}\n{blank(self.blanked(err.decode()))}\n{code}"

    def _remember_lease(self, out: bytes) -> None:
        """A format that does not show the id as text leaves the last lease."""
        found = re.search(rb'lease ([0-9a-f]+) |"ID" ?: ?(\d+)', out)
        if found is None:
            return
        hexadecimal, decimal = found.groups()
        id = int(hexadecimal, 16) if hexadecimal else int(decimal)
        self.lease = f"{id:x}"
        self.name_id(id, "LEASE")

    def _text(self, argv: list[str], out: bytes) -> str:
        if "protobuf" in argv and not out.startswith((b"cluster", b"Member")):
            out = self._message(argv, out)
        return blank(self.blanked(out.decode(errors="backslashreplace")))

    def _message(self, argv: list[str], out: bytes) -> bytes:
        kind = _MESSAGES.get(argv[0]) or _MESSAGES.get(" ".join(argv[:2]))
        return out if kind is None else str(kind.FromString(out)).encode()

    def blanked(self, text: str) -> str:
        for found in sorted(self.words, key=len, reverse=True):
            text = text.replace(found, self.words[found])
        return text

    def watch(self, line: str, folder: Path, expected: str = "") -> str:
        """The outcome of a watch that is interrupted once it has shown what is expected, or when
        it has had its time."""
        command, _arrow, typed = line.partition(" << ")
        argv = [*self.program, f"--endpoints={self.endpoint}", *shlex.split(command)]
        stdin, stdout, stderr = (folder / f"{uuid.uuid4()}" for _ in range(3))
        stdin.write_text(typed.replace("|", "\n"))
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=out, stderr=err)
        assert process.stdin is not None
        process.stdin.write(stdin.read_bytes())
        process.stdin.flush()  # and it stays open: its end would end an interactive watch
        shows = expected.count("\n") > 3
        ends_s = time.monotonic() + (WATCH_S_MAX if shows else WATCH_S)

        def text() -> str:
            texts = (blank(self.blanked(file.read_text())) for file in (stdout, stderr))
            return "\n".join((line, *texts))

        said, since_s = text(), time.monotonic()
        silence = said
        while process.poll() is None and time.monotonic() < ends_s:
            if (now := text()) != said:
                said, since_s = now, time.monotonic()
            if shows and expected.startswith(said + "\n-"):
                break
            if not expected and said != silence and time.monotonic() - since_s >= QUIET_S:
                break  # the reference: it has said what it has to say
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stdin.close()
        return f"{text()}\n{process.returncode}"


_MESSAGES: dict[str, Any] = {
    "get": rpc.RangeResponse,
    "put": rpc.PutResponse,
    "del": rpc.DeleteRangeResponse,
    "txn": rpc.TxnResponse,
    "lease grant": rpc.ResponseHeader,  # of leases etcdctl prints no more than the header
    "lease revoke": rpc.ResponseHeader,
    "lease timetolive": rpc.ResponseHeader,
    "lease keep-alive": rpc.ResponseHeader,
    "member list": rpc.MemberListResponse,
    "member update": rpc.MemberUpdateResponse,
    "alarm list": rpc.AlarmResponse,
    "alarm disarm": rpc.AlarmResponse,
}

_BLANKS = [
    (ADDED, ""),
    (r'"ts":("[^"]*"|[0-9.e+]+)', '"ts":T'),
    (r"0xc[0-9a-f]+", "PTR"),
    (r',"stacktrace":"[^"]*"', ""),
    (r"took = [^\n]*", "took = T"),
    (r'"took":"[^"]*"', '"took":"T"'),
    (r'"Took" : [^\n]*', '"Took" : T'),
    (r'"(raftIndex|raftAppliedIndex|dbSize|dbSizeInUse)":\d+', r'"\1":N'),
    (r'"(DBSize|DBSizeInUse|RaftIndex|RaftAppliedIndex)" : \d+', r'"\1" : N'),
    (r"(, 3\.5\.1), [^,]*(, [^,]*, [^,]*, \d+), \d+, \d+", r"\1, SIZE\2, N, N"),
    (r"(?s)(panic: [^\n]*)\n.*", r"\1"),
    # The keys of a lease come in the order of a Go map.
    (r"keys\(\[(l1 l2|l2 l1)\]\)", "keys([l1 l2])"),
    (r'"Key" : "l[12]"\n"Key" : "l[12]"', "KEYS"),
    (r'"bD[EI]=","bD[EI]="', "KEYS"),
    (r" +(MEMBER|CLUSTER)", r" \1"),  # %16x
    (r"remaining\(\d+s\)", "remaining(Ns)"),
    (r'"(TTL|ttl)" : \d\d', r'"\1" : NN'),
    (r'"ttl":\d\d,', '"ttl":NN,'),
    (r"TTL: \d\d\n", "TTL: NN\n"),
    # 3.6 names the revision of a hash; the table of 3.5.1 has no room for it.
    (r',"hash_revision":\d+', ""),
    (r'"HashRevision" : \d+\n', ""),
    (r"(member|name)(=| |\": ?\"|\": )?(pyetcd|etcd)-\d+", r"\1 NAME"),
    (r"(pyetcd|etcd)-\d+", "NAME"),
]


def blank(text: str) -> str:
    for pattern, instead in _BLANKS:
        text = re.sub(pattern, instead, text)
    if text.startswith("+-"):
        text = re.sub(r"-+", "-", re.sub(r" +", " ", text))
        text = re.sub(r"\| [0-9.]+(µs|ms|s| [kM]B)(?= \|)", "| N", text)
        text = re.sub(
            r"(\| (?:true|false) \| (?:true|false) \| \d+) \| \d+ \| \d+", r"\1 | N | N", text
        )
    return text


@dataclass
class Sides:
    judge: Side
    ours: tuple[Side, ...]

    def play(self, line: str) -> None:
        expected = self.judge.play(line)
        for side in self.ours:
            assert side.play(line) == expected


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[Sides]:
    yield from make_sides(tmp_path_factory.mktemp("judge"), request)


def make_sides(folder: Path, request: Any, *flags: str) -> Iterator[Sides]:
    machine_type = request.getfixturevalue("machine_type")
    machine = machine_type(folder)
    try:
        made = [machine.single(program, *flags) for program in ("etcd", "pyetcd", "pyetcd")]
        real, ours = [machine.etcdctl], [machine.pyetcd, "ctl"]
        programs = (real, real, ours)
        all_sides = [_side(*each) for each in zip(made, programs, strict=True)]
        yield Sides(all_sides[0], tuple(all_sides[1:]))
    finally:
        machine.close()


def _side(process: Any, program: list[str]) -> Side:
    flag = "--listen-peer-urls=http://127.0.0.1:"
    (peer,) = (arg.removeprefix(flag) for arg in process.argv if arg.startswith(flag))
    endpoint = f"--endpoints={process.endpoint}"
    is_etcd = process.name.startswith("etcd")

    def execute(argv: list[str], stdin: bytes) -> Outcome:
        if program[-1] == "ctl":
            return ctl([endpoint, *argv], {}, stdin)
        while True:
            done = subprocess.run([*program, endpoint, *argv], input=stdin, capture_output=True)
            # etcd forgets a change of members that comes right after another.
            if not (is_etcd and argv[:1] == ["member"] and b": request timed out" in done.stderr):
                return done.stdout, done.stderr, done.returncode

    return Side(process.endpoint, peer, execute, program)


def lines(scene: str) -> list[str]:
    """Each line once, or in every format."""
    found = []
    for line in scene.strip().split("\n"):
        found += [line.replace("{f}", f) for f in FORMATS] if "{f}" in line else [line]
    return found


def rows(*scenes: str) -> list[Any]:
    return [pytest.param(line, id=line) for scene in scenes for line in lines(scene)]


@pytest.mark.parametrize("line", rows(COMPACTION, KV, LEASES, CLUSTER))
def test_row(sides: Sides, line: str) -> None:
    sides.play(line)


def test_watches(sides: Sides, tmp_path: Path) -> None:
    """All at once, for a watch has no end of its own."""
    for line in ("put w1 1", "put w2 2", "del w1", "put w1 3", 'put w2 "4 5"'):
        sides.play(line)
    revision = _revision(sides.judge)
    assert all(_revision(side) == revision for side in sides.ours)
    for line in (f"compaction {revision - 5}", "put w1 6", "put w3 7"):
        sides.play(line)
    watches = [line.format(rev=revision - 4, old=revision - 6) for line in WATCHES]
    with ThreadPoolExecutor(8) as pool:
        expected = list(pool.map(lambda line: sides.judge.watch(line, tmp_path), watches))
        assert len({*expected}) == len(watches) and "DELETE" in expected[0]
        for side in sides.ours:
            outcomes = pool.map(
                lambda line, text, side=side: side.watch(line, tmp_path, text), watches, expected
            )
            assert list(outcomes) == expected


def _revision(side: Side) -> int:
    out = side.execute(["get", "x", "-w", "json"], b"")[0]
    return int(json.loads(out)["header"]["revision"])


def test_a_full_store(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The way out of NOSPACE that etcd's manual describes, step by step."""
    for sides in make_sides(tmp_path, request, f"--quota-backend-bytes={QUOTA_BYTES}"):
        sides.play("put small v")
        for side in (sides.judge, *sides.ours):
            # Either server looks at the size of its file every 100 ms, when it commits.
            ends_s = time.monotonic() + 10
            code = 0
            while not code and time.monotonic() < ends_s:
                _, err, code = side.execute(["put", "big"], b"x" * 200_000)
            text = blank(side.blanked(err.decode()))
            assert "etcdserver: mvcc: database space exceeded" in text and code == 1
            text = side.blanked(side.execute(["alarm", "list"], b"")[0].decode())
            assert text == "memberID:MEMBER alarm:NOSPACE \n"
        for line in QUOTA.strip().split("\n"):
            sides.play(line)
        for side in (sides.judge, *sides.ours):
            revision = _revision(side)
            assert side.execute(["compaction", str(revision), "--physical"], b"")[2] == 0
        for line in AFTER_COMPACTION.strip().split("\n"):
            sides.play(line)
