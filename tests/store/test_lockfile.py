"""One process per data directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyetcd.store import db
from pyetcd.store.lockfile import InUse, LockFile, make_directory, refuse_network_filesystem

CHILD = """
import sys, time
from pyetcd.store.lockfile import LockFile
lock = LockFile.claim(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


def test_directories_are_made_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "member"
    lock = LockFile.claim(str(directory))
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "LOCK").stat().st_mode & 0o777 == 0o600
    assert (directory / "LOCK").read_text() == f"{os.getpid()}\n"
    assert lock.notes == []
    lock.release()
    lock.release()


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    lock = LockFile.claim(str(tmp_path))
    assert lock.notes == [f"{tmp_path} is open to others (mode 0750); 0700 keeps the data private"]
    lock.release()
    assert tmp_path.stat().st_mode & 0o777 == 0o750


def test_second_claim_names_the_holder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(InUse) as caught:
            LockFile.claim(str(tmp_path))
        child.kill()
    assert str(caught.value) == (
        f"{tmp_path}: is in use by process {child.pid}; "
        "stop it first or choose another data directory"
    )
    # However it died, the lock is free, and the old pid is overwritten.
    lock = LockFile.claim(str(tmp_path))
    assert (tmp_path / "LOCK").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_claim_release_claim(tmp_path: Path) -> None:
    first = LockFile.claim(str(tmp_path))
    with pytest.raises(InUse, match=f"process {os.getpid()}"):
        LockFile.claim(str(tmp_path))
    first.release()
    LockFile.claim(str(tmp_path)).release()


def test_holder_without_a_pid(tmp_path: Path) -> None:
    lock = LockFile.claim(str(tmp_path))
    (tmp_path / "LOCK").write_text("nonsense")
    with pytest.raises(InUse, match="is in use by another process"):
        LockFile.claim(str(tmp_path))
    lock.release()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "member").write_text("")
    with pytest.raises(db.ForeignFile, match="is not a directory; move it away"):
        LockFile.claim(str(tmp_path / "member"))
    with pytest.raises(db.ForeignFile, match="is not a directory; move it away"):
        make_directory(str(tmp_path / "member" / "below"))


def test_a_lock_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "LOCK").mkdir()
    with pytest.raises(db.ForeignFile, match="cannot be opened"):
        LockFile.claim(str(tmp_path))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "LOCK").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(db.ForeignFile, match="is a symbolic link"):
        LockFile.claim(str(tmp_path / "b"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(db.ForeignFile, match="Permission denied"):
        LockFile.claim(str(tmp_path / "member"))


@pytest.mark.parametrize(
    ("kind", "refused"),
    [("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("ext4", False), ("overlay", False)],
)
def test_network_filesystems_are_refused(tmp_path: Path, kind: str, refused: bool) -> None:
    inner = os.path.realpath(tmp_path)
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nsrv:/x {inner} {kind} rw 0 0\nsrv:/y {inner}2 nfs rw 0 0\n"
    )
    if refused:
        with pytest.raises(db.ForeignFile, match=f"network filesystem \\({kind}\\)"):
            refuse_network_filesystem(str(tmp_path), str(mounts))
    else:
        refuse_network_filesystem(str(tmp_path), str(mounts))


def test_without_a_mount_table_nothing_is_refused(tmp_path: Path) -> None:
    refuse_network_filesystem(str(tmp_path), str(tmp_path / "none"))
