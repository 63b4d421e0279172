"""The authorisation matrix: every RPC, asked in every kind of name, at every depth.

The rows come from the method table: an RPC without a row here fails. What etcd 3.5.1 lets through
and later 3.5 releases do not, is refused here (docs/differences.md); the rows say what must be, and
do not look at the table by which the server decides.
"""

import itertools
import re
import time

import grpc
import pytest

from pyetcd.proto import auth_pb2 as auth
from pyetcd.proto import election_pb2 as election
from pyetcd.proto import health_pb2 as health
from pyetcd.proto import lock_pb2 as lock
from pyetcd.proto import reflection_pb2 as reflection
from pyetcd.proto import reflection_v1alpha_pb2 as reflection_v1alpha
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto import times_pb2 as times
from pyetcd.proto.services import METHODS, Kind

EMPTY = ("INVALID_ARGUMENT", "etcdserver: user name is empty")
BAD_TOKEN = ("UNAUTHENTICATED", "etcdserver: invalid auth token")
DENIED = ("PERMISSION_DENIED", "etcdserver: permission denied")
REFUSALS = {text for _, text in (EMPTY, BAD_TOKEN, DENIED)} | {
    "auth: user name is empty",
    "auth: invalid auth token",
    "auth: permission denied",
}

# user -> (role, type of permission, key, range_end); role root for root.
USERS = {
    "stranger": None,
    "key": ("on-key", "READWRITE", b"k", b""),
    "prefix": ("on-prefix", "READWRITE", b"p", b"q"),
    "reader": ("reads", "READ", b"p", b"q"),
    "writer": ("writes", "WRITE", b"p", b"q"),
    "root": None,
}
CALLERS = ["none", "bad token", "expired token", *USERS]
KEY_LEASE, PREFIX_LEASE, BARE_LEASE = 71, 72, 73

KV, LEASE = "/etcdserverpb.KV/", "/etcdserverpb.Lease/"
CLUSTER, MAINTENANCE = "/etcdserverpb.Cluster/", "/etcdserverpb.Maintenance/"
AUTH = "/etcdserverpb.Auth/"
LOCK, ELECTION, HEALTH = "/v3lockpb.Lock/", "/v3electionpb.Election/", "/grpc.health.v1.Health/"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
REFLECTION_ALPHA = REFLECTION.replace("v1", "v1alpha")

EVERYBODY = set(CALLERS)
ALL_USERS = set(USERS)
ROOT = {"root"}

LEADER = election.LeaderKey(name=b"p/e", key=b"p/e/1", rev=1, lease=PREFIX_LEASE)
PERMISSION = auth.Permission(key=b"x", permType=auth.Permission.READ)
CREATE = rpc.WatchRequest
ONE = rpc.Compare(key=b"p/1", target=rpc.Compare.VERSION, result=rpc.Compare.EQUAL, version=0)

