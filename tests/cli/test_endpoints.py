"""The client and several endpoints, which answer as told: fail-over, tokens, lost answers."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest

from pyetcd.cli import client as calls
from pyetcd.cli.client import Client, ClientError
from pyetcd.cli.ctl.run import run
from pyetcd.cli.dial import Settings
from pyetcd.proto import rpc_pb2 as rpc

Answer = Callable[[grpc.ServicerContext], bytes]


@dataclass
class Server(grpc.GenericRpcHandler):
    """A gRPC server that answers each method as told; it counts what it is asked."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self.server = grpc.server(
            ThreadPoolExecutor(4), handlers=(self,), options=[("grpc.so_reuseport", 0)]
        )
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        name = details.method.rpartition("/")[2]

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.asked.append(name)
            return self.answers.get(name, lambda context: b"")(context)

        return grpc.unary_unary_rpc_method_handler(answer)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server.stop(None).wait()


def refuse(code: grpc.StatusCode, text: str) -> Answer:
    return lambda context: context.abort(code, text)


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    both = Server(), Server()
    yield both
    for server in both:
        server.stop()


@pytest.fixture
def hanging() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def make(*endpoints: str, user: str = "", password: str = "") -> Client:
        settings = Settings(list(endpoints), 2.0, 10000, 6000, user=user, password=password)
        made.append(Client(list(endpoints), settings, warn=lambda line: None))
        return made[-1]

    yield make
    for client in made:
        client.close()


def get(client: Client) -> rpc.RangeResponse:
    return client.call(calls.RANGE, rpc.RangeRequest(key=b"k"), timeout_s=5)


def put(client: Client) -> rpc.PutResponse:
    return client.call(calls.PUT, rpc.PutRequest(key=b"k"), timeout_s=5)


