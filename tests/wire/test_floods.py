"""One hostile client per attack: it is stopped, and what it made us hold is bounded."""

import dataclasses

import pytest

from pyetcd.server.wire import frames as f
from pyetcd.server.wire.limits import Limits


def _goaway(got):
    last = [x for x in got if x.kind == f.GOAWAY]
    return (last[-1].code, last[-1].payload[8:]) if last else None


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (f.settings([]), b"too many SETTINGS frames"),
        (f.SETTINGS_ACK, b"too many SETTINGS frames"),
        (f.frame(f.PRIORITY, 0, 1, b"\0\0\0\0\1"), b"too many PRIORITY frames"),
        (f.frame(0x77, 0, 0, b"x"), b"too many unknown frames"),
        (f.goaway(0, 0), b"too many GOAWAY frames"),
        (f.ping(bytes(8), ack=True), b"too many PING acknowledgements"),
    ],
)
def test_odd_frames(peer, frame, text):
    assert _goaway(peer.say(frame * 900)) is None
    peer.clock.now_s += 60  # the bucket fills up again
    assert _goaway(peer.say(frame * 900)) is None
    assert _goaway(peer.say(frame * 1100)) == (f.ENHANCE_YOUR_CALM, text)


def test_ping_strikes(peer):
    """As grpc-go: without an answer of ours in between, three pings too early are too many."""
    ping = f.ping(b"abcdefgh", ack=False)
    for _ in range(3):
        assert _goaway(peer.say(ping)) is None
    assert _goaway(peer.say(ping)) == (f.ENHANCE_YOUR_CALM, b"too_many_pings")


def test_pings_with_open_streams_every_five_seconds(peer):
    peer.say(peer.call(1, "/t.T/Hold"))
    for _ in range(20):
        peer.clock.now_s += 5
        assert _goaway(peer.say(f.ping(bytes(8), ack=False))) is None


def test_pings_between_requests_are_forgiven(peer):
    for stream_id in range(1, 41, 2):
        got = peer.say(f.ping(bytes(8), ack=False), peer.call(stream_id))
        assert _goaway(got) is None


def test_pings_between_late_answers_are_forgiven(peer):
    """A client measures its bandwidth by a ping after each answer, and answers may come one by one
    long after the requests (forty logins at a time)."""
    for stream_id in range(1, 81, 2):
        peer.say(peer.call(stream_id, "/t.T/Hold"))
    for call in peer.service.held:
        call.reply(b"")
        assert _goaway(peer.say(f.ping(bytes(8), ack=False))) is None


def test_rapid_reset(peer):
    """CVE-2023-44487: handlers that run on count as open streams, and resets are rationed."""
    stream_id, got = 1, []
    while _goaway(got) is None and stream_id < 10_000:
        got = peer.say(peer.call(stream_id, "/t.T/Hold"), f.rst_stream(stream_id, 8))
        stream_id += 2
    assert _goaway(got) == (f.ENHANCE_YOUR_CALM, b"too many stream resets")
    assert len(peer.service.held) <= Limits().streams_max
    assert stream_id < 3 * Limits().resets_burst


def test_zombies_count_until_they_answer(wire):
    limits = dataclasses.replace(Limits(), streams_max=3)
    peer = wire.Peer(limits)
    for stream_id in (1, 3, 5):
        peer.say(peer.call(stream_id, "/t.T/Hold"), f.rst_stream(stream_id, 8))
    assert peer.connection.zombies == 3
    got = peer.say(peer.call(7))
    assert (got[0].kind, got[0].code) == (f.RST_STREAM, f.REFUSED_STREAM)
    peer.service.held[0].reply(b"late")
    peer.service.held[1].fail(13, "late")
    assert peer.connection.zombies == 1
    assert peer.say(peer.call(9))[-1].status == "0"


def test_a_handler_with_on_cancel_is_no_zombie(peer):
    cancelled = []
    peer.say(peer.call(1, "/t.T/Hold"))
    peer.service.held[0].on_cancel = lambda: cancelled.append(1)
    peer.say(f.rst_stream(1, 8))
    assert cancelled == [1] and peer.connection.zombies == 0
    peer.service.held[0].reply(b"ignored")
    assert peer.connection.zombies == 0 and not peer.read()


def test_more_streams_than_allowed(wire):
    limits = dataclasses.replace(Limits(), streams_max=10)
    peer = wire.Peer(limits)
    got = peer.say(*(peer.call(stream_id, "/t.T/Hold") for stream_id in range(1, 41, 2)))
    assert [x.stream_id for x in got] == list(range(21, 41, 2))
    assert all(x.kind == f.RST_STREAM and x.code == f.REFUSED_STREAM for x in got)
    assert len(peer.service.held) == 10


def _make_reset(peer, stream_id, primitive):
    path = "/t.T/Hold"
    if primitive == 0:
        return peer.call(stream_id, path) + f.window_update(stream_id, 0)
    if primitive == 1:
        return peer.call(stream_id, path) + f.window_update(stream_id, 2**31 - 1) * 2
    if primitive == 2:
        return peer.call(stream_id, path) + peer.data(stream_id, b"x")
    if primitive == 3:
        return peer.call(stream_id, path) + peer.headers(stream_id)
    if primitive == 4:
        return peer.headers(stream_id, path) + f.frame(f.PRIORITY, 0, stream_id, b"x")
    trailers = peer.headers(stream_id, path), peer.raw_block(("x", "y"))
    return trailers[0] + f.headers(stream_id, trailers[1], end_stream=False)


