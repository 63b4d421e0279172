"""Answers too large for one message: KV.RangeStream and Maintenance.Snapshot.

A range is read in chunks at the one revision of its first chunk, each about as large as a request
may be: the chunk grows and shrinks by its size (etcd 3.7: adjustChunkLimit). A snapshot is a copy
of the keyspace, made beside the running writer, read in pieces and followed by its SHA-256.

Limits. `COPIES_MAX` copies at a time, since each takes the room of the whole file; who comes later
waits. A client that does not read holds one chunk.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Protocol, TypeVar

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.rpc_pb2 import (
    RangeRequest,
    RangeResponse,
    RangeStreamResponse,
    SnapshotRequest,
    SnapshotResponse,
)
from pyetcd.server.access import OFF, Access, Switch
from pyetcd.server.api import checks
from pyetcd.server.api.base import Headers
from pyetcd.server.api.kv import Store
from pyetcd.server.logs import get
from pyetcd.server.reads import LinearizableReads
from pyetcd.server.wire.grpc import ServerStream
from pyetcd.store import db
from pyetcd.store.snapshot import Copy

FIRST_CHUNK_KEYS: Final = 10
PIECE_BYTES: Final = 32 * 1024
COPIES_MAX: Final = 2

T = TypeVar("T")


class RangeStreamApi:
    """etcdserverpb.KV/RangeStream of etcd 3.7."""

    def __init__(
        self,
        *,
        headers: Headers,
        reads: LinearizableReads,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        chunk_bytes: int,
        access: Access | None = None,
    ) -> None:
        self._headers = headers
        self._reads = reads
        self._store = store
        self._loop = loop
        self._chunk_bytes = chunk_bytes
        self._access = access
        self._auth: Switch = OFF if access is None else access.auth

    async def range_stream(self, stream: ServerStream) -> None:
        request = await stream.request()
        assert isinstance(request, RangeRequest)
        error = checks.check_range_stream(request)
        if error is not None:
            raise error
        if not request.serializable:
            await _result(self._loop, self._reads.wait)
        if request.count_only:
            found = await self._range(stream, request)
            only = RangeResponse(count=found.count)
            only.header.revision = found.header.revision
            return self._send(stream, only)
        return await self._send_chunks(stream, request)

    async def _send_chunks(self, stream: ServerStream, request: RangeRequest) -> None:
        left = request.limit or 1 << 62
        keys_max, count, revision = FIRST_CHUNK_KEYS, 0, 0
        while True:
            request.limit = min(keys_max, left)
            found = await self._range(stream, request)
            # The first chunk's revision is that of the whole answer.
            revision = revision or found.header.revision
            request.revision = request.revision or revision
            count += len(found.kvs)
            left -= len(found.kvs)
            chunk = RangeResponse(kvs=found.kvs)
            if not found.more or not left:
                chunk.header.revision = revision
                chunk.more = found.more
                # Of a range cut short this is the count from the chunk's first key on.
                chunk.count = count + (found.count - len(found.kvs) if found.more else 0)
                return self._send(stream, chunk)
            self._send(stream, chunk)
            await stream.drain()
            request.key = found.kvs[-1].key + b"\0"
            size = found.ByteSize()
            if size < self._chunk_bytes // 2:
                keys_max = request.limit * 2
            elif size > self._chunk_bytes * 2:
                keys_max = max(1, request.limit // 2)

    async def _range(self, stream: ServerStream, request: RangeRequest) -> RangeResponse:
        """Each chunk is judged anew: reading may take longer than a right lasts."""
        if not self._auth.enabled:
            return await _result(self._loop, partial(self._store.range_in_thread, request))
        access = self._access
        assert access is not None
        access.permit_range(stream, request)

        def start(done: Callable[[RangeResponse | EtcdError], None]) -> None:
            self._store.range_in_thread(request, access.stable(done))

        return await _result(self._loop, start)

    def _send(self, stream: ServerStream, answer: RangeResponse) -> None:
        if answer.HasField("header"):
            revision = answer.header.revision
            self._headers.fill(answer.header)
            answer.header.revision = revision
        stream.send(RangeStreamResponse(range_response=answer).SerializeToString())


async def _result(
    loop: asyncio.AbstractEventLoop, start: Callable[[Callable[[T | EtcdError], None]], None]
) -> T:
    """What a function with a callback answers; an EtcdError is raised."""
    answered: asyncio.Future[T] = loop.create_future()

    def done(answer: T | EtcdError) -> None:
        if answered.done():
            return  # the caller went away
        if isinstance(answer, EtcdError):
            answered.set_exception(answer)
        else:
            answered.set_result(answer)

    start(done)
    return await answered


class Copies(Protocol):
    """Copies of the keyspace, made in a thread."""

    def copy(
        self, name: str, is_cancelled: Callable[[], bool], done: Callable[[Copy | EtcdError], None]
    ) -> None: ...


class SnapshotApi:
    """etcdserverpb.Maintenance/Snapshot."""

    def __init__(self, copies: Copies, loop: asyncio.AbstractEventLoop) -> None:
        self._copies = copies
        self._loop = loop
        self._room = asyncio.Semaphore(COPIES_MAX)
        self._made = 0
        self._log = get("snapshot")

    async def snapshot(self, stream: ServerStream) -> None:
        request = await stream.request()
        assert isinstance(request, SnapshotRequest)
        async with self._room:
            await self._send_copy(stream)

    async def _send_copy(self, stream: ServerStream) -> None:
        self._made += 1
        copied: asyncio.Future[Copy] = self._loop.create_future()

        def done(answer: Copy | EtcdError) -> None:
            if copied.done():  # the client went away
                _remove(answer)
            elif isinstance(answer, EtcdError):
                copied.set_exception(answer)
            else:
                copied.set_result(answer)

        self._copies.copy(f"client-{self._made}", copied.cancelled, done)
        copy = await copied
        try:
            await self._send_file(stream, copy)
        finally:
            _remove(copy)

    async def _send_file(self, stream: ServerStream, copy: Copy) -> None:
        total_bytes = left_bytes = copy.size_bytes
        self._log.info("sending database snapshot to client", total_bytes=total_bytes)
        digest = hashlib.sha256()
        for piece in _pieces(copy.path):  # written just now: the file is still in memory
            left_bytes -= len(piece)
            digest.update(piece)
            answer = SnapshotResponse(remaining_bytes=left_bytes, blob=piece)
            stream.send(answer.SerializeToString())
            await stream.drain()
            if stream.cancelled:
                return
        assert left_bytes == 0, f"the copy has changed by {left_bytes} bytes"
        stream.send(SnapshotResponse(blob=digest.digest()).SerializeToString())
        self._log.info("successfully sent database snapshot to client", total_bytes=total_bytes)


def _pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _remove(copy: Copy | EtcdError) -> None:
    if isinstance(copy, Copy):
        db.remove_if_exists(copy.path)
