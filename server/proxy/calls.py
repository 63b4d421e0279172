"""Unary calls and one-sided streams through the proxy.

Strategy. A task for each unary call. Reads may come from the cache; writes empty it of what they
touch, before they leave and when they are back. Everything else is handed on as it is, with the
client's credentials and its time; keys get the namespace.

Rules. Which calls wait for a connection and which are sent again is that of etcd's proxy: KV, Lease
and Cluster go through its client, the others down an open connection. With --experimental-
serializable-ordering an answer that is older than one already given is asked for again.

Limits: CALLS_MAX under way, of all clients; one more is answered with TooManyRequests.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import grpc.aio
from google.protobuf.message import Message

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.errors import Code, EtcdError, RpcError, TooManyRequests
from pyetcd.proto.services import METHODS, Kind
from pyetcd.server.proxy.cache import Cache
from pyetcd.server.proxy.namespace import Namespace
from pyetcd.server.proxy.upstream import Metadata, Upstream
from pyetcd.server.wire.call import Call
from pyetcd.server.wire.grpc import ServerStream, UnaryCall

CALLS_MAX: Final = 10_000
_HANDED_ON: Final = ("token", "authorization", "hasleader", "client-api-version")
_REPEATABLE: Final = {
    f"/etcdserverpb.{name}"
    for name in (
        *("KV/Range", "Lease/LeaseGrant", "Lease/LeaseRevoke", "Lease/LeaseTimeToLive"),
        *("Lease/LeaseLeases", "Cluster/MemberList"),
    )
}
_WAITING: Final = ("/etcdserverpb.KV/", "/etcdserverpb.Lease/", "/etcdserverpb.Cluster/")
_NO_REVISION: Final = (
    "etcdclient: no cluster members have a revision higher than the previously received revision"
)
Answer = Callable[[UnaryCall, Any], Awaitable[bytes]]


def metadata_of(call: Call) -> Metadata:
    """What of a client's metadata the cluster gets to see."""
    found = call.metadata
    return tuple((name, found[name]) for name in _HANDED_ON if name in found)


def token_of(call: Call) -> str:
    """Whom the client says it is."""
    return str(call.metadata.get("token") or call.metadata.get("authorization") or "")


