"""A real start on the data directory of a killed member, in each format there has been."""

import json
import tarfile
from base64 import b64decode
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parent.parent / "fixtures" / "data"


@pytest.mark.parametrize("format", sorted(path.name for path in DATA.iterdir()))
def test_a_killed_member_of_another_format_starts(machine, free_ports, format):
    facts = json.loads((DATA / format / "facts.json").read_text())["directories"]["killed"]
    _, name, peer_urls, _, _ = facts["members"][0]
    with tarfile.open(DATA / format / "killed.tar.xz") as archive:
        archive.extractall(machine.folder / name, filter="data")
    client, peer = free_ports(2)
    node = machine.process(
        [
            machine.pyetcd, "server", f"--name={name}", f"--data-dir={machine.folder / name}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls={peer_urls[0]}",
            f"--initial-cluster={name}={peer_urls[0]}",
        ],
        name=name, client_port=client,
    ).start().wait_healthy()  # fmt: skip
    run = [machine.pyetcd, "ctl", "--endpoints", node.endpoint]
    got = json.loads(machine.run(*run, "get", "", "--from-key", "-w", "json").stdout)
    assert got["count"] == len(facts["keys"])
    for kv, (key, value, *numbers) in zip(got["kvs"], facts["keys"], strict=True):
        assert b64decode(kv["key"]).hex() == key and b64decode(kv["value"]).hex() == value
        names = ("create_revision", "mod_revision", "version", "lease")
        assert [kv.get(name, 0) for name in names] == numbers
    leases = json.loads(machine.run(*run, "lease", "list", "-w", "json").stdout)["leases"]
    assert sorted(lease["id"] for lease in leases) == facts["leases"]
    hashed = machine.run(*run, "endpoint", "hashkv", f"--rev={facts['revision']}", "-w", "json")
    assert json.loads(hashed.stdout)[0]["HashKV"]["hash"] == facts["hash"]
