"""Helpers for the wire tests: a raw HTTP/2 peer against a pure connection, with a clock to turn."""

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from google.protobuf.message import Message
from hpack import Decoder, Encoder

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.server.wire import frames
from pyetcd.server.wire.flow import Budget
from pyetcd.server.wire.grpc import Dispatcher, ServerStream, UnaryCall
from pyetcd.server.wire.h2 import Connection
from pyetcd.server.wire.limits import Limits


@dataclass(frozen=True)
class Frame:
    """One frame of the server; `fields` is set for HEADERS."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def ended(self) -> bool:
        kinds = (frames.DATA, frames.HEADERS)
        return self.kind in kinds and bool(self.flags & frames.FLAG_END_STREAM)

    @property
    def code(self) -> int:
        """Of RST_STREAM or GOAWAY."""
        at = 0 if self.kind == frames.RST_STREAM else 4
        return int.from_bytes(self.payload[at : at + 4], "big")

    @property
    def status(self) -> str:
        return dict(self.fields).get("grpc-status", "")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class MiniWaiter:
    def __init__(self, tasks: "MiniTasks") -> None:
        self._tasks = tasks
        self._done = False

    def set_result(self, result: None, /) -> None:
        self._done = True
        self._tasks.ready.append(self)

    def done(self) -> bool:
        return self._done

    def __await__(self) -> Generator[object, None, None]:
        while not self._done:
            yield self


class MiniTask:
    def __init__(self, tasks: "MiniTasks", work: Coroutine, done: Callable[[], None]) -> None:
        self.tasks, self.work, self.done = tasks, work, done
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def step(self) -> bool:
        """True when it has ended."""
        try:
            if self.cancelled:
                self.work.close()
            else:
                self.work.send(None)
                return False
        except StopIteration:
            pass
        self.done()
        return True


class MiniTasks:
    """An event loop of twenty lines: every task is stepped until nothing moves."""

    def __init__(self) -> None:
        self.tasks: list[MiniTask] = []
        self.ready: list[MiniWaiter] = []

    def spawn(self, work: Coroutine, done: Callable[[], None]) -> MiniTask:
        task = MiniTask(self, work, done)
        self.tasks.append(task)
        return task

    def waiter(self) -> MiniWaiter:
        return MiniWaiter(self)

    def run(self) -> None:
        for _ in range(10):
            self.tasks = [task for task in self.tasks if not task.step()]


@dataclass
class Service:
    """Handlers: Echo answers with the request, Hold keeps the call, Stream echoes messages."""

    held: list[UnaryCall] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)
    metadata: list[dict] = field(default_factory=list)
    streams: list[ServerStream] = field(default_factory=list)
    reply_bytes: int = 0
    tasks: MiniTasks = field(default_factory=MiniTasks)

    def echo(self, call: UnaryCall, request: Message) -> None:
        raw = request.SerializeToString()
        self.seen.append(raw)
        self.metadata.append(dict(call.metadata))
        call.reply(bytes(self.reply_bytes) or raw)

    def hold(self, call: UnaryCall, request: Message) -> None:
        self.held.append(call)

    async def stream(self, stream: ServerStream) -> None:
        self.streams.append(stream)
        async for request in stream:
            stream.send(request.SerializeToString())
            await stream.drain()

    async def deaf(self, stream: ServerStream) -> None:
        """Reads nothing and says nothing, until it is cancelled."""
        self.streams.append(stream)
        await self.tasks.waiter()

    def dispatcher(self) -> Dispatcher:
        found = Dispatcher(
            {
                "/t.T/Echo": (rpc.PutRequest, self.echo),
                "/t.T/Hold": (rpc.PutRequest, self.hold),
            },
            {
                "/t.T/Stream": (rpc.PutRequest, self.stream),
                "/t.T/Deaf": (rpc.PutRequest, self.deaf),
            },
        )
        found.tasks = self.tasks
        return found


class Peer:
    """A client that says exactly what it is told to say."""

    def __init__(
        self,
        limits: Limits | None = None,
        budget: Budget | None = None,
        *,
        greet: bool = True,
        **settings: int,
    ) -> None:
        self.clock = Clock()
        self.service = Service()
        self.connection = Connection(
            self.service.dispatcher(),
            limits or Limits(),
            clock=self.clock,
            peer="1.2.3.4:5",
            budget=budget,
        )
        self.encoder = Encoder()
        self._decoder = Decoder()
        self.greeting: list[Frame] = []
        if greet:
            keys = {"window": frames.INITIAL_WINDOW_SIZE}
            own = frames.settings([(keys[name], value) for name, value in settings.items()])
            self.connection.receive(frames.PREFACE + own)
            self.greeting = self.read()

    def block(self, path: str = "/t.T/Echo", *, drop: tuple[str, ...] = (), **extra: str) -> bytes:
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        more = [(name.replace("_", "-"), value) for name, value in extra.items()]
        return self.encoder.encode([f for f in fields if f[0] not in drop] + more)

    def raw_block(self, *fields: tuple[str, str]) -> bytes:
        return self.encoder.encode(fields)

    def headers(self, stream_id: int, path: str = "/t.T/Echo", *, end: bool = False) -> bytes:
        return frames.headers(stream_id, self.block(path), end_stream=end)

    def data(self, stream_id: int, body: bytes, *, end: bool = True) -> bytes:
        return frames.frame(frames.DATA, frames.FLAG_END_STREAM if end else 0, stream_id, body)

    def call(self, stream_id: int, path: str = "/t.T/Echo", value: bytes = b"v") -> bytes:
        return self.headers(stream_id, path) + self.data(stream_id, message(value))

    def say(self, *parts: bytes) -> list[Frame]:
        """Send, let streams run, and read what comes back."""
        self.connection.receive(b"".join(parts))
        self.service.tasks.run()
        return self.read()

    def read(self, bytes_max: int = 1 << 30) -> list[Frame]:
        self.connection.waking = False
        return self.parse(self.connection.pump(bytes_max))

    def parse(self, data: bytes) -> list[Frame]:
        found, pos = [], 0
        while pos < len(data):
            word, flags, stream_id = frames.HEAD.unpack_from(data, pos)
            payload = data[pos + 9 : pos + 9 + (word >> 8)]
            assert len(payload) == word >> 8
            fields = ()
            if word & 0xFF == frames.HEADERS:
                fields = tuple((str(n), str(v)) for n, v in self._decoder.decode(payload))
            found.append(Frame(word & 0xFF, flags, stream_id, payload, fields))
            pos += 9 + len(payload)
        return found


def message(value: bytes = b"v", *, flag: int = 0) -> bytes:
    raw = rpc.PutRequest(key=b"k", value=value).SerializeToString()
    return prefixed(raw, flag=flag)


def prefixed(raw: bytes, *, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(raw).to_bytes(4, "big") + raw


def seen(frame):
    if frame.kind == frames.GOAWAY:
        return f"goaway {frame.code}"
    if frame.kind == frames.RST_STREAM:
        return f"rst {frame.stream_id} {frame.code}"
    if frame.kind == frames.HEADERS and frame.status == "0":
        return f"answer {frame.stream_id}"
    if frame.kind == frames.HEADERS and frame.status:
        return f"status {frame.stream_id} {frame.status}"
    if frame.kind == frames.PING:
        return "ping"
    return "ack" if frame.kind == frames.SETTINGS and frame.flags & frames.FLAG_ACK else ""


def check_reaction(said: Callable[[Peer], bytes], expected: str, cut: str) -> None:
    """One row of the RFC tables, fed whole, octet by octet, or with something behind it."""
    peer = Peer()
    data = said(peer)
    if cut == "octets":
        got = [frame for at in range(len(data)) for frame in peer.say(data[at : at + 1])]
    else:
        got = peer.say(
            data + (frames.HEAD.pack(8 << 8 | frames.PING, 0, 0)[: 9 * (cut != "whole")])
        )
    texts = [text for text in map(seen, got) if text]
    if expected == "quiet":
        assert not texts
    else:
        assert expected in texts, texts
    assert peer.connection.closing == (expected.startswith("goaway"))
    if peer.connection.closing:
        assert not peer.say(peer.call(99)) and not peer.connection.streams


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture(scope="session")
def request_wire(wire_session: SimpleNamespace) -> SimpleNamespace:
    """The helpers for hypothesis tests, which want no function-scoped fixture."""
    return wire_session


@pytest.fixture
def wire(wire_session: SimpleNamespace) -> SimpleNamespace:
    """The helpers above, for tests that need more than one peer or other limits."""
    return wire_session


@pytest.fixture(scope="session")
def wire_session() -> SimpleNamespace:
    return SimpleNamespace(
        Peer=Peer,
        message=message,
        prefixed=prefixed,
        seen=seen,
        check_reaction=check_reaction,
    )
