"""The connection without grpc, against servers made with h2 and with grpcio."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from hpack import Encoder

from pyetcd.cli import dial, direct
from pyetcd.cli.direct import Direct, Failed, Lost, NotReady, Overdue
from pyetcd.cli.h2_frames import CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, frame
from pyetcd.cli.h2_headers import read_block

HEAD = [(":status", "200"), ("content-type", "application/grpc")]
DONE = [("grpc-status", "0"), ("grpc-message", "")]
Script = Callable[[h2.connection.H2Connection, socket.socket, h2.events.StreamEnded], None]


def message(raw: bytes) -> bytes:
    return b"\x00" + len(raw).to_bytes(4, "big") + raw


class Server:
    """Answers each request as its script does."""

    def __init__(self, script: Script) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.script = script
        self.bodies: list[bytes] = []
        self.resets: list[int] = []
        self.headers: dict[bytes, bytes] = {}
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the other side closed what it did not read
            self._serve()

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        state = h2.connection.H2Connection(config)
        state.initiate_connection()
        with connection:
            connection.sendall(state.data_to_send())
            body = b""
            while data := connection.recv(65536):
                for event in state.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        self.headers = dict(event.headers)
                    elif isinstance(event, h2.events.DataReceived):
                        body += event.data
                        state.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                    elif isinstance(event, h2.events.StreamReset):
                        self.resets.append(event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        self.bodies.append(body)
                        body = b""
                        self.script(state, connection, event)
                connection.sendall(state.data_to_send())

    def close(self) -> None:
        # Closing alone leaves the accept of another thread waiting.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)
        assert not self.thread.is_alive()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side is a thread, on a machine that may be busy."""
    monkeypatch.setattr(direct, "OPEN_S", 30.0)


@pytest.fixture
def served() -> Iterator[Callable[[Script], tuple[Server, Direct]]]:
    opened: list[tuple[Server, Direct]] = []

    def serve(script: Script, *, patience_s: float = 5.0, keepalive_s: float = 10.0) -> object:
        server = Server(script)
        made = direct.connect(
            server.address, "there:1", keepalive_s=keepalive_s, patience_s=patience_s
        )
        assert made is not None
        opened.append((server, made))
        return server, made

    yield serve
    for server, made in opened:
        made.close()
        server.close()


def call(made: Direct, raw: bytes = b"x", timeout_s: float | None = 10.0, limit: int = -1) -> bytes:
    return made.call("/a.B/C", raw, (("token", "t"),), timeout_s=timeout_s, receive_bytes_max=limit)


def answer_with(raw: bytes) -> Script:
    def script(state, connection, event):
        state.send_headers(event.stream_id, HEAD)
        state.send_data(event.stream_id, message(raw))
        state.send_headers(event.stream_id, DONE, end_stream=True)

    return script


def test_an_answer(served):
    server, made = served(answer_with(b"hello"))
    assert [call(made, b"x" * n) for n in (0, 1, 9)] == [b"hello"] * 3
    assert server.bodies == [message(b"x" * n) for n in (0, 1, 9)]
    headers = server.headers
    assert headers[b":path"] == b"/a.B/C"
    assert headers[b":authority"] == b"there:1"
    assert headers[b"token"] == b"t"
    assert headers[b"te"] == b"trailers"
    assert headers[b"grpc-timeout"] == b"10000m"
    assert call(made, timeout_s=None) == b"hello"
    assert b"grpc-timeout" not in server.headers


def test_a_request_that_waits_for_windows(served):
    server, made = served(answer_with(b"ok"))
    large = bytes(range(256)) * 8192
    assert call(made, large) == b"ok"
    assert server.bodies == [message(large)]


def test_a_long_metadata_value(served):
    server, made = served(answer_with(b"ok"))
    for size in (126, 127, 128, 255, 4000):
        made.call("/a", b"", (("token", b"v" * size),), timeout_s=5, receive_bytes_max=-1)
        assert server.headers[b"token"] == b"v" * size


