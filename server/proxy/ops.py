"""HTTP on the proxy's port and on --metrics-addr: /metrics and /health of the cluster behind it,
/proxy/metrics and /proxy/health of the proxy itself.

/health reads a key through the proxy's own connections within HEALTH_S; that it may not be read is
healthy, too. /proxy/health does so through the address that the proxy advertises, and opens a watch
there. /metrics is that of one endpoint, drawn at the start.
"""

import asyncio
import json
import random
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.errors import EtcdError, PermissionDenied
from pyetcd.server.http.router import TEXT_HEADERS, Router, allow_get, fail
from pyetcd.server.logs import get
from pyetcd.server.peer.client import HttpClient, Unreachable
from pyetcd.server.proxy.dial import place_of
from pyetcd.server.proxy.settings import Settings
from pyetcd.server.proxy.upstream import Upstream
from pyetcd.server.wire.http1 import HttpRequest, HttpResponder

HEALTH_S: Final = 1.0
WATCH_S: Final = 3.0
METRICS_S: Final = 10.0
METRICS_BYTES_MAX: Final = 64 << 20
REQUESTS_MAX: Final = 100  # under way; one more is answered with 503
_HEALTH_HEADERS = (("Content-Type", "text/plain; charset=utf-8"),)


class Ops:
    """The handlers."""

    def __init__(
        self,
        settings: Settings,
        upstream: Upstream,
        own: Upstream | None,
        render: Callable[[], bytes],
        cluster_context: ssl.SSLContext | None,
    ) -> None:
        self._settings = settings
        self._upstream, self._own = upstream, own
        self._render = render
        self._endpoint = random.choice(settings.endpoints)
        self._client = HttpClient(ssl_context=cluster_context)
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = get("health")

    def router(self) -> Router:
        router = Router()
        router.exact("/metrics", partial(self._begin, self._metrics))
        router.exact("/health", partial(self._begin, self._health))
        router.exact("/proxy/metrics", self._own_metrics)
        router.exact("/proxy/health", partial(self._begin, self._own_health))
        return router

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._client.close()

    def _begin(
        self,
        work: Callable[[HttpRequest, HttpResponder], Coroutine[Any, Any, None]],
        request: HttpRequest,
        responder: HttpResponder,
    ) -> None:
        if len(self._tasks) >= REQUESTS_MAX:
            fail(responder, 503, "too many requests")
            return
        task = asyncio.get_running_loop().create_task(work(request, responder))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _metrics(self, request: HttpRequest, responder: HttpResponder) -> None:
        del request
        place = place_of(self._endpoint)
        scheme = "https" if place.is_secure(self._settings) else "http"
        try:
            answer = await self._client.request(
                "GET",
                f"{scheme}://{place.address}",
                "/metrics",
                headers={},
                timeout_s=METRICS_S,
                body_bytes_max=METRICS_BYTES_MAX,
            )
        except Unreachable:
            fail(responder, 500, "Internal server error")
            return
        responder.send(200, (("Content-Type", "text/plain; version=0.0.4"),), answer.body)

    def _own_metrics(self, request: HttpRequest, responder: HttpResponder) -> None:
        del request
        headers = (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),)
        responder.send(200, headers, self._render())

    async def _health(self, request: HttpRequest, responder: HttpResponder) -> None:
        if allow_get(request, responder):
            self._say(responder, await _read_fault(self._upstream))

    async def _own_health(self, request: HttpRequest, responder: HttpResponder) -> None:
        if not allow_get(request, responder):
            return
        if self._own is None:
            self._say(responder, "no connection to proxy")
            return
        fault = await _read_fault(self._own)
        self._say(responder, fault or await _watch_fault(self._own))

    def _say(self, responder: HttpResponder, fault: str) -> None:
        health = {"health": "false" if fault else "true", "reason": fault}
        body = json.dumps(health, separators=(",", ":")).encode()
        if fault:
            self._log.warn("/health error", output=body.decode(), status_code=503)
            responder.send(503, TEXT_HEADERS, body + b"\n")
        else:
            responder.send(200, _HEALTH_HEADERS, body)


async def _read_fault(upstream: Upstream) -> str:
    payload = rpc.RangeRequest(key=b"a").SerializeToString()
    path = "/etcdserverpb.KV/Range"
    try:
        await upstream.unary(path, payload, (), timeout_s=HEALTH_S, is_repeatable=True)
    except PermissionDenied:
        return ""
    except EtcdError as failure:
        return f"GET ERROR:{failure.text}"
    return ""


async def _watch_fault(upstream: Upstream) -> str:
    create = rpc.WatchCreateRequest(key=b"a")
    request = rpc.WatchRequest(create_request=create)
    try:
        async with asyncio.timeout(WATCH_S):
            peer = await upstream.ready()
            call = upstream.stream(peer, "/etcdserverpb.Watch/Watch", ())
            try:
                await call.write(request.SerializeToString())
                await call.read()
            finally:
                call.cancel()
    except TimeoutError:
        return "WATCH TIMEOUT"
    except Exception as failure:  # whatever a stream may raise: it does not work
        return f"WATCH ERROR:{failure}"
    return ""
