"""A watch stream of a client that has asked for some watches and only listens."""

import queue
from collections.abc import Iterator

import grpc

from pyetcd.proto import rpc_pb2 as rpc


class Stream:
    def __init__(
        self,
        channel: grpc.Channel,
        *asked: rpc.WatchCreateRequest | rpc.WatchProgressRequest,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._requests: queue.SimpleQueue[rpc.WatchRequest | None] = queue.SimpleQueue()
        for one in asked:
            self.ask(one)
        open_stream = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            lambda message: message.SerializeToString(),
            rpc.WatchResponse.FromString,
        )
        self._answers = open_stream(self._send(), metadata=metadata)

    def _send(self) -> Iterator[rpc.WatchRequest]:
        """The end of this is the end of the stream."""
        while (request := self._requests.get()) is not None:
            yield request

    def ask(self, request: rpc.WatchCreateRequest | rpc.WatchProgressRequest) -> None:
        if isinstance(request, rpc.WatchCreateRequest):
            self._requests.put(rpc.WatchRequest(create_request=request))
        else:
            self._requests.put(rpc.WatchRequest(progress_request=request))

    def next(self) -> rpc.WatchResponse:
        answer = next(self._answers)
        assert isinstance(answer, rpc.WatchResponse)
        return answer

    def close(self) -> None:
        self._requests.put(None)
        self._answers.cancel()
