"""A leader whose disk stalls for longer than an election timeout loses the lead, and says why.

The disk is one that takes seconds for each fsync of the log (failpoint walBeforeSync) from some
fsync on; what is behind it is a real cluster.
"""

import json
import urllib.error
import urllib.request
from typing import Any

SLEEP_MS = 4000  # four election timeouts


def _health(node: Any) -> str:
    try:
        with urllib.request.urlopen(f"http://{node.endpoint}/health", timeout=10) as answer:
            return str(json.load(answer)["reason"])
    except urllib.error.HTTPError as error:
        return str(json.load(error)["reason"])


def _leader(machine: Any, nodes: list[Any]) -> str:
    """The member that the others follow, by its client URL."""
    for node in nodes:
        done = machine.run(
            machine.etcdctl, f"--endpoints={node.endpoint}", "endpoint", "status", "-w", "json"
        )
        status = json.loads(done.stdout)[0]["Status"]
        if status.get("leader"):
            return str(status["leader"])
    return ""


def _id(machine: Any, node: Any) -> str:
    done = machine.run(
        machine.etcdctl, f"--endpoints={node.endpoint}", "endpoint", "status", "-w", "json"
    )
    return str(json.loads(done.stdout)[0]["Status"]["header"]["member_id"])


def test_a_stalled_leader_is_followed_by_another(machine: Any, wait_until: Any) -> None:
    nodes = machine.cluster(3)
    for node in nodes:
        node.wait_healthy()
    ids = {_id(machine, node): node for node in nodes}
    # The member with the bad disk starts anew and is given the lead.
    slow, *others = nodes
    slow.kill()
    slow.environment = {"PYETCD_FAILPOINTS": f"walBeforeSync=sleep({SLEEP_MS})@40"}
    slow.start().wait_healthy()
    mine = next(id for id, node in ids.items() if node is slow)
    every = ",".join(node.endpoint for node in nodes)
    # One of them leads; who does not says so, and is not asked again.
    machine.run(
        machine.etcdctl, f"--endpoints={every}", "move-leader", f"{int(mine):x}", check=False
    )
    wait_until(lambda: _leader(machine, others) == mine, "the lead to be moved")

    def put(key: str, node: Any) -> bool:
        done = machine.run(
            machine.etcdctl,
            f"--endpoints={node.endpoint}",
            "--command-timeout=2s",
            "put",
            key,
            "v",
            check=False,
        )
        return done.returncode == 0

    count = 0
    while _health(slow) != "DISK STALLED":  # each put costs the leader an fsync
        put(f"k{count}", slow)
        count += 1
        assert count < 200
    wait_until(lambda: _leader(machine, others) not in ("", mine), "another leader")
    assert put("after", others[0])
    assert (
        b"pyetcd_disk_stalls_total"
        in urllib.request.urlopen(f"http://{slow.endpoint}/metrics", timeout=10).read()
    )
    assert "the log's disk has stalled" in slow.log
