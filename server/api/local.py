"""A member as its own client, for services that are made of others (Lock, Election).

etcd runs them on an embedded client. Here the same handlers are called that serve calls from
outside, with the metadata of the outer call: what the client may not do, this may not do for it.

Bounds: one inner call at a time for each outer one; a watch holds `ANSWERS_MAX` unread answers,
then the hub's own queue fills as it does for any slow client.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import Message

from pyetcd.proto.errors import Code, Compacted, EtcdError, RpcError
from pyetcd.proto.rpc_pb2 import WatchCreateRequest, WatchRequest, WatchResponse
from pyetcd.proto.services import METHODS
from pyetcd.server.wire.call import CancelHook
from pyetcd.server.wire.grpc import UnaryCall

ANSWERS_MAX: Final = 16

M = TypeVar("M", bound=Message)
Work = Coroutine[object, object, Message]


class Caller(Protocol):
    """The outer call, in whose name the inner ones are made."""

    @property
    def metadata(self) -> Mapping[str, str | bytes]: ...

    @property
    def peer(self) -> str: ...

    @property
    def common_name(self) -> str: ...


class Local:
    """The handlers of this member, as they are served."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._unary: Mapping[str, Callable[..., None]] = {}
        self._watch: Callable[..., Any] | None = None
        # Bound: one per outer call, which the listener bounds, and those of ended calls that
        # still put something right.
        self._tasks: set[asyncio.Task[None]] = set()

    def bind(self, unary: Mapping[str, Callable[..., None]], watch: Callable[..., Any]) -> None:
        """The finished table: guarded and authorised."""
        self._unary = unary
        self._watch = watch

    def serve(self, call: UnaryCall, work: Work) -> None:
        """Answer the unary `call` with what the coroutine returns, or with the error it raises;
        a call that ends before cancels it."""
        task = self._spawn(_answer(call, work))
        call.on_cancel = lambda: _cancel(task)

    def afterwards(self, work: "Coroutine[object, object, object]") -> None:
        """Run a coroutine whose caller has left; its errors are nobody's."""
        self._spawn(_quietly(work))

    def _spawn(self, work: "Coroutine[object, object, None]") -> "asyncio.Task[None]":
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def call(self, caller: Caller, path: str, request: Message, kind: type[M]) -> M:
        """The answer of the method at `path`; raises RpcError with what it failed with."""
        answered: asyncio.Future[bytes] = self._loop.create_future()
        self._unary[path](InnerCall(path, caller, answered), request)
        return kind.FromString(await answered)

    async def watch(
        self, caller: Caller, request: WatchCreateRequest
    ) -> AsyncGenerator[WatchResponse, None]:
        """The answers to one create request, without the first one; to be closed by who reads it.
        Raises what the stream ended with, RpcError for a watch that was cancelled."""
        assert self._watch is not None
        stream = InnerStream(caller, request)
        task = self._loop.create_task(stream.serve(self._watch))
        try:
            while True:
                answer = await stream.next()
                if answer.canceled:
                    raise RpcError(Code.UNKNOWN, _why(answer))
                if not answer.created:
                    yield answer
        finally:
            task.cancel()
            await asyncio.wait([task])


def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()


def _why(cancelled: WatchResponse) -> str:
    return Compacted.text if cancelled.compact_revision else cancelled.cancel_reason


async def _answer(call: UnaryCall, work: Work) -> None:
    try:
        answer: Message = await work
    except EtcdError as error:
        # The embedded client's errors have no status that gRPC knows.
        call.fail(Code.UNKNOWN, error.text)
    else:
        call.reply(answer.SerializeToString())


async def _quietly(work: "Coroutine[object, object, object]") -> None:
    try:
        await work
    except EtcdError:
        pass  # a lease takes the key away in its time


class InnerCall:
    """An UnaryCall that answers a future."""

    def __init__(self, path: str, caller: Caller, answered: "asyncio.Future[bytes]") -> None:
        self.method = METHODS[path]
        self.metadata = caller.metadata
        self.peer = caller.peer
        self.common_name = caller.common_name
        self.deadline_s: float | None = None
        self.on_cancel: CancelHook | None = None
        self._answered = answered

    @property
    def cancelled(self) -> bool:
        return self._answered.done()

    def reply(self, payload: bytes) -> None:
        if not self._answered.done():
            self._answered.set_result(payload)

    def fail(self, code: int, text: str) -> None:
        if not self._answered.done():
            self._answered.set_exception(RpcError(Code(code), text))


class InnerStream:
    """A ServerStream with one create request, whose answers are read here."""

    def __init__(self, caller: Caller, request: WatchCreateRequest) -> None:
        self.method = METHODS["/etcdserverpb.Watch/Watch"]
        self.metadata = caller.metadata
        self.peer = caller.peer
        self.common_name = caller.common_name
        self.on_cancel: CancelHook | None = None
        self.closed = False
        self._requests = [WatchRequest(create_request=request)]
        self._answers: asyncio.Queue[WatchResponse | EtcdError] = asyncio.Queue()
        self._room = asyncio.Event()

    async def serve(self, handler: Callable[..., Any]) -> None:
        try:
            await handler(self)
        except EtcdError as error:
            self._answers.put_nowait(error)
        finally:
            self.closed = True

    async def next(self) -> WatchResponse:
        answer = await self._answers.get()
        self._room.set()
        if isinstance(answer, EtcdError):
            raise answer
        return answer

    # The handler's side

    @property
    def cancelled(self) -> bool:
        return self.closed

    @property
    def queued(self) -> int:
        return self._answers.qsize()

    @property
    def can_send(self) -> bool:
        return not self.closed and self.queued < ANSWERS_MAX

    def send(self, payload: bytes) -> None:
        if not self.closed:
            self._answers.put_nowait(WatchResponse.FromString(payload))

    def send_all(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            self.send(payload)

    async def drain(self) -> None:
        while not self.closed and not self.can_send:
            self._room.clear()
            await self._room.wait()

    def __aiter__(self) -> "InnerStream":
        return self

    async def __anext__(self) -> WatchRequest:
        if self._requests:
            return self._requests.pop()
        raise StopAsyncIteration