# path -> [(request, who may)]. What root gets is harmless: an error of another kind, or nothing
# changes.
ROWS = {
    KV + "Range": [(rpc.RangeRequest(key=b"k"), {"key", "root"})],
    KV + "RangeStream": [
        (rpc.RangeRequest(key=b"k"), {"key", "root"}),
        (rpc.RangeRequest(key=b"p", range_end=b"q"), {"prefix", "reader", "root"}),
        (rpc.RangeRequest(key=b"p", range_end=b"\0"), ROOT),
    ],
    KV + "Put": [(rpc.PutRequest(key=b"k", value=b"v"), {"key", "root"})],
    KV + "DeleteRange": [(rpc.DeleteRangeRequest(key=b"p/9"), {"prefix", "writer", "root"})],
    KV + "Txn": [(rpc.TxnRequest(compare=[ONE]), {"prefix", "reader", "root"})],
    KV + "Compact": [(rpc.CompactionRequest(revision=1 << 40), ROOT)],
    "/etcdserverpb.Watch/Watch": [
        (CREATE(create_request={"key": b"k"}), {"key", "root"}),
        (CREATE(create_request={"key": b"p", "range_end": b"q"}), {"prefix", "reader", "root"}),
        (CREATE(create_request={"key": b"k", "range_end": b"\0"}), ROOT),  # CVE-2026-73499
        (CREATE(create_request={"range_end": b"\0"}), ROOT),
    ],
    LEASE + "LeaseGrant": [(rpc.LeaseGrantRequest(ID=BARE_LEASE, TTL=9), ALL_USERS)],
    LEASE + "LeaseRevoke": [
        (rpc.LeaseRevokeRequest(ID=999), ALL_USERS),
        (rpc.LeaseRevokeRequest(ID=KEY_LEASE), {"key", "root"}),
        (rpc.LeaseRevokeRequest(ID=PREFIX_LEASE), {"prefix", "writer", "root"}),
    ],
    LEASE + "LeaseKeepAlive": [
        (rpc.LeaseKeepAliveRequest(ID=BARE_LEASE), ALL_USERS),
        (rpc.LeaseKeepAliveRequest(ID=KEY_LEASE), {"key", "root"}),
        (rpc.LeaseKeepAliveRequest(ID=PREFIX_LEASE), {"prefix", "writer", "root"}),
    ],
    LEASE + "LeaseTimeToLive": [
        (rpc.LeaseTimeToLiveRequest(ID=KEY_LEASE), ALL_USERS),
        (rpc.LeaseTimeToLiveRequest(ID=KEY_LEASE, keys=True), {"key", "root"}),
        (rpc.LeaseTimeToLiveRequest(ID=PREFIX_LEASE, keys=True), {"prefix", "reader", "root"}),
    ],
    LEASE + "LeaseLeases": [(rpc.LeaseLeasesRequest(), ROOT)],
    CLUSTER + "MemberAdd": [(rpc.MemberAddRequest(peerURLs=["bad"]), ROOT)],
    CLUSTER + "MemberRemove": [(rpc.MemberRemoveRequest(ID=1), ROOT)],
    CLUSTER + "MemberUpdate": [(rpc.MemberUpdateRequest(ID=1, peerURLs=["bad"]), ROOT)],
    CLUSTER + "MemberPromote": [(rpc.MemberPromoteRequest(ID=1), ROOT)],
    CLUSTER + "MemberList": [
        (rpc.MemberListRequest(), ALL_USERS),
        (rpc.MemberListRequest(linearizable=True), ALL_USERS),
    ],
    MAINTENANCE + "Alarm": [
        (rpc.AlarmRequest(action=rpc.AlarmRequest.GET), ALL_USERS),
        (rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, alarm=rpc.NOSPACE), ROOT),
    ],
    MAINTENANCE + "Status": [(rpc.StatusRequest(), ALL_USERS)],
    MAINTENANCE + "Defragment": [(rpc.DefragmentRequest(), ROOT)],
    MAINTENANCE + "Hash": [(rpc.HashRequest(), ROOT)],
    MAINTENANCE + "HashKV": [(rpc.HashKVRequest(), ROOT)],
    MAINTENANCE + "Snapshot": [(rpc.SnapshotRequest(), ROOT)],
    MAINTENANCE + "MoveLeader": [(rpc.MoveLeaderRequest(targetID=1), ROOT)],
    MAINTENANCE + "Downgrade": [(rpc.DowngradeRequest(version="bad"), ROOT)],
    "/pyetcdpb.Times/RevisionAt": [(times.RevisionAtRequest(seconds=1), ALL_USERS)],
    AUTH + "Authenticate": [(rpc.AuthenticateRequest(name="ghost"), EVERYBODY)],
    AUTH + "AuthEnable": [(rpc.AuthEnableRequest(), ROOT)],
    AUTH + "AuthStatus": [(rpc.AuthStatusRequest(), ROOT)],
    AUTH + "UserAdd": [(rpc.AuthUserAddRequest(name="key", password="x"), ROOT)],
    AUTH + "UserGet": [
        (rpc.AuthUserGetRequest(name="key"), {"key", "root"}),
        (rpc.AuthUserGetRequest(name="root"), ROOT),
    ],
    AUTH + "UserList": [(rpc.AuthUserListRequest(), ROOT)],
    AUTH + "UserDelete": [(rpc.AuthUserDeleteRequest(name="ghost"), ROOT)],
    AUTH + "UserChangePassword": [
        (rpc.AuthUserChangePasswordRequest(name="ghost", password="x"), ROOT)
    ],
    AUTH + "UserGrantRole": [(rpc.AuthUserGrantRoleRequest(user="key", role="ghost"), ROOT)],
    AUTH + "UserRevokeRole": [(rpc.AuthUserRevokeRoleRequest(name="key", role="ghost"), ROOT)],
    AUTH + "RoleAdd": [(rpc.AuthRoleAddRequest(name="on-key"), ROOT)],
    AUTH + "RoleGet": [
        (rpc.AuthRoleGetRequest(role="on-key"), {"key", "root"}),
        (rpc.AuthRoleGetRequest(role="root"), ROOT),
    ],
    AUTH + "RoleList": [(rpc.AuthRoleListRequest(), ROOT)],
    AUTH + "RoleDelete": [(rpc.AuthRoleDeleteRequest(role="ghost"), ROOT)],
    AUTH + "RoleGrantPermission": [
        (rpc.AuthRoleGrantPermissionRequest(name="ghost", perm=PERMISSION), ROOT)
    ],
    AUTH + "RoleRevokePermission": [
        (rpc.AuthRoleRevokePermissionRequest(role="ghost", key=b"x"), ROOT)
    ],
    # What is made of puts, ranges and watches needs what they need.
    LOCK + "Lock": [(lock.LockRequest(name=b"p/lock", lease=PREFIX_LEASE), {"prefix", "root"})],
    LOCK + "Unlock": [(lock.UnlockRequest(key=b"p/unlock"), {"prefix", "writer", "root"})],
    ELECTION + "Campaign": [
        (election.CampaignRequest(name=b"p/c", lease=PREFIX_LEASE), {"prefix", "root"})
    ],
    ELECTION + "Proclaim": [(election.ProclaimRequest(leader=LEADER), {"prefix", "root"})],
    ELECTION + "Leader": [(election.LeaderRequest(name=b"p/o"), {"prefix", "reader", "root"})],
    ELECTION + "Observe": [(election.LeaderRequest(name=b"p/o"), {"prefix", "reader", "root"})],
    ELECTION + "Resign": [(election.ResignRequest(leader=LEADER), {"prefix", "root"})],
    HEALTH + "Check": [(health.HealthCheckRequest(), EVERYBODY)],
    HEALTH + "Watch": [(health.HealthCheckRequest(), EVERYBODY)],
    REFLECTION: [(reflection.ServerReflectionRequest(list_services="*"), EVERYBODY)],
    REFLECTION_ALPHA: [(reflection_v1alpha.ServerReflectionRequest(list_services="*"), EVERYBODY)],
    # The last, for it takes everybody's token.
    AUTH + "AuthDisable": [(rpc.AuthDisableRequest(), ROOT)],
}
RAW = {MAINTENANCE + name for name in ("Defragment", "Hash", "HashKV", "Snapshot")}

