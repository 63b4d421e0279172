"""gRPC framing and calls, by bytes."""

import dataclasses
import gzip

import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.errors import KeyNotFound
from pyetcd.server.wire import frames as f
from pyetcd.server.wire import status
from pyetcd.server.wire.grpc import Dispatcher
from pyetcd.server.wire.limits import Limits


def _texts(got):
    return [(x.status, dict(x.fields).get("grpc-message", "")) for x in got if x.kind == f.HEADERS]


def _messages(got):
    raw, found = b"".join(x.payload for x in got if x.kind == f.DATA), []
    while raw:
        size = int.from_bytes(raw[1:5], "big")
        found.append(rpc.PutRequest.FromString(raw[5 : 5 + size]).value)
        raw = raw[5 + size :]
    return found


def test_unary(peer, wire):
    got = peer.say(peer.call(1, value=b"hello"))
    assert [x.kind for x in got] == [f.HEADERS, f.DATA, f.HEADERS]
    assert got[0].fields == ((":status", "200"), ("content-type", "application/grpc"))
    assert got[2].fields == (("grpc-status", "0"),)
    assert _messages(got) == [b"hello"]
    assert not peer.connection.streams and not peer.connection.timed


@pytest.mark.parametrize("size", [1, 2, 5, 9, 14, 17])
def test_any_cut_gives_the_same_answer(wire, size):
    whole, cut = wire.Peer(), wire.Peer()
    data = whole.call(1, value=b"a" * 20) + whole.call(3) + whole.call(5, value=b"b" * 40_00)
    expected = whole.say(data)
    got = [frame for at in range(0, len(data), size) for frame in cut.say(data[at : at + size])]
    assert got == expected
    assert whole.service.seen == cut.service.seen
    assert not cut.connection.timed and cut.connection.held == 0


def test_known_blocks_are_not_decoded_again(peer):
    block = None
    for stream_id in range(1, 20, 2):
        block = peer.block()
        frame = f.headers(stream_id, block, end_stream=False)
        assert peer.say(frame, peer.data(stream_id, bytes(5)))[-1].status == "0"
    assert block in peer.connection._blocks
    # A block that changes the table makes the old bytes mean something else.
    other = peer.block("/t.T/Nope")
    assert peer.say(f.headers(21, other, end_stream=True))[0].status == "12"
    assert block not in peer.connection._blocks or peer.block() == block
    assert peer.say(peer.call(23))[-1].status == "0"


def test_timeouts_that_change_every_time(peer):
    for n, stream_id in enumerate(range(1, 40, 2)):
        block = peer.block("/t.T/Hold", grpc_timeout=f"{5000 - n}m")
        peer.say(f.headers(stream_id, block, end_stream=False), peer.data(stream_id, bytes(5)))
    assert [round(call.deadline_s * 1000) for call in peer.service.held] == list(
        range(5000, 4980, -1)
    )
    assert len(peer.connection.timed) == 20
    for call in peer.service.held:
        call.reply(b"")
    assert not peer.connection.timed


def test_deadline(peer):
    cancelled = []
    block = peer.block("/t.T/Hold", grpc_timeout="100m")
    peer.say(f.headers(1, block, end_stream=False), peer.data(1, bytes(5)))
    peer.service.held[0].on_cancel = lambda: cancelled.append(1)
    peer.connection.expire(peer.clock.now_s + 0.09)
    assert not peer.read()
    peer.connection.expire(peer.clock.now_s + 0.11)
    assert _texts(peer.read()) == [("4", "context deadline exceeded")]
    assert cancelled == [1]
    peer.service.held[0].reply(b"late")
    assert not peer.read() and not peer.connection.streams


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"4m", 0.004),
        (b"5u", 5e-6),
        (b"6n", 6e-9),
        (b"99999999S", 99999999),
        (b"", None),
        (b"1", None),
        (b"S", None),
        (b"100000000S", None),
        (b"-1S", None),
        (b"1s", None),
        (b"1S ", None),
    ],
)
def test_timeout_values(text, seconds):
    assert (
        status.timeout_s(text) == pytest.approx(seconds)
        if seconds
        else status.timeout_s(text) is None
    )