class Calls:
    """The handlers of the dispatch table, but for watches and keep-alives."""

    def __init__(
        self, upstream: Upstream, namespace: Namespace, cache: Cache, *, keeps_order: bool
    ) -> None:
        self._upstream = upstream
        self._namespace = namespace
        self.cache = cache
        self._keeps_order = keeps_order
        self._seen_revision = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.bug: Callable[[BaseException], None] = lambda error: None

    def unary(self, replaced: dict[str, Answer]) -> dict[str, Any]:
        """Handlers of all unary methods; `replaced` has those that are answered elsewhere."""
        special: dict[str, Answer] = {
            "/etcdserverpb.KV/Put": self._put,
            "/etcdserverpb.KV/DeleteRange": self._delete,
            "/etcdserverpb.KV/Txn": self._txn,
            "/etcdserverpb.KV/Compact": self._compact,
            **replaced,
        }
        handlers: dict[str, Any] = {}
        for path, method in METHODS.items():
            if method.kind == Kind.UNARY and not path.startswith("/grpc."):
                work = special.get(path) or partial(self._hand_on, path)
                handlers[path] = (method.request, partial(self._begin, work))
        path = "/etcdserverpb.KV/Range"
        handlers[path] = (METHODS[path].request, self._begin_range)
        return handlers

    def streams(self) -> dict[str, Any]:
        """Handlers of the streams that answer one request."""
        return {
            path: (method.request, partial(self._stream, path))
            for path, method in METHODS.items()
            if method.kind == Kind.SERVER_STREAM and not path.startswith("/grpc.")
        }

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # One call

    def _begin(self, work: Answer, call: UnaryCall, request: Message) -> None:
        if len(self._tasks) >= CALLS_MAX:
            raise TooManyRequests()
        task = asyncio.get_running_loop().create_task(self._run(work, call, request))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        call.on_cancel = partial(_cancel, task)

    def _begin_range(self, call: UnaryCall, request: rpc.RangeRequest) -> None:
        if request.serializable:
            kept = self.cache.get(token_of(call), request)
            if kept is not None:  # without a task: 23,000 a second with one, on two shared cores
                call.reply(kept)
                return
        self._begin(self._range, call, request)

    async def _run(self, work: Answer, call: UnaryCall, request: Message) -> None:
        try:
            call.reply(await work(call, request))
        except EtcdError as failure:
            call.fail(failure.code, failure.text)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.bug(error)

    async def _send(self, path: str, call: UnaryCall, request: Message) -> bytes:
        return await self._upstream.unary(
            path,
            self._namespace.into(request).SerializeToString(),
            metadata_of(call),
            timeout_s=call.deadline_s,
            is_repeatable=path in _REPEATABLE,
            waits=path.startswith(_WAITING),
        )

    async def _hand_on(self, path: str, call: UnaryCall, request: Message) -> bytes:
        raw = await self._send(path, call, request)
        if path.startswith("/etcdserverpb.Auth/") and not path.endswith("/Authenticate"):
            self.cache.clear()
        return self._bare(path, raw)

    def _bare(self, path: str, raw: bytes) -> bytes:
        if not self._namespace.prefix:
            return raw
        answer = METHODS[path].response.FromString(raw)
        return self._namespace.outof(answer).SerializeToString()

    # KV

    async def _range(self, call: UnaryCall, request: rpc.RangeRequest) -> bytes:
        pending = self.cache.begin(token_of(call), request)
        answer = None
        try:
            answer = self._bare("/etcdserverpb.KV/Range", await self._read(call, request))
        finally:
            self.cache.end(pending, answer)
        return answer

    async def _read(self, call: UnaryCall, request: rpc.RangeRequest) -> bytes:
        path = "/etcdserverpb.KV/Range"
        if not self._keeps_order:
            return await self._send(path, call, request)
        seen = self._seen_revision
        for _ in range(self._upstream.retries_order + 1):
            raw = await self._send(path, call, request)
            revision = rpc.RangeResponse.FromString(raw).header.revision
            if revision >= seen:
                self._seen_revision = max(self._seen_revision, revision)
                return raw
        raise RpcError(Code.UNKNOWN, _NO_REVISION)

    async def _put(self, call: UnaryCall, request: rpc.PutRequest) -> bytes:
        path = "/etcdserverpb.KV/Put"
        return await self._write(path, call, request, [(request.key, b"")])

    async def _delete(self, call: UnaryCall, request: rpc.DeleteRangeRequest) -> bytes:
        path = "/etcdserverpb.KV/DeleteRange"
        return await self._write(path, call, request, [(request.key, request.range_end)])

    async def _txn(self, call: UnaryCall, request: rpc.TxnRequest) -> bytes:
        written = [(compare.key, compare.range_end) for compare in request.compare]
        written += _written(request)
        return await self._write("/etcdserverpb.KV/Txn", call, request, written)

    async def _write(
        self, path: str, call: UnaryCall, request: Message, written: list[tuple[bytes, bytes]]
    ) -> bytes:
        self._invalidate(written)
        try:
            raw = await self._send(path, call, request)
        finally:
            self._invalidate(written)  # its outcome may be unknown
        return self._bare(path, raw)

    def _invalidate(self, written: list[tuple[bytes, bytes]]) -> None:
        for key, range_end in written:
            self.cache.invalidate(key, range_end)

    async def _compact(self, call: UnaryCall, request: rpc.CompactionRequest) -> bytes:
        raw = await self._send("/etcdserverpb.KV/Compact", call, request)
        self.cache.compact(request.revision)
        return raw

    # Streams

    async def _stream(self, path: str, stream: ServerStream) -> None:
        request = self._namespace.into(await stream.request())
        peer = await self._upstream.ready(stream.deadline_s, waits=path.startswith(_WAITING))
        payload = request.SerializeToString()
        call = self._upstream.server_stream(
            peer, path, payload, metadata_of(stream), stream.deadline_s
        )
        try:
            async for raw in call:
                stream.send(self._bare(path, raw))
                await stream.drain()
        except grpc.aio.AioRpcError as failure:
            raise await self._upstream.translate(failure, peer) from None
        finally:
            call.cancel()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _written(request: rpc.TxnRequest) -> list[tuple[bytes, bytes]]:
    """What either branch may write."""
    found = []
    for operation in (*request.success, *request.failure):
        if operation.HasField("request_put"):
            found.append((operation.request_put.key, b""))
        elif operation.HasField("request_delete_range"):
            deleted = operation.request_delete_range
            found.append((deleted.key, deleted.range_end))
        elif operation.HasField("request_txn"):
            found += _written(operation.request_txn)
    return found
