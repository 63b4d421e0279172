"""Drives one server: calls in somebody's name, watch streams and what came on them.

A name is that of a token's holder, NOBODY, FORGED, or CN + the name in a client's certificate.
A stream sorts what it gets: answers to requests in order (`replies`), and events of each watcher in
order, however they were batched (`events`). Fragments are joined: the part before the last one says
so, and nobody gets fragments that did not ask for them.
"""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from differential.draw_auth import AUTH, FORGED
from differential.plain import Names, plain_watch
from differential.relay import Relay

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.services import METHODS

CN = "cn:"
WAIT_S = 20.0
OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
Told = tuple[str, str, Any]  # code, text, answer


def raw(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


class Side:
    """`channels` by the name of a certificate; "" is for everybody else."""

    def __init__(
        self,
        channels: Mapping[str, grpc.Channel],
        names: Names,
        *,
        relay: Relay | None,
        unsynced: Callable[[], int],
    ) -> None:
        self.channels = channels
        self.unsynced = unsynced
        self._relay = relay
        self.names = names
        self.tokens: dict[str, str] = {}
        self.watches: dict[int, WatchStream] = {}
        self.keeper: KeepAlive | None = None

    def at(self, name: str) -> tuple[grpc.Channel, Sequence[tuple[str, str]]]:
        if name.startswith(CN):
            return self.channels[name.removeprefix(CN)], ()
        token = "abcdefghijklmnop.1" if name == FORGED else self.tokens.get(name)
        return self.channels[""], (("token", token),) if token else ()

    def call(self, path: str, request: Any, name: str) -> Told:
        channel, metadata = self.at(name)
        sent = request if isinstance(request, bytes) else self.names.request(request)
        stub = channel.unary_unary(path, request_serializer=raw)
        try:
            data = stub(sent, metadata=metadata, timeout=WAIT_S)
        except grpc.RpcError as error:
            return error.code().name, error.details(), None  # type: ignore[attr-defined]
        answer = METHODS[path].response.FromString(data)
        if path == AUTH + "Authenticate" and not isinstance(request, bytes):
            self.tokens[request.name] = answer.token
        return "OK", "", self.names.answer(answer, None if isinstance(request, bytes) else request)

    def open(self, label: int, name: str) -> None:
        channel, metadata = self.at(name)
        self.watches[label] = WatchStream(channel, metadata)

    def close_stream(self, label: int) -> None:
        self.watches.pop(label).close()

    def keep_alive(self, id: int, name: str) -> Told:
        """On a stream that stays open while the name has the same token."""
        keeper = self.keeper
        if keeper is None or keeper.at != self.at(name):
            if keeper is not None:
                keeper.close()
            keeper = self.keeper = KeepAlive(*self.at(name))
        request = self.names.request(rpc.LeaseKeepAliveRequest(ID=id))
        try:
            return "OK", "", self.names.answer(keeper.ask(request))
        except grpc.RpcError as error:
            self.keeper = None
            return error.code().name, error.details(), None  # type: ignore[attr-defined]

    def close(self) -> None:
        for stream in (*self.watches.values(), *([self.keeper] if self.keeper else [])):
            stream.close()
        for channel in self.channels.values():
            channel.close()
        if self._relay is not None:
            self._relay.close()


class Requests:
    """What a stream sends: put in one by one, and asked for by gRPC until the end."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Any] = queue.Queue()

    def send(self, request: Any) -> None:
        self._waiting.put(request)

    def __iter__(self) -> Any:
        return iter(self._waiting.get, None)


class KeepAlive:
    def __init__(self, channel: grpc.Channel, metadata: Sequence[tuple[str, str]]) -> None:
        self.at = channel, metadata
        method = METHODS["/etcdserverpb.Lease/LeaseKeepAlive"]
        stub = channel.stream_stream(
            method.path, request_serializer=raw, response_deserializer=method.response.FromString
        )
        self._requests = Requests()
        self._call = stub(iter(self._requests), metadata=metadata)

    def ask(self, request: Any) -> Any:
        self._requests.send(request)
        return next(self._call)

    def close(self) -> None:
        self._requests.send(None)
        self._call.cancel()


class WatchStream:
    def __init__(self, channel: grpc.Channel, metadata: Sequence[tuple[str, str]]) -> None:
        method = METHODS["/etcdserverpb.Watch/Watch"]
        stub = channel.stream_stream(
            method.path, request_serializer=raw, response_deserializer=method.response.FromString
        )
        self._requests = Requests()
        self._call = stub(iter(self._requests), metadata=metadata)
        self._replies: queue.Queue[Any] = queue.Queue()
        self._changed = threading.Condition()
        self._open_fragments: set[int] = set()
        self._ended = False
        self.fragmented: set[int] = set()  # watchers that got some
        self.fragments_count = 0
        self.events: dict[int, list[Any]] = defaultdict(list)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._take(response)
            self._replies.put(("ended", "OK", ""))
        except grpc.RpcError as error:
            self._replies.put(("ended", error.code().name, error.details()))  # type: ignore[attr-defined]
        except AssertionError as error:
            self._replies.put(("ended", "assertion", str(error)))
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, response: Any) -> None:
        id = response.watch_id
        if not response.events:
            assert id not in self._open_fragments, response
            self._replies.put(plain_watch(response))
            return
        assert not response.created and not response.canceled, response
        assert response.header.revision >= response.events[-1].kv.mod_revision
        if response.fragment:
            self._open_fragments.add(id)
            self.fragmented.add(id)
            self.fragments_count += 1
        else:
            self._open_fragments.discard(id)
        with self._changed:
            self.events[id].extend(response.events)
            self._changed.notify_all()

    def send(self, request: Any) -> None:
        self._requests.send(request)

    def reply(self) -> Any:
        try:
            return self._replies.get(timeout=WAIT_S)
        except queue.Empty:
            return "no reply"

    def wait_events(self, enough: Callable[[], bool]) -> bool:
        deadline_s = time.monotonic() + WAIT_S
        with self._changed:
            while not enough():
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or self._ended:
                    return False
                self._changed.wait(left_s)
        return True

    def take_events(self, id: int) -> list[Any]:
        with self._changed:
            return self.events.pop(id, [])

    def unexpected(self) -> list[Any]:
        """Replies that nobody has asked for."""
        return list(self._replies.queue)

    def close(self) -> None:
        self._requests.send(None)
        self._call.cancel()
