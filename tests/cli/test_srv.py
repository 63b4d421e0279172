"""--discovery-srv, asked of a name server that answers as told."""

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyetcd.cli import srv
from pyetcd.cli.ctl.run import run

TLS, PLAIN = "_etcd-client-ssl._tcp.example.test", "_etcd-client._tcp.example.test"


class NameServer:
    """Answers with the records of a name; with nothing for others."""

    def __init__(self) -> None:
        self.records: dict[str, list[tuple[int, int, str]]] = {}
        self.asked: list[str] = []
        self.raw = b""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = ("127.0.0.1", int(self._socket.getsockname()[1]))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(4096)
            if not question:
                return
            name, _ = srv._name(question, 12)
            self.asked.append(name)
            records = self.records.get(name, [])
            head = question[:2] + struct.pack(">HHHHH", 0x8180, 1, len(records), 0, 0)
            body = b""
            for priority, port, target in records:
                # The domain is said by pointing to the question.
                data = struct.pack(">HHH", priority, 0, port)
                data += bytes([len(target)]) + target.encode()
                data += struct.pack(">H", 0xC000 | 12 + question[12:].index(b"\x07example"))
                body += b"\xc0\x0c" + struct.pack(">HHIH", 33, 1, 60, len(data)) + data
            self._socket.sendto(b"zz" + head[2:], client)  # an answer to another question
            self._socket.sendto(self.raw or head + question[12:] + body, client)

    def stop(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.address)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(srv, "name_servers", lambda: [server.address])
    yield server
    server.stop()


def test_endpoints(dns):
    dns.records[TLS] = [(20, 2379, "b"), (10, 2379, "a")]
    dns.records[PLAIN] = [(0, 4001, "c")]
    assert srv.endpoints("example.test", "", [dns.address]) == [
        "https://a.example.test:2379",
        "https://b.example.test:2379",
        "http://c.example.test:4001",
    ]
    assert dns.asked == [TLS, PLAIN]


def test_no_records(dns):
    host, port = dns.address
    ends = run(["--discovery-srv=example.test", "get", "k"])
    place = f"on {host}:{port}: no such host"
    text = f"Error: dns lookup errors: lookup {TLS} {place} and lookup {PLAIN} {place}\n"
    assert ends == (b"", text.encode(), 1)
    dns.asked.clear()
    assert run(["-d", "example.test", "--discovery-srv-name=x", "put", "k", "v"])[2] == 1
    assert dns.asked[0] == "_etcd-client-ssl-x._tcp.example.test"


def test_nobody_is_asked_without_need(dns):
    assert run(["-d", "example.test", "version"])[2] == 0
    assert run(["-d", "example.test", "get"])[2] == 128
    assert dns.asked == []


def test_insecure_endpoints_are_left_out(dns):
    dns.records[PLAIN] = [(0, 4001, "c")]
    flags = ["-d", "example.test", "--insecure-discovery=false", "--endpoints=127.0.0.1:1"]
    _, err, code = run([*flags, "get", "k", "--command-timeout=100ms"])
    first, rest = err.split(b"\n", 1)
    assert first == b'ignoring discovered insecure endpoint "http://c.example.test:4001"'
    assert code == 1 and b"dial tcp 127.0.0.1:1: connect: connection refused" in rest


@pytest.mark.parametrize("raw", (b"", b"\x00", b"\xc0\x0c" * 20, bytes(40)))
def test_nonsense_is_no_record(dns, monkeypatch, raw):
    monkeypatch.setattr(srv, "TRY_S", 0.05)
    dns.raw = b"nn" + raw  # of no question that was asked
    with pytest.raises(srv.LookupFailure, match="i/o timeout"):
        srv.lookup("example.test", [dns.address])


@pytest.mark.parametrize("cut", (2, 11, 14, 20, 40, 70))
def test_broken_answers(cut):
    """No exception but those that lookup takes for a failure."""
    question = b"\x07example\x04test\x00" + struct.pack(">HH", 33, 1)
    record = b"\xc0\x0c" + struct.pack(">HHIH", 33, 1, 60, 200) + b"\xc0\x0c"
    whole = struct.pack(">HHHHHH", 1, 0x8180, 1, 9, 0, 0) + question + record * 9
    with pytest.raises((ValueError, IndexError, struct.error)):
        srv._records(whole[:cut])


def test_a_name_that_points_to_itself():
    with pytest.raises(ValueError, match="without an end"):
        srv._name(b"\xc0\x00", 0)


def test_name_servers(tmp_path: Path):
    conf = tmp_path / "resolv.conf"
    conf.write_text("# comment\nsearch x\nnameserver 192.0.2.1\nnameserver 192.0.2.2 \n")
    assert srv.name_servers(str(conf)) == [("192.0.2.1", 53), ("192.0.2.2", 53)]
    assert srv.name_servers(str(tmp_path / "none")) == [("127.0.0.1", 53)]
