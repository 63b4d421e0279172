"""The way back of a member whose log was lost, ended at every step and begun again."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyetcd.cli import rejoin
from pyetcd.server import config as server_config
from pyetcd.server.startup import LogWasLost, StartupRefused

OLD, NEW = 0xA, 0xB
URL = "http://127.0.0.1:2380"


class Crash(BaseException):
    """The process ends here."""


class Others:
    """Two members that list, remove and add; each call may be the last thing that happens."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.step = step
        self.listed = [
            rejoin.Found(1, "m1", ("http://127.0.0.1:12380",)),
            rejoin.Found(2, "m2", ("http://127.0.0.1:22380",)),
            rejoin.Found(OLD, "m3", (URL,)),
        ]
        self.changes: list[str] = []
        self.refusal = ""
        self.running = 0

    def __call__(self, config: Any, endpoints: Sequence[str]) -> "Others":
        assert list(endpoints) == ["http://127.0.0.1:12379", "http://127.0.0.1:22379"]
        return self

    def members(self) -> list[rejoin.Found]:
        if self.refusal:
            raise rejoin.Refused(self.refusal)
        self.step()
        return list(self.listed)

    def who_answers(self, client_urls: Sequence[str]) -> int:
        return self.running

    def remove(self, id: int) -> None:
        self.step()
        self.changes.append("remove")
        self.listed = [member for member in self.listed if member.id != id]
        self.step()

    def add_learner(self, peer_urls: Sequence[str]) -> None:
        self.step()
        self.changes.append("add")
        self.listed.append(rejoin.Found(NEW, "", tuple(peer_urls)))
        self.step()


class Machine:
    """One data directory; crashes at the n-th step."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "member").mkdir(parents=True)
        (folder / "member" / "wal.db").write_text("old")
        self.left = 0
        self.was_learner = False
        self.is_in_files = True
        self.others = Others(self.step)
        self.started: list[Any] = []
        sync = rejoin._sync

        def synced(path: str) -> None:
            self.step()
            sync(path)
            self.step()

        monkeypatch.setattr(rejoin, "_sync", synced)
        argv = [f"--data-dir={folder}", "--name=m3", f"--initial-advertise-peer-urls={URL}",
                f"--initial-cluster=m3={URL}"]  # fmt: skip
        self.config = server_config.load(argv, {})

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash

    def run(
        self, config: Any, rejoined: Callable[[], None] | None = None, *, promote: bool = True
    ) -> int:
        if rejoined is None:
            raise LogWasLost(
                "the log is lost",
                member_id=OLD,
                is_learner=self.was_learner,
                peer_urls=[URL],
                client_urls=["http://127.0.0.1:12379", "http://127.0.0.1:22379"],
                is_in_files=self.is_in_files,
            )
        assert promote is not self.was_learner
        self.started.append(config)
        member = self.folder / "member"
        assert not member.exists() or (member / "wal.db").read_text() == "new"
        member.mkdir(exist_ok=True)
        (member / "wal.db").write_text("new")
        rejoined()
        return 0

    def start(self) -> int:
        return rejoin.serve(self.config, self.run, cluster=self.others)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "data", monkeypatch)


def test_every_crash_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashes = 0
    for number in range(1, 100):
        with monkeypatch.context() as patched:
            machine = Machine(tmp_path / str(number), patched)
            machine.left = number
            try:
                machine.start()
            except Crash:
                crashes += 1
                done = not (machine.folder / "rejoin.json").exists() and machine.started
                if not done:  # else it was the last thing, and an ordinary start follows
                    assert machine.start() == 0
            assert machine.others.changes == ["remove", "add"]
            assert (machine.folder / "member.lost-1" / "wal.db").read_text() == "old"
            assert not (machine.folder / "member.lost-2").exists()
            assert not (machine.folder / "rejoin.json").exists()
            started = machine.started[-1]
            assert started.initial_cluster_state == "existing"
            assert started.initial_cluster == (
                f"1=http://127.0.0.1:12380,2=http://127.0.0.1:22380,m3={URL}"
            )
        if crashes < number:
            break
    assert crashes > 15


def test_a_learner_stays_one(machine: Machine) -> None:
    machine.was_learner = True
    assert machine.start() == 0 and len(machine.started) == 1


def test_a_forced_new_cluster_asks_nobody(machine: Machine) -> None:
    machine.config = dataclasses.replace(machine.config, force_new_cluster=True)
    with pytest.raises(LogWasLost):
        machine.start()
    assert machine.others.changes == []


def test_nothing_is_done_when_nobody_answers(machine: Machine) -> None:
    machine.others.refusal = "http://127.0.0.1:12379: Deadline Exceeded"
    with pytest.raises(StartupRefused, match=r"the log is lost .not done by itself: http://127"):
        machine.start()
    assert [path.name for path in machine.folder.iterdir()] == ["member"]
    assert machine.others.changes == []


def test_a_loss_that_only_the_leader_knew_of_is_written_down(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two such members of three would elect each other at their next start."""
    monkeypatch.setattr(rejoin, "CHANGE_TIMEOUT_S", 0.0)
    machine.is_in_files = False
    machine.others.refusal = "nobody"
    with pytest.raises(StartupRefused, match="not done by itself"):
        machine.start()
    with pytest.raises(StartupRefused, match="cannot go on"):  # and the old log is not opened
        machine.start()
    machine.others.refusal = ""
    assert machine.start() == 0 and machine.others.changes == ["remove", "add"]


