"""Keyspace files between members: whole, broken, refused, too many, to the wrong kind."""

import asyncio
import hashlib
import sqlite3
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from struct import pack

import pytest

from pyetcd.raft.types import ConfState, Message, MsgType, Snapshot, SnapshotMeta
from pyetcd.server.datadir import KeyspaceInstaller
from pyetcd.server.peer import snapshot as peer_snapshot
from pyetcd.server.peer.client import HttpClient
from pyetcd.server.peer.codec import FRAME_BYTES_MAX, encode_frame
from pyetcd.server.peer.snapshot import SHA256_HEADER
from pyetcd.store.snapshot import Copy, SnapshotFailed

CLUSTER = 0xC1
ONE, TWO = 0x1, 0x2
META = SnapshotMeta(index=77, term=3, conf_state=ConfState(voters=(ONE, TWO)))
MESSAGE = Message(MsgType.SNAP, TWO, ONE, term=3, entries=[], snapshot=Snapshot(META))
HEADERS = {
    "X-Server-From": f"{ONE:x}",
    "X-Server-Version": "3.5.1",
    "X-Min-Cluster-Version": "3.0.0",
    "X-Etcd-Cluster-ID": f"{CLUSTER:x}",
}


@asynccontextmanager
async def pair(bench, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    one = await bench.Station(ONE, CLUSTER, bench.Recorder(), folders[0]).start()
    two = await bench.Station(TWO, CLUSTER, bench.Recorder(), folders[1]).start()
    try:
        one.transport.add_peer(TWO, [two.url])
        two.transport.add_peer(ONE, [one.url])
        await bench.until(lambda: one.transport.is_pyetcd(TWO), "the first handshake")
        yield one, two
    finally:
        await one.stop()
        await two.stop()


def make_copy(tmp_path, size: int) -> Copy:
    path = tmp_path / "outgoing.db"
    path.write_bytes(bytes(range(256)) * (size // 256))
    return Copy(str(path), path.stat().st_size, hashlib.sha256(path.read_bytes()).digest())


def digest_of(path) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def leftovers(station) -> list[str]:
    return [path.name for path in station.installer.folder.iterdir()]


def test_a_file_arrives_whole_and_is_reported_once(bench, tmp_path):
    async def run():
        async with pair(bench, tmp_path) as (one, two):
            copy, done = make_copy(tmp_path, 20 << 20), []
            one.transport.send_snapshot(MESSAGE, copy, lambda: done.append(1))
            assert not one.transport.can_send_snapshot
            await bench.until(lambda: one.handler.snapshots, "the report")
            assert one.handler.snapshots == [(TWO, True)]
            assert done == [1] and one.transport.can_send_snapshot
            ((message, path),) = two.handler.received
            assert message == MESSAGE
            assert digest_of(path) == copy.sha256
            assert two.installer.digests == [copy.sha256]
            assert leftovers(two) == ["77.db"]
            assert one.transport.counters[TWO].snapshot_sent_total == 1

    asyncio.run(run())


def test_a_second_one_is_refused_at_once(bench, tmp_path):
    async def run():
        async with pair(bench, tmp_path) as (one, _two):
            copy, done = make_copy(tmp_path, 1 << 20), []
            one.transport.send_snapshot(MESSAGE, copy, lambda: done.append(1))
            one.transport.send_snapshot(MESSAGE, copy, lambda: done.append(2))
            assert one.handler.snapshots == [(TWO, False)] and done == [2]
            await bench.until(lambda: done == [2, 1], "the first")
            assert one.handler.snapshots[1:] == [(TWO, True)]

    asyncio.run(run())


def test_a_member_that_is_no_pyetcd_gets_none(bench, tmp_path):
    async def run():
        async with pair(bench, tmp_path) as (one, two):
            one.transport.peer(TWO).activity.is_pyetcd = False
            done = []
            one.transport.send_snapshot(MESSAGE, make_copy(tmp_path, 1024), lambda: done.append(1))
            assert one.handler.snapshots == [(TWO, False)] and done == [1]
            assert not two.handler.received
            # Nobody there at all
            stray = Message(MsgType.SNAP, 9, ONE, snapshot=Snapshot(META))
            one.transport.send_snapshot(stray, make_copy(tmp_path, 1024), lambda: done.append(2))
            assert one.handler.snapshots[1:] == [(9, False)] and done == [1, 2]

    asyncio.run(run())


def test_a_refusal_of_the_installer_is_a_failure_of_the_sender(bench, tmp_path):
    async def run():
        async with pair(bench, tmp_path) as (one, two):
            two.installer.refusal = SnapshotFailed("not a keyspace")
            one.transport.send_snapshot(MESSAGE, make_copy(tmp_path, 1024), lambda: None)
            await bench.until(lambda: one.handler.snapshots, "the report")
            assert one.handler.snapshots == [(TWO, False)]
            assert one.handler.unreachable == [TWO]
            assert not two.handler.received and not leftovers(two)

    asyncio.run(run())


def test_a_file_that_shrank_is_a_failure(bench, tmp_path):
    async def run():
        async with pair(bench, tmp_path) as (one, two):
            copy = make_copy(tmp_path, 1 << 20)
            longer = Copy(copy.path, copy.size_bytes + 1, copy.sha256)
            one.transport.send_snapshot(MESSAGE, longer, lambda: None)
            await bench.until(lambda: one.handler.snapshots, "the report")
            assert one.handler.snapshots == [(TWO, False)]
            await bench.until(lambda: not leftovers(two), "the clean-up")
            assert not two.handler.received

    asyncio.run(run())


def test_a_sender_that_stops_half_way_reports_and_leaves_nothing(bench, tmp_path):
    async def run():
        async with pair(bench, tmp_path) as (one, two):
            copy, done = make_copy(tmp_path, 64 << 20), []
            one.transport.send_snapshot(MESSAGE, copy, lambda: done.append(1))
            await bench.until(lambda: leftovers(two), "the first bytes")
            await one.transport.stop()
            assert one.handler.snapshots == [(TWO, False)] and done == [1]
            await bench.until(lambda: not leftovers(two), "the clean-up")
            assert not two.handler.received
            # And the next one is welcome.
            await bench.until(lambda: two.transport.snapshots_in._current is None, "the end")

    asyncio.run(run())


def test_a_sender_that_stops_at_the_first_byte_closes_its_file(tmp_path):
    copy = make_copy(tmp_path, 1 << 10)

    async def run():
        for _ in range(20):
            async with aclosing(peer_snapshot._pieces(b"head", copy)) as pieces:
                assert await anext(pieces) == b"head"
                step = asyncio.ensure_future(anext(pieces))
                await asyncio.sleep(0)
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)

    asyncio.run(run())  # a file that is left open is a warning, and that an error


@pytest.mark.parametrize(
    "body, headers, status, text",
    [
        (encode_frame(MESSAGE) + b"data", {}, 204, b""),  # as etcd sends it: without a digest
        (encode_frame(MESSAGE)[:-1], {}, 400, b"failed to decode raft message (unexpected EOF)\n"),
        (b"", {}, 400, b"failed to decode raft message (unexpected EOF)\n"),
        (
            pack(">Q", FRAME_BYTES_MAX + 1),
            {},
            400,
            b"failed to decode raft message (message too large)\n",
        ),
        (encode_frame(Message(MsgType.APP, TWO, ONE)), {}, 400, b"wrong raft message type\n"),
        (encode_frame(Message(MsgType.SNAP, 9, ONE)), {}, 412, b"to field mismatch\n"),
        (
            encode_frame(Message(MsgType.SNAP, TWO, 0x66)),
            {},
            403,
            b'{"message":"cannot process message from removed member"}',
        ),
        (pack(">Q", 3) + b"\xff\xff\xff", {}, 400, None),
        (encode_frame(MESSAGE), {SHA256_HEADER: "zz"}, 400, b"bad snapshot digest\n"),
    ],
)
def test_bodies_are_judged_as_by_etcd(bench, tmp_path, body, headers, status, text):
    async def run():
        async with pair(bench, tmp_path) as (_one, two):
            two.handler.removed_ids.add(0x66)
            client = HttpClient()
            response = await client.request(
                "POST",
                two.url,
                "/raft/snapshot",
                headers={**HEADERS, **headers},
                body=body,
                timeout_s=5,
            )
            client.close()
            assert response.status == status
            assert text is None or response.body == text
            await bench.until(lambda: two.transport.snapshots_in._current is None, "the end")
            assert leftovers(two) == (["77.db"] if status == 204 else [])

    asyncio.run(run())


def test_a_fast_sender_is_held_back_while_the_disk_is_slow(bench, tmp_path, monkeypatch):
    """The connection is not read while too much is unwritten, and goes on afterwards."""
    monkeypatch.setattr(peer_snapshot, "UNWRITTEN_BYTES_MAX", 256 * 1024)
    pauses = []

    async def run():
        async with pair(bench, tmp_path) as (one, two):
            begin = two.transport.snapshots_in.begin

            def counting(headers, *, pause, resume):
                def counted():
                    pauses.append(1)
                    pause()

                return begin(headers, pause=counted, resume=resume)

            monkeypatch.setattr(two.transport.snapshots_in, "begin", counting)
            one.transport.send_snapshot(MESSAGE, make_copy(tmp_path, 16 << 20), lambda: None)
            await bench.until(lambda: one.handler.snapshots, "the report")
            assert one.handler.snapshots == [(TWO, True)]
            assert leftovers(two) == ["77.db"]

    asyncio.run(run())
    assert pauses


def test_the_keyspace_installer_refuses_what_is_no_keyspace(tmp_path):
    installer = KeyspaceInstaller(str(tmp_path / "kv.db"))
    path = installer.temporary_path(5)
    bbolt = b"\0" * 16 + b"\xed\xda\x0c\xed" * 300
    for content in (b"", bbolt):
        Path(path).write_bytes(content)
        with pytest.raises(SnapshotFailed):
            installer.keep(path, 5, None)
    Path(path).unlink()
    sqlite3.connect(path).close()
    with pytest.raises(SnapshotFailed):
        installer.keep(path, 5, None)
