"""Clusters whose members speak TLS to each other: of pyetcd, and with a member of real etcd; who
has another name than is allowed is left out, by both and in both directions.

`PYETCD_TLS_ALL=1` runs every way to set peer TLS up; the default run, one and the mixed cluster.
"""

import os
from typing import Any

import pytest

ALL = bool(os.environ.get("PYETCD_TLS_ALL"))
FAILED = "client certificate authentication failed"
WAYS = {
    "allowed-cn": ("--peer-client-cert-auth", "--peer-cert-allowed-cn=member"),
    "plain": (),
    "client-cert-auth": ("--peer-client-cert-auth",),
    "allowed-hostname": ("--peer-client-cert-auth", "--peer-cert-allowed-hostname=member.example"),
    "auto": ("--peer-auto-tls",),
}


def start(machine: Any, node_type: Any, free_ports: Any, flags: Any, programs: Any) -> list[Any]:
    """`flags`: of one member, by its place."""
    count = len(programs)
    free = free_ports(2 * count)
    ports = list(zip(free[:count], free[count:], strict=True))
    cluster = ",".join(f"m{i}=https://127.0.0.1:{peer}" for i, (_, peer) in enumerate(ports))
    return [
        node_type(
            machine, f"m{i}", *flags(i), client="http", peer="https", ports=ports[i],
            cluster=cluster, program=program,
        )
        for i, program in enumerate(programs)
    ]  # fmt: skip


def replicates(nodes: list[Any]) -> None:
    for i, node in enumerate(nodes):
        node.wait()
        assert node.ctl("put", f"key-{i}", str(i)).stdout == "OK\n"
    for node in nodes:
        values = node.ctl("get", "key-", "--prefix", "--print-value-only").stdout.split()
        assert values == [str(i) for i in range(len(nodes))], node.name


@pytest.mark.parametrize("way", [way for way in WAYS if ALL or way == "allowed-cn"])
def test_a_mixed_cluster_over_peer_tls(
    machine: Any, authority: Any, node_type: Any, free_ports: Any, way: str
) -> None:
    pairs = []
    for i in range(3):
        pair = authority.issue("member", hosts=("127.0.0.1", "member.example"))
        moved = [f"{path}.{i}" for path in (pair.cert, pair.key)]
        for old, new in zip((pair.cert, pair.key), moved, strict=True):
            os.rename(old, new)
        pairs.append(moved)

    def flags(i: int) -> list[str]:
        if way == "auto":
            return list(WAYS[way])
        files = [f"--peer-cert-file={pairs[i][0]}", f"--peer-key-file={pairs[i][1]}"]
        return [*files, f"--peer-trusted-ca-file={authority.path}", *WAYS[way]]

    nodes = start(machine, node_type, free_ports, flags, ("pyetcd", "pyetcd", "etcd"))
    replicates(nodes)
    nodes[2].process.kill()  # the others go on, perhaps after an election
    for node in nodes[:2]:
        node.wait()


def test_a_peer_of_another_name_is_left_out(
    machine: Any, authority: Any, node_type: Any, free_ports: Any, wait_until: Any
) -> None:
    """Of three, one has the wrong name: the others elect and refuse it."""
    pairs = [authority.issue(name) for name in ("member", "intruder")]

    def flags(i: int) -> list[str]:
        pair = pairs[i == 2]
        return [
            f"--peer-cert-file={pair.cert}",
            f"--peer-key-file={pair.key}",
            f"--peer-trusted-ca-file={authority.path}",
            "--peer-client-cert-auth",
            "--peer-cert-allowed-cn=member",
        ]

    nodes = start(machine, node_type, free_ports, flags, ("pyetcd", "etcd", "pyetcd"))
    for node in nodes[:2]:
        node.wait()
        wait_until(
            lambda n=node: ("rejected connection", FAILED) in n.said(), f"{node.name} to refuse"
        )
    alone = nodes[2].ctl("--command-timeout=300ms", "get", "k", check=False)
    assert alone.returncode == 1


def test_a_client_of_another_host_name_is_refused(
    machine: Any, authority: Any, node_type: Any
) -> None:
    """--client-cert-allowed-hostname; real etcd says the same to the client and in its log."""
    server = authority.issue("listener", hosts=("127.0.0.1", "client.example"))
    good = authority.issue("good", hosts=("client.example",))
    bad = authority.issue("bad", hosts=("other.example",))
    flags = (
        f"--cert-file={server.cert}",
        f"--key-file={server.key}",
        f"--trusted-ca-file={authority.path}",
        "--client-cert-auth",
        "--client-cert-allowed-hostname=client.example",
    )
    trust = f"--cacert={authority.path}"
    for program in ("etcd", "pyetcd"):
        node = node_type(machine, "m", *flags, program=program)
        node.wait(trust, f"--cert={good.cert}", f"--key={good.key}")
        refused = node.ctl(
            trust, f"--cert={bad.cert}", f"--key={bad.key}", "--command-timeout=500ms", "get", "k",
            check=False,
        )  # fmt: skip
        assert "remote error: tls: bad certificate" in refused.stderr, program
        assert ("rejected connection", FAILED) in node.said(), program
        node.process.kill()
