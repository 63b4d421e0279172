"""A member whose log has lost acknowledged entries comes back as a learner once that is seen.

The loss is made as it happens: an old copy of the log beside the newer keyspace (seen at the
start), or an old copy of both (seen when the leader speaks of entries that it once had).
"""

import json
import shutil
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest


def ctl(machine: Any, node: Any, *args: str, check: bool = True) -> Any:
    command = (machine.etcdctl, f"--endpoints={node.endpoint}", "--command-timeout=10s", *args)
    return machine.run(*command, check=check)


def members(machine: Any, node: Any) -> dict[str, dict[str, Any]]:
    listed = json.loads(ctl(machine, node, "member", "list", "-w", "json").stdout)["members"]
    return {member.get("name", ""): member for member in listed}


def hashes(machine: Any, nodes: list[Any]) -> set[tuple[int, int]]:
    found = set()
    for node in nodes:
        done = ctl(machine, node, "endpoint", "hashkv", "-w", "json")
        answer = json.loads(done.stdout)[0]["HashKV"]
        found.add((answer["header"]["revision"], answer["hash"]))
    return found


def put(machine: Any, node: Any, first: int, count: int) -> None:
    for number in range(first, first + count):
        ctl(machine, node, "put", f"k{number}", "v")


def lose(machine: Any, nodes: list[Any], *, kept: str) -> tuple[Any, Path]:
    """The last node, stopped, with an older copy of `kept` in its member directory."""
    for node in nodes:
        node.wait_healthy()
    victim = nodes[-1]
    folder = machine.folder / victim.name / "member"
    put(machine, nodes[0], 0, 5)
    victim.signal(signal.SIGTERM)
    victim.wait()
    old = machine.folder / f"old-{victim.name}"
    shutil.copytree(folder, old)
    victim.start().wait_healthy()
    put(machine, victim, 5, 5)
    victim.signal(signal.SIGTERM)
    victim.wait()
    shutil.copytree(folder, machine.folder / f"sound-{victim.name}")
    for path in folder.glob(kept):
        path.unlink()
    for path in old.glob(kept):
        shutil.copy(path, folder)
    return victim, folder


@pytest.mark.parametrize("kept", ["wal.db*", "*.db*"], ids=["at_start", "while_it_runs"])
def test_it_comes_back_as_a_learner(machine: Any, wait_until: Any, kept: str) -> None:
    nodes = machine.cluster(3)
    victim, folder = lose(machine, nodes, kept=kept)
    before = members(machine, nodes[0])
    lost = folder.parent / "member.lost-1"
    victim.start()
    wait_until(lambda: lost.exists() or victim.has_ended(), "the loss to be noticed")
    assert not victim.has_ended(), victim.log

    def is_voter_again() -> bool:
        found = members(machine, nodes[0]).get(victim.name)
        return bool(
            found and found["ID"] != before[victim.name]["ID"] and not found.get("isLearner")
        )

    wait_until(is_voter_again, "the member to be promoted", 60)
    victim.wait_healthy()
    wait_until(lambda: not (folder.parent / "rejoin.json").exists(), "the end of it")
    put(machine, victim, 10, 3)
    wait_until(lambda: len(hashes(machine, nodes)) == 1, "equal hashes")
    after = members(machine, nodes[0])
    assert len(after) == 3 and after[victim.name]["ID"] != before[victim.name]["ID"]
    assert "re-joining as a learner" in victim.log
    with urllib.request.urlopen(f"http://{victim.endpoint}/metrics", timeout=5) as answer:
        assert b"\npyetcd_log_lost 0\n" in answer.read()
    # It is an ordinary member now, and starts as one.
    victim.kill()
    victim.start().wait_healthy()
    assert "Traceback" not in victim.log


def test_without_a_majority_of_others_it_is_refused(machine: Any) -> None:
    nodes = machine.cluster(3)
    victim, folder = lose(machine, nodes, kept="wal.db*")
    nodes[1].kill()
    victim.start()
    assert victim.wait(60) == 1
    last = victim.log.strip().splitlines()[-1]
    assert "not done by itself" in last and "remove" in last
    assert not (folder.parent / "rejoin.json").exists() and folder.exists()
    assert not list(folder.parent.glob("member.lost*"))


def test_a_member_that_is_alone_is_refused(machine: Any) -> None:
    node = machine.single()
    victim, folder = lose(machine, [node], kept="wal.db*")
    victim.start()
    assert victim.wait(30) == 1
    assert "do not run this member on" in victim.log.strip().splitlines()[-1]
    assert not (folder.parent / "rejoin.json").exists()


def test_a_copy_of_a_running_members_directory_is_refused(machine: Any, free_ports: Any) -> None:
    """Its log is older than its keyspace, as in a copy of files that were being written."""
    nodes = machine.cluster(3)
    victim, folder = lose(machine, nodes, kept="wal.db*")
    shutil.move(folder.parent, machine.folder / "copy")
    shutil.copytree(machine.folder / f"sound-{victim.name}", folder)
    victim.start().wait_healthy()
    ids = {name: member["ID"] for name, member in members(machine, victim).items()}
    client, peer = free_ports(2)
    flags = [
        flag
        for flag in victim.argv
        if not flag.startswith(("--data-dir", "--listen-", "--advertise-client"))
    ]
    copy = machine.process(
        [
            *flags,
            f"--data-dir={machine.folder / 'copy'}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
        ],
        name="copy",
        client_port=client,
    )
    copy.start()
    assert copy.wait(60) == 1
    assert "this data directory is a copy" in copy.log.strip().splitlines()[-1]
    assert {name: member["ID"] for name, member in members(machine, victim).items()} == ids
    assert put(machine, victim, 20, 1) is None and not victim.has_ended()