def test_an_answer_in_padded_pieces(served):
    def script(state, connection, event):
        state.send_headers(event.stream_id, HEAD)
        for part in (message(b"hello")[:3], message(b"hello")[3:]):
            state.send_data(event.stream_id, part, pad_length=7)
        state.send_headers(event.stream_id, DONE, end_stream=True)

    assert call(served(script)[1]) == b"hello"


@pytest.mark.parametrize("text", ["etcdserver: key is not provided", "ä %", ""])
def test_a_status(served, text):
    coded = "".join(
        char
        if 32 <= ord(char) < 127 and char != "%"
        else "".join(f"%{b:02X}" for b in char.encode())
        for char in text
    )

    def script(state, connection, event):
        fields = [*HEAD, ("grpc-status", "3"), ("grpc-message", coded)]
        state.send_headers(event.stream_id, fields, end_stream=True)

    with pytest.raises(Failed) as caught:
        call(served(script)[1])
    assert (caught.value.code, caught.value.text) == (3, text)


def test_a_header_block_in_pieces(served):
    def script(state, connection, event):
        connection.sendall(state.data_to_send())
        block = Encoder().encode([*HEAD, ("grpc-status", "5"), ("grpc-message", "m" * 300)])
        at = event.stream_id
        connection.sendall(frame(HEADERS, END_STREAM, at, block[:5]))
        connection.sendall(frame(CONTINUATION, 0, at, block[5:20]))
        connection.sendall(frame(CONTINUATION, END_HEADERS, at, block[20:]))

    with pytest.raises(Failed) as caught:
        call(served(script)[1])
    assert (caught.value.code, caught.value.text) == (5, "m" * 300)


@pytest.mark.parametrize(("status", "code"), [(404, 12), (503, 14), (401, 16), (418, 2)])
def test_an_http_status(served, status, code):
    def script(state, connection, event):
        state.send_headers(event.stream_id, [(":status", str(status))], end_stream=True)

    with pytest.raises(Failed) as caught:
        call(served(script)[1])
    assert caught.value.code == code
    assert str(status) in caught.value.text


@pytest.mark.parametrize(("reset", "code"), [(0, 13), (2, 13), (8, 1), (11, 8), (12, 7)])
def test_a_reset(served, reset, code):
    def script(state, connection, event):
        state.reset_stream(event.stream_id, reset)

    with pytest.raises(Failed) as caught:
        call(served(script)[1])
    assert caught.value.code == code


def test_a_call_that_was_not_looked_at(served):
    def refused(state, connection, event):
        state.reset_stream(event.stream_id, 7)

    with pytest.raises(NotReady):
        call(served(refused)[1])

    def leaving(state, connection, event):
        connection.sendall(frame(7, 0, 0, struct.pack(">II", 0, 0)))

    with pytest.raises(NotReady):
        call(served(leaving)[1])


def test_a_peer_that_leaves_between_calls(served):
    def script(state, connection, event):
        answer_with(b"last")(state, connection, event)
        connection.sendall(state.data_to_send())
        connection.sendall(frame(7, 0, 0, struct.pack(">II", event.stream_id, 0)))

    _, made = served(script)
    assert call(made) == b"last"
    with pytest.raises(NotReady):
        call(made)


def test_a_connection_that_breaks(served):
    def script(state, connection, event):
        connection.shutdown(socket.SHUT_RDWR)

    with pytest.raises(Lost):
        call(served(script)[1])


def test_a_late_answer_is_nobodys(served):
    waiting: list[int] = []

    def script(state, connection, event):
        waiting.append(event.stream_id)
        if len(waiting) == 1:
            return
        answer_with(b"second")(state, connection, event)

    server, made = served(script)
    with pytest.raises(Overdue):
        call(made, timeout_s=0.05)
    assert call(made) == b"second"
    assert server.resets == [1]


