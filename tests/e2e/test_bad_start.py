"""A start that cannot work: one line on stderr, exit code 1, nothing created or changed."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below, with what is in it. Left out: logs of the tests themselves, and what holds
    no data: the number of the process in LOCK, and the index that SQLite makes anew of a -wal."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.suffix != ".log" and path.name != "LOCK" and not path.name.endswith("-shm")
    }


def refused(machine, *argv, changes: bool = False) -> str:
    """Start pyetcd, which must refuse; the one line."""
    before = snapshot(machine.folder)
    done = subprocess.run(
        [machine.pyetcd, "server", *argv],
        cwd=machine.folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={k: v for k, v in os.environ.items() if not k.startswith("ETCD")},
    )
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    if not changes:
        assert snapshot(machine.folder) == before
    return done.stderr


def flags(free_ports, name: str = "m", **more: str) -> list[str]:
    client, peer = free_ports(2)
    values = {
        "name": name,
        "data-dir": name,
        "listen-client-urls": f"http://127.0.0.1:{client}",
        "advertise-client-urls": f"http://127.0.0.1:{client}",
        "listen-peer-urls": f"http://127.0.0.1:{peer}",
        "initial-advertise-peer-urls": f"http://127.0.0.1:{peer}",
        "initial-cluster": f"{name}=http://127.0.0.1:{peer}",
        **{flag.replace("_", "-"): value for flag, value in more.items()},
    }
    return [f"--{flag}={value}" for flag, value in values.items()]


@pytest.fixture
def stopped(machine):
    """The argv of a member that has run, with something in it, and was killed."""
    node = machine.single()
    machine.run(machine.pyetcd, "ctl", "--endpoints", node.endpoint, "put", "a", "b")
    node.kill()
    return node


def with_flag(argv: list[str], flag: str, value: str) -> list[str]:
    kept = [arg for arg in argv[2:] if not arg.startswith(f"--{flag}=")]
    return [*kept, f"--{flag}={value}"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file or directory"),
        ("name: [unclosed\n", "not YAML"),
        ("just text\n", "key: value"),
        ("heartbeat-interval: soon\n", "heartbeat-interval"),
        ("listen-client-urls: not a url\n", "URL"),
        ("initial-cluster-state: old\n", 'unexpected clusterState "old"'),
        ("name: x\ninitial-cluster: y=http://127.0.0.1:2380\n", "couldn't find local name"),
    ],
)
def test_configuration_files(machine, content, said):
    if content is not None:
        (machine.folder / "conf.yml").write_text(content)
    assert said in refused(machine, "--config-file=conf.yml")


def test_an_unreadable_file(machine):
    (machine.folder / "conf.yml").mkdir()
    assert "is a directory" in refused(machine, "--config-file=conf.yml")


def test_an_unknown_key_is_a_warning(machine, free_ports):
    client, peer = free_ports(2)
    (machine.folder / "conf.yml").write_text(
        f"data-dir: d\nlisten-client-urls: http://127.0.0.1:{client}\n"
        f"advertise-client-urls: http://127.0.0.1:{client}\n"
        f"listen-peer-urls: http://127.0.0.1:{peer}\n"
        f"initial-advertise-peer-urls: http://127.0.0.1:{peer}\n"
        f"initial-cluster: default=http://127.0.0.1:{peer}\nheartbeat-intervall: 100\n"
    )
    argv = [machine.pyetcd, "server", "--config-file=conf.yml"]
    node = machine.process(argv, name="n", client_port=client).start().wait_healthy()
    line = next(line for line in node.log.splitlines() if "heartbeat-intervall" in line)
    assert '"level":"warn"' in line and '"heartbeat-interval"' in line


def test_names_and_urls_that_do_not_fit(machine, free_ports):
    said = refused(machine, *flags(free_ports, initial_cluster="other=http://127.0.0.1:1"))
    assert 'couldn\'t find local name "m" in the initial cluster configuration' in said
    said = refused(machine, *flags(free_ports, initial_cluster="m=http://127.0.0.1:1"))
    assert "--initial-cluster has m=http://127.0.0.1:1 but missing from" in said


def test_a_port_in_use(machine, free_ports):
    node = machine.single()
    said = refused(
        machine, *flags(free_ports, listen_client_urls=f"http://{node.endpoint}"), changes=True
    )
    assert f"listen tcp {node.endpoint}: bind: address already in use" in said
    assert not (machine.folder / "m").exists()


def test_a_directory_in_use(machine, free_ports):
    node = machine.single()
    client, peer = free_ports(2)
    argv = with_flag(node.argv, "listen-client-urls", f"http://127.0.0.1:{client}")
    argv = with_flag(["", "", *argv], "listen-peer-urls", f"http://127.0.0.1:{peer}")
    said = refused(machine, *argv, changes=True)
    assert "in use" in said and str(node.pid) in said
    assert node.health()


def test_a_directory_of_another_member(machine, stopped, free_ports):
    said = refused(machine, *flags(free_ports, name="other", data_dir=stopped.name))
    assert "cluster" in said and stopped.name in said
    argv = with_flag(stopped.argv, "initial-cluster-token", "another")
    assert "token" in refused(machine, *argv)
    # With its own flags it is as it was.
    stopped.start().wait_healthy()
    got = machine.run(machine.pyetcd, "ctl", "--endpoints", stopped.endpoint, "get", "a")
    assert got.stdout == "a\nb\n"


def test_one_of_two_members_in_the_place_of_the_other(machine, free_ports):
    nodes = machine.cluster(2)
    for node in nodes:
        node.wait_healthy()
    for node in nodes:
        node.signal(signal.SIGTERM)
        node.wait()
    argv = with_flag(nodes[0].argv, "data-dir", str(machine.folder / "m1"))
    assert "holds member m1" in refused(machine, *argv)


def test_a_place_where_nothing_can_be_made(machine, free_ports):
    # Even root may not make a directory here; permissions as such are in tests/server/test_startup.
    said = refused(machine, *flags(free_ports, data_dir="/sys/pyetcd"))
    assert "/sys/pyetcd" in said and ("permitted" in said or "denied" in said)


@pytest.mark.parametrize("name", ["wal.db", "kv.db"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"something else entirely, long enough for a header" * 9),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: path.unlink(),
    ],
    ids=["empty", "foreign", "cut", "directory", "missing"],
)
def test_a_foreign_file_in_the_place_of_a_database(machine, stopped, name, spoil):
    folder = machine.folder / stopped.name / "member"
    machine_argv = stopped.argv[2:]
    spoil(folder / name)
    said = refused(machine, *machine_argv)
    assert name in said


def test_a_newer_file(machine, stopped):
    path = machine.folder / stopped.name / "member" / "kv.db"
    # PRAGMA user_version, the schema's version, lies at offset 60 of the header.
    data = bytearray(path.read_bytes())
    data[60:64] = (999).to_bytes(4, "big")
    path.write_bytes(data)
    assert "newer" in refused(machine, *stopped.argv[2:])


def test_a_real_etcds_directory(machine, free_ports):
    node = machine.single("etcd")
    node.kill()
    assert "real etcd" in refused(machine, *flags(free_ports, data_dir=node.name))
    shutil.rmtree(machine.folder / node.name)
