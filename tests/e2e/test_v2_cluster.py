"""v2 keys across restarts, leaders that die, and members of both kinds."""

import asyncio
import http.client
import json
import resource
import time
import urllib.parse
from pathlib import Path
from typing import Any

KEYS = "/v2/keys"
WRITES = 60
TREE = f"{KEYS}/?recursive=true&sorted=true&quorum=true"


def ask(node: Any, method: str, path: str, timeout_s: float = 15.0, **form: Any) -> Any:
    """(status, X-Etcd-Index, document)."""
    connection = http.client.HTTPConnection("127.0.0.1", node.client_port, timeout=timeout_s)
    try:
        body = urllib.parse.urlencode(form)
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        connection.request(method, path, body, kind)
        answer = connection.getresponse()
        index = int(answer.headers.get("X-Etcd-Index", "-1"))
        return answer.status, index, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def put_v3(node: Any, number: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", node.client_port, timeout=15)
    try:
        connection.request("POST", "/v3/kv/put", json.dumps({"key": "azM=", "value": "dg=="}))
        connection.getresponse().read()
    finally:
        connection.close()


def test_a_killed_member_finds_its_tree_and_its_history(machine: Any) -> None:
    node = machine.single("pyetcd", "--enable-v2")
    first = ask(node, "PUT", f"{KEYS}/a/b", value="1", ttl=5000)[1]
    ask(node, "PUT", f"{KEYS}/a/b", value="2", ttl=6000)
    deleted = ask(node, "DELETE", f"{KEYS}/a?recursive=true")[1]
    ask(node, "POST", f"{KEYS}/q", value="3")
    before = ask(node, "GET", TREE)
    for _ in range(2):
        node.kill()
        node.start().wait_healthy()
        assert ask(node, "GET", TREE)[2] == before[2]
        event = ask(node, "GET", f"{KEYS}/a?wait=true&recursive=true&waitIndex={first}")[2]
        assert (event["action"], event["node"]["value"]) == ("set", "1")
        gone = ask(node, "GET", f"{KEYS}/a/b?wait=true&waitIndex={deleted}")[2]
        assert gone["action"] == "delete"


def test_members_agree_when_leaders_die(machine: Any, wait_until: Any) -> None:
    nodes = machine.cluster(3, "--enable-v2", "--heartbeat-interval=100")
    for node in nodes:
        node.wait_healthy()
    acknowledged: dict[str, str] = {}
    for number in range(WRITES):
        node = nodes[number % 3]
        if number in (WRITES // 3, 2 * WRITES // 3):
            leader = next(n for n in nodes if ask(n, "GET", "/v2/stats/leader")[0] == 200)
            leader.kill()
            wait_until(lambda: any_writes(nodes), "the others to go on")
            leader.start().wait_healthy()
        status, _, answer = ask(node, "POST", f"{KEYS}/q", value=str(number), ttl=7000)
        assert status == 201, answer
        acknowledged[answer["node"]["key"]] = str(number)
        put_v3(node, number)
    answers = [ask(node, "GET", TREE) for node in nodes]
    trees = [strip(json.dumps(answer[2])) for answer in answers]
    kept = {node["key"]: node["value"] for node in answers[0][2]["node"]["nodes"][-1]["nodes"]}
    assert kept == acknowledged
    wait_until(
        lambda: len({ask(node, "GET", f"{KEYS}/q")[1] for node in nodes}) == 1, "equal indexes"
    )
    assert trees[0] == trees[1] == trees[2]


def test_statistics_of_the_links(machine: Any, wait_until: Any) -> None:
    nodes = machine.cluster(3, "--enable-v2", "--heartbeat-interval=100")
    for node in nodes:
        node.wait_healthy()
    leader = next(n for n in nodes if ask(n, "GET", "/v2/stats/leader")[0] == 200)
    for number in range(20):
        assert ask(leader, "PUT", f"{KEYS}/a", value=str(number))[0] < 300
    pages = {node: ask(node, "GET", "/v2/stats/self")[2] for node in nodes}
    sent = pages[leader]["sendAppendRequestCnt"]
    assert sent >= 20
    assert pages[leader]["sendPkgRate"] > 0
    assert pages[leader]["sendBandwidthRate"] > pages[leader]["sendPkgRate"]
    assert {page["leaderInfo"]["leader"] for page in pages.values()} == {pages[leader]["id"]}
    for node in nodes:
        if node is not leader:
            assert pages[node]["recvAppendRequestCnt"] >= 10, pages[node]
            assert pages[node]["sendAppendRequestCnt"] == 0
    page = ask(leader, "GET", "/v2/stats/leader")[2]
    ids = {pages[node]["id"] for node in nodes if node is not leader}
    assert (page["leader"], set(page["followers"])) == (pages[leader]["id"], ids)
    for follower in page["followers"].values():
        latency = follower["latency"]
        assert 0 < latency["minimum"] <= latency["average"] <= latency["maximum"]
        assert follower["counts"]["success"] >= 10


def strip(tree: str) -> Any:
    """Without the seconds that are left."""

    def walk(node: dict[str, Any]) -> dict[str, Any]:
        node.pop("ttl", None)
        for child in node.get("nodes", ()):
            walk(child)
        return node

    return walk(json.loads(tree)["node"])


def any_writes(nodes: list[Any]) -> bool:
    for node in nodes:
        try:
            return bool(ask(node, "PUT", f"{KEYS}/other", timeout_s=3, value="1")[0] < 300)
        except OSError:
            continue
    return False


def test_with_members_of_etcd(machine: Any, free_ports: Any, wait_until: Any) -> None:
    """The same entries give the same tree and index on both kinds, whoever leads."""
    ports = free_ports(6)
    clients, peers = ports[:3], ports[3:]
    cluster = ",".join(f"m{i}=http://127.0.0.1:{peer}" for i, peer in enumerate(peers))
    heads = ([machine.etcd], [machine.pyetcd, "server"], [machine.pyetcd, "server"])
    nodes = []
    for i, head in enumerate(heads):
        argv = [
            *head,
            f"--name=m{i}",
            f"--data-dir={machine.folder / f'm{i}'}",
            f"--listen-client-urls=http://127.0.0.1:{clients[i]}",
            f"--advertise-client-urls=http://127.0.0.1:{clients[i]}",
            f"--listen-peer-urls=http://127.0.0.1:{peers[i]}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peers[i]}",
            f"--initial-cluster={cluster}",
            "--enable-v2",
        ]
        nodes.append(machine.process(argv, name=f"m{i}", client_port=clients[i]).start())
    for node in nodes:
        node.wait_healthy()
    for number in range(45):
        node = nodes[number % 3]
        ask(node, "POST", f"{KEYS}/q", value=str(number))
        ask(node, "PUT", f"{KEYS}/k{number % 4}", value=str(number), ttl=1 + number % 2 * 5000)
        if number % 9 == 8:
            ask(node, "DELETE", f"{KEYS}/q?recursive=true")
        if number == 25:
            leader = next(n for n in nodes if ask(n, "GET", "/v2/stats/leader")[0] == 200)
            leader.kill()
            rest = [n for n in nodes if n is not leader]
            wait_until(lambda rest=rest: any_writes(rest), "the others to go on")
            leader.start().wait_healthy()

    def agree() -> bool:
        found = [ask(node, "GET", TREE) for node in nodes]
        if any("/k0" in json.dumps(answer[2]) for answer in found):
            return False  # about to run out
        trees = [strip(json.dumps(answer[2])) for answer in found]
        indexes = {answer[1] for answer in found}
        return len(indexes) == 1 and trees[0] == trees[1] == trees[2]

    wait_until(agree, "three equal trees")


WATCHERS = 1000


def test_a_thousand_wait_at_once(machine: Any) -> None:
    """Each gets its event, and nothing of them stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    node = machine.single("pyetcd", "--enable-v2")
    try:
        ask(node, "PUT", f"{KEYS}/warm", value="1")
        descriptors = len(list(Path(f"/proc/{node.pid}/fd").iterdir()))
        asyncio.run(_thousand(node))
        deadline_s = time.monotonic() + 20
        while len(list(Path(f"/proc/{node.pid}/fd").iterdir())) > descriptors + 2:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        assert ask(node, "GET", "/v2/stats/store")[2]["watchers"] == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _thousand(node: Any) -> None:
    streams = []
    for number in range(WATCHERS):
        reader, writer = await asyncio.open_connection("127.0.0.1", node.client_port)
        target = f"{KEYS}/w/{number}?wait=true" if number % 2 else f"{KEYS}/w?wait=true&recursive=1"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        streams.append((number, reader, writer))
    for _, reader, _ in streams:
        await reader.readuntil(b"\r\n\r\n")
    found = await asyncio.to_thread(ask, node, "GET", "/v2/stats/store")
    assert found[2]["watchers"] == WATCHERS
    for number in range(1, WATCHERS, 2):
        await asyncio.to_thread(ask, node, "PUT", f"{KEYS}/w/{number}", value=str(number))
    for number, reader, writer in streams:
        event = json.loads((await reader.read()).split(b"\r\n")[1])
        assert event["node"]["key"] == f"/w/{number if number % 2 else 1}"
        writer.close()
        await writer.wait_closed()