def test_malformed_timeout(peer):
    block = peer.block(grpc_timeout="soon")
    assert peer.say(f.headers(1, block, end_stream=True))[0].status == "13"


def test_error_texts_are_percent_encoded(peer):
    peer.say(peer.call(1, "/t.T/Hold"))
    peer.service.held[0].fail(5, "50% für\nalle\U0001f600")
    got = peer.read()
    assert _texts(got) == [("5", "50%25 f%C3%BCr%0Aalle%F0%9F%98%80")]
    assert got[0].ended and len(got) == 1
    peer.say(peer.call(3, "/t.T/Hold"))
    peer.service.held[1].fail(13, "x" * 100_000)
    assert len(peer.read()[0].payload) < f.FRAME_BYTES_MAX


def test_errors_raised_by_a_handler(wire):
    peer = wire.Peer()

    def refuse(call, request):
        raise KeyNotFound()

    peer.connection._application = Dispatcher({"/t.T/Echo": (rpc.PutRequest, refuse)}, {})
    got = peer.say(peer.call(1))
    assert _texts(got) == [("3", "etcdserver: key not found")]
    counters = peer.connection._application.counters["/t.T/Echo"]
    assert counters.handled[3] == 1 and counters.started == 1


def test_answers_after_the_first_do_nothing(peer):
    peer.say(peer.call(1, "/t.T/Hold"))
    call = peer.service.held[0]
    call.reply(b"a")
    call.reply(b"b")
    call.fail(2, "c")
    assert len(peer.read()) == 3


def _body_case(name, body, code, text="", *, encoding=""):
    return pytest.param(body, code, text, encoding, id=name)


_RAW = rpc.PutRequest(key=b"k", value=b"v" * 1000).SerializeToString()
_ZIP = gzip.compress(_RAW)


@pytest.mark.parametrize(
    ("body", "code", "text", "encoding"),
    [
        _body_case("none", b"", "13"),
        _body_case("prefix cut", b"\0\0\0", "13"),
        _body_case("message cut", b"\0\0\0\0\5abc", "13"),
        _body_case("two messages", bytes(10), "13"),
        _body_case("octets behind", bytes(6), "13"),
        _body_case("reserved flag", b"\2\0\0\0\0", "13"),
        _body_case("no protobuf", b"\0\0\0\0\1\xff", "13", "grpc: error unmarshalling request"),
        _body_case(
            "compressed without encoding",
            b"\1\0\0\0\0",
            "13",
            "grpc: compressed flag set with identity or empty encoding",
        ),
        _body_case(
            "too large",
            b"\0\x00\x20\x00\x01",
            "8",
            "grpc: received message larger than max (2097153 vs. 2097152)",
        ),
        _body_case("4 GiB", b"\0\xff\xff\xff\xff", "8"),
        _body_case("gzip", b"\1" + len(_ZIP).to_bytes(4, "big") + _ZIP, "0", encoding="gzip"),
        _body_case(
            "gzip, sent plain", b"\0" + len(_RAW).to_bytes(4, "big") + _RAW, "0", encoding="gzip"
        ),
        _body_case("no gzip", b"\1\0\0\0\4abcd", "13", encoding="gzip"),
        _body_case(
            "gzip cut",
            b"\1" + (len(_ZIP) - 9).to_bytes(4, "big") + _ZIP[:-9],
            "13",
            encoding="gzip",
        ),
        _body_case(
            "unknown encoding",
            b"\1\0\0\0\0",
            "12",
            'grpc: Decompressor is not installed for grpc-encoding "snappy"',
            encoding="snappy",
        ),
    ],
)
def test_bodies(wire, body, code, text, encoding):
    for cut in (len(body) or 1, 1):
        peer = wire.Peer()
        extra = {"grpc_encoding": encoding} if encoding else {}
        said = [f.headers(1, peer.block(**extra), end_stream=False)]
        said += [peer.data(1, body[at : at + cut], end=False) for at in range(0, len(body), cut)]
        got = peer.say(*said, peer.data(1, b""))
        seen = [pair for pair in _texts(got) if pair[0]]
        assert seen and seen[0][0] == code and seen[0][1].startswith(text)
        assert peer.connection.held == 0 and not peer.connection.timed


