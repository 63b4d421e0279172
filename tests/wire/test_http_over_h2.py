"""Requests that are no gRPC calls, on an HTTP/2 connection: the same handlers as on HTTP/1.1."""

import pytest

from pyetcd.server.wire import frames
from pyetcd.server.wire.exchange import HttpRequest, HttpResponder, HttpService
from pyetcd.server.wire.limits import Limits


class Handlers:
    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []
        self.held: list[HttpResponder] = []
        self.closed = 0

    def __call__(self, request: HttpRequest, responder: HttpResponder) -> None:
        self.requests.append(request)
        if request.path == "/hold":
            self.held.append(responder)
            responder.on_close = self._count
        elif request.path == "/pieces":
            responder.start(200, {"X-Kind": "pieces"})
            for piece in (b"one", b"two"):
                responder.write(piece)
            responder.end()
        else:
            responder.send(418, {"Connection": "close", "X-Kind": "echo"}, request.body)

    def _count(self) -> None:
        self.closed += 1


@pytest.fixture
def served(wire):
    handlers = Handlers()
    peer = wire.Peer(Limits(http_body_bytes_max=1000))
    peer.connection._application.http = HttpService(handlers)
    return peer, handlers


def ask(peer, stream_id, method, path, body=b"", *, end=True, **extra):
    block = peer.raw_block(
        (":method", method), (":scheme", "https"), (":path", path), (":authority", "h:1"),
        *((name.replace("_", "-"), value) for name, value in extra.items()),
    )  # fmt: skip
    head = frames.headers(stream_id, block, end_stream=end and not body)
    return peer.say(head, *([peer.data(stream_id, body, end=end)] if body else []))


def answer(found):
    fields = dict(found[0].fields)
    body = b"".join(each.payload for each in found if each.kind == frames.DATA)
    ends = [each.flags & frames.FLAG_END_STREAM for each in found]
    assert ends == [0] * (len(found) - 1) + [1]
    return fields, body


def test_a_get(served):
    peer, handlers = served
    fields, body = answer(ask(peer, 1, "GET", "/a%20b?c=d", cookie="x"))
    assert fields == {":status": "418", "x-kind": "echo", "content-length": "0"} and body == b""
    (request,) = handlers.requests
    assert (request.method, request.path, request.query) == ("GET", "/a%20b", "c=d")
    assert request.headers == {"cookie": "x", "host": "h:1"} and request.peer == "1.2.3.4:5"
    assert not peer.connection.streams and not peer.connection.timed


def test_a_post_and_its_body(served):
    peer, handlers = served
    fields, body = answer(ask(peer, 1, "POST", "/", b"hello", content_type="application/json"))
    assert (fields["content-length"], body) == ("5", b"hello")
    assert handlers.requests[0].body == b"hello"
    assert peer.connection.held == 0


def test_a_head_has_no_body(served):
    peer, _ = served
    fields, body = answer(ask(peer, 1, "HEAD", "/"))
    assert fields[":status"] == "418" and body == b""


def test_an_answer_in_pieces(served):
    peer, _ = served
    fields, body = answer(ask(peer, 1, "GET", "/pieces"))
    assert fields == {":status": "200", "x-kind": "pieces"} and body == b"onetwo"


def test_calls_and_requests_share_a_connection(served):
    peer, _ = served
    assert dict(peer.say(peer.call(1))[0].fields)[":status"] == "200"
    assert answer(ask(peer, 3, "GET", "/"))[0][":status"] == "418"


def test_a_body_beyond_the_limit(served):
    peer, handlers = served
    found = ask(peer, 1, "POST", "/", b"." * 1001, end=False)
    assert dict(found[0].fields)[":status"] == "413"
    assert found[-1].kind == frames.RST_STREAM and not handlers.requests
    assert peer.connection.held == 0 and not peer.connection.streams


def test_a_body_that_never_ends(served):
    peer, _ = served
    ask(peer, 1, "POST", "/", b".", end=False)
    peer.clock.now_s += 1e6
    peer.connection.expire(peer.clock.now_s)
    assert dict(peer.read()[0].fields)[":status"] == "408"


def test_a_client_that_leaves(served):
    peer, handlers = served
    ask(peer, 1, "GET", "/hold")
    peer.say(frames.rst_stream(1, frames.CANCEL))
    assert handlers.closed == 1 and not handlers.held[0].is_open
    handlers.held[0].send(200)  # to nobody
    assert not peer.read()


def test_a_stop_answers_what_waits(served):
    peer, _ = served
    ask(peer, 1, "GET", "/hold")
    peer.connection.stop()
    assert dict(peer.read()[0].fields)[":status"] == "503"
