"""Load on the listener alone: an empty unary handler under a raw-frame client.

    python tests/bench/wire.py [seconds] [connections] [streams per connection]

The client writes ready-made frames and counts trailers, so that the server is what is measured;
it runs in a process of its own. Prints requests per second and the server's CPU time a request.
"""

import asyncio
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection

import uvloop
from hpack import Encoder

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.server.listen import Listener
from pyetcd.server.wire import frames, status
from pyetcd.server.wire.grpc import Dispatcher, UnaryCall

_FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/etcdserverpb.KV/Put"),
    (":authority", "127.0.0.1"),
    ("content-type", "application/grpc"),
    ("user-agent", "bench"),
    ("te", "trailers"),
]
_OK_END = status.OK_BLOCK


class _Client(asyncio.Protocol):
    """Keeps `streams` requests under way; a trailers block in the input is one answer."""

    def __init__(self, streams: int) -> None:
        self._encoder = Encoder()
        message = rpc.PutRequest(key=b"k" * 16, value=b"v" * 64).SerializeToString()
        self._data = b"\0" + len(message).to_bytes(4, "big") + message
        self._streams = streams
        self._next_id = 1
        self._tail = b""
        self.answers = 0
        self.received = 0
        self.stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        window = frames.settings([(frames.INITIAL_WINDOW_SIZE, 1 << 24)])
        transport.write(frames.PREFACE + window + frames.window_update(0, 1 << 30))
        self._send(self._streams)

    def _send(self, count: int) -> None:
        out = []
        for _ in range(count):
            block = self._encoder.encode(_FIELDS) if self._next_id < 5 else self._block
            self._block = block
            out.append(frames.headers(self._next_id, block, end_stream=False))
            out.append(frames.frame(frames.DATA, frames.FLAG_END_STREAM, self._next_id, self._data))
            self._next_id += 2
        self.transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > 1 << 29:
            self.transport.write(frames.window_update(0, 1 << 29))
            self.received = 0
        data = self._tail + data
        answers = data.count(_OK_END)
        self._tail = data[max(data.rfind(_OK_END) + len(_OK_END), len(data) - len(_OK_END) + 1) :]
        self.answers += answers
        if answers and not self.stopping:
            self._send(answers)


async def _load(port: int, seconds: float, connections: int, streams: int) -> int:
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _Client(streams), "127.0.0.1", port)
        clients.append(client)
    before = sum(client.answers for client in clients)
    await asyncio.sleep(seconds)
    total = sum(client.answers for client in clients) - before
    for client in clients:
        client.stopping = True
        client.transport.abort()
    return total


def _client_process(
    port: int, seconds: float, connections: int, streams: int, pipe: Connection
) -> None:
    pipe.send(uvloop.run(_load(port, seconds, connections, streams)))


async def _serve(seconds: float, connections: int, streams: int) -> None:
    reply = rpc.PutResponse().SerializeToString()

    def put(call: UnaryCall, _request: object) -> None:
        call.reply(reply)

    dispatcher = Dispatcher({"/etcdserverpb.KV/Put": (rpc.PutRequest, put)}, {})
    listener = Listener(dispatcher)
    port = await listener.start("127.0.0.1", 0)
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    worker = context.Process(
        target=_client_process, args=(port, seconds, connections, streams, theirs)
    )
    worker.start()
    cpu_s = 0.0
    while not ours.poll():
        await asyncio.sleep(0.05)
        if listener.connections and not cpu_s:
            cpu_s = time.process_time()
    cpu_s = time.process_time() - cpu_s
    total = ours.recv()
    handled = dispatcher.counters["/etcdserverpb.KV/Put"].handled[0]
    assert handled >= total
    worker.join()
    await listener.stop(0)
    print(
        f"{total / seconds:,.0f} requests/s, {cpu_s / max(handled, 1) * 1e6:.1f} us CPU a request, "
        f"{connections} connections x {streams} streams, {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    numbers = [float(text) for text in sys.argv[1:]]
    run_s, conns, streams = (*numbers, *(3.0, 100, 10)[len(numbers) :])
    uvloop.run(_serve(run_s, int(conns), int(streams)))
