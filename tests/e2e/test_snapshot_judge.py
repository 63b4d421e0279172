"""Snapshots between the programs: saved by real etcdctl from pyetcd or from real etcd, restored by
`pyetcd utl`; the restored cluster is asked by etcdctl."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyetcd.cli.ctl.run import run as ctl
from pyetcd.cli.utl.run import run as utl

KEYS = 700  # enough for a bbolt file with branch pages
REST = """
put gone 1
put gone 2
del gone
put k00001 again
compact 5
put after compaction
lease grant 1000
user add root:pw
role add r
role grant-permission r readwrite k
"""


def etcdctl(machine: Any, node: Any, *argv: str, check: bool = True) -> str:
    done = machine.run(machine.etcdctl, f"--endpoints={node.endpoint}", *argv, check=check)
    return str(done.stdout + done.stderr if not check else done.stdout)


def fill(machine: Any, node: Any) -> None:
    """A history with deletes, a compaction, a lease and users."""
    lines = "\n".join(f'put k{n:04d} "{"x" * (n % 90)}{n}"' for n in range(100))
    for part in range(KEYS // 100):
        script = lines.replace("put k", f"put k{part}")
        etcdctl_txn(machine, node, script)
    for argv in REST.strip().splitlines():
        etcdctl(machine, node, *argv.split())
    lease = etcdctl(machine, node, "lease", "list").split()[-1]
    etcdctl(machine, node, "put", "leased", "1", f"--lease={lease}")


def etcdctl_txn(machine: Any, node: Any, puts: str) -> None:
    argv = [machine.etcdctl, f"--endpoints={node.endpoint}", "txn"]
    machine.run(*argv, stdin=f"\n{puts}\n\n\n")


def state(machine: Any, node: Any) -> dict[str, Any]:
    """What must survive: every key, the revision, HashKV, leases, users."""
    found = json.loads(etcdctl(machine, node, "get", "", "--prefix", "-w", "json"))
    assert len(found["kvs"]) > KEYS
    hashed = json.loads(etcdctl(machine, node, "endpoint", "hashkv", "-w", "json"))
    return {
        "kvs": found["kvs"],
        "revision": found["header"]["revision"],
        "hash": hashed[0]["HashKV"]["hash"],
        "compacted": hashed[0]["HashKV"].get("compact_revision"),
        "leases": etcdctl(machine, node, "lease", "list"),
        "users": etcdctl(machine, node, "user", "list"),
        "role": etcdctl(machine, node, "role", "get", "r"),
    }


def save(machine: Any, node: Any, name: str) -> str:
    path = str(machine.folder / name)
    assert etcdctl(machine, node, "snapshot", "save", path) == f"Snapshot saved at {path}\n"
    return path


class Restored:
    """Members restored from one snapshot; `client` gives the first one's port."""

    def __init__(self, machine: Any, free_ports: Any, count: int, *, client: int = 0) -> None:
        ports = free_ports(2 * count)
        self.clients, self.peers = ports[:count], ports[count:]
        if client:
            self.clients[0] = client
        self.machine = machine
        self.cluster = ",".join(f"r{n}={self._peer(n)}" for n in range(count))

    def _peer(self, n: int) -> str:
        return f"http://127.0.0.1:{self.peers[n]}"

    def restore(self, path: str, *flags: str) -> None:
        for n in range(len(self.clients)):
            done = utl(
                [
                    *("snapshot", "restore", path, f"--name=r{n}"),
                    f"--data-dir={self.machine.folder / f'r{n}'}",
                    f"--initial-cluster={self.cluster}",
                    f"--initial-advertise-peer-urls={self._peer(n)}",
                    *flags,
                ]
            )
            assert done[::2] == (b"", 0), done

    def start(self) -> list[Any]:
        nodes = [self.node(n, "new") for n in range(len(self.clients))]
        return [node.wait_healthy() for node in nodes]

    def node(self, n: int, state: str) -> Any:
        client = self.clients[n]
        argv = [
            *(self.machine.pyetcd, "server", f"--name=r{n}"),
            f"--data-dir={self.machine.folder / f'r{n}'}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls={self._peer(n)}",
            f"--initial-advertise-peer-urls={self._peer(n)}",
            f"--initial-cluster={self.cluster}",
            f"--initial-cluster-state={state}",
        ]
        return self.machine.process(argv, name=f"r{n}", client_port=client).start()


def test_one_member_and_one_more(machine: Any, free_ports: Any) -> None:
    node = machine.single()
    fill(machine, node)
    before = state(machine, node)
    path = save(machine, node, "snap")
    node.kill()
    restored = Restored(machine, free_ports, 1)
    restored.restore(path)
    (first,) = restored.start()
    assert state(machine, first) == before
    etcdctl(machine, first, "put", "new", "1")

    # A member added later is sent the keyspace: the log does not hold what the snapshot held.
    restored.clients += free_ports(1)
    restored.peers += free_ports(1)
    etcdctl(machine, first, "member", "add", "r1", f"--peer-urls={restored._peer(1)}")
    restored.cluster += f",r1={restored._peer(1)}"
    second = restored.node(1, "existing").wait_healthy()
    assert state(machine, second) == state(machine, first)
    assert len(state(machine, second)["kvs"]) == len(before["kvs"]) + 1


