"""The operator's endpoints, through the real HTTP/1.1 parser, compared with the real etcd."""

import http.client
import json
from collections.abc import Callable, Collection
from typing import Protocol, cast

import pytest

from pyetcd.proto.errors import EtcdError, Timeout
from pyetcd.proto.rpc_pb2 import AlarmMember, AlarmType
from pyetcd.raft.rawnode import Config as RaftConfig
from pyetcd.raft.rawnode import RawNode, Status
from pyetcd.raft.storage import MemoryStorage
from pyetcd.server.clock import seeded_rng
from pyetcd.server.http.ops import Ops
from pyetcd.server.http.router import ClientPort, Router, hostname
from pyetcd.server.metrics import Metrics
from pyetcd.server.wire.http1 import HttpConnection, HttpRequest, HttpResponder, HttpService
from pyetcd.server.wire.limits import Limits


class Etcd(Protocol):
    client_port: int
    metrics_port: int


class Source:
    """A member that answers what the test wants."""

    server_version = "3.5.1"
    cluster_version = "3.5.0"
    applied_index = 4

    def __init__(self) -> None:
        self.has_leader = True
        self.is_learner = False
        self.is_disk_stalled = self.is_log_lost = False
        self.alarms: list[AlarmMember] = []
        self.error: EtcdError | None = None
        self.waiting: list[Callable[[EtcdError | None], None]] = []
        self.answers = True

    def linearizable_read(self, done: Callable[[EtcdError | None], None]) -> None:
        if self.answers:
            done(self.error)
        else:
            self.waiting.append(done)

    def serializable_read(self) -> EtcdError | None:
        return None

    def raft_status(self) -> Status:
        storage = MemoryStorage()
        config = RaftConfig(
            id=0xAB, election_ticks=10, heartbeat_ticks=1, storage=storage, applied=0,
            rng=seeded_rng(1),
        )  # fmt: skip
        return RawNode(config).status()


