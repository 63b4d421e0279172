"""TLS handshakes of a listener: deadlines, floods, renewed files, what certificates say."""

import asyncio
import dataclasses
import datetime
import socket
import ssl

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pyetcd.server.handshake import LINES_BURST, Attempt, Handshakes, Rejections, words
from pyetcd.server.listen import Listener
from pyetcd.server.sniff import Sniffer
from pyetcd.server.tls import Admission, Renewal, TlsFiles, common_name, server_context
from pyetcd.server.wire.limits import Limits

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def name_of(*names):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names])


def make(folder, name, *, signer=None, names=None, is_authority=False):
    """(certificate, key) and their files `name`.pem and `name`.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = name_of(*(names or (name,)))
    issuer, signing = (subject, key) if signer is None else (signer[0].subject, signer[1])
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
    )
    made = builder.sign(signing, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made, key


def files_of(folder, name="listener", **more):
    return TlsFiles(cert_file=str(folder / f"{name}.pem"), key_file=str(folder / f"{name}.key"),
                    **more)  # fmt: skip


def insecure():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def serve(main, files, **limits):
    """Run `main(listener, port)`; nothing is left afterwards."""

    async def whole():
        listener = Listener(
            None,
            lambda request, responder: responder.send(200, {}, b"ok"),
            dataclasses.replace(Limits(), **limits),
            tls=server_context(files),
            admission=Admission(files),
        )
        port = await listener.start("127.0.0.1", 0)
        try:
            return await asyncio.wait_for(main(listener, port), 30)
        finally:
            await listener.stop(0.2)
            assert not listener.connections and not listener.sniffing and not listener.sniffers

    return uvloop.run(whole())


async def ask(port, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.endswith(b"ok")


@pytest.mark.parametrize("said", [b"", b"\x16", bytes.fromhex("160301020001 0001fc0303")])
def test_who_says_nothing_or_half_is_cut_off_and_holds_up_nobody(tmp_path, said, capsys):
    make(tmp_path, "listener")

    async def main(listener, port):
        quiet = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
        for _, writer in quiet:
            writer.write(said)
        assert await ask(port, insecure())
        for reader, writer in quiet:
            assert await reader.read() == b""
            writer.close()

    serve(main, files_of(tmp_path), sniff_timeout_s=0.5)
    assert "i/o timeout" in capsys.readouterr().err


def test_handshakes_count_as_connections_of_their_host(tmp_path, capsys):
    make(tmp_path, "listener")

    async def main(listener, port):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(OSError):
            await ask(port, insecure())
        assert listener.refused_total == 1
        for _, writer in held:
            writer.close()

    serve(main, files_of(tmp_path), sniffing_per_host_max=5)


def test_a_flood_of_handshakes_begins_a_few_in_each_turn(tmp_path, monkeypatch):
    make(tmp_path, "listener")
    begun = []

    async def main(listener, port):
        real = Sniffer._begin

        def begin(self):
            begun.append(turns[0])
            real(self)

        monkeypatch.setattr(Sniffer, "_begin", begin)
        turns = [0]
        waiting = listener.handshakes
        real_turn = Handshakes._turn

        def turn(self, soon):
            turns[0] += 1
            real_turn(self, soon)

        monkeypatch.setattr(Handshakes, "_turn", turn)
        answers = await asyncio.gather(*(ask(port, insecure()) for _ in range(60)))
        assert all(answers) and not len(waiting)

    serve(main, files_of(tmp_path), handshakes_per_turn=2)
    assert len(begun) == 60
    assert max(begun.count(turn) for turn in begun) <= 2


def test_lines_about_refusals_are_bounded(capsys):
    now = [0.0]
    rejections = Rejections(lambda: now[0])
    for _ in range(LINES_BURST + 500):
        rejections.say(error="x")
    assert capsys.readouterr().err.count("rejected connection") == LINES_BURST
    now[0] = 1.0
    rejections.say(error="x")
    assert '"lines-left-out":500' in capsys.readouterr().err


def test_half_a_renewed_pair_leaves_the_old_one_in_use(tmp_path, capsys):
    old, _ = make(tmp_path, "listener")
    files = files_of(tmp_path)
    context = server_context(files)
    renewal = Renewal(lambda: 0.0, [(context, files.cert_file, files.key_file)])
    new, _ = make(tmp_path, "next")
    (tmp_path / "next.pem").rename(files.cert_file)
    renewal.look()
    assert "private key does not match public key" in capsys.readouterr().err
    assert shown(context) == old.serial_number
    (tmp_path / "next.key").rename(files.key_file)
    renewal.look()
    assert shown(context) == new.serial_number


def shown(context):
    """The serial number that a client of this context sees."""
    _, client = exchange(context, insecure())
    der = client.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).serial_number


def exchange(server_side, client_side):
    """Two ends after their handshake, without a socket."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = client_side.wrap_bio(to_client, to_server)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return server, client


