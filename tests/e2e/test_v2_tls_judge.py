"""The v2 API over TLS beside real etcd 3.5.1: the same requests over HTTP/1.1 and over HTTP/2, with
client certificates, whose names are users."""

import base64
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from certificates import Authority, Node

PROGRAMS = ("etcd", "pyetcd")
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
BLANKED = re.compile(
    rb'"(expiration|startTime|uptime|ttl|id|leader|name)":("[^"]*"|\d+)|(127\.0\.0\.1:\d+)'
)
# Blanked, or the transport's own.
BLANKED_HEADERS = ("x-etcd-cluster-id", "x-raft-index", "x-raft-term")
OWN_HEADERS = ("date", "connection", "content-length", "transfer-encoding", "keep-alive")

Row = tuple[str, str, str]
ROWS: list[Row] = [
    ("GET", "/keys/", ""),
    ("HEAD", "/keys/", ""),
    ("GET", "/keys/a", ""),
    ("PUT", "/keys/a", "value=1"),
    ("PUT", "/keys/a", "value=2&ttl=100"),
    ("GET", "/keys/a", ""),
    ("HEAD", "/keys/a", ""),
    ("HEAD", "/keys/nope", ""),
    ("GET", "/keys/a?quorum=true", ""),
    ("GET", "/keys/a?quorum=maybe", ""),
    ("PUT", "/keys/a/b", "value=1"),
    ("PUT", "/keys/a?value=q", ""),
    ("PUT", "/keys/empty", "value="),
    ("PUT", "/keys/escaped", "value=%3Ca%26b%3E%E2%80%A8+%22%5C%0a%00"),
    ("PUT", "/keys/bad", "value=%zz"),
    ("PUT", "/keys/with%20space", "value=1"),
    ("GET", "/keys/x/../a", ""),
    ("PUT", "/keys/", "value=1"),
    ("PUT", "/keys/d", "dir=true"),
    ("PUT", "/keys/d", "dir=true"),
    ("PUT", "/keys/d/x/y", "value=1"),
    ("GET", "/keys/d?recursive=true&sorted=true", ""),
    ("DELETE", "/keys/d?dir=true", ""),
    ("DELETE", "/keys/d?recursive=true", ""),
    ("POST", "/keys/q", "value=1"),
    ("POST", "/keys/q", "value=3&ttl=50"),
    ("GET", "/keys/q?sorted=true", ""),
    ("PUT", "/keys/c", "value=1&prevExist=false"),
    ("PUT", "/keys/c", "value=1&prevExist=false"),
    ("PUT", "/keys/c", "value=3&prevValue=1"),
    ("PUT", "/keys/c", "value=4&prevIndex=1&prevValue=9"),
    ("DELETE", "/keys/c?prevValue=9", ""),
    ("DELETE", "/keys/c?prevValue=3", ""),
    ("PUT", "/keys/n", "value=2&noValueOnSuccess=true"),
    ("PUT", "/keys/t", "value=1&ttl=x"),
    ("PUT", "/keys/t", "refresh=true"),
    ("GET", "/keys/a?wait=true&waitIndex=4", ""),
    ("GET", "/keys/?wait=true&recursive=true&waitIndex=6", ""),
    ("GET", "/keys/a?waitIndex=x", ""),
    ("PUT", "/keys/a", "wait=true"),
    ("PATCH", "/keys/a", ""),
    ("OPTIONS", "/keys/a", ""),
    ("GET", "/nope", ""),
    ("GET", "/machines", ""),
    ("PUT", "/machines", ""),
    ("GET", "/members", ""),
    ("GET", "/members/leader", ""),
    ("GET", "/members/nope", ""),
    ("DELETE", "/members/5", ""),
    ("POST", "/members", "peerURLs=x"),
    ("GET", "/stats/self", ""),
    ("GET", "/stats/leader", ""),
    ("GET", "/auth/enable", ""),
    ("GET", "/auth/users", ""),
    ("GET", "/auth/roles", ""),
]
# Of the clerk's certificate unless a password is given; "-" is a client without a known name.
AUTH: list[tuple[str, str, str, Any]] = [
    ("clerk", "PUT", "/auth/roles/r", {"role": "r"}),
    ("clerk", "PUT", "/auth/roles/r", {"role": "r", "grant": {"kv": {"read": ["/r/*"]}}}),
    ("clerk", "PUT", "/auth/roles/r", {"role": "r", "grant": {"kv": {"write": ["/r/w"]}}}),
    ("clerk", "PUT", "/auth/users/clerk", {"user": "clerk", "password": "p", "roles": ["r"]}),
    ("clerk", "PUT", "/auth/users/boss", {"user": "boss", "password": "p", "roles": ["root"]}),
    ("clerk", "PUT", "/auth/users/root", {"user": "root", "password": "rp"}),
    ("clerk", "PUT", "/auth/enable", None),
    ("boss", "PUT", "/auth/roles/guest", {"role": "guest", "revoke": {"kv": {"write": ["/*"]}}}),
    ("clerk", "PUT", "/keys/r/w", "value=1"),
    ("clerk", "PUT", "/keys/r/x", "value=1"),
    ("clerk", "GET", "/keys/r?recursive=true", None),
    ("clerk", "GET", "/keys/r/w", None),
    ("clerk", "GET", "/keys/a", None),
    ("clerk", "DELETE", "/keys/r/w", None),
    ("boss", "PUT", "/keys/b", "value=1"),
    ("boss", "GET", "/auth/users", None),
    ("clerk", "GET", "/auth/users", None),
    ("clerk", "GET", "/members", None),
    ("clerk", "DELETE", "/members/5", None),
    ("boss", "DELETE", "/members/5", None),
    ("stranger", "PUT", "/keys/r/w", "value=1"),
    ("stranger", "GET", "/keys/r/w", None),
    ("stranger", "GET", "/auth/users", None),
    ("clerk root:rp", "GET", "/auth/users", None),
    ("clerk root:rp", "PUT", "/keys/b", "value=2"),
    ("clerk root:no", "GET", "/keys/b", None),
    ("boss clerk:p", "PUT", "/keys/b", "value=2"),
    ("boss nobody:p", "GET", "/keys/b", None),
    ("boss", "DELETE", "/auth/enable", None),
    ("clerk", "GET", "/auth/enable", None),
]


