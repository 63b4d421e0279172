"""The listener over real sockets: both protocols on one port, deadlines, hostile clients, stop."""

import asyncio
import dataclasses
import http.client
import os
import resource
import socket
import ssl

import pytest
import uvloop

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.server.handshake import ServerContext
from pyetcd.server.listen import Listener
from pyetcd.server.wire import frames as f
from pyetcd.server.wire.grpc import Dispatcher
from pyetcd.server.wire.limits import Limits


class Site:
    """Handlers for one test."""

    def __init__(self):
        self.responders, self.bugs, self.names = [], [], []
        self.reply_bytes = 0
        self.lost = asyncio.Event()

    def echo(self, call, request):
        self.names.append(call.common_name)
        if request.key == b"bug":
            raise AssertionError("a bug of ours")
        call.reply(bytes(self.reply_bytes) or request.SerializeToString())

    def http(self, request, responder):
        self.names.append(request.common_name)
        if request.path == "/stream":
            self.responders.append(responder)
            responder.on_close = self.lost.set
            responder.start(200, {"Content-Type": "text/plain"})
            responder.write(b"begun\n")
        elif request.path == "/bug":
            raise AssertionError("a bug of ours")
        else:
            responder.send(200, {"X-Path": request.path}, request.body or b"ok")

    def listener(self, limits=None, **kwargs):
        dispatcher = Dispatcher({"/t.T/Echo": (rpc.PutRequest, self.echo)}, {})
        return Listener(dispatcher, self.http, limits, on_bug=self.bugs.append, **kwargs)


def run(main, limits=None, **kwargs):
    """Run `main(site, listener, port)`, and prove that nothing is left."""

    async def whole():
        site = Site()
        listener = site.listener(limits, **kwargs)
        port = await listener.start("127.0.0.1", 0)
        try:
            await asyncio.wait_for(main(site, listener, port), 30)
        finally:
            await listener.stop(0.5)
        assert not listener.connections and not listener.sniffing
        return site

    return uvloop.run(whole())


_GREETING = f.PREFACE + f.settings([])


async def _open(port, data=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    return reader, writer


async def _closed(reader):
    try:
        while await reader.read(65_536):
            pass
    except ConnectionError:
        pass
    return True


def test_http_1_by_the_standard_library():
    async def main(site, listener, port):
        def client():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("POST", "/a/b?c", body=b"hello")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"hello")
            assert answer.headers["X-Path"] == "/a/b" and answer.headers["Date"]
            connection.request("PUT", "/c", body=iter([b"ab", b"cd"]), encode_chunked=True,
                               headers={"Transfer-Encoding": "chunked"})  # fmt: skip
            assert connection.getresponse().read() == b"abcd"
            connection.request("GET", "/stream")
            answer = connection.getresponse()
            assert answer.readline() == b"begun\n"
            connection.close()
            answer.close()

        await asyncio.to_thread(client)
        await site.lost.wait()

    run(main)


