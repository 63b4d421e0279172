"""What every v2 handler shares: the way to the store and through raft, and how errors are answered.

Handlers that ask more than once are coroutines, each in a task of its own. Bound: one for each
request under way, and a connection has one at a time.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from pyetcd.proto.errors import ContextDeadlineExceeded, EtcdError, NoSpace, Stopped, Timeout
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.v2request_pb2 import Request
from pyetcd.server.api.base import Proposer
from pyetcd.server.http.v2json import dump, error_json
from pyetcd.server.wire.http1 import HttpRequest, HttpResponder
from pyetcd.store import v2error
from pyetcd.store.v2 import V2Store
from pyetcd.store.v2error import V2Error
from pyetcd.store.v2event import Event

Pairs = tuple[tuple[str, str], ...]
JSON: Final[Pairs] = (("Content-Type", "application/json"),)
_TEXT: Final[Pairs] = (
    ("Content-Type", "text/plain; charset=utf-8"),
    ("X-Content-Type-Options", "nosniff"),
)


class RaftView(Protocol):
    """What of raft stands in a header."""

    @property
    def commit(self) -> int: ...

    @property
    def term(self) -> int: ...

    @property
    def leader(self) -> int: ...


class HttpError(Exception):
    """An answer of the form {"message": ...}; `plain`: without the header of the cluster."""

    def __init__(self, status: int, message: str, *, plain: bool = False) -> None:
        super().__init__(message)
        self.plain = plain
        self.status = status
        self.message = message


class V2Base:
    """The store of this member, and raft in front of it."""

    def __init__(
        self,
        store: V2Store,
        *,
        proposer: Proposer,
        raft: RaftView,
        cluster_id: int,
        wall_s: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
        is_full: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_full`: the disk takes no more; then what adds to the tree is refused."""
        self.store = store
        self.raft = raft
        self.loop = loop
        # Requests of keys that do not wait: by method, and by method and status.
        self.received: dict[str, int] = {}
        self.failed: dict[tuple[str, int], int] = {}
        self.took: Callable[[str, float], None] = lambda method, seconds: None
        self.cluster: Pairs = (("X-Etcd-Cluster-Id", f"{cluster_id:x}"),)
        self._proposer = proposer
        self._wall_s = wall_s
        self._is_full = is_full
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def now_ns(self) -> int:
        return int(self._wall_s() * 1e9)

    @property
    def raft_headers(self) -> Pairs:
        raft = self.raft
        return (("X-Raft-Index", str(raft.commit)), ("X-Raft-Term", str(raft.term)))

    def do(self, request: Request, done: Callable[[Event | V2Error], None]) -> None:
        """Through raft, or for GET and HEAD from this member."""
        if request.Method == "GET" and request.Quorum:
            request.Method = "QGET"
        if request.Method in ("GET", "HEAD"):
            try:
                found = self.store.get(request)
            except V2Error as error:
                return done(error)
            return done(found)
        if request.Method in ("PUT", "POST") and self._is_full():
            return done(as_v2(NoSpace()))

        def answered(answer: Any) -> None:
            done(as_v2(answer) if isinstance(answer, EtcdError) else answer)

        return self._proposer.propose(InternalRaftRequest(v2=request), answered)

    async def ask(self, request: Request) -> Event:
        """The same for a coroutine; V2Error."""
        answered: asyncio.Future[Event | V2Error] = self.loop.create_future()

        def done(found: Event | V2Error) -> None:
            if not answered.done():
                answered.set_result(found)

        self.do(request, done)
        found = await answered
        if isinstance(found, V2Error):
            raise found
        return found

    def serve(
        self, responder: HttpResponder, headers: Pairs, work: Coroutine[Any, Any, None]
    ) -> None:
        """Run a handler; what it raises is its answer. A client that leaves ends it not: what it
        began to write it writes."""

        async def run() -> None:
            try:
                await work
            except V2Error as error:
                fail_v2(responder, headers, error)
            except HttpError as error:
                fail_http(responder, () if error.plain else headers, error)
            except EtcdError:
                fail_http(responder, headers, HttpError(500, "Internal Server Error"))

        task: asyncio.Task[None] = self.loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def as_v2(error: EtcdError) -> V2Error:
    """Any error of a proposal."""
    if isinstance(error, V2Error):
        return error
    text = Timeout.text if isinstance(error, ContextDeadlineExceeded) else error.text
    assert text or isinstance(error, Stopped)
    return V2Error(v2error.RAFT_INTERNAL, text)


def fail_v2(responder: HttpResponder, headers: Pairs, error: V2Error) -> None:
    others = tuple(pair for pair in headers if pair[0] != "Content-Type")
    index = (("X-Etcd-Index", str(error.index)),)
    responder.send(error.status, (*others, *index, *JSON), error_json(error).encode())


def fail_http(responder: HttpResponder, headers: Pairs, error: HttpError) -> None:
    others = tuple(pair for pair in headers if pair[0] != "Content-Type")
    body = dump({"message": error.message})
    responder.send(error.status, (*others, *JSON), body.encode())


def allows(request: HttpRequest, responder: HttpResponder, *methods: str) -> bool:
    """Whether the method is one of these; another one has been answered."""
    if request.method in methods:
        return True
    allow = ("Allow", ",".join(methods))
    responder.send(405, (allow, *_TEXT), b"Method Not Allowed\n")
    return False


def send_json(responder: HttpResponder, status: int, headers: Pairs, value: Any) -> None:
    """As Go's encoder, with a newline."""
    others = tuple(pair for pair in headers if pair[0] != "Content-Type")
    responder.send(status, (*others, *JSON), dump(value).encode() + b"\n")


def method_not_allowed(responder: HttpResponder, headers: Pairs) -> None:
    responder.send(405, (*headers, *_TEXT), b"Method Not Allowed\n")