@dataclass(frozen=True)
class Judged:
    nodes: dict[str, Any]
    authority: Any
    pairs: dict[str, Any]

    def context(self, client: str, protocol: str) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=self.authority.path)
        made.set_alpn_protocols([protocol])
        pair = self.pairs[client]
        made.load_cert_chain(pair.cert, pair.key)
        return made


@pytest.fixture(scope="module", params=("http/1.1", "h2"))
def judged(
    request: Any, machine_type: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Judged, str]]:
    machine = machine_type(tmp_path_factory.mktemp("v2tls"))
    try:
        authority = Authority(Path(machine.folder))
        pairs = {name: authority.issue(name) for name in ("server", "clerk", "boss", "stranger")}
        flags = (f"--cert-file={pairs['server'].cert}", f"--key-file={pairs['server'].key}")
        flags += ("--client-cert-auth", f"--trusted-ca-file={authority.path}", "--enable-v2")
        clerk = pairs["clerk"]
        own = (f"--cacert={authority.path}", f"--cert={clerk.cert}", f"--key={clerk.key}")
        nodes = {
            program: Node(machine, "m", *flags, program=program).wait(*own) for program in PROGRAMS
        }
        made = Judged(nodes, authority, pairs)
        level(made, request.param)
        yield made, request.param
    finally:
        machine.close()


def level(judged: Judged, protocol: str) -> None:
    """Waits until the cluster's version is written, and brings both stores to the same index: a
    member that is slow to hear of its own name writes it twice."""
    deadline_s = time.monotonic() + 30
    while True:
        indexes = {}
        decided = True
        for program, node in judged.nodes.items():
            version = ask(judged, node, protocol, "clerk", "GET", "/version")[2]
            decided = decided and version["etcdcluster"] != "not_decided"
            head = ask(judged, node, protocol, "clerk", "GET", "/v2/keys/")[1]
            indexes[program] = int(head["x-etcd-index"])
        if decided and len(set(indexes.values())) == 1:
            return
        if decided:
            behind = judged.nodes[min(indexes, key=lambda program: indexes[program])]
            ask(judged, behind, protocol, "clerk", "PUT", "/v2/keys/_level", "value=")
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def ask(
    judged: Judged,
    node: Any,
    protocol: str,
    client: str,
    method: str,
    path: str,
    body: Any = None,
) -> tuple[int, dict[str, str], Any]:
    name, _, password = client.partition(" ")
    headers = {}
    if password:
        headers["authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
    raw = b""
    if isinstance(body, str) and body:
        headers["content-type"] = FORM
        raw = body.encode()
    elif body:
        headers["content-type"] = JSON
        raw = json.dumps(body).encode()
    context = judged.context(name, protocol)
    send = over_h2 if protocol == "h2" else over_http1
    status, found, content = send(node.client_port, context, method, path, headers, raw)
    for header in OWN_HEADERS:
        found.pop(header, None)
    for header in BLANKED_HEADERS:
        if found.get(header):
            found[header] = "_"
    content = BLANKED.sub(rb'"\1":"_"', content)
    try:
        return status, found, json.loads(content)
    except ValueError:
        return status, found, content


def over_http1(
    port: int, context: ssl.SSLContext, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, answer.read()
    finally:
        connection.close()


def over_h2(
    port: int, context: ssl.SSLContext, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as channel,
    ):
        assert channel.selected_alpn_protocol() == "h2"
        channel.settimeout(20)
        machine = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        machine.initiate_connection()
        pseudo = [(":method", method), (":scheme", "https"), (":path", path)]
        pseudo.append((":authority", f"127.0.0.1:{port}"))
        machine.send_headers(1, [*pseudo, *headers.items()], end_stream=not body)
        if body:
            machine.send_data(1, body, end_stream=True)
        found: dict[str, str] = {}
        content = b""
        while True:
            channel.sendall(machine.data_to_send())
            raw = channel.recv(65536)
            assert raw, "hung up"
            for event in machine.receive_data(raw):
                if isinstance(event, h2.events.ResponseReceived):
                    found |= {str(name): str(value) for name, value in event.headers}
                elif isinstance(event, h2.events.DataReceived):
                    content += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    return int(found.pop(":status")), found, content
                assert not isinstance(event, h2.events.StreamReset), event


def same(judged: tuple[Judged, str], client: str, method: str, path: str, body: Any) -> None:
    made, protocol = judged
    found = [
        ask(made, made.nodes[program], protocol, client, method, "/v2" + path, body)
        for program in PROGRAMS
    ]
    assert found[1] == found[0]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row))
def test_request(judged: tuple[Judged, str], row: Row) -> None:
    method, path, form = row
    same(judged, "stranger", method, path, form)


@pytest.mark.parametrize("number", range(len(AUTH)), ids=lambda n: " ".join(AUTH[n][:3]))
def test_certificates_are_users(judged: tuple[Judged, str], number: int) -> None:
    same(judged, *AUTH[number])
