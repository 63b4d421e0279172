"""HTTP/1.1 by bytes: whole, octet by octet, pipelined, wrong, slow, and too much of it."""

import dataclasses

import pytest

from pyetcd.server.wire.http1 import HttpConnection, HttpService
from pyetcd.server.wire.limits import Limits

_GET = b"GET /a/b?c=d HTTP/1.1\r\nHost: h\r\n\r\n"
_POST = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
_CHUNKED = (
    b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"
)


class Sink:
    def __init__(self, responder):
        self.responder = responder
        self.chunks, self.ended, self.aborted = [], False, False

    def feed(self, chunk):
        self.chunks.append(chunk)

    def end(self):
        self.ended = True
        self.responder.send(204)

    def abort(self):
        self.aborted = True


class Client:
    """A connection with a handler that echoes, or keeps the responder on /hold."""

    def __init__(self, limits=None, **service):
        self.now_s = 100.0
        self.seen, self.held, self.sinks = [], [], []
        if service.pop("sinks", False):
            service["sink"] = self.sink
        self.http = HttpConnection(
            HttpService(self.handle, **service),
            limits or Limits(),
            clock=lambda: self.now_s,
            date=lambda: "Thu, 01 Jan 1970 00:00:00 GMT",
            peer="1.2.3.4:5",
            wake=lambda: None,
        )

    def sink(self, request, responder):
        if not request.path.startswith("/sink"):
            return None
        self.sinks.append(Sink(responder))
        return self.sinks[-1]

    def handle(self, request, responder):
        self.seen.append(request)
        if request.path == "/hold":
            self.held.append(responder)
        else:
            responder.send(200, {"X-Path": request.path}, request.body or b"ok")

    def say(self, data):
        self.http.receive(data)
        return self.read()

    def read(self):
        """As the host does: fetch output, and let it go on, until nothing moves."""
        found = b""
        while data := self.http.pump():
            found += data
            self.http.resume()
        return found


@pytest.fixture
def client():
    return Client()


def _bodies(raw):
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        found.append((int(head.split()[1]), raw[:size]))
        raw = raw[size:]
    return found


@pytest.mark.parametrize("data", [_GET, _POST, _CHUNKED], ids=["get", "post", "chunked"])
@pytest.mark.parametrize("cut", [1, 2, 7, 1000])
def test_any_cut_gives_the_same_request(data, cut):
    client = Client()
    answer = b"".join(client.say(data[at : at + cut]) for at in range(0, len(data), cut))
    [request] = client.seen
    assert (request.method, request.path, request.query) == (
        ("GET", "/a/b", "c=d") if data is _GET else ("POST", "/p", "")
    )
    assert request.body == (b"" if data is _GET else b"hello")
    assert request.headers["host"] == "h" and request.peer == "1.2.3.4:5"
    assert _bodies(answer) == [(200, request.body or b"ok")]
    assert not client.http.closing and not client.http.reading_paused


def test_the_answer_to_the_byte(client):
    assert client.say(_GET) == (
        b"HTTP/1.1 200 OK\r\nX-Path: /a/b\r\nContent-Length: 2\r\n"
        b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nok"
    )


def test_pipelining_keeps_the_order(client):
    hold = _GET.replace(b"/a/b?c=d", b"/hold")
    assert client.say(_GET + hold + _POST + _GET) == client.say(b"") or True
    assert [r.path for r in client.seen] == ["/a/b", "/hold"]
    client.held[0].send(200, {}, b"held")
    assert _bodies(client.http.pump())[0] == (200, b"held")
    assert [r.path for r in client.seen] == ["/a/b", "/hold", "/p", "/a/b"]


def test_pipelining_is_bounded(client):
    hold = _GET.replace(b"/a/b?c=d", b"/hold")
    client.say(hold + _GET * 10_000)
    assert client.http.reading_paused
    assert len(client.http._waiting) <= Limits().http_pipeline_bytes // len(_GET) + 1
    client.held[0].send(200)
    assert len(_bodies(client.read())) == 10_001
    assert not client.http.reading_paused


def test_unread_answers_stop_the_parsing():
    """Small requests for large answers: what is held is bounded, also inside one read."""
    client = Client(body_bytes_max=lambda path: 10**6)
    post = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
    client.http.receive(post * 50)
    assert client.http.reading_paused and client.http.buffered_bytes < 500_000
    assert len(_bodies(client.read())) == 50 and not client.http.reading_paused


