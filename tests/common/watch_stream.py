"""A watch stream of a client that has asked for some watches and only listens."""

import threading
from collections.abc import Iterator

import grpc

from pyetcd.proto import rpc_pb2 as rpc


class Stream:
    def __init__(
        self,
        channel: grpc.Channel,
        *creates: rpc.WatchCreateRequest,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._requests = [rpc.WatchRequest(create_request=one) for one in creates]
        self._over = threading.Event()
        open_stream = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            lambda message: message.SerializeToString(),
            rpc.WatchResponse.FromString,
        )
        self._answers = open_stream(self._send(), metadata=metadata)

    def _send(self) -> Iterator[rpc.WatchRequest]:
        yield from self._requests
        self._over.wait()  # the end of this is the end of the stream

    def next(self) -> rpc.WatchResponse:
        answer = next(self._answers)
        assert isinstance(answer, rpc.WatchResponse)
        return answer

    def close(self) -> None:
        self._over.set()
        self._answers.cancel()