def test_a_silent_peer_is_asked(served):
    pings: list[bytes] = []

    def script(state, connection, event):
        connection.sendall(state.data_to_send())
        raw = b""
        while len(raw) < 17:
            raw += connection.recv(17 - len(raw))
        pings.append(raw)
        connection.sendall(frame(PING, 1, 0, raw[9:]))
        answer_with(b"slow")(state, connection, event)

    assert call(served(script, keepalive_s=0.05)[1]) == b"slow"
    assert pings == [frame(PING, 0, 0, bytes(8))]


def test_a_dead_peer_is_given_up(served):
    def script(state, connection, event):
        while connection.recv(100):
            pass

    with pytest.raises(Lost, match="keepalive"):
        call(served(script, keepalive_s=0.02, patience_s=0.02)[1])


def test_a_message_over_the_limit(served):
    _, made = served(answer_with(b"12345"))
    assert call(made, limit=5) == b"12345"
    with pytest.raises(Failed, match=r"received message larger than max \(5 vs. 4\)"):
        call(made, limit=4)


@pytest.mark.parametrize(
    "raw", [b"", b"\x00", b"\x01" + message(b"x")[1:], message(b"xy")[:-1], message(b"x") * 2]
)
def test_a_body_that_is_no_message(served, raw):
    def script(state, connection, event):
        state.send_headers(event.stream_id, HEAD)
        state.send_data(event.stream_id, raw)
        state.send_headers(event.stream_id, DONE, end_stream=True)

    with pytest.raises(Failed) as caught:
        call(served(script)[1])
    assert caught.value.code == direct.INTERNAL


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 9])
def test_no_http2(said):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        address = listener.getsockname()
        assert direct.connect(address, "x", keepalive_s=10, patience_s=10) is None
        thread.join()


def test_an_endpoint_with_a_name(monkeypatch):
    server = Server(answer_with(b"answer"))
    real, hung = socket.getaddrinfo, threading.Event()

    def look(host, *rest, **more):
        if host == "slow.test":
            hung.wait()
        if host.endswith(".test") and host != "member.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real("127.0.0.1" if host == "member.test" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look)
    monkeypatch.setattr(dial, "LOOKUP_S", 30.0)
    settings = dial.Settings([], 1.0, 10_000, 10_000)
    port = server.address[1]
    made = dial.open_directly(f"http://member.test:{port}", settings)
    assert made is not None
    assert call(made) == b"answer"
    assert call(made) == b"answer"
    made.close()
    server.close()
    assert dial.open_directly(f"unknown.test:{port}", settings) is None
    monkeypatch.setattr(dial, "LOOKUP_S", 0.01)
    assert dial.open_directly(f"slow.test:{port}", settings) is None
    hung.set()


@pytest.mark.parametrize(
    "block",
    [
        b"\xbe",
        b"\x80",
        b"\x00",
        b"\x00\x05ab",
        b"\x00\x01a\xff",
        b"\x40\x82",
        b"\x0f",
        b"\x00\x01a\x85",
    ],
)
def test_a_bad_header_block(block):
    with pytest.raises(ValueError):
        read_block(block)


def test_blocks_of_any_encoder():
    fields = [(":status", "200"), ("x-other", "1"), ("grpc-status", "12"), ("grpc-message", "no")]
    for coded in (False, True):
        block = Encoder().encode(fields, huffman=coded)
        assert read_block(block) == {
            b":status": b"200",
            b"grpc-status": b"12",
            b"grpc-message": b"no",
        }


def test_grpcio_as_the_server():
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"fail":
            context.abort(grpc.StatusCode.NOT_FOUND, "nothing ü here")
        return request[::-1]

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(answer)

    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(2), handlers=(Handler(),), options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made = direct.connect(("127.0.0.1", port), "x", keepalive_s=10, patience_s=10)
    assert made is not None
    large = bytes(range(256)) * 20000
    assert [call(made, raw) for raw in (b"ab", large, b"")] == [b"ba", large[::-1], b""]
    with pytest.raises(Failed) as caught:
        call(made, b"fail")
    assert (caught.value.code, caught.value.text) == (5, "nothing ü here")
    made.close()
    server.stop(None).wait()