READS = {"prefix", "reader", "root"}
WRITES = {"prefix", "writer", "root"}
BOTH = {"prefix", "root"}


def op(kind, **fields):
    return rpc.RequestOp(**{f"request_{kind}": fields})


# One operation at a time, at the top level and inside of transactions: (operation, who may).
OPERATIONS = [
    (op("range", key=b"k"), {"key", "root"}),
    (op("range", key=b"p/1"), READS),
    (op("range", key=b"p", range_end=b"q"), READS),
    (op("range", key=b"p", range_end=b"r"), ROOT),
    (op("range", key=b"p", range_end=b"\0"), ROOT),
    (op("range", key=b"\0", range_end=b"\0"), ROOT),
    (op("put", key=b"k", value=b"v"), {"key", "root"}),
    (op("put", key=b"p/1", value=b"v"), WRITES),
    (op("put", key=b"q", value=b"v"), ROOT),
    (op("put", key=b"p/1", value=b"v", prev_kv=True), BOTH),
    (op("put", key=b"p/1", value=b"v", lease=PREFIX_LEASE), WRITES),
    (op("put", key=b"p/1", value=b"v", lease=KEY_LEASE), ROOT),
    (op("delete_range", key=b"k"), {"key", "root"}),
    (op("delete_range", key=b"p/2"), WRITES),
    (op("delete_range", key=b"p/2", prev_kv=True), BOTH),
    (op("delete_range", key=b"p/2", range_end=b"p/3"), WRITES),
    (op("delete_range", key=b"p/2", range_end=b"\0"), ROOT),
    (op("delete_range", key=b"o", range_end=b"p/3"), ROOT),
]
COMPARES = [
    (rpc.Compare(key=b"k", version=9), {"key", "root"}),
    (rpc.Compare(key=b"p/1", version=9), READS),
    (rpc.Compare(key=b"p", range_end=b"q", version=9), READS),
    (rpc.Compare(key=b"p", range_end=b"\0", version=9), ROOT),
]
TOP = {"range": "Range", "put": "Put", "delete_range": "DeleteRange"}
# Lets everybody in who is anybody, so that what is beside it decides.
NOTHING = rpc.TxnRequest()