def test_a_compression_bomb(wire):
    bomb = gzip.compress(bytes(200_000_000), 9)
    peer = wire.Peer()
    got = peer.say(f.headers(1, peer.block(grpc_encoding="gzip"), end_stream=False))
    body = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    for at in range(0, len(body), 16_000):
        got += peer.say(peer.data(1, body[at : at + 16_000], end=at + 16_000 >= len(body)))
    assert got[-1].status == "8" or _texts(got)[0][0] == "8"


def test_unknown_encoding_says_what_is_known(peer):
    got = peer.say(f.headers(1, peer.block(grpc_encoding="br"), end_stream=True))
    assert dict(got[0].fields)["grpc-accept-encoding"] == "identity,gzip"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/x.Y/Z", "unknown service x.Y"),
        ("/t.T/Nope", "unknown method Nope for service t.T"),
        ("/nope", 'malformed method name: "/nope"'),
        ("t.T/Echo", 'malformed method name: "t.T/Echo"'),
        ("/t.T/Echo/", "unknown service t.T/Echo"),
        ("/T.t/echo", "unknown service T.t"),
        ("/t.T/Echo?x=1", "unknown method Echo?x=1 for service t.T"),
    ],
)
def test_unknown_paths(peer, path, text):
    got = peer.say(peer.headers(1, path))
    assert _texts(got) == [("12", text)]


def test_metadata(peer):
    extra = {"x_Name".lower(): "a", "blob_bin": "AAH/", "blob2_bin": "AAE="}
    peer.say(f.headers(1, peer.block(**extra), end_stream=False), peer.data(1, bytes(5)))
    found = peer.service.metadata[0]
    assert found["x-name"] == "a" and found["blob-bin"] == b"\0\1\xff"
    assert found["blob2-bin"] == b"\0\1"
    assert not any(name.startswith(":") for name in found)


def test_metadata_that_is_no_utf8(peer):
    block = peer.block() + b"\x00\x01x\x02\xff\xfe"
    got = peer.say(f.headers(1, block, end_stream=False), peer.data(1, bytes(5)))
    assert got[-1].status == "0"
    assert peer.service.metadata[0]["x"] == "\ufffd\ufffd"


def test_metadata_that_is_no_base64(peer):
    block = peer.block(x_bin="!!!")
    assert peer.say(f.headers(1, block, end_stream=True))[0].status == "13"


def test_http_errors_wait_for_the_end_of_the_request(peer):
    fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), ("content-type", "a/b")]
    assert not peer.say(f.headers(1, peer.raw_block(*fields), end_stream=False))
    got = peer.say(peer.data(1, b"x" * 100))
    assert dict(got[0].fields)[":status"] == "415"
    got = peer.say(f.headers(3, peer.raw_block((":method", "GET"), *fields[1:3]), end_stream=True))
    assert dict(got[0].fields)[":status"] == "405" and dict(got[0].fields)["allow"] == "POST"


def test_content_types(peer):
    base = [(":method", "POST"), (":scheme", "http"), (":path", "/t.T/Echo")]
    for n, (kind, good) in enumerate(
        [
            ("application/grpc", 1),
            ("application/grpc+proto", 1),
            ("application/grpc;x=y", 1),
            ("application/grpcx", 0),
            ("application/json", 0),
        ]
    ):
        block = peer.raw_block(*base, ("content-type", kind))
        got = peer.say(
            f.headers(2 * n + 1, block, end_stream=False), peer.data(2 * n + 1, bytes(5))
        )
        assert (got[-1].status == "0") == bool(good)


# Streams


