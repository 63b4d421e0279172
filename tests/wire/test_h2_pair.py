"""The `h2` package as a second opinion: its client core against our server core, no sockets."""

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyetcd.server.wire import frames as f

_HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/t.T/Echo"),
    (":authority", "h"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


class Pair:
    def __init__(self, wire, **values):
        self.peer = wire.Peer(greet=False)
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        codes = h2.settings.SettingCodes
        own = {getattr(codes, key): value for key, value in values.items()}
        self.client.local_settings = h2.settings.Settings(client=True, initial_values=own)
        self.client.initiate_connection()
        self.events = []

    def exchange(self, *, ack=True):
        """Move bytes both ways until nothing moves."""
        while True:
            sent = self.client.data_to_send()
            self.peer.connection.receive(sent)
            self.peer.service.tasks.run()
            got = self.peer.connection.pump(1 << 30)
            if not sent and not got:
                return
            new = self.client.receive_data(got)
            for event in new:
                if isinstance(event, h2.events.DataReceived) and ack:
                    self.client.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
            self.events += new

    def data(self, stream_id):
        return b"".join(
            e.data
            for e in self.events
            if isinstance(e, h2.events.DataReceived) and e.stream_id == stream_id
        )

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def test_a_call(wire):
    pair = Pair(wire)
    pair.exchange()
    pair.client.send_headers(1, _HEADERS)
    pair.client.send_data(1, wire.message(b"x"), end_stream=True)
    pair.exchange()
    assert pair.data(1) == wire.message(b"x")
    assert dict(pair.of(h2.events.ResponseReceived)[0].headers)[b":status"] == b"200"
    assert dict(pair.of(h2.events.TrailersReceived)[0].headers)[b"grpc-status"] == b"0"
    assert [e.stream_id for e in pair.of(h2.events.StreamEnded)] == [1]


@given(
    sizes=st.lists(st.integers(0, 200_000), min_size=1, max_size=6),
    window=st.sampled_from([1, 1000, 65_535, 1 << 20]),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_large_messages_under_any_window(wire, sizes, window):
    pair = Pair(wire, INITIAL_WINDOW_SIZE=max(window, 1000))
    pair.exchange()
    left = {}
    for n, size in enumerate(sizes):
        pair.client.send_headers(2 * n + 1, _HEADERS)
        left[2 * n + 1] = wire.message(bytes(size))
    sent = dict(left)
    while left:
        for stream_id, body in list(left.items()):
            room = min(pair.client.local_flow_control_window(stream_id), 16_384, len(body))
            pair.client.send_data(stream_id, body[:room], end_stream=room == len(body))
            left[stream_id] = body[room:]
            if not left[stream_id]:
                del left[stream_id]
        pair.exchange()
    for stream_id, body in sent.items():
        assert pair.data(stream_id) == body
    assert not pair.peer.connection.streams and pair.peer.connection.held == 0
    assert pair.peer.connection.queued == 0


def test_ping_settings_goaway(wire):
    pair = Pair(wire)
    pair.exchange()
    pair.client.ping(b"12345678")
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    pair.exchange()
    assert pair.of(h2.events.PingAckReceived)[0].ping_data == b"12345678"
    assert len(pair.of(h2.events.SettingsAcknowledged)) == 2
    pair.peer.connection.shut_down()
    pair.peer.connection.pump(1 << 20)
    pair.peer.connection.receive(f.ping(b"shutdown", ack=True))
    pair.exchange()
    assert pair.of(h2.events.ConnectionTerminated)[0].error_code == 0


def test_errors_are_understood(wire):
    pair = Pair(wire)
    pair.exchange()
    pair.client.send_headers(1, [(k, v) if k != ":path" else (k, "/x.Y/Z") for k, v in _HEADERS])
    pair.exchange()
    head = dict(pair.of(h2.events.ResponseReceived)[0].headers)
    assert head[b"grpc-status"] == b"12" and pair.of(h2.events.StreamReset)[0].error_code == 0
    pair.client.send_headers(3, _HEADERS)
    pair.client.reset_stream(3)
    pair.exchange()
    pair.client.send_headers(5, _HEADERS)
    pair.client.send_data(5, wire.message(), end_stream=True)
    pair.exchange()
    assert pair.data(5) == wire.message()