def deep(request):
    """The transaction as an operation of another one."""
    return rpc.TxnRequest(success=[rpc.RequestOp(request_txn=request)])


def places():
    """(name, path, request, who may) of every operation at every place."""
    for operation, allowed in OPERATIONS:
        kind = operation.WhichOneof("request").removeprefix("request_")
        plain = getattr(operation, f"request_{kind}")
        yield "top level", KV + TOP[kind], plain, allowed
        for branch in ("success", "failure"):  # also the one that is not taken
            inside = rpc.TxnRequest(**{branch: [operation]})
            yield branch, KV + "Txn", inside, allowed
            yield f"nested {branch}", KV + "Txn", deep(inside), allowed
            yield f"deeply nested {branch}", KV + "Txn", deep(deep(inside)), allowed
    for compare, allowed in COMPARES:
        inside = rpc.TxnRequest(compare=[compare])
        yield "compare", KV + "Txn", inside, allowed
        yield "nested compare", KV + "Txn", deep(inside), allowed
        yield "deeply nested compare", KV + "Txn", deep(deep(inside)), allowed


class Server:
    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(endpoint, [("grpc.enable_http_proxy", 0)])
        self.tokens = {"none": None, "bad token": "abcdefghijklmnop.2"}

    def say(self, path, request, caller):
        """(code, text) of a call; of a refused watch what its reason says."""
        method, token = METHODS[path], self.tokens[caller]
        metadata = () if token is None else (("token", token),)
        kinds = {
            Kind.UNARY: self.channel.unary_unary,
            Kind.SERVER_STREAM: self.channel.unary_stream,
            Kind.BIDI: self.channel.stream_stream,
        }
        stub = kinds[method.kind](
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response.FromString,
        )
        given = iter([request]) if method.kind is Kind.BIDI else request
        try:
            answer = stub(given, metadata=metadata, timeout=10)
            if method.kind is not Kind.UNARY:
                call, answer = answer, next(answer)
                call.cancel()
        except grpc.RpcError as error:
            return error.code().name, error.details()
        if isinstance(answer, rpc.WatchResponse) and answer.canceled:
            code, text = re.fullmatch(
                r"rpc error: code = (\w+) desc = (.*)", answer.cancel_reason
            ).groups()
            return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code).upper(), text
        return "OK", ""

    def do(self, path, request, caller="none"):
        """A step of the preparation, which must succeed; grpc raises when not."""
        method, token = METHODS[path], self.tokens[caller]
        stub = self.channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response.FromString,
        )
        metadata = () if token is None else (("token", token),)
        return stub(request, metadata=metadata, timeout=10)

    def prepare(self):
        for user, right in USERS.items():
            self.do(AUTH + "UserAdd", rpc.AuthUserAddRequest(name=user, password="pw"))
            if right is not None:
                role, kind, key, end = right
                self.do(AUTH + "RoleAdd", rpc.AuthRoleAddRequest(name=role))
                self.do(
                    AUTH + "RoleGrantPermission",
                    rpc.AuthRoleGrantPermissionRequest(
                        name=role, perm={"permType": kind, "key": key, "range_end": end}
                    ),
                )
                self.grant(user, role)
        self.grant("root", "root")
        for lease in (KEY_LEASE, PREFIX_LEASE, BARE_LEASE):
            self.do(LEASE + "LeaseGrant", rpc.LeaseGrantRequest(ID=lease, TTL=3600))
        self.keys()

    def grant(self, user, role):
        self.do(AUTH + "UserGrantRole", rpc.AuthUserGrantRoleRequest(user=user, role=role))

    def keys(self, caller="none"):
        """The keys that bind the leases; also the leases, if a row has revoked one."""
        listed = self.do(LEASE + "LeaseLeases", rpc.LeaseLeasesRequest(), caller)
        for lease in {KEY_LEASE, PREFIX_LEASE, BARE_LEASE} - {each.ID for each in listed.leases}:
            self.do(LEASE + "LeaseGrant", rpc.LeaseGrantRequest(ID=lease, TTL=3600), caller)
        for key, lease in ((b"k", KEY_LEASE), (b"p/1", PREFIX_LEASE), (b"p/o/1", 0)):
            self.do(KV + "Put", rpc.PutRequest(key=key, value=b"v", lease=lease), caller)

    def enable(self):
        self.do(AUTH + "AuthEnable", rpc.AuthEnableRequest())
        for user in USERS:
            request = rpc.AuthenticateRequest(name=user, password="pw")
            self.tokens[user] = self.do(AUTH + "Authenticate", request).token


