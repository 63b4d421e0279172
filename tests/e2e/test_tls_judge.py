"""TLS beside real etcd 3.5.1: the same certificates, flags and clients; the same answers, the same
refusals as the client sees them, the same words in the log.

Both members ask for client certificates on both ports, with a revocation list each and an allowed
name for peers. `PYETCD_TLS_ALL=1` runs the etcdctl pass over server TLS and generated certificates,
too, and the clusters of test_tls_peers.py in full.
"""

import os
import re
import socket
import ssl
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

ALL = bool(os.environ.get("PYETCD_TLS_ALL"))
PROGRAMS = ("etcd", "pyetcd")
OLD = ssl.TLSVersion.TLSv1_1
NEW = ssl.TLSVersion.TLSv1_2


class Judge:
    """One member of each program, and certificates of many kinds."""

    def __init__(self, machine: Any, authority_type: Any, node_type: Any) -> None:
        self.machine = machine
        ours = self.authority = authority_type(machine.folder)
        (machine.folder / "other").mkdir()
        self.other = authority_type(machine.folder / "other", "other")
        self.pairs: dict[str, Any] = {
            "nobody": None,
            "good": ours.issue("good"),
            "member": ours.issue("member"),
            "revoked": ours.issue("revoked"),
            "expired": ours.issue("expired", from_days=-10),
            "future": ours.issue("future", from_days=10),
            "elsewhere": ours.issue("elsewhere", hosts=("192.0.2.1",)),
            "nowhere": ours.issue("nowhere", hosts=("nowhere.invalid",)),
            "nameless": ours.issue("nameless", hosts=()),
            "server": ours.issue("server", usages=[ExtendedKeyUsageOID.SERVER_AUTH]),
            "stranger": self.other.issue("stranger"),
        }
        list_ = ours.revoke(self.pairs["revoked"])
        # The gateway of real etcd calls itself with the server's certificate: both usages.
        cert = ours.issue("listener")
        client = mutual(cert, ours.path, list_)
        peer = [flag.replace("--", "--peer-").replace("peer-client-crl", "peer-crl")
                for flag in client]  # fmt: skip
        self.nodes = {
            program: node_type(
                machine, "m", *client, *peer, "--bcrypt-cost=4", peer="https", program=program
            )
            for program in PROGRAMS
        }
        for node in self.nodes.values():
            node.wait(*self.files("good"))

    def files(self, name: str) -> tuple[str, ...]:
        pair = self.pairs[name]
        return f"--cacert={self.authority.path}", f"--cert={pair.cert}", f"--key={pair.key}"


def mutual(cert: Any, authority: str, revoked: str) -> list[str]:
    return [
        f"--cert-file={cert.cert}",
        f"--key-file={cert.key}",
        f"--trusted-ca-file={authority}",
        "--client-cert-auth",
        f"--client-crl-file={revoked}",
    ]


@pytest.fixture(scope="module")
def judge(
    tmp_path_factory: pytest.TempPathFactory, machine_type: Any, authority_type: Any, node_type: Any
) -> Iterator[Judge]:
    machine = machine_type(tmp_path_factory.mktemp("judge"))
    try:
        yield Judge(machine, authority_type, node_type)
    finally:
        machine.close()


def speak(port: int, pair: Any, *, version: Any = NEW, ciphers: str = "", path: str = "/health",
          first: bytes = b"") -> str:  # fmt: skip
    """The last line of the answer, or the alert, or "closed"."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old versions
        context.set_ciphers((ciphers or "ALL") + ":@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    ask = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    try:
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        with plain, context.wrap_socket(plain) as connection:
            connection.sendall(ask)
            answer = b""
            while not is_whole(answer) and (piece := connection.recv(65536)):
                answer += piece
    except ssl.SSLError as error:
        return str(error.reason) if "ALERT" in str(error.reason) else "closed"
    except OSError:
        return "closed"
    return answer.decode().rstrip().rpartition("\n")[2] or "closed"


def is_whole(answer: bytes) -> bool:
    """The peer port of real etcd closes five seconds after its answer."""
    length = re.search(rb"(?i)content-length: (\d+)", answer)
    return length is not None and len(answer.partition(b"\r\n\r\n")[2]) == int(length[1])


def send(port: int, data: bytes) -> str:
    """What comes back to bytes without TLS, up to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except OSError:
            pass
    return answer.hex() or "closed"


def plain(text: str) -> str:
    """Without a time and an address."""
    text = re.sub(r": current time .*", "", text)
    return re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", text)


