"""Flow control both ways, taking turns, and what is held for a peer that does not read."""

import dataclasses

from pyetcd.server.wire import frames as f
from pyetcd.server.wire.flow import Budget
from pyetcd.server.wire.limits import Limits


def _data(got, stream_id):
    return b"".join(x.payload for x in got if x.kind == f.DATA and x.stream_id == stream_id)


def _message(got, stream_id):
    raw = _data(got, stream_id)
    assert int.from_bytes(raw[1:5], "big") == len(raw) - 5
    return raw[5:]


def test_a_large_answer_respects_both_windows(wire):
    peer = wire.Peer(window=1 << 24)
    peer.service.reply_bytes = 300_000
    got = peer.say(peer.call(1))
    assert len(_data(got, 1)) == 65_535  # the connection window
    assert not any(x.ended for x in got)
    assert peer.connection.queued == 300_005 - 65_535
    got += peer.say(f.window_update(0, 100_000))
    assert len(_data(got, 1)) == 165_535
    got += peer.say(f.window_update(0, 1 << 20))
    assert len(_message(got, 1)) == 300_000
    assert got[-1].ended and got[-1].status == "0"
    assert peer.connection.queued == 0 and not peer.connection.streams
    assert max(len(x.payload) for x in got) <= 16_384


def test_the_stream_window(wire):
    peer = wire.Peer(window=10)
    peer.service.reply_bytes = 100
    got = peer.say(peer.call(1))
    assert len(_data(got, 1)) == 10
    got += peer.say(f.window_update(1, 1))
    assert len(_data(got, 1)) == 11
    # 6.9.2: a smaller initial window makes an open stream's window negative.
    got += peer.say(f.settings([(f.INITIAL_WINDOW_SIZE, 0)]), f.window_update(1, 9))
    assert len(_data(got, 1)) == 11
    got += peer.say(f.window_update(1, 2))
    assert len(_data(got, 1)) == 12
    got += peer.say(f.settings([(f.INITIAL_WINDOW_SIZE, 1000)]))
    assert len(_message(got, 1)) == 100


def test_an_empty_window_still_lets_errors_and_empty_answers_pass(wire):
    peer = wire.Peer(window=0)
    got = peer.say(peer.call(1, "/t.T/Nope"))
    assert got[0].status == "12"


def test_big_answers_take_turns(wire):
    """One quantum each: a small answer does not wait for two megabytes (etcd issue 15402)."""
    peer = wire.Peer(window=1 << 24)
    peer.say(f.window_update(0, 1 << 28))
    peer.service.reply_bytes = 2_500_000
    peer.connection.receive(peer.call(1))
    peer.read(100_000)
    peer.service.reply_bytes = 0
    peer.connection.receive(peer.call(3))
    got = peer.read(50_000)
    order = [x.stream_id for x in got if x.kind == f.DATA]
    assert order.index(3) <= 1
    got = peer.read()
    assert [x.stream_id for x in got if x.ended] == [1]


def test_streams_share_equally(wire):
    peer = wire.Peer(window=1 << 24)
    peer.say(f.window_update(0, 1 << 28))
    peer.service.reply_bytes = 500_000
    peer.connection.receive(b"".join(peer.call(i) for i in (1, 3, 5)))
    order = [x.stream_id for x in peer.read() if x.kind == f.DATA]
    assert order[:9] == [1, 3, 5] * 3 or order[:9] == [1, 1, 3, 5, 1, 3, 5, 1, 3]


def test_received_data_gives_the_connection_window_back(wire):
    limits = Limits()
    peer = wire.Peer(limits)
    sent = acked = 0
    stream_id = 1
    while sent < 3 * limits.connection_window_bytes:
        body = wire.message(bytes(1_000_000))
        got = peer.say(peer.headers(stream_id))
        for at in range(0, len(body), 16_000):
            last = at + 16_000 >= len(body)
            got += peer.say(peer.data(stream_id, body[at : at + 16_000], end=last))
        sent += len(body)
        acked += sum(
            f.read_word(x.payload) for x in got if x.kind == f.WINDOW_UPDATE and x.stream_id == 0
        )
        assert sent - acked < limits.connection_window_bytes // 2
        stream_id += 2
        peer.say(f.window_update(0, 2_000_000))
    assert peer.connection.held == 0


def test_an_unary_request_needs_no_stream_window_update(wire):
    peer = wire.Peer()
    greeting = dict(f.read_settings(peer.greeting[0].payload))
    assert greeting[f.INITIAL_WINDOW_SIZE] > Limits().request_bytes_max + 5


def test_more_than_the_stream_window(wire):
    """A handler that does not read costs one window, and not a byte more."""
    limits = dataclasses.replace(Limits(), request_bytes_max=1000)  # the window is 64 KiB more
    peer = wire.Peer(limits)
    peer.say(peer.headers(1, "/t.T/Deaf"))
    body = wire.message(bytes(900))
    left, got = limits.stream_window_bytes, []
    while left >= len(body):
        got += peer.say(peer.data(1, body, end=False))
        left -= len(body)
    assert not got and peer.connection.held == limits.stream_window_bytes - left
    got = peer.say(peer.data(1, body, end=False))
    assert [(x.kind, x.code) for x in got] == [(f.RST_STREAM, f.FLOW_CONTROL_ERROR)]
    assert peer.connection.held == 0


