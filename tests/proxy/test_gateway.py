"""The TCP gateway between clients and servers of a test, and between etcdctl and real members."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from ports import free_port

from pyetcd.server.proxy import addresses
from pyetcd.server.proxy.gateway import Gateway
from pyetcd.server.proxy.picker import Endpoint, Picker

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Says its name, then what it hears, and ends when the client has."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> "Echo":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        writer.write(self.name + b"\n")
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        self._writers.discard(writer)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def gateway(*ports: int, retry_delay_s: float = 0.05) -> AsyncIterator[tuple[Gateway, int]]:
    listener = addresses.listen("127.0.0.1:0")
    endpoints = [Endpoint("127.0.0.1", port) for port in ports]
    made = Gateway(Picker(endpoints, lambda limit: 0), retry_delay_s=retry_delay_s)
    port = listener.getsockname()[1]
    await made.start(listener)
    try:
        yield made, port
    finally:
        await made.stop()
        assert not made.clients


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # what nobody reads any more must not be waited for
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def run(play: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


async def greeted(port: int) -> bytes:
    async with connected(port) as (reader, _):
        return (await reader.readline()).strip()


def test_forwards_in_turns_and_passes_the_end_on() -> None:
    async def play() -> None:
        a, b = await Echo(b"a").start(), await Echo(b"b").start()
        async with gateway(a.port, b.port) as (_, port):
            assert [await greeted(port) for _ in range(4)] == [b"a", b"b", b"a", b"b"]
            async with connected(port) as (reader, writer):
                await reader.readline()
                sent = bytes(range(256)) * 20_000
                writer.write(sent)
                writer.write_eof()  # the other direction goes on
                assert await reader.read() == sent
        await a.stop()
        await b.stop()

    run(play)


def test_a_slow_reader_holds_little() -> None:
    async def play() -> None:
        a = await Echo(b"a").start()
        async with gateway(a.port) as (made, port), connected(port) as (reader, writer):
            size = 50 << 20
            writer.write(bytes(size))
            for _ in range(20):  # nobody reads the echo; the kernel's buffers take what they may
                await asyncio.sleep(0.01)
                assert held(made) < 2 << 20
            writer.write_eof()
            assert len(await reader.read()) == size + 2
        await a.stop()

    run(play)


def held(made: Gateway) -> int:
    """Bytes that the gateway keeps itself."""
    pairs = [side for client in made.clients for side in (client, client._other) if side]
    return sum(
        len(side._early) + side._transport.get_write_buffer_size()
        for side in pairs
        if side._transport is not None
    )


def test_a_dead_endpoint_is_left_out_and_comes_back() -> None:
    async def play() -> None:
        a, b = await Echo(b"a").start(), await Echo(b"b").start()
        async with gateway(a.port, b.port) as (made, port):
            assert await greeted(port) == b"a"
            await b.stop()
            assert [await greeted(port) for _ in range(3)] == [b"a"] * 3
            assert len(made._picker.inactive()) == 1
            await b.start()
            for _ in range(1000):
                if not made._picker.inactive():
                    break
                await asyncio.sleep(0.01)
            assert {await greeted(port) for _ in range(2)} == {b"a", b"b"}
            await a.stop()
            await b.stop()
            assert await greeted(port) == b""  # closed at once
            await a.start()
            for _ in range(1000):
                if await greeted(port) == b"a":
                    break
                await asyncio.sleep(0.01)
            assert await greeted(port) == b"a"
            await a.stop()

    run(play)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "start --help",
        "nonsense",
        "start --nonsense",
        "start --retry-delay=x",
        "start --endpoints=foo",
        "start --endpoints=",
        "start --listen-addr=foo",
        "start --listen-addr=nohost.invalid:1",
        "start --listen-addr=127.0.0.1:2379",
        "start --listen-addr=127.0.0.1:70000",
    ],
)
def test_mistakes_are_said_as_etcd_says_them(machine: Any, line: str) -> None:
    words = line.split()
    theirs = machine.run(machine.etcd, "gateway", *words, check=False)
    ours = machine.run(machine.pyetcd, "gateway", *words, check=False)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)
    assert plain(ours.stderr) == plain(theirs.stderr)


def plain(stderr: str) -> list[str]:
    """Without log lines."""
    return [line for line in stderr.split("\n") if not line.startswith("{")]


def test_real_members(machine: Any, wait_until: Callable[..., None]) -> None:
    """etcdctl through the gateway to a real etcd and a pyetcd, one of which is killed; through a
    link named etcd."""
    link = machine.bin / "etcd"
    link.symlink_to(machine.pyetcd)
    nodes = [machine.single("etcd"), machine.single("pyetcd")]
    for node in nodes:
        machine.run(machine.etcdctl, f"--endpoints={node.endpoint}", "put", "who", node.name)
    port = free_port()
    argv = [str(link), "gateway", "start", f"--listen-addr=127.0.0.1:{port}", "--retry-delay=50ms"]
    argv.append("--endpoints=" + ",".join(f"http://{node.endpoint}" for node in nodes))
    front = machine.process(argv, name="gateway", client_port=port).start()

    def seen() -> str:
        command = [machine.etcdctl, f"--endpoints={front.endpoint}", "--command-timeout=2s"]
        return str(machine.run(*command, "get", "who", "--print-value-only", check=False).stdout)

    names = {f"{node.name}\n" for node in nodes}
    wait_until(lambda: seen() in names, "the gateway")
    assert {seen() for _ in range(4)} == names
    nodes[0].kill()
    wait_until(lambda: seen() == f"{nodes[1].name}\n", "the other one")
    assert {seen() for _ in range(4)} == {f"{nodes[1].name}\n"}
    nodes[0].start().wait_healthy()
    wait_until(lambda: seen() == f"{nodes[0].name}\n", "the first one again")
    front.signal(15)
    assert front.wait() == -15
    assert "Traceback" not in front.log