HEALTHY = '{"health":"true","reason":""}'
BAD = "SSLV3_ALERT_BAD_CERTIFICATE"
NO_TLS = "tls: first record does not look like a TLS handshake"
UNVERIFIED = "tls: failed to verify client certificate: x509: "
EXPIRED = UNVERIFIED + "certificate has expired or is not yet valid"
# Who comes, to the client port: what they see, and the error in the log.
CLIENTS: dict[str, tuple[str, str]] = {
    "good": (HEALTHY, ""),
    "nobody": (BAD, "tls: client didn't provide a certificate"),
    "stranger": (BAD, UNVERIFIED + "certificate signed by unknown authority"),
    "expired": (BAD, EXPIRED),
    "future": (BAD, EXPIRED),
    "server": (BAD, UNVERIFIED + "certificate specifies an incompatible key usage"),
    "revoked": ("closed", "transport: certificate serial SERIAL revoked"),
    "elsewhere": (HEALTHY, ""),  # only peers are asked where they come from
    "nowhere": (HEALTHY, ""),
}
PEERS: dict[str, tuple[str, str]] = {
    "member": ("[", ""),
    "nameless": ("[", ""),
    "nobody": CLIENTS["nobody"],
    "stranger": CLIENTS["stranger"],
    "expired": CLIENTS["expired"],
    "revoked": CLIENTS["revoked"],
    "elsewhere": ("closed", "x509: certificate is valid for 192.0.2.1, not 127.0.0.1"),
    "nowhere": ("closed", 'tls: "127.0.0.1" does not match any of DNSNames ["nowhere.invalid"]'),
}
WEAK = "DHE-RSA-AES256-SHA:AES128-SHA"
ALPN_H2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BYTES: dict[str, tuple[bytes, str]] = {
    "plain HTTP": (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", NO_TLS),
    "plain HTTP/2": (ALPN_H2, NO_TLS),
    "zeros": (bytes(100), NO_TLS),
    "nothing": (b"", "EOF"),
    "half a head": (b"\x16\x03\x01", "unexpected EOF"),
    "half a hello": (bytes.fromhex("16030102000100 01fc0303"), "unexpected EOF"),
    "a record too long": (b"\x16\x03\x01\xff\xff", "tls: oversized record received with length "
                          "65535"),
}  # fmt: skip


def logged(node: Any, since: int, wait_until: Any) -> str:
    """The error of the next refusal."""
    wait_until(lambda: "rejected connection" in node.process.log[since:], "a line")
    return next(plain(error) for said, error in node.said(since) if said == "rejected connection")


@pytest.mark.parametrize("name", CLIENTS)
def test_who_comes_to_the_client_port(judge: Judge, name: str, wait_until: Any) -> None:
    seen, error = CLIENTS[name]
    for program, node in judge.nodes.items():
        since = len(node.process.log)
        assert speak(node.client_port, judge.pairs[name]) == seen, program
        _check_line(judge, node, since, name, error, wait_until)


@pytest.mark.parametrize("name", PEERS)
def test_who_comes_to_the_peer_port(judge: Judge, name: str, wait_until: Any) -> None:
    seen, error = PEERS[name]
    for program, node in judge.nodes.items():
        since = len(node.process.log)
        told = speak(node.peer_port, judge.pairs[name], path="/members")
        assert told.startswith(seen) if seen == "[" else told == seen, program
        _check_line(judge, node, since, name, error, wait_until)


def _check_line(
    judge: Judge, node: Any, since: int, name: str, error: str, wait_until: Any
) -> None:
    if not error:
        return
    serial = f"{judge.pairs['revoked'].certificate.serial_number:040x}"
    serial = serial[serial.startswith("00") * 2 :]
    found = logged(node, since, wait_until)
    if name == "nowhere":  # what the resolver says comes after it in etcd
        found = found.partition(" (")[0]
    assert found == error.replace("SERIAL", serial), node.name


def test_old_versions_and_weak_suites_are_refused(judge: Judge, wait_until: Any) -> None:
    good = judge.pairs["good"]
    for node in judge.nodes.values():
        since = len(node.process.log)
        assert speak(node.client_port, good, version=OLD) == "TLSV1_ALERT_PROTOCOL_VERSION"
        assert (
            logged(node, since, wait_until)
            == "tls: client offered only unsupported versions: [302 301]"
        )
        since = len(node.process.log)
        assert speak(node.client_port, good, ciphers=WEAK) == "SSLV3_ALERT_HANDSHAKE_FAILURE"
        assert (
            logged(node, since, wait_until)
            == "tls: no cipher suite supported by both client and server"
        )


def test_tls_13_is_spoken_and_its_alerts_are_exact(judge: Judge) -> None:
    """On purpose: real etcd 3.5.1 ends at 1.2."""
    port = judge.nodes["pyetcd"].client_port
    newest = ssl.TLSVersion.TLSv1_3
    assert speak(port, judge.pairs["good"], version=newest) == HEALTHY
    told = {name: speak(port, judge.pairs[name], version=newest)
            for name in ("nobody", "stranger", "expired", "revoked")}  # fmt: skip
    assert told == {
        "nobody": "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "stranger": "TLSV1_ALERT_UNKNOWN_CA",
        "expired": "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "revoked": "closed",
    }


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_handshake(judge: Judge, name: str, wait_until: Any) -> None:
    data, error = BYTES[name]
    for node in judge.nodes.values():
        for port in (node.client_port, node.peer_port):
            since = len(node.process.log)
            told = send(port, data)
            # etcd says record_overflow to a record that is too long
            assert told == "closed" or (name == "a record too long" and told == "15030100020216")
            assert logged(node, since, wait_until) == error, node.name


def test_etcdctl_says_the_same_of_refusals(judge: Judge) -> None:
    short = ("--dial-timeout=300ms", "--command-timeout=500ms")
    trust = f"--cacert={judge.authority.path}"
    cases = {
        "nobody": (trust,),
        "stranger": judge.files("stranger"),
        "expired": judge.files("expired"),
        "untrusted server": (f"--cacert={judge.other.path}", *judge.files("good")[1:]),
    }

    def said(program: str, name: str) -> tuple[int, list[str]]:
        node = judge.nodes[program]
        done = node.ctl(*short, *cases[name], "get", "k", check=False)
        errors = re.findall(r'"error":"(.*)"}', done.stderr)
        return done.returncode, [plain(error) for error in errors]

    with ThreadPoolExecutor(2) as pool:
        runs = {(program, name): pool.submit(said, program, name)
                for name in cases for program in PROGRAMS}  # fmt: skip
    for name in cases:
        ours, real = (runs[program, name].result() for program in ("pyetcd", "etcd"))
        assert ours == real and ours[0] == 1 and ours[1], name


def test_tls_on_a_plain_port_is_closed(machine: Any, wait_until: Any) -> None:
    hello = bytes.fromhex("160301000401000000")
    for program in PROGRAMS:
        assert send(machine.single(program).client_port, hello) == "closed", program


# ---- the etcdctl pass ----

PASS = (
    ("put", "a", "1"),
    ("get", "a"),
    ("get", "", "--prefix", "--keys-only"),
    ("del", "a"),
    ("txn",),
    ("lease", "grant", "100", "-w=fields"),
    ("lease", "list", "-w=fields"),
    ("member", "list", "-w=simple"),
    ("endpoint", "health"),
    ("endpoint", "status", "-w=fields"),
    ("endpoint", "hashkv", "-w=simple"),
    ("snapshot", "save", "FILE"),
    ("compaction", "2"),
    ("alarm", "list"),
    ("move-leader", "1"),
    ("role", "add", "r"),
    ("role", "grant-permission", "r", "readwrite", "a", "--prefix"),
    ("user", "add", "root:pw"),
    ("user", "add", "good", "--no-password"),
    ("user", "grant-role", "good", "r"),
    ("auth", "status"),
    ("auth", "enable"),
    ("put", "a1", "v"),
    ("put", "b", "v"),
    ("--user=root:pw", "put", "b", "v"),
    ("--user=root:no", "put", "b", "v"),
    ("user", "list"),
    ("watch", "b", "--rev=1"),
    ("--user=root:pw", "auth", "disable"),
    ("put", "b", "w"),
)
TXN = 'value("a") = "1"\n\nput a 2\n\nput a 3\n\n'
NUMBERS = re.compile(r"[0-9a-f]{8,}|\d{4,}|\d+(\.\d+)? ?(ms|µs|s|kB|MB)\b")
WORDS = re.compile(r'"(Version|DBSize|DBSizeInUse|RaftIndex|RaftAppliedIndex|RaftTerm)" :.*')


def shape(text: str) -> str:
    return WORDS.sub("", NUMBERS.sub("N", text))


def ctl_pass(node: Any, argv: list[str], commands: Any, name: str) -> list[tuple[Any, ...]]:
    found = []
    for command in commands:
        args = [str(node.machine.folder / f"{name}.db") if arg == "FILE" else arg
                for arg in command]  # fmt: skip
        done = node.machine.run(
            *argv, f"--endpoints={node.endpoint}", *args, stdin=TXN, check=False
        )
        said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("{"))
        out = done.stdout.replace(f"{name}.db", "FILE")
        found.append((command, done.returncode, shape(out), shape(said)))
    return found


