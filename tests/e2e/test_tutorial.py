"""The tutorial of the README, word for word but for the port numbers, with both clients."""

from pathlib import Path

import pytest

CONF = """\
name: {name}
data-dir: ./{name}/data
listen-client-urls: http://127.0.0.1:{client}
advertise-client-urls: http://127.0.0.1:{client}
listen-peer-urls: http://127.0.0.1:{peer}
initial-advertise-peer-urls: http://127.0.0.1:{peer}
initial-cluster: {cluster}
initial-cluster-token: etcd-cluster-1
initial-cluster-state: new
"""


@pytest.fixture(params=["pyetcd ctl", "etcdctl"])
def ctl(request, machine):
    """A function that runs one of the two clients."""
    head = [machine.pyetcd, "ctl"] if request.param == "pyetcd ctl" else [machine.etcdctl]

    def run(*argv, check=True):
        return machine.run(*head, *argv, check=check, ETCDCTL_API="3")

    return run


def three_nodes(machine, free_ports):
    ports = free_ports(6)
    names = ["etcd1", "etcd2", "etcd3"]
    clients = dict(zip(names, ports[:3], strict=True))
    peers = dict(zip(names, ports[3:], strict=True))
    cluster = ",".join(f"{name}=http://127.0.0.1:{peers[name]}" for name in names)
    nodes = {}
    for name in names:
        conf = Path(machine.folder) / f"{name}_conf.yml"
        conf.write_text(
            CONF.format(name=name, client=clients[name], peer=peers[name], cluster=cluster)
        )
        argv = [machine.pyetcd, "server", f"--config-file={name}_conf.yml"]
        nodes[name] = machine.process(argv, name=name, client_port=clients[name]).start()
    for node in nodes.values():
        node.wait_healthy()
    return nodes


def test_three_nodes_from_three_files(machine, ctl, free_ports, wait_until):
    nodes = three_nodes(machine, free_ports)
    one, two, three = (nodes[name].endpoint for name in ("etcd1", "etcd2", "etcd3"))
    assert ctl("--endpoints", one, "put", "key1", "zhangyi").stdout == "OK\n"
    for endpoint in (one, two, three):
        assert ctl("--endpoints", endpoint, "get", "key1").stdout == "key1\nzhangyi\n"
    assert ctl("--endpoints", three, "put", "key2", "a b").stdout == "OK\n"
    assert ctl("--endpoints", one, "get", "key", "--prefix").stdout == "key1\nzhangyi\nkey2\na b\n"
    listed = ctl("--endpoints", one, "member", "list").stdout
    assert len(listed.splitlines()) == 3 and listed.count(", started, etcd") == 3

    # One node killed: the other two go on; the killed one comes back and catches up.
    nodes["etcd2"].kill()

    def writes_again() -> bool:
        return ctl("--endpoints", one, "put", "key3", "x", check=False).stdout == "OK\n"

    wait_until(writes_again, "the two that are left to accept a write")
    assert ctl("--endpoints", three, "get", "key3", "--print-value-only").stdout == "x\n"
    nodes["etcd2"].start().wait_healthy()
    assert ctl("--endpoints", two, "get", "key3", "--print-value-only").stdout == "x\n"
    serializable = ("get", "key3", "--consistency=s", "--print-value-only")
    wait_until(
        lambda: ctl("--endpoints", two, *serializable).stdout == "x\n",
        "the restarted node to have caught up by itself",
    )
    for node in nodes.values():
        assert "Traceback" not in node.log


def test_one_node(machine, ctl):
    node = machine.single()
    assert ctl("--endpoints", node.endpoint, "put", "a", "b").stdout == "OK\n"
    assert ctl("--endpoints", node.endpoint, "get", "a").stdout == "a\nb\n"
    assert ctl("--endpoints", node.endpoint, "del", "a").stdout == "1\n"


def test_a_node_restarts_with_its_data(machine, stop_signals):
    node = machine.single()
    machine.run(machine.pyetcd, "ctl", "--endpoints", node.endpoint, "put", "a", "b")
    for number, code in zip(stop_signals, (-15, -2), strict=True):
        node.signal(number)
        assert node.wait() == code
        node.start().wait_healthy()
        got = machine.run(machine.pyetcd, "ctl", "--endpoints", node.endpoint, "get", "a")
        assert got.stdout == "a\nb\n"
