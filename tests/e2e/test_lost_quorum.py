"""What is left when members are lost for ever: --force-new-cluster, and a wiped member's return."""

import json
import shutil
import signal
import subprocess

QUICK = ("--heartbeat-interval=20", "--election-timeout=200")


def ctl(machine, node, *argv: str, check: bool = True) -> str:
    done = machine.run(machine.pyetcd, "ctl", "--endpoints", node.endpoint, *argv, check=check)
    return done.stdout if check else done.stdout + done.stderr


def members(machine, node) -> dict[str, dict]:
    found = json.loads(ctl(machine, node, "member", "list", "-w", "json"))["members"]
    return {member.get("name", ""): member for member in found}


def peer_url(node) -> str:
    flag = "--listen-peer-urls="
    return next(arg.removeprefix(flag) for arg in node.argv if arg.startswith(flag))


def with_flags(node, **changed: str) -> list[str]:
    flags = {name.replace("_", "-"): value for name, value in changed.items()}
    kept = [arg for arg in node.argv if arg[2:].partition("=")[0] not in flags]
    return [*kept, *(f"--{flag}={value}" for flag, value in flags.items())]


def hash_of(machine, node, revision: int) -> tuple[int, int]:
    argv = ["endpoint", "hashkv", "-w", "json", f"--rev={revision}"]
    answer = json.loads(ctl(machine, node, *argv))[0]["HashKV"]
    return answer["hash"], answer["header"]["revision"]


def new_member(machine, free_ports, name: str, cluster: str):
    client, peer = free_ports(2)
    url = f"http://127.0.0.1:{peer}"
    argv = [
        machine.pyetcd,
        "server",
        f"--name={name}",
        f"--data-dir={machine.folder / name}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls={url}",
        f"--initial-advertise-peer-urls={url}",
        f"--initial-cluster={cluster},{name}={url}",
        "--initial-cluster-state=existing",
    ]
    return machine.process(argv, name=name, client_port=client), url


def test_one_of_three_goes_on_alone(machine, free_ports, wait_until):
    # The check wants five steady seconds before a member may be added.
    nodes = machine.cluster(3, *QUICK, "--strict-reconfig-check=false")
    for node in nodes:
        node.wait_healthy()
    # A learner that never came counts, too: etcd left it behind until 3.5.22.
    ctl(machine, nodes[0], "member", "add", "ghost", "--learner", "--peer-urls=http://127.0.0.1:1")
    for number in range(20):
        ctl(machine, nodes[number % 3], "put", f"k{number}", f"v{number}")
    wait_until(lambda: hash_of(machine, nodes[1], 0)[1] == 21, "the last put to arrive")
    before = hash_of(machine, nodes[1], 21)
    cluster_before = ctl(machine, nodes[1], "member", "list", "-w", "json")
    for node in nodes:
        node.kill()
    for node in (nodes[0], nodes[2]):
        shutil.rmtree(machine.folder / node.name)

    # On another peer port, as on another machine.
    alone = nodes[1]
    (moved,) = free_ports(1)
    url = f"http://127.0.0.1:{moved}"
    plain = with_flags(alone, listen_peer_urls=url, initial_advertise_peer_urls=url)
    alone.argv = [*plain, "--force-new-cluster"]
    alone.start().wait_healthy()
    assert "forcing restart member" in alone.log
    found = members(machine, alone)
    assert list(found) == ["m1"]
    assert found["m1"]["peerURLs"] == [url] and "isLearner" not in found["m1"]
    assert str(found["m1"]["ID"]) in cluster_before  # the same member of the same cluster
    assert hash_of(machine, alone, 21) == before
    ctl(machine, alone, "put", "after", "alone")

    # The flag is for once; without it everything is as it was then. And then the cluster grows.
    alone.kill()
    alone.argv = plain
    alone.start().wait_healthy()
    assert list(members(machine, alone)) == ["m1"]
    joiner, joiner_url = new_member(machine, free_ports, "fresh", f"m1={url}")
    ctl(machine, alone, "member", "add", "fresh", f"--peer-urls={joiner_url}")
    joiner.start().wait_healthy()
    ctl(machine, joiner, "put", "both", "there")
    wait_until(lambda: hash_of(machine, joiner, 0)[1] == 23, "the new member to catch up")
    assert hash_of(machine, joiner, 23) == hash_of(machine, alone, 23)
    assert sorted(members(machine, joiner)) == ["fresh", "m1"]
    # Once more, with nothing lost but the other: the flag again, and a log with a past.
    for node in (alone, joiner):
        node.kill()
    alone.argv = [*plain, "--force-new-cluster"]
    alone.start().wait_healthy()
    assert list(members(machine, alone)) == ["m1"]
    assert ctl(machine, alone, "get", "both", "--print-value-only") == "there\n"


def test_a_wiped_member(machine, free_ports, wait_until):
    nodes = machine.cluster(3, *QUICK)
    for node in nodes:
        node.wait_healthy()
    for number in range(10):
        ctl(machine, nodes[0], "put", f"k{number}", f"v{number}")
    wiped = nodes[2]
    old = members(machine, nodes[0])["m2"]
    old_id = f"{old['ID']:x}"
    wiped.signal(signal.SIGTERM)
    wiped.wait()
    shutil.rmtree(machine.folder / wiped.name)

    # With its old flags it would vote a second time.
    done = subprocess.run(
        wiped.argv, cwd=machine.folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    # A start that takes long shows its log.
    assert done.stderr.splitlines()[-1] == f"member {old_id} has already been bootstrapped"
    assert not (machine.folder / wiped.name).exists()

    # etcd's steps: remove, add, start with the state existing.
    ctl(machine, nodes[0], "member", "remove", old_id)
    ctl(machine, nodes[0], "put", "while", "away")
    add = ("member", "add", "m2", f"--peer-urls={peer_url(wiped)}")
    # The check wants five steady seconds of the other two.
    wait_until(
        lambda: "added" in ctl(machine, nodes[0], *add, check=False), "the member to be added"
    )
    wiped.argv = with_flags(wiped, initial_cluster_state="existing")
    wiped.start().wait_healthy()
    wait_until(lambda: hash_of(machine, wiped, 0)[1] == 12, "the wiped member to catch up")
    assert hash_of(machine, wiped, 12) == hash_of(machine, nodes[0], 12)
    assert f"{members(machine, nodes[0])['m2']['ID']:x}" != old_id
    # A full member: it stands in for another.
    nodes[1].kill()
    wait_until(
        lambda: ctl(machine, wiped, "put", "last", "one", check=False) == "OK\n", "a quorum again"
    )
