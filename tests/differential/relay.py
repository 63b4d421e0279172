"""Puts TLS between a client that speaks none and a server with a certificate of its own making.

gRPC's C library, which Python's clients are made of, does not offer the curve of the key that real
etcd's --auto-tls makes. OpenSSL does: bytes are passed on as they are, with ALPN h2.
"""

import asyncio
import contextlib
import ssl
import threading

PIECE_BYTES = 1 << 16


class Relay:
    def __init__(self, port: int, certificate_pem: str) -> None:
        self._target_port = port
        self._context = ssl.create_default_context(cadata=certificate_pem)
        self._context.check_hostname = False  # it names the host, not the address
        self._context.set_alpn_protocols(["h2"])
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        to_server = None
        try:
            from_server, to_server = await asyncio.open_connection(
                "127.0.0.1", self._target_port, ssl=self._context, server_hostname=""
            )
            assert to_server.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            ways = [pump(reader, to_server), pump(from_server, writer)]
            await asyncio.gather(*ways)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in (writer, to_server):
                if each is not None:
                    each.close()
                    with contextlib.suppress(OSError, asyncio.CancelledError):
                        await each.wait_closed()
            self._tasks.discard(task)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends; then both do."""
    while data := await reader.read(PIECE_BYTES):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError
