"""TCP proxies between peers: cut, stall or delay each direction between two members.

Strategy. Every member advertises the address of its proxy, so all peer traffic passes here. Who
dialled is read from the X-Server-From header of a request; a connection between a and b
carries bytes of both directions whoever dialled it, so a fault is looked up by (source, target) for
each direction. Bytes are never dropped from the middle of a stream, which TCP cannot do either: a
stalled direction holds them, and when the fault ends its connections are closed. A delayed
direction delivers everything later, as a long line does, and the rest at once when the delay ends.

Limits. A connection without the header (GET /members, /version) is hit by no fault.
"""

import asyncio
import random
import re
import threading
from collections.abc import Coroutine
from typing import Any

CUT, STALL = "cut", "stall"
CHUNK_BYTES = 64 * 1024
CHUNKS_MAX = 256  # on their way in one direction
HEAD_BYTES_MAX = 16 * 1024


class Links:
    """The proxies of all members, in a thread of their own."""

    def __init__(self, ports: list[tuple[int, int]]) -> None:
        """`ports[i]`: what member i advertises, and where it listens."""
        self.ids: dict[str, int] = {}  # hex member id -> number
        self._ports = ports
        self._faults: dict[tuple[int, int], str] = {}
        self._delays_s: dict[tuple[int, int], tuple[float, float]] = {}
        self._open: set[_Link] = set()
        self._tasks: set[asyncio.Task[Any]] = set()  # nobody else holds them
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._listen())

    def know(self, ids: dict[str, int]) -> None:
        """Whose header is whose; connections from before are opened anew."""
        self.ids = ids
        self._call(self._forget_unknown())

    async def _forget_unknown(self) -> None:
        for link in list(self._open):
            if link.source < 0:
                link.close()

    def fault(self, source: int, target: int, kind: str) -> None:
        """CUT closes the connections too; STALL holds what `source` sends to `target`."""
        self._call(self._set(source, target, kind))

    def delay(self, source: int, target: int, seconds: float, spread_s: float = 0.0) -> None:
        """Of all that `source` sends to `target`, each piece by a random number in the spread."""
        self._delays_s[source, target] = (seconds - spread_s, seconds + spread_s)

    def heal(self) -> None:
        self._delays_s.clear()
        self._call(self._heal())

    def close(self) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
        for link in list(self._open):
            if {link.source, link.target} == {a, b}:
                link.close()

    def _is_cut(self, a: int, b: int) -> bool:
        return CUT in (self._faults.get((a, b)), self._faults.get((b, a)))

    async def _serve(
        self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        link = _Link(target)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            link.learn(head, self.ids)
            if self._is_cut(link.source, target):
                return
            answers, onward = await asyncio.open_connection("127.0.0.1", self._ports[target][1])
            link.writers = [writer, onward]
            self._open.add(link)
            await asyncio.gather(
                self._pump(link, reader, onward, head, is_answer=False),
                self._pump(link, answers, writer, b"", is_answer=True),
            )
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            pass  # by close, and asyncio's streams would complain
        finally:
            self._tasks.discard(task)
            self._open.discard(link)
            writer.close()
            link.close()

    async def _pump(
        self,
        link: "_Link",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        data: bytes,
        *,
        is_answer: bool,
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)
        sender = asyncio.ensure_future(self._send(link, queue, writer, is_answer=is_answer))
        try:
            while True:
                way = (link.target, link.source) if is_answer else (link.source, link.target)
                low_s, high_s = self._delays_s.get(way, (0.0, 0.0))
                due_s = self._loop.time() + random.uniform(low_s, high_s)
                if data:
                    await queue.put((due_s, data))  # full: the line's own window is
                data = await reader.read(CHUNK_BYTES)
                if not data:
                    await queue.put((due_s, b""))
                    await sender
                    return
                learned = not is_answer and link.learn(data, self.ids)
                if learned and self._is_cut(link.source, link.target):
                    link.close()
                    return
        finally:
            sender.cancel()

    async def _send(
        self,
        link: "_Link",
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        *,
        is_answer: bool,
    ) -> None:
        data = b""
        try:
            while True:
                due_s, data = await queue.get()
                way = (link.target, link.source) if is_answer else (link.source, link.target)
                while way in self._delays_s and self._loop.time() < due_s:  # noqa: ASYNC110
                    await asyncio.sleep(min(0.02, due_s - self._loop.time()))
                while self._faults.get(way) == STALL:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            link.close()
            while data:  # whoever reads may be waiting for room
                _, data = await queue.get()


class _Link:
    """One connection to `target`; who dialled is known once a request says so."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.source = -1
        self.writers: list[asyncio.StreamWriter] = []

    def learn(self, data: bytes, ids: dict[str, int]) -> bool:
        """Whether it is known only now: a kept connection may have begun with GET /version."""
        if self.source >= 0:
            return False
        found = re.search(rb"(?i)x-server-from:\s*([0-9a-f]+)", data)
        if found is not None:
            self.source = ids.get(found[1].decode().lstrip("0"), -1)
        return self.source >= 0

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
