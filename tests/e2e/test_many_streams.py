"""A thousand watches by the JSON gateway and a thousand long polls of v2 keys, at once on one node:
each gets its event, and nothing is left."""

import asyncio
import os
import re
import urllib.request
from typing import Any

STREAMS = 1000
OPENING_MAX = 200  # of each: the listener drops who comes while a thousand have said nothing
TIMEOUT_S = 60.0


def metric(node: Any, name: str) -> float:
    with urllib.request.urlopen(f"http://{node.endpoint}/metrics", timeout=20) as answer:
        found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.M)
    assert found is not None, name
    return float(found[1])


def files_of(node: Any) -> int:
    return len(os.listdir(f"/proc/{node.pid}/fd"))


async def watch(port: int, number: int, ready: asyncio.Semaphore, go: asyncio.Event) -> bytes:
    """Opens the watch, says so, and reads until its event is there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"create_request":{"key":[109,%d,%d]}}' % divmod(number, 256)
    head = b"POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    await reader.readuntil(b'"created":true}}\n')
    ready.release()
    await go.wait()
    event = await reader.readuntil(b"}]}}\n")
    writer.close()
    await writer.wait_closed()
    return event


async def poll(port: int, number: int, ready: asyncio.Semaphore, go: asyncio.Event) -> bytes:
    """The same by a long poll; its headers say that it has begun."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /v2/keys/m/%d?wait=true HTTP/1.1\r\nHost: x\r\n\r\n" % number)
    await reader.readuntil(b"\r\n\r\n")
    ready.release()
    await go.wait()
    event = await reader.readuntil(b"}}\n")
    writer.close()
    await writer.wait_closed()
    return event


async def write(port: int, number: int) -> None:
    """To both, on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"key":[109,%d,%d],"value":"dg=="}' % divmod(number, 256)
    head = b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\nvalue=v"
    last = b"PUT /v2/keys/m/%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" % number
    writer.write(head + body + last + form)
    answers = await reader.read()
    assert answers.count(b"HTTP/1.1 20") == 2, answers
    writer.close()
    await writer.wait_closed()


async def all_at_once(port: int) -> tuple[list[bytes], list[bytes]]:
    ready, go = asyncio.Semaphore(0), asyncio.Event()
    watches, polls = [], []
    for number in range(STREAMS):
        watches.append(asyncio.create_task(watch(port, number, ready, go)))
        polls.append(asyncio.create_task(poll(port, number, ready, go)))
        if number >= OPENING_MAX:
            await ready.acquire()
            await ready.acquire()
    for _ in range(2 * OPENING_MAX):
        await ready.acquire()
    go.set()
    for number in range(STREAMS):
        await write(port, number)
    return await asyncio.gather(*watches), await asyncio.gather(*polls)


def test_a_thousand_of_each(machine: Any, wait_until: Any) -> None:
    node = machine.single("pyetcd", "--enable-v2")
    before = files_of(node)
    events, polled = asyncio.run(asyncio.wait_for(all_at_once(node.client_port), TIMEOUT_S))
    keys = {re.search(rb'"key":"([^"]*)"', event)[1] for event in events}  # type: ignore[index]
    assert len(keys) == STREAMS
    keys = {re.search(rb'"key":"([^"]*)"', event)[1] for event in polled}  # type: ignore[index]
    assert keys == {b"/m/%d" % number for number in range(STREAMS)}
    wait_until(lambda: metric(node, "etcd_debugging_mvcc_watcher_total") == 0, "no watchers")
    wait_until(lambda: metric(node, "etcd_debugging_mvcc_watch_stream_total") == 0, "no streams")
    wait_until(lambda: metric(node, "etcd_debugging_store_watchers") == 0, "no pollers")
    wait_until(lambda: files_of(node) <= before + 1, "closed connections")
    assert "Traceback" not in node.log