UNAVAILABLE = refuse(grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")


def test_requests_are_spread(servers, connect):
    client = connect(*(server.endpoint for server in servers))
    deadline_s = time.monotonic() + 10
    while not all(server.asked for server in servers):  # the second connection takes its time
        get(client)
        assert time.monotonic() < deadline_s
    before = [len(server.asked) for server in servers]
    for _ in range(10):
        get(client)
    asked = [len(server.asked) - n for server, n in zip(servers, before, strict=True)]
    assert asked == [5, 5]


def test_dead_and_hanging_endpoints_cost_nothing(servers, connect, hanging):
    client = connect("127.0.0.1:1", hanging, servers[0].endpoint)
    for _ in range(4):
        get(client)
        put(client)
    assert servers[0].asked == ["Range", "Put"] * 4


def test_a_read_goes_to_another(servers, connect):
    servers[0].answers["Range"] = UNAVAILABLE
    client = connect(*(server.endpoint for server in servers))
    for _ in range(6):
        get(client)
    assert servers[1].asked.count("Range") == 6


def test_a_write_of_unknown_outcome_is_not_repeated(servers, connect):
    for server in servers:
        server.answers["Put"] = server.answers["Txn"] = UNAVAILABLE
    client = connect(*(server.endpoint for server in servers))
    with pytest.raises(ClientError) as failure:
        put(client)
    assert failure.value.text == "etcdserver: leader changed"
    with pytest.raises(ClientError):
        client.call(calls.TXN, rpc.TxnRequest(), timeout_s=5)
    assert sum(len(server.asked) for server in servers) == 2


def test_a_write_whose_server_dies_is_not_repeated(servers, connect):
    """The first server has it and hangs up; whether it was done nobody knows."""
    first, second = servers
    came = threading.Event()

    def never(context: grpc.ServicerContext) -> bytes:
        came.set()
        time.sleep(0.5)
        return b""

    first.answers["Put"] = second.answers["Put"] = never
    client = connect(first.endpoint, second.endpoint)

    def stop_it() -> None:
        came.wait(10)
        for server in servers:
            server.stop()

    killer = threading.Thread(target=stop_it)
    killer.start()
    with pytest.raises(ClientError) as failure:
        put(client)
    killer.join()
    assert failure.value.code in ("Unavailable", "Canceled")
    assert sum(len(server.asked) for server in servers) == 1


def test_an_endpoint_that_dies_between(servers, connect):
    first, second = servers
    client = connect(first.endpoint, second.endpoint)
    for _ in range(4):
        get(client)
    first.stop()
    for _ in range(4):
        get(client)
    put(client)
    assert second.asked[-1] == "Put"


def _tokens(server: Server, *, valid: list[str]) -> None:
    """Authentication with tokens that are valid for as long as `valid` names them."""

    def authenticate(context: grpc.ServicerContext) -> bytes:
        token = f"token{server.asked.count('Authenticate')}"
        valid.append(token)
        return rpc.AuthenticateResponse(token=token).SerializeToString()

    def check(context: grpc.ServicerContext) -> bytes:
        if dict(context.invocation_metadata()).get("token") not in valid:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")
        return b""

    server.answers |= {"Authenticate": authenticate, "Range": check, "Put": check}


def test_a_forgotten_token_is_replaced(servers, connect):
    """A refused request was not carried out: a write is sent again, too."""
    server = servers[0]
    valid: list[str] = []
    _tokens(server, valid=valid)
    client = connect(server.endpoint, user="u", password="p")
    client.authenticate()
    put(client)
    valid.clear()  # a restart
    put(client)
    valid.clear()
    get(client)
    assert server.asked.count("Authenticate") == 3
    assert server.asked.count("Put") == 3


def test_tokens_that_never_do(servers, connect):
    server = servers[0]
    _tokens(server, valid=[])
    server.answers["Put"] = refuse(
        grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token"
    )
    client = connect(server.endpoint, user="u", password="p")
    client.authenticate()
    with pytest.raises(ClientError):
        put(client)
    assert server.asked.count("Put") == 1 + calls.REFRESHES_MAX


def test_a_token_by_flag(servers):
    server = servers[0]
    seen: list[object] = []
    server.answers["Range"] = lambda context: (
        seen.append(dict(context.invocation_metadata()).get("token")) or b""
    )
    ends = run([f"--endpoints={server.endpoint}", "get", "k", "--auth-jwt-token=a.b.c"])
    assert ends == (b"", b"", 0)
    assert seen == ["a.b.c"] and server.asked == ["Range"]


def test_limits_of_messages(servers):
    server = servers[0]
    large = rpc.RangeResponse(kvs=[{"key": b"k", "value": b"v" * 5000}]).SerializeToString()
    server.answers["Range"] = lambda context: large
    endpoint = f"--endpoints={server.endpoint}"
    assert run([endpoint, "get", "k"])[2] == 0
    _, err, code = run([endpoint, "get", "k", "--max-recv-bytes=1000"])
    assert code == 1 and b"ResourceExhausted" in err
    _, err, code = run([endpoint, "put", "k", "v" * 2000, "--max-request-bytes=1000"])
    assert code == 1 and b"trying to send message larger than max" in err
    assert server.asked.count("Put") == 0


def test_command_timeout(servers):
    server = servers[0]
    server.answers["Range"] = lambda context: time.sleep(0.6) or b""
    _, err, code = run([f"--endpoints={server.endpoint}", "get", "k", "--command-timeout=200ms"])
    assert code == 1 and err.endswith(b"Error: context deadline exceeded\n")


def test_keep_alive_flags():
    from io import BytesIO

    from pyetcd.cli.command import resolve
    from pyetcd.cli.context import Context
    from pyetcd.cli.ctl.tree import ROOT
    from pyetcd.cli.terminal import Streams

    argv = ["get", "k", "--keepalive-time=30s", "--keepalive-timeout=7s", "--dial-timeout=3s"]
    found = resolve(ROOT, argv)
    streams = Streams(BytesIO(), BytesIO(), BytesIO())
    settings = Context(found.command, found.flags, env={}, streams=streams, argv=argv).settings()
    assert settings.keepalive_ms == 30_000
    assert settings.keepalive_timeout_ms == 7_000
    assert settings.dial_timeout_s == 3.0
