"""/v2/keys: reading, writing and watching.

Rules. What the form says is checked before anything is done, in etcd's order; then who asks. An
answer tells the index of the store; one that waits tells it when the waiting begins, with headers
that leave at once.

Limits. A stream whose client takes nothing has EVENTS_MAX events waiting here beside what is in its
connection; one more ends it, after these.
"""

from collections import deque
from typing import Final
from urllib.parse import unquote

from pyetcd.proto.v2request_pb2 import Request
from pyetcd.server.http.v2auth import V2Auth
from pyetcd.server.http.v2base import JSON, Pairs, V2Base, allows, fail_v2
from pyetcd.server.http.v2form import key_request
from pyetcd.server.http.v2json import event_json
from pyetcd.server.wire.http1 import HttpRequest, HttpResponder
from pyetcd.store import v2event as ev
from pyetcd.store.v2error import UNAUTHORIZED, V2Error
from pyetcd.store.v2event import Event
from pyetcd.store.v2watch import Watcher

PREFIX: Final = "/v2/keys"
EVENTS_MAX: Final = 100
SEND_LOW_BYTES: Final = 64 * 1024

_VALUELESS: Final = frozenset((ev.SET, ev.CREATE, ev.UPDATE, ev.COMPARE_AND_SWAP))


class KeysHandler:
    """Everything at and below /v2/keys."""

    def __init__(self, base: V2Base, auth: V2Auth) -> None:
        self._base = base
        self._auth = auth

    def handle(self, request: HttpRequest, responder: HttpResponder) -> None:
        if not allows(request, responder, "HEAD", "GET", "PUT", "POST", "DELETE"):
            return None
        base = self._base
        path = unquote(request.path)[len(PREFIX) :]
        try:
            asked, no_value = key_request(request, path, base.now_ns)
        except V2Error as error:
            return fail_v2(responder, base.cluster, error)
        if not self._auth.enabled:
            return self._serve(asked, responder, no_value=no_value)

        async def authorised() -> None:
            if not await self._auth.may_use(request, path, recursive=asked.Recursive):
                raise V2Error(UNAUTHORIZED, "Insufficient credentials")
            self._serve(asked, responder, no_value=no_value)

        return base.serve(responder, base.cluster, authorised())

    def _serve(self, asked: Request, responder: HttpResponder, *, no_value: bool) -> None:
        base = self._base
        if asked.Wait and not asked.Quorum:
            try:
                return KeyStream(base, asked, responder).begin()
            except V2Error as error:
                failure = (asked.Method, error.status)
                base.failed[failure] = base.failed.get(failure, 0) + 1
                return fail_v2(responder, base.cluster, error)

        method = "QGET" if asked.Method == "GET" and asked.Quorum else asked.Method
        if not asked.Wait:
            base.received[method] = base.received.get(method, 0) + 1
        began_s = base.loop.time()

        def done(found: Event | V2Error) -> None:
            if isinstance(found, V2Error):
                failure = (method, found.status)
                base.failed[failure] = base.failed.get(failure, 0) + 1
                return fail_v2(responder, base.cluster, found)
            base.took(method, base.loop.time() - began_s)
            return self._answer(responder, found, no_value=no_value)

        return base.do(asked, done)

    def _answer(self, responder: HttpResponder, event: Event, *, no_value: bool) -> None:
        base = self._base
        index = ("X-Etcd-Index", str(event.etcd_index))
        body = event_json(event)
        if no_value and event.action in _VALUELESS:
            body = f'{{"action":"{event.action}"}}\n'
        headers: Pairs = (*base.cluster, *JSON, index, *base.raft_headers)
        responder.send(201 if event.is_created else 200, headers, body.encode())


class KeyStream:
    """An answer that waits for events."""

    def __init__(self, base: V2Base, asked: Request, responder: HttpResponder) -> None:
        self._base = base
        self._asked = asked
        self._responder = responder
        self._queue: deque[bytes] = deque()
        self._is_last = False  # no event comes after those in the queue
        self._watcher: Watcher | None = None

    def begin(self) -> None:
        """V2Error, before anything is sent."""
        base, responder = self._base, self._responder
        watcher, event = base.store.watch(self._asked, self._take)
        self._watcher = watcher
        index = ("X-Etcd-Index", str(watcher.start_index))
        responder.on_close = watcher.cancel
        responder.on_drain = self._drain
        responder.start(200, (*base.cluster, *JSON, index, *base.raft_headers))
        if event is not None:
            # As from etcd: a stream that begins with an event of the past has no other one.
            self._take(event)

    def _take(self, event: Event | None) -> None:
        """Called while an entry is being applied: it writes, but what comes after the end of an
        answer, such as the next request of the connection, has to wait."""
        if self._is_last:
            return None
        if event is None:
            self._is_last = True
            return self._pump()
        self._queue.append(event_json(event).encode())
        if not self._asked.Stream:
            self._is_last = True
        if len(self._queue) > EVENTS_MAX:
            self._queue.pop()
            self._is_last = True
            assert self._watcher is not None
            self._watcher.cancel()
        return self._pump()

    def _pump(self) -> None:
        responder = self._responder
        while self._queue and responder.buffered_bytes <= SEND_LOW_BYTES:
            responder.write(self._queue.popleft())
        if self._is_last and not self._queue:
            self._base.loop.call_soon(responder.end)

    def _drain(self) -> None:
        self._pump()
