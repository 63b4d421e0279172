"""Real etcd members and ours in one cluster: the judge of every byte on the peer port."""

import asyncio
import base64
from pathlib import Path
from types import ModuleType


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def put(member, key: str, value: str) -> None:
    """Also through an election: only the last answer counts."""
    for _ in range(40):
        status, _ = await member.post("/v3/kv/put", {"key": b64(key), "value": b64(value)})
        if status == 200:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"no put through {member.name}: {member.log[-2000:]}")


def with_cluster(
    bench: ModuleType, binary: str, folder: Path, real: int, work, *, is_started: bool = True
) -> None:
    async def run() -> None:
        cluster = bench.mixed_cluster(binary, real, folder)
        try:
            if is_started:
                await cluster.start()
                await wait_serving(bench, cluster)
            await work(cluster)
        finally:
            await cluster.stop()

    asyncio.run(run())


async def wait_serving(bench: ModuleType, cluster) -> None:
    await bench.until(
        lambda: all("ready to serve client requests" in m.log for m in cluster.real), "real members"
    )


def test_entries_arrive_and_count_for_the_quorum(bench, etcd_binary, tmp_path):
    """One real member of two cannot commit anything without us."""

    async def work(cluster) -> None:
        (real,) = cluster.real
        for n in range(20):
            await put(real, f"key{n}", f"value{n}")
        await bench.until(lambda: b"key19" in cluster.ours.puts(), "the puts")
        assert cluster.ours.puts()[b"key7"] == b"value7"
        assert not cluster.ours.errors

    with_cluster(bench, etcd_binary, tmp_path, 1, work)


def test_broken_links_come_back(bench, etcd_binary, tmp_path):
    """Every connection in both directions is cut, twice; a put behind each cut arrives."""

    async def work(cluster) -> None:
        (real,) = cluster.real
        transport = cluster.ours.station.transport
        peer_id = transport.peer_ids[0]
        for n in range(2):
            before = transport.counters[peer_id].sent_bytes_total
            cluster.ours.station.cut()
            for task in list(transport.peer(peer_id)._readers):
                assert not task.done()
            await put(real, f"cut{n}", "x")
            await bench.until(lambda n=n: f"cut{n}".encode() in cluster.ours.puts(), "the put")
            assert transport.counters[peer_id].sent_bytes_total > before
            assert transport.is_active(peer_id)

    with_cluster(bench, etcd_binary, tmp_path, 1, work)


def test_a_real_member_that_restarts_is_dialled_again(bench, etcd_binary, tmp_path):
    """With two real members the cluster goes on while one is gone; the links to it come back."""

    async def work(cluster) -> None:
        transport = cluster.ours.station.transport
        # A follower: what it forwards to a leader that just died, etcd waits for until a timeout.
        first, second = sorted(cluster.real, key=lambda m: m.name != leader_name(cluster))
        await put(first, "before", "x")
        second.kill()
        await put(first, "without", "x")
        await bench.until(lambda: len(active(transport)) == 1, "the loss to be seen")
        second.start()
        await bench.until(lambda: len(active(transport)) == 2, "the link to come back")
        await put(second, "after", "x")
        await bench.until(lambda: b"after" in cluster.ours.puts(), "the put")
        assert {b"before", b"without", b"after"} <= set(cluster.ours.puts())
        assert not cluster.ours.errors
        status, answer = await second.post("/v3/maintenance/status", {})
        assert (status, answer["version"]) == (200, "3.5.1")

    with_cluster(bench, etcd_binary, tmp_path, 2, work)


def test_ours_leads_and_real_members_follow(bench, etcd_binary, tmp_path):
    """The writers' side: our appends reach real members through streams they dialled."""

    async def work(cluster) -> None:
        ours = cluster.ours
        await put(cluster.real[0], "key", "value")
        ours.node.transfer_leader(ours.node.raft.id)
        ours.wake()
        await bench.until(lambda: ours.node.is_leader, "our election")
        for n in range(20):
            await put(cluster.real[n % 2], f"key{n}", "x" * 1000 * n)
        await bench.until(lambda: b"key19" in ours.puts(), "the puts")
        for member in cluster.real:
            status, answer = await member.post("/v3/kv/range", {"key": b64("key19")})
            assert status == 200
            assert len(base64.b64decode(answer["kvs"][0]["value"])) == 19_000
            _, answer = await member.post("/v3/maintenance/status", {})
            assert int(answer["leader"]) == ours.node.raft.id

    with_cluster(bench, etcd_binary, tmp_path, 2, work)


def test_a_real_member_sends_us_its_snapshot(bench, etcd_binary, tmp_path):
    """Its body is understood; that the file is no keyspace of ours is the installer's affair."""

    async def work(cluster) -> None:
        for member in cluster.real:
            member.options |= {"snapshot-count": 10, "SnapshotCatchUpEntries": 5}
        cluster.start_real()
        await wait_serving(bench, cluster)
        for n in range(40):
            await put(cluster.real[0], f"key{n}", "x")
        await bench.until(
            lambda: all('"compact-index":39' in member.log for member in cluster.real),
            "the entries to be gone",
        )
        ours = cluster.ours
        await ours.start()
        await bench.until(lambda: ours.received, "the snapshot")
        message, path = ours.received[0]
        voters = message.snapshot.meta.conf_state.voters
        assert voters == tuple(member.id for member in ours.plan.members)
        assert message.snapshot.meta.index > 30
        assert head_of(path, 20)[16:] == b"\xed\xda\x0c\xed"  # the magic number of a bbolt file
        await bench.until(
            lambda: any("sent database snapshot" in member.log for member in cluster.real),
            "its report",
        )

    with_cluster(bench, etcd_binary, tmp_path, 2, work, is_started=False)


def head_of(path: str, size: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)


def leader_name(cluster) -> str:
    leader = cluster.ours.node.leader
    return next(member.name for member in cluster.ours.plan.members if member.id == leader)


def active(transport) -> list[int]:
    return [id for id in transport.peer_ids if transport.is_active(id)]