class Port:
    """One listener without a socket."""

    def __init__(
        self,
        *,
        client_port: bool = True,
        origins: Collection[str] = ("*",),
        hosts: Collection[str] = ("*",),
    ) -> None:
        self.source = Source()
        self.metrics = Metrics(extensive=True)
        router = Router()
        Ops(self.source, self.metrics).add_to(router, client_port=client_port)
        router.prefix("/v3/", lambda request, responder: responder.send(404))
        inner = ClientPort(router, origins=origins, hosts=hosts)
        self.handler = inner if client_port else router

    def connection(self) -> HttpConnection:
        return HttpConnection(
            HttpService(self.handler), Limits(), clock=lambda: 0.0, date=lambda: "now",
            wake=lambda: None,
        )  # fmt: skip

    def ask(
        self, method: str, target: str, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = self.connection()
        fields = {"Host": "localhost", **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        connection.receive(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode())
        head, _, body = b"".join(connection.out).partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        pairs = (line.partition(": ") for line in rest)
        return int(first.split()[1]), {name: value for name, _, value in pairs}, body


def real(
    port: int, method: str, target: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, target, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def compare(
    ours: tuple[int, dict[str, str], bytes], theirs: tuple[int, dict[str, str], bytes]
) -> None:
    for answer in (ours, theirs):
        answer[1].pop("Date")
    assert ours == theirs


ASKED = [
    ("GET", "/health"),
    ("GET", "/health?exclude=NOSPACE&exclude=CORRUPT"),
    ("GET", "/health?serializable=true"),
    ("GET", "/version"),
    ("GET", "/nope"),
    ("GET", "/"),
    ("GET", "/health/"),
    ("GET", "//health"),
    ("GET", "/a/../health"),
    ("GET", "/v3"),
    ("POST", "/health"),
    ("HEAD", "/health"),
    ("PUT", "/version"),
    ("DELETE", "/debug/vars"),
    ("OPTIONS", "/health"),
    ("OPTIONS", "/nope"),
]


@pytest.mark.parametrize(("method", "target"), ASKED)
def test_client_port_as_etcd(real_etcd: Etcd, method: str, target: str) -> None:
    compare(Port().ask(method, target), real(real_etcd.client_port, method, target))


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/health"), ("GET", "/version"), ("GET", "/debug/vars"), ("OPTIONS", "/health")],
)
def test_metrics_port_as_etcd(real_etcd: Etcd, method: str, target: str) -> None:
    compare(
        Port(client_port=False).ask(method, target), real(real_etcd.metrics_port, method, target)
    )


def test_metrics_headers_as_etcd(real_etcd: Etcd) -> None:
    for method in ("GET", "POST"):
        status, headers, body = Port().ask(method, "/metrics")
        their_status, their_headers, _ = real(real_etcd.client_port, method, "/metrics")
        for one in (headers, their_headers):
            one.pop("Date")
            one.pop("Transfer-Encoding", None)
            one.pop("Content-Length", None)
        assert (status, headers) == (their_status, their_headers)
        assert body.startswith(b"# HELP ")


def test_debug_vars_as_etcd(real_etcd: Etcd) -> None:
    _, headers, body = Port().ask("GET", "/debug/vars")
    _, their_headers, their_body = real(real_etcd.client_port, "GET", "/debug/vars")
    assert headers["Content-Type"] == their_headers["Content-Type"]
    ours, theirs = json.loads(body), json.loads(their_body)
    assert ours.keys() == theirs.keys()
    assert ours["raft.status"].keys() == theirs["raft.status"].keys()
    assert ours["raft.status"]["raftState"] == "StateFollower"


def alarm(kind: AlarmType) -> AlarmMember:
    return AlarmMember(memberID=1, alarm=kind)


def health(port: Port, target: str = "/health") -> tuple[int, str]:
    status, _, body = port.ask("GET", target)
    return status, json.loads(body)["reason"]


def test_health_reasons() -> None:
    port = Port()
    port.source.error = Timeout()
    assert health(port) == (503, "RANGE ERROR:etcdserver: request timed out")
    assert health(port, "/health?serializable=true") == (200, "")
    port.source.has_leader = False
    assert health(port) == (503, "RAFT NO LEADER")
    assert health(port, "/health?serializable=true") == (200, "")
    port.source.is_disk_stalled = True
    assert health(port) == (503, "DISK STALLED")
    port.source.is_disk_stalled = False
    port.source.alarms = [alarm(AlarmType.NOSPACE), alarm(AlarmType.CORRUPT)]
    assert health(port) == (503, "ALARM NOSPACE")
    assert health(port, "/health?exclude=NOSPACE") == (503, "ALARM CORRUPT")
    assert health(port, "/health?exclude=NOSPACE&exclude=CORRUPT") == (503, "RAFT NO LEADER")
    port.source.alarms = [alarm(cast("AlarmType", 7))]
    assert health(port) == (503, "ALARM UNKNOWN")
    counters = port.metrics.counters
    assert (counters.health_success, counters.health_failures) == (2, 7)


def test_unhealthy_answer_byte_by_byte() -> None:
    port = Port(client_port=False)
    port.source.has_leader = False
    status, headers, body = port.ask("GET", "/health")
    assert (status, body) == (503, b'{"health":"false","reason":"RAFT NO LEADER"}\n')
    assert headers == {
        "Content-Type": "text/plain; charset=utf-8",
        "X-Content-Type-Options": "nosniff",
        "Content-Length": "45",
        "Date": "now",
    }


def test_answer_that_comes_later_or_never() -> None:
    port = Port()
    port.source.answers = False
    connection = port.connection()
    connection.receive(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.out == []
    port.source.waiting[0](None)
    assert b"".join(connection.out).endswith(b'{"health":"true","reason":""}')


def test_livez_and_readyz() -> None:
    port = Port()
    assert port.ask("GET", "/livez")[2] == b"ok\n"
    assert port.ask("GET", "/livez?verbose")[2] == b"[+]serializable_read ok\nok\n"
    assert port.ask("GET", "/readyz?verbose")[2] == (
        b"[+]data_corruption ok\n[+]linearizable_read ok\n[+]non_learner ok\n"
        b"[+]serializable_read ok\nok\n"
    )
    port.source.has_leader = False
    port.source.is_learner = True
    port.source.alarms = [alarm(AlarmType.CORRUPT)]
    status, _, body = port.ask("GET", "/readyz")
    assert status == 503
    assert body == (
        b"[-]data_corruption failed: alarm activated: CORRUPT\n"
        b"[-]linearizable_read failed: range error: etcdserver: no leader\n"
        b"[-]non_learner failed: not supported for learner\n[+]serializable_read ok\n\n"
    )
    assert port.ask("GET", "/readyz/serializable_read")[0] == 200
    assert port.ask("GET", "/readyz/non_learner")[0] == 503
    excluded = "exclude=data_corruption&exclude=linearizable_read&exclude=non_learner"
    assert port.ask("GET", f"/readyz?{excluded}")[0] == 200
    assert port.ask("GET", "/livez")[0] == 200
    assert port.ask("POST", "/livez")[0] == 405


def test_host_whitelist() -> None:
    port = Port(hosts=("a", "::1"))
    status, headers, body = port.ask("GET", "/health", {"Host": "evil:1"})
    assert status == 421 and b'--host-whitelist "evil"' in body
    assert "Access-Control-Allow-Origin" not in headers
    assert port.ask("OPTIONS", "/health", {"Host": "evil"})[0] == 421
    for host in ("a", "a:2379", "[::1]:2379", "[::1]"):
        assert port.ask("GET", "/health", {"Host": host})[0] == 200


def test_origins() -> None:
    port = Port(origins=("http://x:80",))
    allowed = port.ask("GET", "/version", {"Origin": "http://x:80"})[1]
    assert allowed["Access-Control-Allow-Origin"] == "http://x:80"
    assert "Access-Control-Allow-Origin" not in port.ask("GET", "/version")[1]
    other = port.ask("GET", "/version", {"Origin": "http://y:80"})[1]
    assert "Access-Control-Allow-Origin" not in other


def test_routes() -> None:
    seen: list[str] = []

    def note(name: str) -> Callable[[HttpRequest, HttpResponder], None]:
        def handle(request: HttpRequest, responder: HttpResponder) -> None:
            seen.append(f"{name} {request.path}")
            responder.send(204)

        return handle

    port = Port()
    router = Router()
    router.prefix("/v3/", note("v3"))
    router.prefix("/v3/kv/", note("kv"))
    router.exact("/v3/kv/put", note("put"))
    port.handler = ClientPort(router)
    for path in ("/v3/kv/put", "/v3/kv/x", "/v3/x", "/v3beta/kv/put", "/v3alpha/kv/put"):
        assert port.ask("POST", path)[0] == 204
    assert seen == ["put /v3/kv/put", "kv /v3/kv/x", "v3 /v3/x", *["put /v3/kv/put"] * 2]
    assert port.ask("GET", "/v3gamma/kv/put")[0] == 404
    assert port.ask("GET", "/v3/kv")[1]["Location"] == "/v3/kv/"


def test_hostname() -> None:
    assert [hostname(one) for one in ("a", "a:1", "[::1]:1", "::1", "")] == [
        "a",
        "a",
        "::1",
        "::1",
        "",
    ]