@pytest.mark.parametrize("cut", [1, 5, 1000])
def test_both_protocols_on_one_port(wire, cut):
    async def main(site, listener, port):
        peer = wire.Peer(greet=False)
        for data, expected in [
            (_GREETING + peer.call(1), b"\x88\x0f\x10\x10application/grpc"),
            (b"PRI /x HTTP/1.1\r\nHost: h\r\n\r\n", b"HTTP/1.1 400"),
            (b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK"),
        ]:
            reader, writer = await _open(port)
            writer.transport.set_write_buffer_limits(0)
            for at in range(0, len(data), cut):
                writer.write(data[at : at + cut])
                await writer.drain()
            got = b""
            while expected not in got:
                more = await reader.read(65_536)
                assert more, got
                got += more
            writer.close()

    run(main)


@pytest.mark.parametrize("first", [b"", b"PRI * HTT", b"GET / HTTP/1.1\r\nHost:"])
def test_silent_connections_are_closed(first):
    limits = dataclasses.replace(Limits(), sniff_timeout_s=0.2, http_header_timeout_s=0.2)

    async def main(site, listener, port):
        reader, writer = await _open(port, first)
        assert await asyncio.wait_for(_closed(reader), 8)
        writer.close()

    run(main, limits)


def test_connections_are_capped():
    limits = dataclasses.replace(Limits(), connections_max=3)

    async def main(site, listener, port):
        kept = []
        for _ in range(3):
            reader, writer = await _open(port, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await reader.readuntil(b"ok")
            kept.append(writer)
        reader, writer = await _open(port)
        assert await _closed(reader)
        assert listener.refused_total == 1
        for one in [*kept, writer]:
            one.close()

    run(main, limits)


def test_half_open_connections_of_one_host_are_capped():
    limits = dataclasses.replace(Limits(), sniffing_per_host_max=5)

    async def main(site, listener, port):
        opened = [await _open(port) for _ in range(8)]
        for reader, _ in opened[5:]:
            assert await _closed(reader)
        for _, writer in opened:
            writer.close()

    run(main, limits)


def test_a_goaway_reaches_the_client():
    async def main(site, listener, port):
        reader, writer = await _open(port, _GREETING + f.rst_stream(1, 0) + bytes(100_000))
        got = await reader.read()
        assert b"frame on an idle stream" in got
        writer.close()

    run(main)


@pytest.mark.parametrize("first", [_GREETING, b"GET /bug HTTP/1.1\r\nHost: h\r\n\r\n"])
def test_a_bug_ends_the_connection_and_is_reported(wire, first):
    async def main(site, listener, port):
        peer = wire.Peer(greet=False)
        body = wire.prefixed(rpc.PutRequest(key=b"bug").SerializeToString())
        data = peer.headers(1) + peer.data(1, body) if first is _GREETING else b""
        reader, writer = await _open(port, first + data)
        assert await _closed(reader)
        writer.close()
        assert [str(bug) for bug in site.bugs] == ["a bug of ours"]

    run(main)


def _rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_a_client_that_never_reads(wire):
    """Large answers asked for without reading: memory stays bounded, others are served."""

    async def main(site, listener, port):
        site.reply_bytes = 1_000_000
        peer = wire.Peer(greet=False)
        _, hostile = await _open(port, _GREETING + f.window_update(0, 2**31 - 1 - 65_535))
        hostile.transport.pause_reading()
        before = _rss_bytes()
        hostile.write(b"".join(peer.call(n) for n in range(1, 1000, 2)))
        await asyncio.sleep(0.3)
        site.reply_bytes = 0
        reader, writer = await _open(port, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"ok"), 2)
        assert _rss_bytes() - before < 64 * 1024 * 1024
        for one in (hostile, writer):
            one.transport.abort()

    run(main)


def test_a_flood_of_pings_that_never_reads():
    """CVE-2019-9512: with the socket full, we stop reading."""
    limits = dataclasses.replace(Limits(), ping_strikes_max=10**9)

    async def main(site, listener, port):
        _, hostile = await _open(port, _GREETING)
        hostile.transport.pause_reading()
        before = _rss_bytes()
        blob = f.ping(bytes(8), ack=False) * 10_000
        for _ in range(400):
            hostile.write(blob)
            try:
                await asyncio.wait_for(hostile.drain(), 0.2)
            except TimeoutError:
                break
        [connection] = listener.connections
        assert connection.reading_paused
        assert len(connection.h2.out) < 50_000
        assert _rss_bytes() - before < 64 * 1024 * 1024
        hostile.transport.abort()

    run(main, limits)


def test_stop_lets_requests_finish():
    async def main(site, listener, port):
        reader, writer = await _open(port, b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"begun\n")
        stopping = asyncio.create_task(listener.stop(5))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        site.responders[0].end()
        assert (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()
        await asyncio.wait_for(stopping, 4)
        with pytest.raises(ConnectionError):
            await _open(port)

    run(main)


def test_a_port_without_grpc():
    """The peer port: an HTTP/2 preface is just a bad request."""

    async def main(site, listener, port):
        peers = Listener(None, site.http)
        port = await peers.start("127.0.0.1", 0)
        reader, writer = await _open(port, _GREETING)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await peers.stop(0)

    run(main)


def test_a_unix_socket(tmp_path):
    async def main(site, listener, port):
        path = str(tmp_path / "s")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        assert await listener.start(sock=sock) == 0
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\nok")
        writer.close()

    run(main)
    assert not (tmp_path / "s").exists()


def test_the_socket_of_a_successor_stays(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as later:

        async def main(site, listener, port):
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(path)
            await listener.start(sock=sock)
            later.bind(f"{path}.new")
            os.rename(f"{path}.new", path)

        run(main)
        assert (tmp_path / "s").is_socket()


def _contexts(tmp_path):
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "both.pem"
    path.write_bytes(pem + cert.public_bytes(serialization.Encoding.PEM))
    server = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    server.set_alpn_protocols(["h2", "http/1.1"])
    server.load_verify_locations(path)
    server.verify_mode = ssl.CERT_OPTIONAL
    client = ssl.create_default_context()
    client.load_cert_chain(path)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return server, client


@pytest.mark.parametrize("alpn", ["h2", "http/1.1", ""])
def test_tls(tmp_path, wire, alpn):
    server, client = _contexts(tmp_path)
    if alpn:
        client.set_alpn_protocols([alpn])

    async def main(site, listener, port):
        peer = wire.Peer(greet=False)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        if alpn == "h2":
            writer.write(_GREETING + peer.call(1))
            assert await reader.readuntil(b"grpc-status\x010")
            assert site.names == ["localhost"]
        else:
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\nok")
            assert site.names == ["localhost"]
        writer.close()
        try:
            await writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            pass

    run(main, tls=server)