@pytest.fixture(scope="module")
def server(machine_type, tmp_path_factory):
    machine = machine_type(tmp_path_factory.mktemp("matrix"))
    made = Server(machine.single("pyetcd", "--bcrypt-cost=4").endpoint)
    made.prepare()
    made.enable()
    # With a server of its own, since the time to live is that of all tokens.
    short = Server(machine.single("pyetcd", "--bcrypt-cost=4", "--auth-token-ttl=1").endpoint)
    short.prepare()
    short.enable()
    short.tokens["expired token"] = short.tokens["root"]
    assert short.say(AUTH + "AuthStatus", rpc.AuthStatusRequest(), "root") == ("OK", "")
    time.sleep(1.1)
    made.short = short
    yield made
    made.channel.close()
    short.channel.close()
    machine.close()


def expected(path, caller, allowed):
    """The refusal, or None."""
    if caller in allowed:
        return None
    code, text = {"none": EMPTY, "bad token": BAD_TOKEN, "expired token": BAD_TOKEN}.get(
        caller, DENIED
    )
    if path in RAW:
        return "UNKNOWN", text.replace("etcdserver: ", "auth: ")
    if path.startswith((LOCK, ELECTION)) and METHODS[path].kind is Kind.UNARY:
        return "UNKNOWN", text  # as of the client that etcd makes these services of
    return code, text


def check(server, path, request, caller, allowed):
    asked = server.short if caller == "expired token" else server
    said = asked.say(path, request, caller)
    refusal = expected(path, caller, allowed)
    if refusal is None:
        assert said[1] not in REFUSALS, (path, caller, said)
    else:
        assert said == refusal, (path, caller, said)


def test_every_method_has_a_row():
    assert set(ROWS) == set(METHODS)


@pytest.mark.parametrize("path", ROWS)
def test_each_method_in_every_name(server, path):
    for (request, allowed), caller in itertools.product(ROWS[path], CALLERS):
        check(server, path, request, caller, allowed)
        if path == LEASE + "LeaseRevoke" and caller in allowed:
            server.keys("root")
    if path == AUTH + "AuthDisable":
        assert server.say(KV + "Range", rpc.RangeRequest(key=b"k"), "none") == ("OK", "")
        # From 3.5.10 on a token is not looked at while auth is off.
        assert server.say(KV + "Range", rpc.RangeRequest(key=b"k"), "bad token") == ("OK", "")
        server.enable()


@pytest.mark.parametrize("caller", CALLERS)
def test_each_operation_at_every_depth(server, caller):
    for _, path, request, allowed in places():
        check(server, path, request, caller, allowed)
        if caller in allowed and "delete" in str(request):
            server.keys("root")
