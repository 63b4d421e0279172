"""Real clients, each in a process of its own: grpcio, aetcd, etcd-client-py, etcdctl; etcd3gw by
the JSON gateway."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CLIENTS = Path(__file__).parent / "clients"


@pytest.mark.parametrize("program", ["etcd", "pyetcd"])  # etcd first: it judges the scripts
def test_clients(machine, program):
    node = machine.single(program)
    host, port = node.endpoint.split(":")
    for script, arguments in (
        ("use_grpcio.py", [node.endpoint]),
        ("use_aetcd.py", [host, port]),
        ("use_rust.py", [f"http://{node.endpoint}"]),
        ("use_etcd3gw.py", [host, port]),
    ):
        done = machine.run(sys.executable, str(CLIENTS / script), *arguments, check=False)
        assert done.stdout == "ok\n", (script, done.stderr)


@pytest.mark.parametrize("program", ["etcd", "pyetcd"])
def test_python_etcd(machine, program):
    """The v2 API."""
    host, port = machine.single(program, "--enable-v2").endpoint.split(":")
    script = str(CLIENTS / "use_python_etcd.py")
    done = machine.run(sys.executable, "-W", "ignore", script, host, port, check=False)
    assert done.stdout == "ok\n", done.stderr


def test_etcdctl(machine):
    node = machine.single()

    def etcdctl(*argv, stdin=""):
        return machine.run(
            machine.etcdctl, "--endpoints", node.endpoint, *argv, stdin=stdin, ETCDCTL_API="3"
        ).stdout

    assert etcdctl("put", "k", "v1") == "OK\n"
    assert etcdctl("txn", stdin='value("k") = "v1"\n\nput k v2\nget k\n\nput k no\n\n') == (
        "SUCCESS\n\nOK\n\nk\nv2\n"
    )
    granted = etcdctl("lease", "grant", "60")
    lease = granted.split()[1]
    assert granted == f"lease {lease} granted with TTL(60s)\n"
    assert (
        etcdctl("lease", "keep-alive", "--once", lease)
        == f"lease {lease} keepalived with TTL(60)\n"
    )
    machine.run(
        *[machine.pyetcd, "bench", "put", "--endpoints", node.endpoint, "--total=10000"],
        *["--sequential-keys", "--key-size=8", "--key-space-size=10000", "--clients=100"],
    )
    listed = etcdctl("get", "", "--from-key", "--keys-only", "-w", "json")
    assert json.loads(listed)["count"] == 10_001
    argv = [machine.etcdctl, "--endpoints", node.endpoint, "watch", "w", "--prefix", "--rev=2"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        etcdctl("put", "w1", "first")
        etcdctl("del", "w1")
        seen = [watch.stdout.readline() for _ in range(6)]
        watch.kill()
    assert seen == ["PUT\n", "w1\n", "first\n", "DELETE\n", "w1\n", "\n"]
    assert etcdctl("endpoint", "health") != ""
    assert "127.0.0.1" in etcdctl("endpoint", "status")
    assert etcdctl("endpoint", "hashkv").startswith(node.endpoint)
    assert etcdctl("compaction", "2") == "compacted revision 2\n"
