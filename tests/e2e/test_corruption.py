"""A member whose data was changed behind its back is found by its hash, before it serves or after
a compaction."""

import json
from pathlib import Path
from typing import Any

from pyetcd.store.backend import Backend
from pyetcd.store.history import crc_of


def change(folder: Path) -> None:
    """Another value of k, with all its checksums right: only the others can tell."""
    backend = Backend.open(str(folder / "member" / "kv.db"), create=False)
    ((rev, create, version, lease),) = backend.query(
        "SELECT rev, create_revision, version, lease FROM revisions WHERE key = x'6b'"
    )
    crc = crc_of(rev, b"k", b"other", create, version, lease)  # type: ignore[arg-type]
    backend.execute("UPDATE revisions SET value = x'6f74686572', crc = ? WHERE rev = ?", (crc, rev))
    backend.commit()
    backend.checkpoint()
    backend.close()


def test_other_data_is_found(machine: Any, wait_until: Any) -> None:
    looks = ("--experimental-compact-hash-check-time=100ms", "--experimental-corrupt-check-time=1h")
    nodes = [node.wait_healthy() for node in machine.cluster(3, *looks)]
    ctl = (machine.etcdctl, "--endpoints", nodes[0].endpoint)
    for key in ("k", "other", "third"):
        machine.run(*ctl, "put", key, "v")

    def alarms() -> list[int]:
        answer = machine.run(*ctl, "alarm", "list", "-w", "json").stdout
        return [one["memberID"] for one in json.loads(answer).get("alarms", [])]

    def put() -> Any:
        return machine.run(*ctl, "put", "k", "v", check=False)

    machine.run(*ctl, "compact", "3")
    said = "finished compaction hash check"
    wait_until(lambda: any(said in node.log for node in nodes), "a look at equal data")
    assert alarms() == []
    nodes[2].signal(15)
    nodes[2].wait()
    nodes[2].start().wait_healthy()
    passed = "initial corruption checking passed"
    wait_until(lambda: passed in nodes[2].log, "the line that says so")
    nodes[2].signal(15)
    nodes[2].wait()
    change(machine.folder / "m2")
    assert nodes[2].start().wait() == 1
    last = nodes[2].log.splitlines()[-1]
    assert "found data inconsistency with peers; remove this member, empty its data" in last
    nodes[2].argv.append("--experimental-initial-corrupt-check=false")
    nodes[2].start()  # never healthy, if the look after the first compaction comes at once
    machine.run(*ctl, "compact", "4", check=False)
    wait_until(lambda: alarms() != [], "the alarm")
    members = json.loads(machine.run(*ctl, "member", "list", "-w", "json").stdout)["members"]
    assert alarms() == [one["ID"] for one in members if one["name"] == "m2"]
    assert "corrupt cluster" in put().stderr
    assert "third" in machine.run(*ctl, "get", "third").stdout
    nodes[0].signal(15)
    nodes[0].wait()
    nodes[0].start()  # replays the alarm, and has the data of the majority
    wait_until(lambda: "most members have this data" in nodes[0].log, "a second start")
    wait_until(lambda: "corrupt cluster" in put().stderr, "the alarm after the start")
    assert len(alarms()) == 1
