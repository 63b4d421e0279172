"""Facts of etcd's behaviour, asked of real etcd 3.5.1 and of pyetcd with the same assertions.

A test takes `side` and runs twice. Both sides are one server each for the whole session, so a
test writes under its own `side.prefix`, reckons with revisions from `side.revision()`, and leaves
nothing behind that acts later: no lease that may expire, no alarm, no user, no member. What needs
a server of its own, with flags of its own, takes it from `side.fresh(...)`.

Answers come without what tells who answered (ids of members, the term); a refusal is the pair of
its code and its text.
"""

import itertools
import os
import queue
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.keys import prefix_end
from pyetcd.proto.services import METHODS, Kind

WAIT_S = 20.0
POLL_S = 0.02
_numbers = itertools.count()


def plain(answer: Any) -> Any:
    if answer.HasField("header"):
        answer.header.ClearField("cluster_id")
        answer.header.ClearField("member_id")
        answer.header.ClearField("raft_term")
    return answer


class Stream:
    """A stream of requests and one of answers; a wait for an answer is bounded."""

    def __init__(self, channel: grpc.Channel, path: str, metadata: Any = None) -> None:
        method = METHODS[path]
        self._request = method.request
        self._requests: queue.Queue[Any] = queue.Queue()
        stub = channel.stream_stream(
            path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        requests = iter(self._requests.get, None)
        self.call: Any = stub(requests, metadata=metadata, timeout=WAIT_S)

    def ask(self, **fields: Any) -> None:
        self.send(self._request(**fields))

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def take(self) -> Any:
        """The next answer, or the refusal that ended the stream."""
        try:
            return plain(next(self.call))
        except grpc.RpcError as error:
            return error.code().value[0], error.details()

    def close(self) -> None:
        self._requests.put(None)
        self.call.cancel()


class Side:
    """One server, a channel to it and a prefix of keys."""

    def __init__(self, program: str, endpoint: str, fresh: Callable[..., "Side"]) -> None:
        self.program = program
        self.is_etcd = program == "etcd"
        self.endpoint = endpoint
        self.prefix = b""
        self.fresh = fresh  # another server of this program: fresh("--flag=...")
        self.process: Any = None
        self._streams: list[Stream] = []
        self.channel = grpc.insecure_channel(
            endpoint,
            [
                ("grpc.enable_http_proxy", 0),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )

    # Calls by the name of the method: side("KV.Put", key=..., value=...).

    def __call__(self, name: str, request: Any = None, /, **more: Any) -> Any:
        try:
            return plain(self.raw(name, request, **more))
        except grpc.RpcError as error:
            return error.code().value[0], error.details()

    def raw(
        self,
        name: str,
        request: Any = None,
        /,
        *,
        metadata: Any = None,
        timeout: float = WAIT_S,
        **fields: Any,
    ) -> Any:
        """The whole answer; refusals are raised."""
        service, method_name = name.split(".")
        package = {"Lock": "v3lockpb", "Election": "v3electionpb"}.get(service, "etcdserverpb")
        method = METHODS[f"/{package}.{service}/{method_name}"]
        make: Any = self.channel.unary_stream
        if method.kind is Kind.UNARY:
            make = self.channel.unary_unary
        stub = make(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        asked = method.request(**fields) if request is None else request
        return stub(asked, timeout=timeout, metadata=metadata)

    def stream(self, name: str, metadata: Any = None, channel: Any = None) -> Stream:
        made = Stream(channel or self.channel, f"/etcdserverpb.{name.replace('.', '/')}", metadata)
        self._streams.append(made)
        return made

    def login(self, user: str, password: str = "pass") -> list[tuple[str, str]]:
        """The metadata of who has logged in."""
        answer = self.raw("Auth.Authenticate", name=user, password=password)
        return [("token", answer.token)]

    # Short forms, under the prefix.

    def key(self, name: bytes) -> bytes:
        return self.prefix + name

    def put(self, name: bytes, value: bytes = b"", **fields: Any) -> Any:
        return self("KV.Put", key=self.key(name), value=value, **fields)

    def delete(self, name: bytes, **fields: Any) -> Any:
        return self("KV.DeleteRange", key=self.key(name), **fields)

    def get(self, name: bytes, **fields: Any) -> Any:
        return self("KV.Range", key=self.key(name), **fields)

    def get_all(self, **fields: Any) -> Any:
        """Every key under the prefix."""
        return self("KV.Range", key=self.prefix, range_end=prefix_end(self.prefix), **fields)

    def txn(
        self, compare: Any = (), success: Any = (), failure: Any = (), metadata: Any = None
    ) -> Any:
        request = rpc.TxnRequest(compare=compare, success=success, failure=failure)
        return self("KV.Txn", request, metadata=metadata)

    def revision(self) -> int:
        return int(self("KV.Range", key=b"\0", count_only=True).header.revision)

    def watch(self, name: bytes = b"", **fields: Any) -> Stream:
        """A watch stream with one watch under the prefix, of one key or (no name) of them all."""
        end = b"" if name else prefix_end(self.prefix)
        stream = self.stream("Watch.Watch")
        create = rpc.WatchCreateRequest(key=self.key(name), range_end=end, **fields)
        stream.ask(create_request=create)
        return stream

    def metric(self, name: str) -> float:
        """A series without labels."""
        with urllib.request.urlopen(f"http://{self.endpoint}/metrics", timeout=WAIT_S) as answer:
            text = answer.read().decode()
        (line,) = (each for each in text.splitlines() if each.startswith(f"{name} "))
        return float(line.split()[1])

    def end_streams(self) -> None:
        for stream in self._streams:
            stream.close()
        self._streams.clear()

    def close(self) -> None:
        self.end_streams()
        self.channel.close()


@pytest.fixture(scope="session")
def shared_sides(machine_type: Any, tmp_path_factory: Any) -> Iterator[dict[str, Side]]:
    """Started at the first test that asks, ended with the session."""
    machine = machine_type(tmp_path_factory.mktemp("facts"))
    programs = ("etcd", "pyetcd")
    try:
        started = {each: machine.cluster(1, program=each)[0] for each in programs}
        yield {
            each: _side(machine, each, process.wait_healthy()) for each, process in started.items()
        }
    finally:
        machine.close()


def _side(machine: Any, program: str, process: Any) -> Side:
    def fresh(*flags: str) -> Side:
        return _side(machine, program, machine.single(program, *flags))

    side = Side(program, process.endpoint, fresh)
    side.process = process
    return side


@pytest.fixture(params=["etcd", "pyetcd"])
def side(
    request: pytest.FixtureRequest, shared_sides: dict[str, Side], machine: Any
) -> Iterator[Side]:
    """Real etcd, then pyetcd, under a prefix that no other test has."""
    shared = shared_sides[request.param]
    made: list[Side] = []

    def fresh(*flags: str) -> Side:
        made.append(_side(machine, shared.program, machine.single(shared.program, *flags)))
        made[-1].prefix = shared.prefix
        return made[-1]

    shared.prefix = b"fact/%d/%d/" % (os.getpid(), next(_numbers))
    shared.fresh = fresh
    yield shared
    shared.end_streams()
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def special_sides(machine_type: Any, tmp_path_factory: Any) -> Iterator[Callable[..., Side]]:
    """Servers in a state of their own, each made at the first test that asks for it."""
    machine = machine_type(tmp_path_factory.mktemp("facts-special"))
    made: dict[tuple[str, str], Side] = {}

    def get(kind: str, program: str) -> Side:
        if (kind, program) not in made:
            make = {"guarded": _guarded, "leaderless": _leaderless, "short": _short}[kind]
            made[kind, program] = make(machine, program)
        return made[kind, program]

    try:
        yield get
    finally:
        for side in made.values():
            side.close()
        machine.close()


@pytest.fixture
def guarded(side: Side, special_sides: Callable[..., Side]) -> Iterator[Side]:
    """With authentication on: users root and user, both with the password "pass"; user has the
    role "role", which permits nothing. A test takes back what it changes."""
    made = special_sides("guarded", side.program)
    made.prefix = side.prefix
    yield made
    made.end_streams()


@pytest.fixture
def short(side: Side, special_sides: Callable[..., Side]) -> Iterator[Side]:
    """With batches of 10 in a compaction, and a note to idle watches each 100 ms."""
    made = special_sides("short", side.program)
    made.prefix = side.prefix
    yield made
    made.end_streams()


@pytest.fixture
def leaderless(side: Side, special_sides: Callable[..., Side]) -> Iterator[Side]:
    """One member of two, the other one dead: nobody leads. Both knew the key "before"."""
    made = special_sides("leaderless", side.program)
    yield made
    made.end_streams()


def _guarded(machine: Any, program: str) -> Side:
    side = _side(machine, program, machine.single(program))
    for user in ("root", "user"):
        side.raw("Auth.UserAdd", name=user, password="pass")
    for role in ("root", "role"):
        side.raw("Auth.RoleAdd", name=role)
    side.raw("Auth.UserGrantRole", user="root", role="root")
    side.raw("Auth.UserGrantRole", user="user", role="role")
    side.raw("Auth.AuthEnable")
    return side


def _short(machine: Any, program: str) -> Side:
    batches = "--experimental-compaction-batch-limit=10"
    notes = "--experimental-watch-progress-notify-interval=100ms"
    return _side(machine, program, machine.single(program, batches, notes))


def _leaderless(machine: Any, program: str) -> Side:
    timing = ("--heartbeat-interval=50", "--election-timeout=500")
    both = machine.cluster(2, *timing, program=program)
    sides = [_side(machine, program, each.wait_healthy()) for each in both]
    sides[0].raw("KV.Put", key=b"before", value=b"v")
    deadline_s = time.monotonic() + WAIT_S
    while sides[1]("KV.Range", key=b"before", serializable=True).count == 0:
        assert time.monotonic() < deadline_s
        time.sleep(POLL_S)
    sides[0].close()
    both[0].kill()
    while sides[1]("Maintenance.Status").leader:
        assert time.monotonic() < deadline_s
        time.sleep(POLL_S)
    return sides[1]
