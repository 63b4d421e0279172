"""Promoting a learner through every member, by real etcdctl: who does not lead asks the leader.

A cluster of etcd members gives the same answers to the same commands.
"""

import json
import time
from typing import Any

import pytest


def start_learner(machine: Any, program: str, nodes: list[Any], peer: int, client: int) -> Any:
    head = [machine.pyetcd, "server"] if program == "pyetcd" else [machine.etcd]
    initial = next(arg for arg in nodes[0].argv if arg.startswith("--initial-cluster="))
    argv = [
        *head,
        "--name=late",
        f"--data-dir={machine.folder / f'{program}-late'}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"{initial},late=http://127.0.0.1:{peer}",
        "--initial-cluster-state=existing",
    ]
    name = f"{program}-late"
    return machine.process(argv, name=name, client_port=client).start()


@pytest.mark.parametrize("program", ["pyetcd", "etcd"])
def test_through_every_member(machine: Any, free_ports: Any, program: str) -> None:
    nodes = machine.cluster(3, program=program)
    for node in nodes:
        node.wait_healthy()
    peer, client = free_ports(2)

    def ctl(node: Any, *args: str) -> Any:
        return machine.run(
            machine.etcdctl, f"--endpoints={node.endpoint}", "--command-timeout=20s", *args,
            check=False,
        )  # fmt: skip

    deadline_s = time.monotonic() + 30  # etcd wants its members connected for five seconds
    while True:
        url = f"--peer-urls=http://127.0.0.1:{peer}"
        added = ctl(nodes[0], "member", "add", "late", "--learner", url, "-w", "json")
        if added.returncode == 0:
            break
        assert "unhealthy cluster" in added.stderr and time.monotonic() < deadline_s
        time.sleep(0.2)
    id = f"{json.loads(added.stdout)['member']['ID']:x}"
    for node in nodes:  # each of them, and two do not lead
        refused = ctl(node, "member", "promote", id)
        assert "can only promote a learner member which is in sync with leader" in refused.stderr
        unknown = ctl(node, "member", "promote", "1234")
        assert "etcdserver: member not found" in unknown.stderr
    start_learner(machine, program, nodes, peer, client)
    followers = [node for node in nodes if not leads(ctl, node)]
    assert len(followers) == 2
    while ctl(followers[0], "member", "promote", id).returncode:
        assert time.monotonic() < deadline_s + 30
        time.sleep(0.1)
    again = ctl(followers[1], "member", "promote", id)
    assert "can only promote a learner member" in again.stderr
    listed = json.loads(ctl(followers[1], "member", "list", "-w", "json").stdout)["members"]
    assert len(listed) == 4 and not any(member.get("isLearner") for member in listed)


def leads(ctl: Any, node: Any) -> bool:
    status = json.loads(ctl(node, "endpoint", "status", "-w", "json").stdout)[0]["Status"]
    return bool(status["leader"] == status["header"]["member_id"])
