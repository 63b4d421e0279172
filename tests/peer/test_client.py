"""The HTTP client beside a server that hangs up."""

import asyncio
from collections.abc import AsyncIterator

import uvloop

from pyetcd.server.peer.client import HttpClient, Unreachable


def test_the_other_side_hangs_up_between_two_pieces() -> None:
    """uvloop, unlike asyncio, refuses to write to a connection that is gone."""

    async def main() -> object:
        hung_up = asyncio.Event()

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.transport.abort()
            hung_up.set()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"
            await hung_up.wait()
            await asyncio.sleep(0.05)  # the client hears of it
            yield b"b"

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = HttpClient()
        upload = client.upload(
            f"http://127.0.0.1:{port}",
            "/raft/snapshot",
            headers={},
            length=100,
            chunks=pieces(),
            answer_timeout_s=5,
            progress_timeout_s=5,
        )
        (result,) = await asyncio.gather(upload, return_exceptions=True)
        client.close()
        server.close()
        await server.wait_closed()
        return result

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert isinstance(runner.run(main()), Unreachable)