def test_a_ctl_pass_over_mutual_tls(judge: Judge) -> None:
    """With a user whose name is in the certificate, once authentication is on."""
    argv = [judge.machine.etcdctl, *judge.files("good")]
    with ThreadPoolExecutor(2) as pool:
        ours, real = pool.map(
            lambda program: ctl_pass(judge.nodes[program], argv, PASS, program),
            ("pyetcd", "etcd"),
        )
    for mine, theirs in zip(ours, real, strict=True):
        assert mine == theirs
    assert [row[1] for row in ours].count(0) > len(PASS) - 7


def test_our_ctl_over_mutual_tls(judge: Judge) -> None:
    argv = [judge.machine.pyetcd, "ctl", *judge.files("good")]
    commands = (("put", "o", "1"), ("get", "o"), ("endpoint", "health"))
    for node in judge.nodes.values():
        rows = ctl_pass(node, argv, commands, "ours")
        assert [row[1] for row in rows] == [0, 0, 0], rows


@pytest.mark.skipif(not ALL, reason="PYETCD_TLS_ALL=1 runs it")
@pytest.mark.parametrize("mode", ["server", "auto"])
def test_a_ctl_pass_over_other_tls(machine: Any, authority: Any, node_type: Any, mode: str) -> None:
    pair = authority.issue("listener")
    flags = (
        ["--auto-tls", "--peer-auto-tls"]
        if mode == "auto"
        else [f"--cert-file={pair.cert}", f"--key-file={pair.key}"]
    )
    trust = (
        ["--insecure-skip-tls-verify", "--insecure-transport=false"]
        if mode == "auto"
        else [f"--cacert={authority.path}"]
    )
    peer = "https" if mode == "auto" else "http"
    flags.append("--bcrypt-cost=4")
    nodes = [node_type(machine, "m", *flags, peer=peer, program=program) for program in PROGRAMS]
    skipped = ("role", "user", "auth", "watch", "--user=root:pw", "--user=root:no")
    commands = [row for row in PASS if row[0] not in skipped]
    for program in ("etcdctl", "pyetcd ctl"):
        argv = [machine.etcdctl] if program == "etcdctl" else [machine.pyetcd, "ctl"]
        real, ours = (
            ctl_pass(node.wait(*trust), [*argv, *trust], commands, node.name) for node in nodes
        )
        for mine, theirs in zip(ours, real, strict=True):
            assert mine == theirs, program