@pytest.mark.parametrize("primitive", range(6))
def test_made_you_reset(wire, primitive):
    """CVE-2025-8671: resets that our answers to errors cause are rationed as well."""
    peer = wire.Peer()
    stream_id, got = 1, []
    while _goaway(got) is None and stream_id < 10_000:
        said = _make_reset(peer, stream_id, primitive)
        got = peer.say(said)
        stream_id += 2
    assert _goaway(got)[0] == f.ENHANCE_YOUR_CALM
    assert len(peer.service.held) <= Limits().streams_max
    assert not peer.connection.streams


@pytest.mark.parametrize("kind", ["data", "continuation", "headers"])
def test_empty_frames(peer, kind):
    """CVE-2019-9518."""
    if kind == "data":
        peer.say(peer.headers(1))
        got = peer.say(peer.data(1, b"", end=False) * 200)
    elif kind == "continuation":
        limits = dataclasses.replace(Limits(), continuations_max=10**6)
        peer.connection.limits = limits
        got = peer.say(f.frame(f.HEADERS, 0, 1), f.frame(f.CONTINUATION, 0, 1) * 200)
    else:
        got = peer.say(*(f.frame(f.HEADERS, 4, i, b"") for i in range(1, 2401, 2)))
    assert _goaway(got)[0] == f.ENHANCE_YOUR_CALM


def test_continuation_flood(peer):
    """CVE-2023-45288: by count and by size."""
    got = peer.say(f.frame(f.HEADERS, 0, 1, b"a"), f.frame(f.CONTINUATION, 0, 1, b"b") * 20)
    assert _goaway(got) == (f.ENHANCE_YOUR_CALM, b"header block too large")


def test_continuation_size(peer):
    big = f.frame(f.CONTINUATION, 0, 1, bytes(16_000))
    assert _goaway(peer.say(f.frame(f.HEADERS, 0, 1, b"a"), big * 5))[0] == f.ENHANCE_YOUR_CALM


def test_header_bomb(peer):
    got = peer.say(f.frame(f.HEADERS, 5, 1, peer.block() + b"\x82" * 16_000))
    assert _goaway(got)[0] == f.ENHANCE_YOUR_CALM


def test_header_list_of_64_kib(peer):
    block = peer.block(x_big="v" * 70_000)
    parts = [f.frame(f.HEADERS, 1, 1, block[:16_000])]
    parts += [
        f.frame(f.CONTINUATION, 0, 1, block[i : i + 16_000])
        for i in range(16_000, len(block), 16_000)
    ]
    got = peer.say(*parts, f.frame(f.CONTINUATION, 4, 1))
    assert _goaway(got)[0] == f.ENHANCE_YOUR_CALM


def test_unfinished_requests_are_bounded(wire):
    limits = dataclasses.replace(Limits(), received_bytes_max=1_000_000)
    peer = wire.Peer(limits)
    got = []
    for stream_id in range(1, 41, 2):
        got += peer.say(peer.headers(stream_id))
        body = wire.message(bytes(200_000))[:-1]  # never complete
        for at in range(0, len(body), 16_000):
            got += peer.say(peer.data(stream_id, body[at : at + 16_000], end=False))
        assert peer.connection.held <= limits.received_bytes_max
    assert {x.status for x in got if x.kind == f.HEADERS} == {"8"}


def test_a_request_that_never_ends(peer):
    peer.say(peer.headers(1), peer.data(1, b"\0\0\0", end=False))
    peer.connection.expire(peer.clock.now_s + 59)
    assert not peer.read()
    peer.connection.expire(peer.clock.now_s + 61)
    got = peer.read()
    assert got[0].status == "4" and got[1].kind == f.RST_STREAM
    assert peer.connection.held == 0 and not peer.connection.timed


def test_a_cache_of_blocks_is_bounded(peer):
    for n in range(1, 2001, 2):
        block = peer.block()[:] + b"\x00\x01x" + bytes((4,)) + b"%04d" % n
        peer.say(f.headers(n, block, end_stream=False), peer.data(n, b"\0\0\0\0\0"))
    assert len(peer.connection._blocks) <= 128
    assert len(peer.service.seen) == 1000


def test_many_heads_are_bounded(peer):
    for n in range(1, 3001, 2):
        peer.say(f.headers(n, peer.block(x_n=str(n)), end_stream=False), peer.data(n, bytes(5)))
    dispatcher = peer.connection._application
    assert len(dispatcher._heads) <= 512
    assert len(peer.service.seen) == 1500


def test_late_frames_of_our_resets_are_forgiven(peer):
    got = peer.say(peer.headers(1, "/t.T/Nope"))
    assert got[0].status == "12" and got[1].kind == f.RST_STREAM
    assert not peer.say(*(peer.data(1, bytes(1000), end=False) for _ in range(50)))
    assert peer.say(peer.call(3))[-1].status == "0"


def test_keepalive_ping_and_death(peer):
    limits = Limits()
    start_s = peer.clock.now_s
    peer.connection.tick(start_s)
    peer.connection.tick(start_s + limits.keepalive_interval_s + 1)
    got = peer.read()
    assert got[0].kind == f.PING and not got[0].flags & f.FLAG_ACK
    peer.connection.tick(start_s + limits.keepalive_interval_s + 30)
    assert peer.connection.closing


def test_keepalive_answered(peer):
    limits = Limits()
    start_s = peer.clock.now_s
    peer.connection.tick(start_s)
    peer.connection.tick(start_s + limits.keepalive_interval_s + 1)
    ping = peer.read()[0]
    peer.say(f.ping(ping.payload, ack=True))
    peer.connection.tick(start_s + limits.keepalive_interval_s + 30)
    assert not peer.connection.closing
