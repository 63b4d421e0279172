"""--wal-dir: the log in a folder of its own; what is refused when the two folders do not fit."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyetcd.cli.rejoin import _move_aside
from pyetcd.server import datadir, startup
from pyetcd.server.bootstrap import InitialCluster, plan_new
from pyetcd.server.config import Config, load
from pyetcd.server.datadir import Locks
from pyetcd.server.startup import StartupRefused
from pyetcd.store.db import ForeignFile
from pyetcd.store.lockfile import InUse

URLS = ("http://localhost:2380",)


class Member:
    """The two folders of one, made and closed again."""

    def __init__(self, folder: Path, *, has_wal_dir: bool = True) -> None:
        self.data, self.log = folder / "data", folder / "log"
        self.config = self.configured(has_wal_dir=has_wal_dir)
        plan = plan_new(InitialCluster("a", {"a": URLS}, "t", URLS, is_new=True))
        made = datadir.create(
            str(self.data), plan=plan, token="t", lock=self.lock(), wal_dir=self.config.log_dir
        )
        made.abandon()

    def configured(self, *, has_wal_dir: bool) -> Config:
        argv = [f"--data-dir={self.data}", "--name=a", "--initial-cluster-token=t"]
        return load([*argv, f"--wal-dir={self.log}"] if has_wal_dir else argv, {})

    def lock(self) -> Locks:
        return Locks(self.config.member_dir, self.config.log_dir)

    def start(self, config: Config) -> None:
        """As server/member.py looks at it; raises ForeignFile."""
        path, wal_dir = config.data_dir, config.log_dir
        if not datadir.has_member(path, wal_dir):
            datadir.refuse_foreign(path, wal_dir)
            raise AssertionError("a new member would be made")
        datadir.look(path, config)
        datadir.reopen(path, lock=self.lock(), wal_dir=wal_dir).abandon()

    def refusal(self, config: Config) -> str:
        before = snapshot(self.data), snapshot(self.log)
        with pytest.raises(ForeignFile) as caught:
            self.start(config)
        assert (snapshot(self.data), snapshot(self.log)) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)


def snapshot(folder: Path) -> dict[str, bytes]:
    """SQLite's shared memory may come and go with a reader."""
    names = [path for path in folder.rglob("*") if path.is_file() and not path.match("*-shm")]
    return {str(path): path.read_bytes() for path in names}


def test_two_folders(tmp_path: Path) -> None:
    member = Member(tmp_path)
    assert sorted(os.listdir(member.log))[:2] == ["LOCK", "wal.db"]
    assert "wal.db" not in os.listdir(member.data / "member")
    assert "kv.db" in os.listdir(member.data / "member")
    assert (member.log.stat().st_mode & 0o777) == 0o700
    member.start(member.config)
    id, _ = datadir.known_members(str(member.data), str(member.log))
    assert id == plan_new(InitialCluster("a", {"a": URLS}, "t", URLS, is_new=True)).member_id


def test_the_same_folder_is_none_of_its_own(tmp_path: Path) -> None:
    data = tmp_path / "data"
    config = load([f"--data-dir={data}", f"--wal-dir={data}/x/../member"], {})
    assert config.log_dir == ""
    assert load([], {}).log_dir == ""


def test_both_folders_are_locked(tmp_path: Path) -> None:
    member = Member(tmp_path)
    held = member.lock()
    with pytest.raises(InUse, match="data/member: is in use"):
        member.lock()
    with pytest.raises(InUse, match="log: is in use"):
        Locks(str(tmp_path / "other"), str(member.log))
    Locks(str(tmp_path / "other"), "").release()  # the refused one has let go of its first
    held.release()
    member.lock().release()


def forget_flag(member: Member) -> Config:
    return member.configured(has_wal_dir=False)


def other_data(member: Member) -> Config:
    shutil.rmtree(member.data)
    return member.config


def two_logs(member: Member) -> Config:
    shutil.copy(member.log / "wal.db", member.data / "member" / "wal.db")
    return member.config


def lost_log(member: Member) -> Config:
    (member.log / "wal.db").unlink()
    return member.config