def test_a_revoked_authority_in_between_and_the_last_common_name(tmp_path):
    root = make(tmp_path, "root", is_authority=True)
    between = make(tmp_path, "between", signer=root, is_authority=True)
    make(tmp_path, "leaf", signer=between, names=("first", "last"))
    make(tmp_path, "listener", signer=root)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(
        (tmp_path / "leaf.pem").read_bytes() + (tmp_path / "between.pem").read_bytes()
    )
    revoked = x509.RevokedCertificateBuilder(between[0].serial_number, NOW).build()
    crl = (
        x509.CertificateRevocationListBuilder(root[0].subject, NOW, NOW + DAY)
        .add_revoked_certificate(revoked)
        .sign(root[1], hashes.SHA256())
    )
    (tmp_path / "crl.der").write_bytes(crl.public_bytes(serialization.Encoding.DER))
    files = files_of(tmp_path, trusted_ca_file=str(tmp_path / "root.pem"),
                     crl_file=str(tmp_path / "crl.der"))  # fmt: skip
    client = insecure()
    client.load_cert_chain(chain, tmp_path / "leaf.key")
    server, _ = exchange(server_context(files), client)
    assert common_name(server) == "last"
    assert Admission(files).revocation(server).endswith("revoked")
    missing = dataclasses.replace(files, crl_file=str(tmp_path / "none.pem"))
    assert "no such file" in Admission(missing).revocation(server)


@pytest.mark.parametrize(
    ("data", "whole", "failure"),
    [
        (b"", False, ""),
        (b"\x16\x03", False, ""),
        (b"\x16\x03\x01\x00\x02ab", True, ""),
        (b"\x16\x03\x01\x00\x02a", False, ""),
        (b"GET / HTTP", False, "tls: first record does not look like a TLS handshake"),
        (b"\x16\x13\x01\x00\x02", False, "tls: first record does not look like a TLS handshake"),
        (b"\x16\x03\x01\xff\xff", False, "tls: oversized record received with length 65535"),
    ],
)
def test_a_first_record_fed_whole_and_byte_by_byte(data, whole, failure):
    attempt = Attempt(None)
    assert attempt.hear(data) == whole and attempt.failure == failure
    slow, seen = Attempt(None), False
    for at in range(len(data)):
        if not slow.failure:
            seen = slow.hear(data[at : at + 1])
    assert seen == whole and slow.failure == failure


def test_words_for_what_is_no_hello():
    error = ssl.SSLError(1, "x")
    error.reason = "UNSUPPORTED_PROTOCOL"
    assert words(error, b"\x16") == "tls: client offered only unsupported versions"


def test_junk_after_a_refusal_does_no_harm(tmp_path, capsys):
    make(tmp_path, "listener")

    async def main(listener, port):
        def client():
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00" + b"\x16" * 70_000)
                try:
                    while connection.recv(65_536):
                        pass
                except OSError:
                    pass

        await asyncio.get_running_loop().run_in_executor(None, client)
        assert await ask(port, insecure())

    serve(main, files_of(tmp_path))
    assert "rejected connection" in capsys.readouterr().err