def test_three_members_and_an_open_watch(machine: Any, free_ports: Any) -> None:
    node = machine.single()
    fill(machine, node)
    before = state(machine, node)
    path = save(machine, node, "snap")
    since = f"--rev={before['revision'] + 1}"  # the put may come before the watch
    argv = [machine.etcdctl, f"--endpoints={node.endpoint}", "watch", "k", "--prefix", since]
    pipe = subprocess.PIPE
    watch = subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, env={})
    try:
        etcdctl(machine, node, "put", "k-watched", "1")
        assert watch.stdout is not None
        assert [watch.stdout.readline() for _ in range(3)] == ["PUT\n", "k-watched\n", "1\n"]
        node.kill()
        restored = Restored(machine, free_ports, 3, client=node.client_port)
        restored.restore(path, "--bump-revision=1000000", "--mark-compacted")
        nodes = restored.start()
        out, err = watch.communicate(timeout=30)
    finally:
        watch.kill()
        watch.wait()
    assert "etcdserver: mvcc: required revision has been compacted" in out + err
    bumped = before["revision"] + 1_000_000
    for each in nodes:
        after = state(machine, each)
        assert (after["kvs"], after["revision"]) == (before["kvs"], bumped)
        assert (after["leases"], after["users"]) == (before["leases"], before["users"])
    assert len({state(machine, each)["hash"] for each in nodes}) == 1
    written = json.loads(etcdctl(machine, nodes[1], "put", "new", "1", "-w", "json"))
    assert written["header"]["revision"] == bumped + 1
    old = etcdctl(machine, nodes[2], "get", "k", f"--rev={before['revision']}", check=False)
    assert "required revision has been compacted" in old


def test_a_snapshot_of_real_etcd(machine: Any, free_ports: Any) -> None:
    node = machine.single("etcd")
    fill(machine, node)
    before = state(machine, node)
    path = save(machine, node, "snap")
    for format in ("simple", "json", "fields", "table", "protobuf"):
        argv = ["-w", format, "snapshot", "status", path]
        wanted = machine.run(machine.etcdutl, *argv, check=False)
        out, err, code = utl(argv)
        assert (out.decode(), err.decode(), code) == (
            wanted.stdout,
            wanted.stderr,
            wanted.returncode,
        )
    shown = utl(["-w", "json", "hashkv", path])
    assert json.loads(shown[0])["hash"] == before["hash"]
    node.kill()
    restored = Restored(machine, free_ports, 1)
    restored.restore(path)
    (first,) = restored.start()
    assert state(machine, first) == before


@pytest.mark.parametrize("program", ["etcd", "pyetcd"])
def test_save_as_etcdctl(machine: Any, program: str, tmp_path: Path) -> None:
    node = machine.single(program)
    etcdctl(machine, node, "put", "a", "1")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    none = str(tmp_path / "none" / "file")
    saved = ctl([f"--endpoints={node.endpoint}", "snapshot", "save", one])
    assert saved[::2] == (f"Snapshot saved at {one}\n".encode(), 0)
    assert not os.path.exists(f"{one}.part")
    assert os.stat(one).st_mode & 0o777 == 0o600
    for argv in (
        f"snapshot save {two}",
        f"snapshot save {none}",
        f"-w json snapshot save {two}",
        "snapshot save",
        "snapshot save a b",
        f"--endpoints=a:1,b:1 snapshot save {two}",
        f"--endpoints=127.0.0.1:1 --command-timeout=300ms snapshot save {two}",
        f"snapshot save {tmp_path}",
        f"snapshot save {tmp_path}/",
        f"snapshot status {one}" if program == "etcd" else "snapshot status",
        f"-w json snapshot status {one}" if program == "etcd" else "snapshot status",
        "snapshot restore",
        "snapshot restore x --name=y",
    ):
        words = argv.split()
        if "--endpoints" not in argv:
            words = [f"--endpoints={node.endpoint}", *words]
        wanted = machine.run(machine.etcdctl, *words, check=False)
        out, err, code = ctl(words)
        assert (out.decode(), blank(err.decode()), code) == (
            wanted.stdout,
            blank(wanted.stderr),
            wanted.returncode,
        ), argv


def blank(text: str) -> str:
    """Times, and sizes, for another request came between; Go's stacks."""
    text = re.sub(r',"stacktrace":"[^"]*"', "", text)
    return re.sub(r'("ts":)[0-9.e+]+|("size":)"[^"]*"', r"\1\2X", text)