def linked_log(member: Member) -> Config:
    os.rename(member.log / "wal.db", member.log / "real")
    (member.log / "wal.db").symlink_to(member.log / "real")
    return member.config


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_data, "kv.db: is missing; give the --data-dir that belongs to this --wal-dir"),
        (two_logs, "member/wal.db: is a second log beside that in --wal-dir"),
        (linked_log, "wal.db: is a symbolic link"),
    ],
)
def test_what_does_not_fit(
    tmp_path: Path, change: Callable[[Member], Config], expected: str
) -> None:
    member = Member(tmp_path)
    assert expected in member.refusal(change(member))


@pytest.mark.parametrize("change", [forget_flag, lost_log])
def test_a_keyspace_without_its_log(tmp_path: Path, change: Callable[[Member], Config]) -> None:
    """Once something was applied: before that the start begins again, as from the very first."""
    member = Member(tmp_path)
    opened = datadir.reopen(str(member.data), lock=member.lock(), wal_dir=str(member.log))
    opened.backend.execute("INSERT INTO members (id, data) VALUES (1, x'')")
    opened.backend.commit()
    opened.abandon()
    text = member.refusal(change(member))
    assert "holds a keyspace whose log wal.db is missing; " in text
    hint = "give its --wal-dir" if change is forget_flag else "restore wal.db in --wal-dir"
    assert hint in text


def test_a_log_that_was_not_moved(tmp_path: Path) -> None:
    member = Member(tmp_path, has_wal_dir=False)
    member.log.mkdir(mode=0o700)
    with_flag = member.configured(has_wal_dir=True)
    assert "member/wal.db: is the log of this member, and not in --wal-dir" in member.refusal(
        with_flag
    )
    for name in ("wal.db", "wal.db-wal"):
        if (member.data / "member" / name).exists():
            os.rename(member.data / "member" / name, member.log / name)
    member.config = with_flag
    member.start(with_flag)


def test_the_log_of_a_real_etcd(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "0000000000000000-0000000000000000.wal").write_bytes(b"x")
    with pytest.raises(ForeignFile, match="holds the log of a real etcd member; choose another"):
        datadir.refuse_foreign(str(tmp_path / "data"), str(tmp_path / "log"))


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("file", "file/log", "link"):
        with pytest.raises(StartupRefused, match="choose another --wal-dir"):
            startup.check_wal_dir(str(tmp_path / name))
    startup.check_wal_dir(str(tmp_path / "new" / "log"))


def test_a_lost_log_is_put_aside_with_its_keyspace(tmp_path: Path) -> None:
    """Who re-joins begins with two empty folders, also after a crash in between."""
    member = Member(tmp_path)
    (member.log / "wal.db-wal").write_bytes(b"x")
    _move_aside(str(member.data), str(member.log))
    names = set(os.listdir(member.log))
    assert {"wal.db-wal.lost-1", "wal.db.lost-1"} <= names
    assert all(name == "LOCK" or name.endswith(".lost-1") for name in names)
    assert os.listdir(member.data) == ["member.lost-1"]
    _move_aside(str(member.data), str(member.log))
    assert os.listdir(member.data) == ["member.lost-1"]


def test_a_process(machine: Any, tmp_path: Path) -> None:
    """Started, killed, started again; then alone by force, from the same two folders."""
    log = tmp_path / "elsewhere" / "log"
    node = machine.single("pyetcd", f"--wal-dir={log}")
    machine.run(machine.etcdctl, "--endpoints", node.endpoint, "put", "k", "v")
    node.kill()
    node.start().wait_healthy()
    node.signal(15)
    node.wait()
    node.argv.append("--force-new-cluster")
    node.start().wait_healthy()
    got = machine.run(machine.etcdctl, "--endpoints", node.endpoint, "get", "k")
    assert got.stdout == "k\nv\n"
    assert {"LOCK", "wal.db"} <= set(os.listdir(log))
    node.signal(15)
    node.wait()
    node.argv = [arg for arg in node.argv if not arg.startswith("--wal-dir")]
    assert node.start().wait() == 1
    assert "give its --wal-dir" in node.log
