"""The load generator against a real etcd, and its connection against awkward peers."""

import json
import struct
from typing import ClassVar

import hpack
import pytest
from typer.testing import CliRunner

from pyetcd.cli import bench_h2 as h2
from pyetcd.cli.bench import app
from pyetcd.cli.ctl.run import run
from pyetcd.proto import rpc_pb2 as rpc


@pytest.mark.parametrize(
    "command",
    [
        "put --val-size 256 --key-space-size 50",
        "range --key-space-size 50",
        "range k --limit 1 --consistency s",
        "txn --key-space-size 9 --txn-ops 3",
        "put --sequential-keys --rate 2000",
    ],
)
def test_against_etcd(judge, command):
    options = f"--endpoints {judge.endpoint} --clients 20 --conns 3 --total 300 --json"
    done = CliRunner().invoke(app, [*command.split(), *options.split()])
    report = json.loads(done.stdout)
    assert (report["requests"], report["errors"]) == (300, {})


def test_what_is_put_is_there(judge):
    options = f"put --endpoints {judge.endpoint} --total 40 --key-size 5 --val-size 30000"
    done = CliRunner().invoke(app, [*options.split(), "--sequential-keys", "--key-space-size=7"])
    assert done.exit_code == 0
    assert "Requests/sec" in done.stdout
    out, _, _ = run([f"--endpoints={judge.endpoint}", "get", "\0", "\1", "-w", "json"])
    sizes = [len(pair["value"]) for pair in json.loads(out)["kvs"]]
    assert sizes.count(40000) == 7  # in base64


def test_errors_are_counted(judge):
    options = f"put --endpoints {judge.endpoint} --total 5 --val-size 2000000"
    done = CliRunner().invoke(app, options.split())
    assert done.exit_code == 1
    assert "[5]\tcode 3: etcdserver: request is too large" in done.stdout


class Peer:
    """A server's side of one connection, in bytes."""

    OK: ClassVar = [(":status", "200"), ("content-type", "application/grpc")]

    def __init__(self, *, total: int = 10, clients: int = 2, size: int = 10) -> None:
        self.load = h2.Load("/x/Y", size, lambda: b"m" * size, total)
        self.connection = h2.Connection(self.load, "host:1", clients)
        self.sent = b""
        self.closed = False
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.connection.connection_made(self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """What was sent since the last call, without the preface."""
        data, self.sent = self.sent.removeprefix(h2.PREFACE), b""
        found = []
        while data:
            length = int.from_bytes(data[:3], "big")
            found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
            data = data[9 + length :]
        return found

    def requests(self) -> list[int]:
        """The streams of the requests sent since the last call; checks their headers."""
        streams = []
        for kind, _, stream, payload in self.frames():
            if kind == h2.HEADERS:
                headers = dict(self.decoder.decode(payload))
                assert headers[":path"] == "/x/Y"
                assert headers[":authority"] == "host:1"
                assert headers["content-type"] == "application/grpc"
                streams.append(stream)
        return streams

    def answer(self, stream: int, status: str = "0", *, text: str = "") -> bytes:
        trailers = [("grpc-status", status), ("grpc-message", text)]
        return (
            h2.frame(h2.HEADERS, h2.END_HEADERS, stream, self.encoder.encode(self.OK))
            + h2.frame(h2.DATA, 0, stream, b"\0\0\0\0\0")
            + h2.frame(h2.HEADERS, 5, stream, self.encoder.encode(trailers))
        )


def test_closed_loop():
    peer = Peer()
    assert peer.requests() == [1, 3]
    peer.connection.data_received(peer.answer(3))
    assert peer.requests() == [5]
    both = peer.answer(1) + peer.answer(5, "14", text="no leader")
    for at in range(len(both)):  # byte by byte
        peer.connection.data_received(both[at : at + 1])
    assert peer.requests() == [7, 9]
    assert (peer.load.finished, peer.load.errors) == (3, {"code 14: no leader": 1})


def test_settings_and_ping_are_acknowledged():
    peer = Peer()
    peer.frames()
    peer.connection.data_received(
        h2.frame(h2.SETTINGS, 0, 0, struct.pack(">HI", 3, 100)) + h2.frame(h2.PING, 0, 0, b"8" * 8)
    )
    assert peer.frames() == [(h2.SETTINGS, h2.ACK, 0, b""), (h2.PING, h2.ACK, 0, b"8" * 8)]


def test_waits_for_the_connection_window():
    peer = Peer(size=40000, clients=2)
    sent = [len(payload) for kind, _, _, payload in peer.frames() if kind == h2.DATA]
    assert sum(sent) == 65535
    assert max(sent) == 16384
    peer.connection.data_received(h2.frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 100000)))
    rest = [(flags, len(data)) for kind, flags, _, data in peer.frames() if kind == h2.DATA]
    assert sum(size for _, size in rest) == 2 * 40005 - 65535
    assert rest[-1][0] == h2.END_STREAM


def test_waits_for_the_stream_window():
    peer = Peer(size=70000, clients=1)
    peer.connection.data_received(h2.frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 100000)))
    assert sum(len(f[3]) for f in peer.frames() if f[0] == h2.DATA) == 65535
    peer.connection.data_received(h2.frame(h2.WINDOW_UPDATE, 0, 1, struct.pack(">I", 100000)))
    assert sum(len(f[3]) for f in peer.frames() if f[0] == h2.DATA) == 70005 - 65535


def test_go_away_gives_back_what_was_not_looked_at():
    peer = Peer(clients=3)
    peer.requests()
    peer.connection.data_received(h2.frame(h2.GOAWAY, 0, 0, struct.pack(">II", 1, 0)))
    assert peer.load.started == 1
    assert not peer.closed
    peer.connection.data_received(peer.answer(1))
    assert peer.requests() == []
    assert peer.closed


def test_reset_and_lost_connection_are_errors():
    peer = Peer(clients=2, total=2)
    reset = h2.frame(h2.RST_STREAM, 0, 1, struct.pack(">I", 8))
    peer.connection.data_received(reset)
    peer.connection.connection_lost(None)
    assert sum(peer.load.errors.values()) == 2
    assert peer.load.finished == 2


def test_frames_are_messages_that_protobuf_reads():
    from pyetcd.cli import bench

    raw = bench._field(1, b"k") + bench._field(2, b"v" * 300)
    assert rpc.PutRequest.FromString(raw) == rpc.PutRequest(key=b"k", value=b"v" * 300)
