"""What is counted of calls: by version of the client, how long they took, which streams broke."""

import pytest

from pyetcd.server.wire import frames as f
from pyetcd.server.wire.call import VERSIONS_MAX
from pyetcd.server.wire.grpc import TimedHead

SECONDS = 0.03  # a step of the timer; the third bucket is that of 0.05


@pytest.fixture
def timed(wire, monkeypatch):
    """A peer whose calls are timed: the timer goes on by a step whenever it is read."""
    plain = wire.Peer().service.dispatcher
    reads = iter(range(1, 1000))

    def dispatcher(service):
        made = plain.__func__(service)
        made.timer = lambda: next(reads) * SECONDS
        made._head_type = TimedHead
        return made

    monkeypatch.setattr(type(wire.Peer().service), "dispatcher", dispatcher)
    return wire.Peer()


def call(peer, stream_id, path="/t.T/Echo", **extra):
    block = peer.block(path, **extra)
    return f.headers(stream_id, block, end_stream=False) + peer.data(stream_id, bytes(5))


def counters(peer, path="/t.T/Echo"):
    return peer.connection._application.counters[path]


def test_versions_of_clients(peer):
    peer.say(call(peer, 1, client_api_version="3.5"), call(peer, 3, client_api_version="3.5"))
    peer.say(call(peer, 5), call(peer, 7, client_api_version='"><script>'))
    peer.say(call(peer, 9, "/t.T/Stream", client_api_version="3.4.1"))
    assert peer.connection._application.calls_by_version == {
        ("unary", "3.5"): 2,
        ("unary", "unknown"): 2,
        ("stream", "3.4.1"): 1,
    }
    assert counters(peer).started == counters(peer).handled[0] == counters(peer).sent == 4


def test_versions_are_bounded(peer):
    for number in range(100):
        peer.say(call(peer, 2 * number + 1, client_api_version=f"3.{number}"))
    found = peer.connection._application.calls_by_version
    assert len(found) == VERSIONS_MAX + 1
    assert found["unary", "unknown"] == 100 - VERSIONS_MAX


def test_a_deadline_keeps_the_version(peer):
    peer.say(call(peer, 1, client_api_version="3.5", grpc_timeout="1S"))
    assert peer.connection._application.calls_by_version == {("unary", "3.5"): 1}


def test_calls_that_are_not_timed(peer):
    peer.say(peer.call(1), peer.call(3, "/t.T/Stream"))
    assert not any(counters(peer).handling) and not any(counters(peer, "/t.T/Stream").handling)


def test_times_of_unary_calls(timed):
    timed.say(timed.call(1), timed.call(3, value=b""))
    timed.say(timed.call(5, "/t.T/Hold"), timed.call(7, "/t.T/Hold"), timed.call(9, "/t.T/Hold"))
    timed.say(f.rst_stream(7, f.CANCEL))
    timed.service.held[0].reply(b"")
    timed.service.held[0].fail(5, "twice")
    timed.service.held[1].reply(b"late")
    timed.service.held[2].fail(5, "no")
    timed.say(f.headers(11, timed.block(), end_stream=True))  # no message: its handler never ran
    echo, hold = counters(timed), counters(timed, "/t.T/Hold")
    assert echo.handling[3] == sum(echo.handling) == 2
    assert echo.handling_s == pytest.approx(2 * SECONDS)
    assert sum(hold.handling) == sum(hold.handled) == 3


def test_times_of_replies_that_find_no_room(timed):
    timed.connection.has_room = lambda size: False
    timed.connection.write_paused = True
    timed.say(timed.call(1))
    echo = counters(timed)
    assert sum(echo.handling) == sum(echo.handled) == 1 and echo.handled[8] == 1


def test_times_of_streams(timed):
    timed.say(timed.call(1, "/t.T/Stream"))
    timed.say(timed.headers(3, "/t.T/Stream"), f.rst_stream(3, f.CANCEL))
    timed.say(timed.headers(5, "/t.T/Stream"), timed.data(5, b"\0\0\0\0\1\xff"))
    found = counters(timed, "/t.T/Stream")
    assert sum(found.handling) == sum(found.handled) == 3


def test_streams_that_broke(peer):
    peer.say(peer.headers(1, "/t.T/Stream"), peer.data(1, b"\0\0\0\0\1\xff"))
    peer.say(peer.headers(3, "/t.T/Stream"), peer.data(3, b"\7\0\0\0\0", end=False))
    assert counters(peer, "/t.T/Stream").broken_receives == 2
    peer.say(peer.headers(5, "/t.T/Stream"), f.rst_stream(5, f.CANCEL))
    assert counters(peer, "/t.T/Stream").broken_receives == 2  # left, not broken
    peer.say(peer.headers(7, "/t.T/Deaf"))
    peer.connection.has_room = lambda size: False
    peer.service.streams[-1].send(bytes(100_000))
    assert counters(peer, "/t.T/Deaf").broken_sends == 1
