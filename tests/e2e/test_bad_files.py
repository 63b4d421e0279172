"""Files in a data directory that do not belong there: one line on stderr, nothing changed."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

FILES = ("wal.db", "wal.db-wal", "kv.db", "kv.db-wal")


def contents(folder: Path) -> dict[str, bytes | str]:
    """Left out: what holds no data: the process number in LOCK, the index that SQLite makes anew of
    a -wal, an empty -wal."""
    found = {
        path.name: os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name != "LOCK" and not path.name.endswith("-shm")
    }
    return {name: data for name, data in found.items() if data or not name.endswith("-wal")}


def put(machine, node, number: int) -> None:
    argv = [machine.pyetcd, "ctl", "--endpoints", node.endpoint, "put", f"k{number}", "v" * 100]
    machine.run(*argv)


@pytest.fixture
def pair(machine):
    """Two members of one cluster, killed: their argv, and their member directories."""
    nodes = machine.cluster(2)
    for node in nodes:
        node.wait_healthy()
    for number in range(3):
        put(machine, nodes[number % 2], number)
    for node in nodes:
        node.kill()
    return nodes, [machine.folder / node.name / "member" for node in nodes]


def refused(machine, node, folder: Path) -> str:
    before = contents(folder)
    done = subprocess.run(node.argv, cwd=machine.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert ";" in done.stderr, f"no remedy: {done.stderr}"
    assert contents(folder) == before
    return done.stderr


def test_files_of_others(machine, pair, free_ports):
    (mine, theirs), (folder, other) = pair
    kept = machine.folder / "kept"
    shutil.copytree(folder, kept)

    def restored() -> None:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)

    # Of another member of the same cluster: one of the two databases, with its side files.
    for name, said in (("kv", "belongs to member"), ("wal", "")):
        for path in other.glob(f"{name}.db*"):
            shutil.copy(path, folder)
        line = refused(machine, mine, folder)
        assert f"{name}.db" in line or "kv.db" in line
        assert said in line
        restored()
    # Only the side file of another.
    for name in ("wal", "kv"):
        shutil.copy(other / f"{name}.db-wal", folder)
        refused(machine, mine, folder)
        restored()
    # Of another cluster.
    stranger = machine.single()
    put(machine, stranger, 1)
    stranger.signal(signal.SIGTERM)
    stranger.wait()
    for name in ("kv", "wal"):
        for path in folder.glob(f"{name}.db*"):
            path.unlink()
        for path in (machine.folder / stranger.name / "member").glob(f"{name}.db*"):
            shutil.copy(path, folder)
        assert "belongs to" in refused(machine, mine, folder)
        restored()
    # With its own files it is as it was.
    for node in (mine, theirs):
        node.start()
    mine.wait_healthy()


@pytest.fixture
def stopped(machine):
    node = machine.single()
    for number in range(3):
        put(machine, node, number)
    node.kill()
    return node, machine.folder / node.name / "member"


def test_links(machine, stopped):
    node, folder = stopped
    for name in FILES:
        path = folder / name
        aside = machine.folder / "aside"
        path.rename(aside)
        path.symlink_to(aside)
        assert f"{name}: is a symbolic link" in refused(machine, node, folder)
        path.unlink()
        os.link(aside, path)
        assert f"{name}: is a hard link" in refused(machine, node, folder)
        path.unlink()
        aside.rename(path)
    (folder / "LOCK").rename(machine.folder / "aside")
    (folder / "LOCK").symlink_to(machine.folder / "aside")
    assert "LOCK: is a symbolic link" in refused(machine, node, folder)
    (folder / "LOCK").unlink()
    node.start().wait_healthy()


def test_newer_and_cut_files(machine, stopped):
    node, folder = stopped
    for name in ("wal.db", "kv.db"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:60] + (999).to_bytes(4, "big") + whole[64:])
        assert "newer" in refused(machine, node, folder)
        for size in (1, 99, 4095):
            path.write_bytes(whole[:size])
            assert name in refused(machine, node, folder)
        path.write_bytes(whole)
    node.start().wait_healthy()


def test_a_lost_log_and_a_lost_keyspace_tail(machine, stopped):
    """Without its -wal file the log has forgotten what the keyspace knows; the keyspace without
    its own is only behind, and the log brings it up again."""
    node, folder = stopped
    kept = (folder / "wal.db-wal").read_bytes()
    for spoil in (lambda path: path.unlink(), lambda path: path.write_bytes(b"")):
        spoil(folder / "wal.db-wal")
        assert "remove it from the cluster" in refused(machine, node, folder)
        (folder / "wal.db-wal").write_bytes(kept)
    (folder / "kv.db-wal").unlink()
    node.start().wait_healthy()
    argv = [machine.pyetcd, "ctl", "--endpoints", node.endpoint, "get", "k2", "--print-value-only"]
    assert machine.run(*argv).stdout == "v" * 100 + "\n"


def test_what_is_left_of_lost_files(machine, stopped):
    node, folder = stopped
    for name in ("wal.db", "kv.db"):
        (folder / name).unlink()
    assert "kv.db: is missing, but its -wal file exists" in refused(machine, node, folder)
    (folder / "kv.db-wal").unlink()
    assert "wal.db: is missing, but its -wal file exists" in refused(machine, node, folder)
