r"""The same random users, roles, rights and requests to real etcd 3.5.1 and to pyetcd.

Answers, codes and texts are equal, but for what later 3.5 releases closed: that is never drawn
here, and has its own tests (test_auth_matrix.py). A longer run, by seeds and calls:

    PYETCD_AUTH_SEEDS=1,2,3 PYETCD_AUTH_CALLS=20000 \
        python -m pytest tests/differential/test_auth.py
"""

import os
import random
import re

import grpc
import pytest
from differential.draw_auth import AUTH, FORGED, KV, NOBODY, WATCH, Calls

from pyetcd.proto import auth_pb2 as auth
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.services import METHODS

CALLS = int(os.environ.get("PYETCD_AUTH_CALLS", "900"))
SEEDS = [int(seed) for seed in os.environ.get("PYETCD_AUTH_SEEDS", "1").split(",")]
TIMEOUT_S = 10.0


class Server:
    """One of the two, and the tokens that it gave."""

    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(endpoint, [("grpc.enable_http_proxy", 0)])
        self.tokens = {}

    def metadata(self, name):
        if name == FORGED:
            return (("token", "abcdefghijklmnop.1"),)
        return (("token", self.tokens[name]),) if name in self.tokens else ()

    def call(self, path, request, name):
        """(code, text, answer)"""
        method = METHODS[path]
        stub = self.channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response.FromString,
        )
        try:
            answer = stub(request, metadata=self.metadata(name), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code().name, error.details(), None
        return "OK", "", answer

    def stream(self, path, request, name):
        """The first answer to one request."""
        method = METHODS[path]
        stub = self.channel.stream_stream(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response.FromString,
        )
        call = stub(iter([request]), metadata=self.metadata(name), timeout=TIMEOUT_S)
        try:
            return "OK", "", next(call)
        except grpc.RpcError as error:
            return error.code().name, error.details(), None
        finally:
            call.cancel()

    def close(self):
        self.channel.close()


def plain(answer):
    """An answer without what names its server."""
    if answer is None:
        return None
    if answer.HasField("header"):
        revision = answer.header.revision
        answer.ClearField("header")
        answer.header.revision = revision
    if isinstance(answer, rpc.AuthenticateResponse):
        assert re.fullmatch(r"[A-Za-z]{16}\.[0-9]+", answer.token)
        answer.token = "a token"
    elif isinstance(answer, rpc.WatchResponse) and answer.canceled:
        answer.watch_id = -1  # 3.5.1 repeats the wanted id, 0; from 3.5.6 on it is this
        if "PermissionDenied" not in answer.cancel_reason:
            # 3.5.1 gives this reason for a token that is not good, too.
            answer.cancel_reason = (
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
            )
    elif isinstance(answer, rpc.HashKVResponse):
        answer.hash_revision = 0  # came with etcd 3.6
    elif isinstance(answer, rpc.LeaseTimeToLiveResponse):
        answer.TTL = min(answer.TTL, 1)
        keys = sorted(answer.keys)
        del answer.keys[:]
        answer.keys.extend(keys)
    return answer


@pytest.fixture
def servers(machine):
    cheap = "--bcrypt-cost=4"
    ours, theirs = machine.single("pyetcd", cheap), machine.single("etcd", cheap)
    made = [Server(ours.endpoint), Server(theirs.endpoint)]
    yield made
    for server in made:
        server.close()


def both(servers, path, request, name):
    """What the two say; a token that both gave is kept for each."""
    said = []
    for server in servers:
        copy = type(request).FromString(request.SerializeToString())
        call = server.stream if path == WATCH else server.call
        code, text, answer = call(path, copy, name)
        if answer is not None and path == AUTH + "Authenticate":
            server.tokens[request.name] = answer.token
        said.append((code, text, plain(answer)))
    return said


@pytest.mark.parametrize("seed", SEEDS)
def test_same_answers_as_real_etcd(servers, seed):
    calls = Calls(seed)
    told = {}
    for number in range(CALLS):
        path, request, name = calls.next()
        ours, theirs = both(servers, path, request, name)
        assert ours == theirs, (seed, number, path, name, request)
        told[ours[0], ours[1]] = told.get((ours[0], ours[1]), 0) + 1
        if ours[0] == "OK":
            calls.learn(path, request, ours[2])
            if path.startswith(AUTH + "Role") and hasattr(request, "perm"):
                role = request.name
                look = rpc.AuthRoleGetRequest(role=role)
                ours, theirs = both(servers, AUTH + "RoleGet", look, name)
                assert ours == theirs, (seed, number, role)
                calls.learn(AUTH + "RoleGet", look, ours[2])
    # The run has gone everywhere: refusals of each kind, and things done.
    texts = {text for _, text in told}
    for wanted in (
        "",
        "etcdserver: permission denied",
        "etcdserver: invalid auth token",
        "etcdserver: user name is empty",
        "etcdserver: authentication failed, invalid user ID or password",
    ):
        assert wanted in texts, sorted(told.items())
    print(sorted(told.items()))


KEYS_MERGED = [b"a", b"b", b"c", b"d"]
ENDS_MERGED = [b"", b"a\x00", b"b", b"c", b"d", b"e", b"\x00"]


def spans():
    for key in KEYS_MERGED:
        for end in ENDS_MERGED:
            if end in (b"", b"\x00") or key < end:
                yield key, end


def test_merged_rights_are_those_of_real_etcd(servers):
    """Rights of several roles that only together cover a range: every question about them."""
    root = rpc.AuthUserAddRequest(name="root", password="one")
    draw, wrong = random.Random(5), []
    said = set()

    def do(path, request, name=NOBODY):
        ours, theirs = both(servers, path, request, name)
        said.add((ours[0], ours[1]))
        if ours != theirs:
            wrong.append((path, request, ours, theirs))
        return ours

    do(AUTH + "UserAdd", root)
    do(AUTH + "UserGrantRole", rpc.AuthUserGrantRoleRequest(user="root", role="root"))
    do(AUTH + "UserAdd", rpc.AuthUserAddRequest(name="ann", password="two"))
    for role in ("r1", "r2"):
        do(AUTH + "RoleAdd", rpc.AuthRoleAddRequest(name=role))
        do(AUTH + "UserGrantRole", rpc.AuthUserGrantRoleRequest(user="ann", role=role))
    do(AUTH + "AuthEnable", rpc.AuthEnableRequest())
    for name, password in (("root", "one"), ("ann", "two")):
        do(AUTH + "Authenticate", rpc.AuthenticateRequest(name=name, password=password))
    every = list(spans())
    for _ in range(8):
        granted = [(draw.choice(["r1", "r2"]), *span) for span in draw.sample(every, 3)]
        for role, key, end in granted:
            kind = draw.randrange(3)
            permission = auth.Permission(key=key, range_end=end, permType=kind)
            request = rpc.AuthRoleGrantPermissionRequest(name=role, perm=permission)
            do(AUTH + "RoleGrantPermission", request, "root")
        for key, end in every:
            do(KV + "Range", rpc.RangeRequest(key=key, range_end=end, serializable=True), "ann")
            do(KV + "DeleteRange", rpc.DeleteRangeRequest(key=key, range_end=end), "ann")
        for role, key, end in granted:
            request = rpc.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=end)
            do(AUTH + "RoleRevokePermission", request, "root")
    assert not wrong, wrong[0]
    assert said == {("OK", ""), ("PERMISSION_DENIED", "etcdserver: permission denied")}
