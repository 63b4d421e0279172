"""A thousand watches by the JSON gateway at once: each gets its event, and nothing is left."""

import asyncio
import os
import re
import urllib.request
from typing import Any

STREAMS = 1000
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


async def put(port: int, number: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"key":[109,%d,%d],"value":"dg=="}' % divmod(number, 256)
    head = b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


async def all_at_once(port: int) -> list[bytes]:
    ready, go = asyncio.Semaphore(0), asyncio.Event()
    tasks = [asyncio.create_task(watch(port, n, ready, go)) for n in range(STREAMS)]
    for _ in tasks:
        await ready.acquire()
    go.set()
    for number in range(STREAMS):
        await put(port, number)
    return await asyncio.gather(*tasks)


def test_a_thousand_gateway_watches(machine: Any, wait_until: Any) -> None:
    node = machine.single()
    before = files_of(node)
    events = asyncio.run(asyncio.wait_for(all_at_once(node.client_port), TIMEOUT_S))
    keys = {re.search(rb'"key":"([^"]*)"', event)[1] for event in events}  # type: ignore[index]
    assert len(keys) == STREAMS
    wait_until(lambda: metric(node, "etcd_debugging_mvcc_watcher_total") == 0, "no watchers")
    wait_until(lambda: metric(node, "etcd_debugging_mvcc_watch_stream_total") == 0, "no streams")
    wait_until(lambda: files_of(node) <= before + 1, "closed connections")
    assert "Traceback" not in node.log
