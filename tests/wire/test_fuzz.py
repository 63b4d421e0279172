"""Whatever arrives, `receive` returns, what comes back is well formed, and the books balance."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pyetcd.server.wire import frames as f
from pyetcd.server.wire.http1 import HttpConnection, HttpService
from pyetcd.server.wire.limits import Limits

_KIND = st.integers(0, 11)
_FLAGS = st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF])
_ID = st.sampled_from([0, 1, 1, 3, 3, 5, 7, 2, 101, 2**31 - 1])
_FRAME = st.tuples(_KIND, _FLAGS, _ID, st.binary(max_size=30), st.integers(0, 5))


def _make(peer, kind, flags, stream_id, payload, trick):
    """Random frames would die at once: half of them are made from something sensible."""
    if trick == 1:
        return peer.call(stream_id, "/t.T/Hold")
    if trick == 2:
        return peer.headers(stream_id, "/t.T/Stream")
    if trick == 3 and kind == f.DATA:
        return f.frame(f.DATA, flags & 1, stream_id, b"\0\0\0\0" + payload[:1] + payload)
    if trick == 4 and kind == f.WINDOW_UPDATE:
        return f.window_update(stream_id, len(payload) * 1000)
    if trick == 5 and kind == f.SETTINGS:
        return f.settings([(len(payload) % 7, sum(payload))])
    return f.frame(kind, flags, stream_id, payload)


def _balanced(peer):
    connection = peer.connection
    streams = connection.streams.values()
    assert connection.queued == sum(s.queued for s in streams) >= 0
    assert connection.held == sum(s.body_bytes for s in streams) >= 0
    assert connection.budget.queued == connection.queued
    assert connection.budget.held == connection.held
    assert set(connection.timed) <= set(connection.streams)
    assert all(not s.closed for s in streams)
    assert len(connection.ring) == sum(s.in_ring for s in streams)
    assert connection.zombies >= 0


@given(said=st.lists(_FRAME, max_size=40), seed=st.integers(0, 999))
@settings(max_examples=300, deadline=None)
def test_frames(request_wire, said, seed):
    rng = random.Random(seed)
    peer = request_wire.Peer(window=rng.choice([0, 10, 65_535]))
    peer.service.reply_bytes = rng.choice([0, 100, 100_000])
    for one in said:
        data = _make(peer, *one)
        cut = rng.randrange(len(data) + 1)
        peer.say(data[:cut])
        peer.say(data[cut:])
        if peer.service.held and rng.random() < 0.5:
            call = peer.service.held.pop()
            rng.choice([lambda c: c.reply(bytes(1000)), lambda c: c.fail(5, "x")])(call)
        if rng.random() < 0.1:
            peer.clock.now_s += rng.choice([0.1, 1, 30, 70])
            peer.connection.expire(peer.clock.now_s)
            peer.connection.tick(peer.clock.now_s)
        _balanced(peer)
    peer.connection.drop_streams()
    for call in peer.service.held:
        call.reply(b"")
    peer.service.tasks.run()
    assert not peer.connection.streams and not peer.connection.timed
    assert peer.connection.queued == peer.connection.held == peer.connection.zombies == 0


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_octets(request_wire, data):
    peer = request_wire.Peer()
    peer.say(data)
    _balanced(peer)


_PART = st.sampled_from(
    [b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"Host: h\r\n", b"\r\n", b"A: b\r\n",
     b"Content-Length: 3\r\n", b"abc", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n",
     b"0\r\n\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"\0", b"HTTP/1.0\r\n",
     b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"GET /s HTTP/1.1\r\nHost: h\r\n\r\n"]
)  # fmt: skip


@given(parts=st.lists(_PART | st.binary(max_size=10), max_size=20), cut=st.integers(1, 50))
@settings(max_examples=300, deadline=None)
def test_http1(parts, cut):
    answers = []

    def handler(request, responder):
        answers.append(request)
        if request.path == "/s":
            responder.start(200)
            responder.write(b"x")
            responder.end()
        else:
            responder.send(200, {}, request.body)

    connection = HttpConnection(
        HttpService(handler),
        Limits(),
        clock=lambda: 1.0,
        date=lambda: "now",
        wake=lambda: None,
    )
    data = b"".join(parts)
    for at in range(0, len(data), cut):
        connection.receive(data[at : at + cut])
    raw = connection.pump()
    assert raw.count(b"HTTP/1.1 200 OK\r\n") >= len(answers)
    connection.lost()