def test_bidi(peer, wire):
    got = peer.say(peer.headers(1, "/t.T/Stream"))
    got += peer.say(peer.data(1, wire.message(b"a"), end=False))
    got += peer.say(peer.data(1, wire.message(b"b") + wire.message(b"c")[:4], end=False))
    assert _messages(got) == [b"a", b"b"]
    got += peer.say(peer.data(1, wire.message(b"c")[4:], end=True))
    assert _messages(got) == [b"a", b"b", b"c"]
    assert got[-1].status == "0" and got[-1].ended
    assert not peer.connection.streams and peer.connection.held == 0


def test_a_stream_that_is_reset(peer, wire):
    peer.say(peer.headers(1, "/t.T/Stream"), peer.data(1, wire.message(), end=False))
    stream = peer.service.streams[0]
    peer.connection.receive(f.rst_stream(1, 8))
    assert stream.cancelled and peer.connection.zombies == 1
    stream.send(b"ignored")
    peer.service.tasks.run()
    assert peer.connection.zombies == 0 and not peer.service.tasks.tasks
    assert not peer.read() and peer.connection.held == 0


def test_a_stream_reset_before_its_task_ran(peer):
    peer.connection.receive(peer.headers(1, "/t.T/Stream") + f.rst_stream(1, 8))
    peer.service.tasks.run()
    assert peer.connection.zombies == 0 and not peer.service.streams


def test_a_stream_with_a_bad_message(peer):
    got = peer.say(peer.headers(1, "/t.T/Stream"), peer.data(1, b"\0\0\0\0\1\xff", end=False))
    assert _texts(got)[-1][0] == "13"
    assert got[-1].kind == f.RST_STREAM and got[-1].code == f.NO_ERROR
    got = peer.say(peer.headers(3, "/t.T/Stream"), peer.data(3, b"\0\0\0\0\5ab"))
    assert _texts(got)[-1] == ("13", "unexpected EOF")


def test_a_stream_with_a_message_too_large(peer):
    got = peer.say(peer.headers(1, "/t.T/Deaf"), peer.data(1, b"\0\x7f\0\0\0", end=False))
    assert _texts(got)[0][0] == "8"
    peer.service.tasks.run()
    assert peer.connection.zombies == 0


def test_the_deadline_of_a_stream(peer):
    peer.say(f.headers(1, peer.block("/t.T/Deaf", grpc_timeout="1S"), end_stream=False))
    peer.connection.expire(peer.clock.now_s + 1.1)
    got = peer.read()
    assert _texts(got) == [("4", "context deadline exceeded")]
    peer.service.tasks.run()
    assert not peer.service.tasks.tasks and peer.connection.zombies == 0


def test_drain_waits_for_the_client(wire):
    peer = wire.Peer(window=0)
    big = wire.message(bytes(100_000))
    peer.say(peer.headers(1, "/t.T/Stream"))
    for at in range(0, len(big), 16_000):
        peer.say(peer.data(1, big[at : at + 16_000], end=False))
    stream = peer.service.streams[0]
    assert not stream.can_send and stream.queued > 100_000
    got = peer.say(peer.data(1, wire.message(b"2"), end=False))
    assert stream.queued < 100_100  # the second message waits unread
    got += peer.say(f.settings([(f.INITIAL_WINDOW_SIZE, 1 << 20)]), f.window_update(0, 1 << 20))
    got += peer.say(f.window_update(0, 1))
    assert _messages(got)[1] == b"2"


def test_a_client_that_does_not_read_loses_the_stream(wire):
    limits = dataclasses.replace(Limits(), stream_send_bytes_max=100_000)
    peer = wire.Peer(limits, window=0)
    peer.say(peer.headers(1, "/t.T/Deaf"))
    stream = peer.service.streams[0]
    for _ in range(20):
        stream.send(bytes(10_000))
    got = peer.read()
    assert got[-1].kind == f.RST_STREAM and got[-1].code == f.CANCEL
    assert stream.closed and peer.connection.queued == 0
    assert peer.connection.streams_stalled == 1