def test_a_pipelined_sink_gets_its_body():
    client = Client(sinks=True)
    sink = b"POST /sink HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
    client.say(_GET.replace(b"/a/b?c=d", b"/hold") + sink)
    client.held[0].send(200)
    assert [code for code, _ in _bodies(client.read())] == [200, 204]
    assert client.sinks[0].chunks == [b"hello"] and client.sinks[0].ended


def test_head(client):
    answer = client.say(b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n" + _GET)
    assert b"Content-Length: 2\r\n" in answer and answer.count(b"ok") == 1


@pytest.mark.parametrize(
    ("lines", "stays"),
    [
        (b"HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.1\r\nHost: h\r\n\r\n", True),
        (b"HTTP/1.0\r\n\r\n", False),
        (b"HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_keep_alive(client, lines, stays):
    answer = client.say(b"GET / " + lines)
    assert client.http.closing != stays
    assert (b"Connection: close" in answer) != stays


def test_continue(client):
    assert client.say(_POST[:-5].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")) == (
        b"HTTP/1.1 100 Continue\r\n\r\n"
    )
    assert _bodies(client.say(b"hello")) == [(200, b"hello")]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n\r\nNONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nBad Name: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"UNHEARD / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999999999999\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 80_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 80_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 200 + b"\r\n", 431),
    ],
)
def test_errors_of_the_client(data, status):
    for cut in (len(data), 1000, 7):
        client = Client()
        answer = b"".join(client.say(data[at : at + cut]) for at in range(0, len(data), cut))
        assert [code for code, _ in _bodies(answer)] == [status]
        assert client.http.closing and b"Connection: close" in answer
        assert not client.say(_GET) and not client.seen


def test_an_error_waits_for_the_answers_before_it(client):
    client.say(_GET.replace(b"/a/b?c=d", b"/hold") + b"NONSENSE\r\n\r\n")
    assert not client.http.pump() and not client.http.closing
    client.held[0].send(200, {}, b"held")
    assert [code for code, _ in _bodies(client.http.pump())] == [200, 400]


def test_a_chunked_body_too_large():
    client = Client(body_bytes_max=lambda path: 10 if path == "/p" else 1000)
    assert _bodies(client.say(_CHUNKED)) == [(200, b"hello")]
    big = _CHUNKED.replace(b"3;x=y\r\nhel\r\n", b"9\r\nhelhelhel\r\n")
    assert _bodies(client.say(big))[0][0] == 413
    assert Client(body_bytes_max=lambda path: 4).say(_POST).startswith(b"HTTP/1.1 413 ")


def test_a_streaming_answer(client):
    client.say(_GET.replace(b"/a/b?c=d", b"/hold"))
    responder = client.held[0]
    responder.start(200, {"Content-Type": "text/plain"})
    responder.write(b"hello")
    responder.write(b"")
    assert responder.is_open and responder.is_started and responder.buffered_bytes > 0
    responder.write(b"world!")
    responder.end()
    answer = client.http.pump()
    assert b"Transfer-Encoding: chunked\r\n" in answer
    assert answer.endswith(b"\r\n\r\n5\r\nhello\r\n6\r\nworld!\r\n0\r\n\r\n")
    assert not responder.is_open and _bodies(client.say(_GET)) == [(200, b"ok")]


def test_a_streaming_answer_of_known_length(client):
    client.say(_GET.replace(b"/a/b?c=d", b"/hold"))
    client.held[0].start(200, {"Content-Length": "4"})
    client.held[0].write(b"abcd")
    client.held[0].end()
    answer = client.http.pump()
    assert answer.endswith(b"\r\n\r\nabcd") and b"chunked" not in answer


def test_a_streaming_answer_to_http_1_0(client):
    client.say(b"GET /hold HTTP/1.0\r\n\r\n")
    client.held[0].start(200)
    client.held[0].write(b"abc")
    client.held[0].end()
    answer = client.http.pump()
    assert answer.endswith(b"\r\n\r\nabc") and client.http.closing


def test_on_close(client):
    closed = []
    client.say(_GET.replace(b"/a/b?c=d", b"/hold"))
    responder = client.held[0]
    responder.on_close = lambda: closed.append(1)
    responder.start(200)
    client.http.lost()
    assert closed == [1] and not responder.is_open
    responder.write(b"ignored")
    responder.end()
    responder.send(200)
    assert not client.http.out[1:]


def test_a_client_that_closes_its_side(client):
    assert not client.http.eof()
    client.say(_GET.replace(b"/a/b?c=d", b"/hold"))
    assert client.http.eof()  # the answer is still owed
    client.held[0].send(200, {}, b"x")
    assert client.http.closing and b"Connection: close" in client.http.pump()
    other = Client()
    other.say(_GET.replace(b"/a/b?c=d", b"/hold"))
    other.held[0].start(200)
    assert not other.http.eof()


def test_unread_output_is_bounded():
    client = Client(dataclasses.replace(Limits(), http_send_bytes_max=100_000))
    client.say(_GET.replace(b"/a/b?c=d", b"/hold"))
    closed = []
    client.held[0].on_close = lambda: closed.append(1)
    client.held[0].start(200)
    for _ in range(100):
        client.held[0].write(bytes(10_000))
    assert client.http.aborted and client.http.buffered_bytes < 100_000
    client.http.lost()
    assert closed == [1]


def test_sink(client):
    client = Client(sinks=True)
    head = b"POST /sink HTTP/1.1\r\nHost: h\r\nContent-Length: 20000\r\n\r\n"
    client.say(head + bytes(5000))
    [sink] = client.sinks
    assert len(b"".join(sink.chunks)) == 5000
    sink.responder.pause_body()
    client.say(bytes(10_000))
    assert client.http.reading_paused and len(b"".join(sink.chunks)) == 5000
    sink.responder.resume_body()
    assert not client.http.reading_paused
    answer = client.say(bytes(5000) + _GET)
    assert sink.ended and not sink.aborted and len(b"".join(sink.chunks)) == 20_000
    assert [code for code, _ in _bodies(answer)] == [204, 200]


def test_sink_chunked_and_lost():
    client = Client(sinks=True, body_bytes_max=lambda path: 10**9)
    client.say(
        b"POST /sink HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    )
    client.http.lost()
    assert client.sinks[0].chunks == [b"hello"] and client.sinks[0].aborted


def test_sink_that_answers_early():
    client = Client(sinks=True)
    client.say(b"POST /sink HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\nx")
    client.sinks[0].responder.send(412, {}, b"no")
    answer = client.http.pump()
    assert b"Connection: close" in answer and client.http.closing and client.sinks[0].aborted


def test_sink_body_too_large():
    client = Client(sinks=True, body_bytes_max=lambda path: 10)
    head = b"POST /sink HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = client.say(head + b"14\r\n" + bytes(20) + b"\r\n")
    assert client.sinks[0].aborted and answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("data", "after_s", "status"),
    [
        (b"GET / HTTP/1.1\r\n", 11, 408),
        (_POST[:-2], 61, 408),
        (_GET, 301, None),
    ],
)
def test_slow_clients(client, data, after_s, status):
    client.say(data)
    client.now_s += after_s - 2
    client.http.tick(client.now_s)
    assert not client.http.closing
    client.http.tick(client.now_s + 2)
    assert client.http.closing
    answer = client.http.pump()
    assert not status or _bodies(answer)[0][0] == status


def test_a_trickle_does_not_extend_the_header_time(client):
    for octet in b"GET / HTTP/1.1\r\nHost: h\r\nX: ":
        client.say(bytes((octet,)))
        client.now_s += 1
        client.http.tick(client.now_s)
    assert client.http.closing and not client.seen


def test_a_long_answer_is_not_idle(client):
    client.say(_GET.replace(b"/a/b?c=d", b"/hold"))
    client.http.tick(client.now_s + 10_000)
    assert not client.http.closing


def test_upgrade_is_ignored(client):
    data = (
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n"
    )
    answer = client.say(data + _GET)
    assert [code for code, _ in _bodies(answer)] == [200, 200]
    assert not client.http.closing


def test_absolute_targets(client):
    client.say(b"GET http://h:1/a?b HTTP/1.1\r\nHost: h\r\n\r\n")
    client.say(b"GET http://h HTTP/1.1\r\nHost: h\r\n\r\n")
    client.say(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [(r.path, r.query) for r in client.seen] == [("/a", "b"), ("/", ""), ("*", "")]


def test_repeated_fields_are_joined(client):
    client.say(b"GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
    assert client.seen[0].headers["x-a"] == "1, 2"


def test_shut_down(client):
    client.http.shut_down()
    assert client.http.closing
    other = Client()
    other.say(_GET.replace(b"/a/b?c=d", b"/hold"))
    other.http.shut_down()
    assert not other.http.closing
    other.held[0].send(200)
    assert other.http.closing and b"Connection: close" in other.http.pump()