def test_urls_that_belong_to_somebody_else(machine: Machine) -> None:
    machine.others.listed[2] = rejoin.Found(7, "new-m3", (URL,))
    with pytest.raises(StartupRefused, match="its URLs belong to new-m3 now"):
        machine.start()
    assert machine.others.changes == []


def test_a_copy_of_a_running_members_directory_removes_nobody(machine: Machine) -> None:
    machine.others.running = OLD
    with pytest.raises(StartupRefused, match=r"member a is running, at .*is a copy"):
        machine.start()
    assert machine.others.changes == []


def test_members_with_the_same_name_or_none(machine: Machine) -> None:
    machine.others.listed[0] = rejoin.Found(1, "m3", ("http://127.0.0.1:12380",))
    machine.others.listed[1] = rejoin.Found(2, "", ("http://127.0.0.1:22380",))
    assert machine.start() == 0
    assert machine.started[0].initial_cluster == (
        f"1=http://127.0.0.1:12380,2=http://127.0.0.1:22380,m3={URL}"
    )


def test_the_old_log_is_not_opened_while_it_is_under_way(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejoin, "CHANGE_TIMEOUT_S", 0.0)
    monkeypatch.setattr(
        machine.others, "remove", lambda id: (_ for _ in ()).throw(rejoin.Refused("no"))
    )
    for _ in range(2):
        with pytest.raises(StartupRefused, match="cannot go on: no"):
            machine.start()
    assert machine.started == [] and (machine.folder / "rejoin.json").exists()


def test_a_certificate_that_cannot_be_read_is_a_refusal(machine: Machine, tmp_path: Path) -> None:
    config = dataclasses.replace(machine.config, trusted_ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(rejoin.Refused, match=r"open .*none\.pem: no such file"):
        rejoin.Cluster(config, ["https://127.0.0.1:1"]).members()


def test_a_plan_that_cannot_be_read(machine: Machine) -> None:
    for text in ("", "{", "[]", json.dumps({"what": 1})):
        (machine.folder / "rejoin.json").write_text(text)
        with pytest.raises(StartupRefused, match="cannot be read"):
            machine.start()


def test_any_other_refusal_stays_one(machine: Machine) -> None:
    def run(config: Any, rejoined: object = None, *, promote: bool = True) -> int:
        raise StartupRefused("something else")

    with pytest.raises(StartupRefused, match="something else"):
        rejoin.serve(machine.config, run, cluster=SimpleNamespace)