@pytest.mark.parametrize("window", [0, 19, 20, 1000, 40_000, 65_535])
def test_many_messages_at_once(wire, window):
    """Whatever the windows, the queue and the sizes: each one once, in order."""
    peer = wire.Peer(window=window)
    peer.say(peer.headers(1, "/t.T/Deaf"))
    stream = peer.service.streams[0]
    payloads = [b"%03d" % n * (1 if n % 9 else 6000) for n in range(50)]
    stream.send_all(payloads[:20])  # without response headers yet
    got = peer.read()
    stream.send_all(payloads[20:30])
    stream.send_all([])
    got += peer.say(f.window_update(1, 1 << 20), f.window_update(0, 1 << 20))
    stream.send_all(payloads[30:])
    assert stream.connection.waking
    while more := peer.read():
        got += more
    sent = b"".join(wire.prefixed(payload) for payload in payloads)
    assert b"".join(x.payload for x in got if x.kind == f.DATA) == sent
    assert max(len(x.payload) for x in got) <= f.FRAME_BYTES_MAX
    assert peer.connection.send_window == 65_535 + (1 << 20) - len(sent)
    assert stream.send_window == window + (1 << 20) - len(sent)
    assert stream.method.path == "/t.T/Deaf" and peer.connection.queued == 0
    stream.fail(5, "gone")
    stream.send_all([b"ignored"])
    assert [x.kind for x in peer.read()] == [f.HEADERS, f.RST_STREAM]


def test_wait_closed(peer):
    async def wait(stream):
        stream.start()
        await stream.wait_closed()

    peer.service.stream = wait
    peer.connection._application = peer.service.dispatcher()
    peer.say(peer.headers(1, "/t.T/Stream"))
    assert not peer.say(peer.data(1, bytes(5), end=False))
    assert peer.service.tasks.tasks
    peer.say(f.rst_stream(1, 8))
    assert not peer.service.tasks.tasks and peer.connection.zombies == 0


def test_start_and_finish(peer):
    peer.say(peer.headers(1, "/t.T/Deaf", end=True))
    stream = peer.service.streams[0]
    stream.start()
    assert [x.kind for x in peer.read()] == [f.HEADERS]
    stream.fail(14, "gone")
    got = peer.read()
    assert got[0].fields == (("grpc-status", "14"), ("grpc-message", "gone")) and got[0].ended


# Ends


def test_graceful_shutdown(peer):
    peer.say(peer.call(1, "/t.T/Hold"))
    peer.connection.shut_down()
    got = peer.read()
    assert [x.kind for x in got] == [f.GOAWAY, f.PING]
    assert f.read_word(got[0].payload) == 2**31 - 1 and got[0].code == 0
    # What was under way is served; what comes after the second GOAWAY is not.
    got = peer.say(peer.call(3), f.ping(got[1].payload, ack=True), peer.call(5))
    assert [x.stream_id for x in got if x.status == "0"] == [3]
    last = next(x for x in got if x.kind == f.GOAWAY)
    assert f.read_word(last.payload) == 3
    assert not peer.connection.drained
    peer.service.held[0].reply(b"x")
    assert peer.read()[-1].status == "0" and peer.connection.drained


def test_stop_answers_what_is_open(peer):
    peer.say(peer.call(1, "/t.T/Hold"), peer.headers(3, "/t.T/Deaf"))
    peer.connection.stop()
    got = peer.read()
    assert [x.status for x in got if x.kind == f.HEADERS] == ["14", "14"]
    assert got[-1].kind == f.GOAWAY and peer.connection.closing
    peer.service.held[0].reply(b"late")
    peer.service.tasks.run()
    assert peer.connection.zombies == 0


def test_counters(peer):
    peer.say(peer.call(1), peer.call(3), peer.headers(5, "/t.T/Stream", end=True))
    counters = peer.connection._application.counters
    echo = counters["/t.T/Echo"]
    assert (echo.started, echo.received, echo.sent, echo.handled[0]) == (2, 2, 2, 2)
    assert counters["/t.T/Stream"].handled[0] == 1
