"""Two transports of ours, and one against raw requests: ways, refusals, bounds, ends."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from pyetcd.raft.codec import encode_message
from pyetcd.raft.types import Entry, Message, MsgType
from pyetcd.server.peer.client import HttpClient
from pyetcd.server.peer.peer import POSTS_MAX, POSTS_QUEUED_MAX
from pyetcd.server.peer.streams import MESSAGES_MAX, StreamKind
from pyetcd.server.peer.transport import REMOTES_MAX

CLUSTER = 0xC1
ONE, TWO = 0x1, 0x2


@asynccontextmanager
async def station(bench, folder, id=ONE, cluster=CLUSTER):
    made = await bench.Station(id, cluster, bench.Recorder(), folder).start()
    try:
        yield made
    finally:
        await made.stop()


@asynccontextmanager
async def pair(bench, folder, cluster_two=CLUSTER):
    async with station(bench, folder) as one, station(bench, folder, TWO, cluster_two) as two:
        one.transport.add_peer(TWO, [two.url])
        two.transport.add_peer(ONE, [one.url])
        yield one, two


def is_linked(station, id: int) -> bool:
    peer = station.transport.peer(id)
    return all(peer._writers[kind].is_attached for kind in StreamKind)


async def linked(bench, one, two) -> None:
    await bench.until(lambda: is_linked(one, TWO) and is_linked(two, ONE), "streams")


def app(index: int, *, to: int = TWO, from_: int = ONE, size: int = 3) -> Message:
    entries = [Entry(1, index + 1, data=b"x" * size)]
    return Message(MsgType.APP, to, from_, term=1, log_term=1, index=index, entries=entries)


def beat(commit: int, *, to: int = TWO, from_: int = ONE) -> Message:
    return Message(MsgType.HEARTBEAT, to, from_, term=1, commit=commit, entries=[])


def test_messages_arrive_in_order_on_their_streams(bench, tmp_path):
    async def run():
        async with pair(bench, tmp_path) as (one, two):
            await linked(bench, one, two)
            sent = [app(n) for n in range(100)] + [beat(n) for n in range(100)]
            one.transport.send(sent)
            received = two.handler.messages
            await bench.until(lambda: len(received) == len(sent), "the messages")
            assert [m for m in received if m.type is MsgType.APP] == sent[:100]
            assert [m for m in received if m.type is MsgType.HEARTBEAT] == sent[100:]
            assert one.transport.is_active(TWO) and one.transport.is_pyetcd(TWO)
            two.transport.send([beat(7, to=ONE, from_=TWO)])
            await bench.until(lambda: one.handler.messages, "the answer")

    asyncio.run(run())


def test_without_a_stream_messages_are_posted(bench, tmp_path):
    async def run():
        async with station(bench, tmp_path) as one, station(bench, tmp_path, TWO) as two:
            one.transport.add_peer(TWO, [two.url])  # two does not know one: no streams
            one.transport.send([app(1), beat(2)])
            await bench.until(lambda: len(two.handler.messages) == 2, "the posts")
            # And from the posts two has learned where one is, so that it can answer.
            two.transport.send([beat(3, to=ONE, from_=TWO)])
            await bench.until(lambda: one.handler.messages, "the answer")
            assert not one.handler.unreachable

    asyncio.run(run())


def test_a_full_pipeline_drops_and_tells_raft(bench, tmp_path):
    async def run():
        async with station(bench, tmp_path) as one:
            silent = bench.free_socket()
            silent.listen()
            try:
                one.transport.add_peer(TWO, [f"http://127.0.0.1:{silent.getsockname()[1]}"])
                count = POSTS_MAX + POSTS_QUEUED_MAX + 10
                for n in range(count):
                    one.transport.send([beat(n)])
                    await asyncio.sleep(0)
                assert one.handler.unreachable == [TWO] * 10
                assert one.transport.counters[TWO].sent_failures_total == 10
            finally:
                silent.close()

    asyncio.run(run())


def test_a_peer_that_does_not_read_fills_a_bounded_queue(bench, tmp_path):
    async def run():
        async with station(bench, tmp_path) as one:
            one.transport.add_peer(TWO, ["http://127.0.0.1:1"])
            headers = one.transport.identity.request_headers(to=ONE)
            head = f"GET /raft/stream/msgapp/{TWO:x} HTTP/1.1\r\nHost: x\r\n" + "".join(
                f"{name}: {value}\r\n" for name, value in headers.items()
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(head.encode() + b"\r\n")
            app_writer = one.transport.peer(TWO)._writers[StreamKind.APP]
            await bench.until(lambda: app_writer.is_attached, "the stream")
            reader._transport.pause_reading()
            count = 0
            while not one.handler.unreachable:
                one.transport.send([app(count, size=64 * 1024)])
                count += 1
                assert count < 2 * MESSAGES_MAX
                if count % 50 == 0:
                    await asyncio.sleep(0)
            assert count > MESSAGES_MAX
            (wire,) = one.listener.connections
            assert wire.http.buffered_bytes < 8 * 1024 * 1024
            # Reading again, the peer gets everything that was not dropped.
            reader._transport.resume_reading()
            got = 0
            while got < (count - 1) * 64 * 1024:
                got += len(await reader.read(1 << 20))
            writer.close()
            await bench.until(lambda: not app_writer.is_attached, "the end")

    asyncio.run(run())


def test_a_lost_link_is_seen_and_comes_back(bench, tmp_path):
    async def run():
        async with pair(bench, tmp_path) as (one, two):
            await linked(bench, one, two)
            one.cut()
            await bench.until(lambda: not is_linked(one, TWO), "the cut")
            await linked(bench, one, two)
            one.transport.send([app(5)])
            await bench.until(lambda: two.handler.messages == [app(5)], "the message")

    asyncio.run(run())


def test_a_foreign_cluster_gets_nothing(bench, tmp_path):
    async def run():
        async with pair(bench, tmp_path, cluster_two=CLUSTER + 1) as (one, two):
            one.transport.send([beat(1)])
            await bench.until(lambda: one.handler.unreachable, "the refusal")
            assert not is_linked(one, TWO)
            assert not two.handler.messages
            assert not one.transport.is_active(TWO)
            assert not one.handler.local_removals

    asyncio.run(run())


def test_a_removed_member_is_told_so(bench, tmp_path):
    async def run():
        async with pair(bench, tmp_path) as (one, two):
            await linked(bench, one, two)
            two.handler.removed_ids.add(ONE)
            one.transport.send([beat(1)])
            two.transport.remove_peer(ONE)
            await bench.until(lambda: one.handler.local_removals, "the news over streams")
            before = one.handler.local_removals
            one.transport.send([beat(2)])
            await bench.until(lambda: one.handler.local_removals > before, "the news over a post")
            assert not two.handler.messages

    asyncio.run(run())


def test_what_is_for_another_member_is_not_taken(bench, tmp_path):
    async def run():
        async with pair(bench, tmp_path) as (one, two):
            await linked(bench, one, two)
            stray, mine = beat(1, to=0x77), beat(2)
            one.transport.peer(TWO).send(stray)
            one.transport.send([mine])
            await bench.until(lambda: two.handler.messages, "the message")
            assert two.handler.messages == [mine]

    asyncio.run(run())


def test_a_moved_peer_is_found_at_its_new_address(bench, tmp_path):
    async def run():
        async with station(bench, tmp_path) as one, station(bench, tmp_path, TWO) as two:
            one.transport.add_peer(TWO, ["http://127.0.0.1:1"])
            two.transport.add_peer(ONE, [one.url])
            await bench.until(lambda: is_linked(one, TWO), "its dial")
            assert not is_linked(two, ONE)
            one.transport.update_peer(TWO, [two.url])
            await linked(bench, one, two)

    asyncio.run(run())


def test_of_several_urls_the_one_that_answers_is_used(bench, tmp_path):
    async def run():
        async with station(bench, tmp_path) as one, station(bench, tmp_path, TWO) as two:
            one.transport.add_peer(TWO, ["http://127.0.0.1:1", two.url])
            two.transport.add_peer(ONE, [one.url])
            await linked(bench, one, two)

    asyncio.run(run())


def test_remotes_are_bounded_and_checked(bench, tmp_path):
    async def run():
        async with station(bench, tmp_path) as one:
            transport = one.transport
            transport.add_remote(ONE, [one.url])
            transport.add_remote(0, [one.url])
            transport.add_remote(9, ["not a url"])
            one.handler.removed_ids.add(8)
            transport.add_remote(8, [one.url])
            assert not transport._remotes
            for id in range(100, 100 + REMOTES_MAX + 5):
                transport.add_remote(id, [one.url])
            assert len(transport._remotes) == REMOTES_MAX

    asyncio.run(run())


GOOD = {
    "X-Server-From": f"{TWO:x}",
    "X-Server-Version": "3.5.1",
    "X-Min-Cluster-Version": "3.0.0",
    "X-Etcd-Cluster-ID": f"{CLUSTER:x}",
    "X-Raft-To": f"{ONE:x}",
}
BODY = encode_message(beat(1, to=ONE, from_=TWO))
STREAM = f"/raft/stream/message/{TWO:x}"


@pytest.mark.parametrize(
    "method, path, changed, body, status, text",
    [
        ("POST", "/raft", {}, BODY, 204, ""),
        ("GET", "/raft", {}, b"", 405, "Method Not Allowed\n"),
        ("POST", "/raft", {"X-Etcd-Cluster-ID": "1"}, BODY, 412, "cluster ID mismatch\n"),
        ("POST", "/raft", {"X-Etcd-Cluster-ID": ""}, BODY, 412, "cluster ID mismatch\n"),
        ("POST", "/raft", {"X-Server-Version": "2.3.8"}, BODY, 412, "incompatible version\n"),
        ("POST", "/raft", {"X-Server-Version": ""}, BODY, 412, "incompatible version\n"),
        ("POST", "/raft", {"X-Server-Version": "x"}, BODY, 412, "incompatible version\n"),
        ("POST", "/raft", {"X-Min-Cluster-Version": "3.6.0"}, BODY, 412, "incompatible version\n"),
        ("POST", "/raft", {}, b"\xff", 400, "error unmarshalling raft message\n"),
        ("POST", "/raft", {}, encode_message(beat(1)), 412, "to field mismatch\n"),
        ("POST", STREAM, {}, b"", 405, "Method Not Allowed\n"),
        ("GET", "/raft/stream/other/2", {}, b"", 404, "invalid path\n"),
        ("GET", "/raft/stream/message/xyz", {}, b"", 404, "invalid from\n"),
        ("GET", "/raft/stream/message/5", {}, b"", 404, "error sender not found\n"),
        ("GET", "/raft/stream/message/66", {}, b"", 410, "removed member\n"),
        ("GET", STREAM, {"X-Raft-To": "9"}, b"", 412, "to field mismatch\n"),
        ("GET", STREAM, {"X-Etcd-Cluster-ID": "9"}, b"", 412, "cluster ID mismatch\n"),
        ("GET", "/raft/snapshot", {}, b"", 405, "Method Not Allowed\n"),
        ("POST", "/raft/snapshot", {"X-Etcd-Cluster-ID": "9"}, b"", 412, "cluster ID mismatch\n"),
        ("POST", "/raft/snapshot", {}, BODY, 400, None),
        ("GET", "/raft/nothing", {}, b"", 404, "404 page not found\n"),
    ],
)
def test_requests_are_answered_as_by_etcd(
    bench, tmp_path, method, path, changed, body, status, text
):
    async def run():
        async with station(bench, tmp_path) as one:
            one.transport.add_peer(TWO, ["http://127.0.0.1:1"])
            one.handler.removed_ids.add(0x66)
            client = HttpClient()
            response = await client.request(
                method, one.url, path, headers={**GOOD, **changed}, body=body, timeout_s=5
            )
            client.close()
            assert response.status == status
            if text is not None:
                assert response.body.decode() == text
            assert len(one.handler.messages) == (status == 204)

    asyncio.run(run())


def test_a_removed_sender_is_refused_in_json(bench, tmp_path):
    async def run():
        async with station(bench, tmp_path) as one:
            one.handler.removed_ids.add(TWO)
            client = HttpClient()
            response = await client.request(
                "POST", one.url, "/raft", headers=GOOD, body=BODY, timeout_s=5
            )
            client.close()
            assert response.status == 403
            assert response.body == b'{"message":"cannot process message from removed member"}'
            assert json.loads(response.body)
            assert response.headers["content-type"] == "application/json"

    asyncio.run(run())