# ---- health ----


def test_health_over_every_protocol(judge: Judge) -> None:
    good = judge.pairs["good"]
    files = [Path(path).read_bytes() for path in (judge.authority.path, good.key, good.cert)]
    answers = []
    for node in judge.nodes.values():
        over_h2 = [get_h2(node.client_port, good, path) for path in ("/health", "/version")]
        assert over_h2[0] == (200, HEALTHY)
        assert b"etcd_server_has_leader 1" in get_h2(node.client_port, good, "/metrics", raw=True)
        assert speak(node.client_port, good, path="/version") == over_h2[1][1]
        credentials = grpc.ssl_channel_credentials(*files)
        with grpc.secure_channel(f"127.0.0.1:{node.client_port}", credentials) as channel:
            health = channel.unary_unary("/grpc.health.v1.Health/Check")
            serving = health(b"", timeout=20)
        answers.append((over_h2[0], serving))
    assert answers[0] == answers[1]


def get_h2(port: int, pair: Any, path: str, *, raw: bool = False) -> Any:
    """A GET over HTTP/2, chosen by ALPN."""
    from h2.connection import H2Connection
    from h2.events import DataReceived, ResponseReceived, StreamEnded

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(pair.cert, pair.key)
    client = H2Connection()
    status, body, over = 0, b"", False
    deadline_s = time.monotonic() + 20
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    with connection, context.wrap_socket(connection) as secure:
        assert secure.selected_alpn_protocol() == "h2"
        client.initiate_connection()
        head = [(":method", "GET"), (":path", path), (":scheme", "https"), (":authority", "x")]
        client.send_headers(1, head, end_stream=True)
        secure.sendall(client.data_to_send())
        while not over and time.monotonic() < deadline_s:
            for event in client.receive_data(secure.recv(65536)):
                if isinstance(event, ResponseReceived):
                    status = int(dict(event.headers or [])[b":status"])
                elif isinstance(event, DataReceived):
                    body += event.data or b""
                    client.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                over = over or isinstance(event, StreamEnded)
            secure.sendall(client.data_to_send())
    return body if raw else (status, body.decode())
