"""grpc.health.v1: whether this member serves, as etcd says it.

The empty name stands for the server as a whole; etcd knows no other service. It is SERVING for as
long as clients are served at all, leader or not, but for a defragmentation under
--experimental-stop-grpc-service-on-defrag (3.5.10): then it is NOT_SERVING, so that load balancers
turn to other members. Nothing is refused meanwhile, here as in etcd.
"""

import asyncio

from pyetcd.proto.errors import Code
from pyetcd.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from pyetcd.server.logs import get
from pyetcd.server.wire.grpc import ServerStream, UnaryCall

_SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_NOT_SERVING = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING).SerializeToString()
_UNKNOWN = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()


class HealthApi:
    """The handlers, and the status they tell."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, stops_on_defrag: bool = False) -> None:
        self._loop = loop
        self._stops_on_defrag = stops_on_defrag
        self._defragmenting = 0
        self._changed: asyncio.Future[None] = loop.create_future()
        self._log = get(__name__)

    @property
    def is_serving(self) -> bool:
        return not self._defragmenting

    def check(self, call: UnaryCall, request: HealthCheckRequest) -> None:
        if request.service:
            return call.fail(Code.NOT_FOUND, "unknown service")
        return call.reply(_SERVING if self.is_serving else _NOT_SERVING)

    async def watch(self, stream: ServerStream) -> None:
        """The status now and whenever it changes. A client that does not read misses some, but
        never the last one."""
        request = await stream.request()
        assert isinstance(request, HealthCheckRequest)
        if request.service:
            stream.send(_UNKNOWN)
            await stream.wait_closed()
            return
        told: bool | None = None
        while not stream.closed:
            if told is not self.is_serving:
                told = self.is_serving
                stream.send(_SERVING if told else _NOT_SERVING)
                await stream.drain()
            else:
                await asyncio.shield(self._changed)

    def defragmented(self, took_s: float | None) -> None:
        """One began, or has ended: see facts.defragment_hooks."""
        if self._stops_on_defrag:
            self._defragmenting += 1 if took_s is None else -1
            self._tell("defrag is active")

    def _tell(self, reason: str) -> None:
        if self.is_serving:
            self._log.info("grpc service status changed", service="", status="SERVING")
        else:
            status = "NOT_SERVING"
            self._log.warn("grpc service status changed", service="", status=status, reason=reason)
        changed, self._changed = self._changed, self._loop.create_future()
        changed.set_result(None)