def test_a_reading_handler_gives_the_stream_window_back(wire):
    limits = dataclasses.replace(Limits(), request_bytes_max=1000)
    peer = wire.Peer(limits)
    peer.say(peer.headers(1, "/t.T/Stream"))
    body = wire.message(bytes(900))
    total = answered = credit = 0
    while total < 5 * limits.stream_window_bytes:
        got = peer.say(peer.data(1, body, end=False), f.window_update(0, 900))
        total += len(body)
        got += peer.say(f.window_update(1, 900))
        answered += len(_data(got, 1))
        credit += sum(
            f.read_word(x.payload) for x in got if x.kind == f.WINDOW_UPDATE and x.stream_id == 1
        )
        assert total - credit <= limits.stream_window_bytes
    assert peer.connection.held == 0 and answered > 4 * limits.stream_window_bytes


def test_unread_answers_make_new_requests_wait(wire):
    """Soft bound: the handler does not run; hard bound: RESOURCE_EXHAUSTED."""
    limits = dataclasses.replace(Limits(), send_soft_bytes_max=100_000, send_bytes_max=250_000)
    peer = wire.Peer(limits, window=0)
    peer.say(peer.call(1, "/t.T/Hold"), peer.call(3, "/t.T/Hold"), peer.call(5, "/t.T/Hold"))
    for call in peer.service.held:
        call.reply(bytes(120_000))
    got = peer.read()
    assert [x.stream_id for x in got if x.status == "8"] == [5]  # the third did not fit
    assert peer.connection.queued <= limits.send_bytes_max
    assert not peer.say(peer.call(7))
    assert len(peer.connection.deferred) == 1 and not peer.service.seen
    got = peer.say(f.window_update(0, 1 << 20), f.settings([(f.INITIAL_WINDOW_SIZE, 1 << 20)]))
    got += peer.read()
    assert {x.stream_id for x in got if x.ended} == {1, 3, 7}
    assert peer.connection.queued == peer.connection.held == 0


def test_a_deferred_request_that_is_reset_never_runs(wire):
    limits = dataclasses.replace(Limits(), send_soft_bytes_max=1000)
    peer = wire.Peer(limits, window=0)
    peer.service.reply_bytes = 5000
    peer.say(peer.call(1))
    peer.say(peer.call(3), f.rst_stream(3, 8))
    peer.say(f.settings([(f.INITIAL_WINDOW_SIZE, 1 << 20)]))
    peer.read()
    assert len(peer.service.seen) == 1
    assert peer.connection.held == 0 and not peer.connection.streams


def test_a_stalled_stream_is_reset_and_counted(wire):
    limits = Limits()
    peer = wire.Peer(limits, window=0)
    peer.service.reply_bytes = 5000
    peer.say(peer.call(1))
    peer.say(peer.call(3, "/t.T/Hold"))
    now_s = peer.clock.now_s
    peer.connection.tick(now_s + 1)
    assert not peer.read()
    # Stream 3 goes on and shows the connection is alive.
    peer.service.held[0].reply(b"x")
    peer.say(f.window_update(3, 100))
    peer.connection.tick(now_s + 40)
    peer.connection.tick(now_s + 62)
    got = peer.read()
    assert [(x.kind, x.stream_id, x.code) for x in got] == [(f.RST_STREAM, 1, f.CANCEL)]
    assert peer.connection.streams_stalled == 1
    assert peer.connection.queued == 0


def test_a_stalled_connection_is_closed(wire):
    peer = wire.Peer()
    peer.service.reply_bytes = 100_000
    peer.say(peer.call(1))
    peer.connection.tick(peer.clock.now_s)
    peer.connection.tick(peer.clock.now_s + 61)
    assert peer.connection.closing
    assert peer.read()[-1].kind == f.GOAWAY
    assert not peer.connection.streams and peer.connection.queued == 0


def test_all_connections_share_a_budget(wire):
    """Many hostile connections together: each within its own bound, but not all of them."""
    limits = dataclasses.replace(Limits(), send_bytes_total_max=250_000)
    budget = Budget()
    peers = [wire.Peer(limits, budget, window=0) for _ in range(4)]
    codes = []
    for peer in peers:
        peer.service.reply_bytes = 100_000
        codes += [x.status for x in peer.say(peer.call(1)) if x.status]
    assert codes == ["8", "8"] and budget.queued == 200_010
    for peer in peers:
        peer.connection.drop_streams()
    assert budget.queued == 0


def test_all_connections_share_a_budget_of_requests(wire):
    limits = dataclasses.replace(Limits(), received_bytes_total_max=25_000)
    budget = Budget()
    peers = [wire.Peer(limits, budget) for _ in range(4)]
    codes = []
    for peer in peers:
        body = wire.message(bytes(20_000))[:10_000]
        got = peer.say(peer.headers(1), peer.data(1, body, end=False))
        codes += [x.status for x in got if x.status]
    assert codes == ["8", "8"] and budget.held == 20_000
    for peer in peers:
        peer.connection.drop_streams()
    assert budget.held == 0
