"""grpc.health.v1: etcd answers SERVING for the server as a whole and knows no other service."""

from pyetcd.proto.errors import Code
from pyetcd.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from pyetcd.server.wire.grpc import ServerStream, UnaryCall

_SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_UNKNOWN = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()


def check(call: UnaryCall, request: HealthCheckRequest) -> None:
    if request.service:
        return call.fail(Code.NOT_FOUND, "unknown service")
    return call.reply(_SERVING)


async def watch(stream: ServerStream) -> None:
    """The status now; it does not change while this process serves, so the stream then waits."""
    async for request in stream:
        assert isinstance(request, HealthCheckRequest)
        stream.send(_UNKNOWN if request.service else _SERVING)
        await stream.wait_closed()
