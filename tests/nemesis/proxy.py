"""TCP proxies between peers: cut, stall or delay each direction between two members.

Strategy. Every member advertises the address of its proxy, so all peer traffic passes here. Who
dialled is read from the X-Server-From header of the first request; a connection between a and b
carries bytes of both directions whoever dialled it, so a fault is looked up by (source, target) for
each direction. Bytes are never dropped from the middle of a stream, which TCP cannot do either: a
stalled direction holds them, and when the fault ends its connections are closed.

Limits. A connection without the header (GET /members, /version) is hit by no fault.
"""

import asyncio
import re
import threading
from collections.abc import Coroutine
from typing import Any

CUT, STALL = "cut", "stall"
CHUNK_BYTES = 64 * 1024
HEAD_BYTES_MAX = 16 * 1024


class Links:
    """The proxies of all members, in a thread of their own."""

    def __init__(self, ports: list[tuple[int, int]]) -> None:
        """`ports[i]`: what member i advertises, and where it listens."""
        self.ids: dict[str, int] = {}  # hex member id -> number
        self._ports = ports
        self._faults: dict[tuple[int, int], str] = {}
        self._delays_s: dict[tuple[int, int], float] = {}
        self._open: dict[tuple[int, int], set[asyncio.StreamWriter]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._listen())

    def know(self, ids: dict[str, int]) -> None:
        """Whose header is whose; connections from before are opened anew."""
        self.ids = ids
        self._call(self._forget_unknown())

    async def _forget_unknown(self) -> None:
        for (source, _), writers in self._open.items():
            if source < 0:
                for writer in list(writers):
                    writer.close()

    def fault(self, source: int, target: int, kind: str) -> None:
        """CUT closes the connections too; STALL holds what `source` sends to `target`."""
        self._call(self._set(source, target, kind))

    def delay(self, source: int, target: int, seconds: float) -> None:
        self._delays_s[source, target] = seconds

    def heal(self) -> None:
        self._delays_s.clear()
        self._call(self._heal())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        for number, (port, _) in enumerate(self._ports):
            await asyncio.start_server(
                lambda reader, writer, n=number: self._serve(n, reader, writer), "127.0.0.1", port
            )

    async def _set(self, source: int, target: int, kind: str) -> None:
        self._faults[source, target] = kind
        if kind == CUT:
            self._close_link(source, target)

    async def _heal(self) -> None:
        faults, self._faults = self._faults, {}
        for source, target in faults:
            self._close_link(source, target)

    def _close_link(self, a: int, b: int) -> None:
        for pair in ((a, b), (b, a)):
            for writer in list(self._open.get(pair, ())):
                writer.close()

    def _is_cut(self, a: int, b: int) -> bool:
        return CUT in (self._faults.get((a, b)), self._faults.get((b, a)))

    async def _serve(
        self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        onward: asyncio.StreamWriter | None = None
        source = -1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"(?i)x-server-from:\s*([0-9a-f]+)", head)
            if found is not None:
                source = self.ids.get(found[1].decode().lstrip("0"), -1)
            if self._is_cut(source, target):
                return
            answers, onward = await asyncio.open_connection("127.0.0.1", self._ports[target][1])
            mine = self._open.setdefault((source, target), set())
            mine |= {writer, onward}
            try:
                await asyncio.gather(
                    self._pump(source, target, reader, onward, head),
                    self._pump(target, source, answers, writer, b""),
                )
            finally:
                mine -= {writer, onward}
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            if onward is not None:
                onward.close()

    async def _pump(
        self,
        source: int,
        target: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        data: bytes,
    ) -> None:
        while True:
            if data:
                await asyncio.sleep(self._delays_s.get((source, target), 0))
                while self._faults.get((source, target)) == STALL:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                writer.write(data)
                await writer.drain()
            data = await reader.read(CHUNK_BYTES)
            if not data:
                writer.close()
                return
