"""The method table: every RPC once, with its messages, its kind and its JSON gateway paths.

Whatever needs the list of methods (dispatch, gateway, metrics, authorisation matrix, client) reads
it here. Paths, names and kinds are those of etcd 3.5, plus KV.RangeStream of 3.7, gRPC's server
reflection and pyetcd's own Times.
"""

from dataclasses import dataclass
from enum import Enum

from google.protobuf.message import Message

from pyetcd.proto import election_pb2 as election
from pyetcd.proto import health_pb2 as health
from pyetcd.proto import lock_pb2 as lock
from pyetcd.proto import reflection_pb2 as reflection
from pyetcd.proto import reflection_v1alpha_pb2 as reflection_v1alpha
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto import times_pb2 as times


class Kind(Enum):
    """Which sides stream."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    CLIENT_STREAM = "client_stream"
    BIDI = "bidi_stream"


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: `path` is what stands in :path, `gateway` the POST paths of the JSON gateway."""

    path: str
    request: type[Message]
    response: type[Message]
    kind: Kind = Kind.UNARY
    gateway: tuple[str, ...] = ()


_ROWS = (
    Method(
        "/etcdserverpb.KV/Range", rpc.RangeRequest, rpc.RangeResponse, Kind.UNARY, ("/v3/kv/range",)
    ),
    Method(
        "/etcdserverpb.KV/RangeStream",
        rpc.RangeRequest,
        rpc.RangeStreamResponse,
        Kind.SERVER_STREAM,
        (),
    ),
    Method("/etcdserverpb.KV/Put", rpc.PutRequest, rpc.PutResponse, Kind.UNARY, ("/v3/kv/put",)),
    Method(
        "/etcdserverpb.KV/DeleteRange",
        rpc.DeleteRangeRequest,
        rpc.DeleteRangeResponse,
        Kind.UNARY,
        ("/v3/kv/deleterange",),
    ),
    Method("/etcdserverpb.KV/Txn", rpc.TxnRequest, rpc.TxnResponse, Kind.UNARY, ("/v3/kv/txn",)),
    Method(
        "/etcdserverpb.KV/Compact",
        rpc.CompactionRequest,
        rpc.CompactionResponse,
        Kind.UNARY,
        ("/v3/kv/compaction",),
    ),
    Method(
        "/etcdserverpb.Watch/Watch", rpc.WatchRequest, rpc.WatchResponse, Kind.BIDI, ("/v3/watch",)
    ),
    Method(
        "/etcdserverpb.Lease/LeaseGrant",
        rpc.LeaseGrantRequest,
        rpc.LeaseGrantResponse,
        Kind.UNARY,
        ("/v3/lease/grant",),
    ),
    Method(
        "/etcdserverpb.Lease/LeaseRevoke",
        rpc.LeaseRevokeRequest,
        rpc.LeaseRevokeResponse,
        Kind.UNARY,
        ("/v3/lease/revoke", "/v3/kv/lease/revoke"),
    ),
    Method(
        "/etcdserverpb.Lease/LeaseKeepAlive",
        rpc.LeaseKeepAliveRequest,
        rpc.LeaseKeepAliveResponse,
        Kind.BIDI,
        ("/v3/lease/keepalive",),
    ),
    Method(
        "/etcdserverpb.Lease/LeaseTimeToLive",
        rpc.LeaseTimeToLiveRequest,
        rpc.LeaseTimeToLiveResponse,
        Kind.UNARY,
        ("/v3/lease/timetolive", "/v3/kv/lease/timetolive"),
    ),
    Method(
        "/etcdserverpb.Lease/LeaseLeases",
        rpc.LeaseLeasesRequest,
        rpc.LeaseLeasesResponse,
        Kind.UNARY,
        ("/v3/lease/leases", "/v3/kv/lease/leases"),
    ),
    Method(
        "/etcdserverpb.Cluster/MemberAdd",
        rpc.MemberAddRequest,
        rpc.MemberAddResponse,
        Kind.UNARY,
        ("/v3/cluster/member/add",),
    ),
    Method(
        "/etcdserverpb.Cluster/MemberRemove",
        rpc.MemberRemoveRequest,
        rpc.MemberRemoveResponse,
        Kind.UNARY,
        ("/v3/cluster/member/remove",),
    ),
    Method(
        "/etcdserverpb.Cluster/MemberUpdate",
        rpc.MemberUpdateRequest,
        rpc.MemberUpdateResponse,
        Kind.UNARY,
        ("/v3/cluster/member/update",),
    ),
    Method(
        "/etcdserverpb.Cluster/MemberList",
        rpc.MemberListRequest,
        rpc.MemberListResponse,
        Kind.UNARY,
        ("/v3/cluster/member/list",),
    ),
    Method(
        "/etcdserverpb.Cluster/MemberPromote",
        rpc.MemberPromoteRequest,
        rpc.MemberPromoteResponse,
        Kind.UNARY,
        ("/v3/cluster/member/promote",),
    ),
    Method(
        "/etcdserverpb.Maintenance/Alarm",
        rpc.AlarmRequest,
        rpc.AlarmResponse,
        Kind.UNARY,
        ("/v3/maintenance/alarm",),
    ),
    Method(
        "/etcdserverpb.Maintenance/Status",
        rpc.StatusRequest,
        rpc.StatusResponse,
        Kind.UNARY,
        ("/v3/maintenance/status",),
    ),
    Method(
        "/etcdserverpb.Maintenance/Defragment",
        rpc.DefragmentRequest,
        rpc.DefragmentResponse,
        Kind.UNARY,
        ("/v3/maintenance/defragment",),
    ),
    Method(
        "/etcdserverpb.Maintenance/Hash",
        rpc.HashRequest,
        rpc.HashResponse,
        Kind.UNARY,
        ("/v3/maintenance/hash",),
    ),
    Method(
        "/etcdserverpb.Maintenance/HashKV",
        rpc.HashKVRequest,
        rpc.HashKVResponse,
        Kind.UNARY,
        ("/v3/maintenance/hashkv",),
    ),
    Method(
        "/etcdserverpb.Maintenance/Snapshot",
        rpc.SnapshotRequest,
        rpc.SnapshotResponse,
        Kind.SERVER_STREAM,
        ("/v3/maintenance/snapshot",),
    ),
    Method(
        "/etcdserverpb.Maintenance/MoveLeader",
        rpc.MoveLeaderRequest,
        rpc.MoveLeaderResponse,
        Kind.UNARY,
        ("/v3/maintenance/transfer-leadership",),
    ),
    Method(
        "/etcdserverpb.Maintenance/Downgrade",
        rpc.DowngradeRequest,
        rpc.DowngradeResponse,
        Kind.UNARY,
        ("/v3/maintenance/downgrade",),
    ),
    Method(
        "/etcdserverpb.Auth/AuthEnable",
        rpc.AuthEnableRequest,
        rpc.AuthEnableResponse,
        Kind.UNARY,
        ("/v3/auth/enable",),
    ),
    Method(
        "/etcdserverpb.Auth/AuthDisable",
        rpc.AuthDisableRequest,
        rpc.AuthDisableResponse,
        Kind.UNARY,
        ("/v3/auth/disable",),
    ),
    Method(
        "/etcdserverpb.Auth/AuthStatus",
        rpc.AuthStatusRequest,
        rpc.AuthStatusResponse,
        Kind.UNARY,
        ("/v3/auth/status",),
    ),
    Method(
        "/etcdserverpb.Auth/Authenticate",
        rpc.AuthenticateRequest,
        rpc.AuthenticateResponse,
        Kind.UNARY,
        ("/v3/auth/authenticate",),
    ),
    Method(
        "/etcdserverpb.Auth/UserAdd",
        rpc.AuthUserAddRequest,
        rpc.AuthUserAddResponse,
        Kind.UNARY,
        ("/v3/auth/user/add",),
    ),
    Method(
        "/etcdserverpb.Auth/UserGet",
        rpc.AuthUserGetRequest,
        rpc.AuthUserGetResponse,
        Kind.UNARY,
        ("/v3/auth/user/get",),
    ),
    Method(
        "/etcdserverpb.Auth/UserList",
        rpc.AuthUserListRequest,
        rpc.AuthUserListResponse,
        Kind.UNARY,
        ("/v3/auth/user/list",),
    ),
    Method(
        "/etcdserverpb.Auth/UserDelete",
        rpc.AuthUserDeleteRequest,
        rpc.AuthUserDeleteResponse,
        Kind.UNARY,
        ("/v3/auth/user/delete",),
    ),
    Method(
        "/etcdserverpb.Auth/UserChangePassword",
        rpc.AuthUserChangePasswordRequest,
        rpc.AuthUserChangePasswordResponse,
        Kind.UNARY,
        ("/v3/auth/user/changepw",),
    ),
    Method(
        "/etcdserverpb.Auth/UserGrantRole",
        rpc.AuthUserGrantRoleRequest,
        rpc.AuthUserGrantRoleResponse,
        Kind.UNARY,
        ("/v3/auth/user/grant",),
    ),
    Method(
        "/etcdserverpb.Auth/UserRevokeRole",
        rpc.AuthUserRevokeRoleRequest,
        rpc.AuthUserRevokeRoleResponse,
        Kind.UNARY,
        ("/v3/auth/user/revoke",),
    ),
    Method(
        "/etcdserverpb.Auth/RoleAdd",
        rpc.AuthRoleAddRequest,
        rpc.AuthRoleAddResponse,
        Kind.UNARY,
        ("/v3/auth/role/add",),
    ),
    Method(
        "/etcdserverpb.Auth/RoleGet",
        rpc.AuthRoleGetRequest,
        rpc.AuthRoleGetResponse,
        Kind.UNARY,
        ("/v3/auth/role/get",),
    ),
    Method(
        "/etcdserverpb.Auth/RoleList",
        rpc.AuthRoleListRequest,
        rpc.AuthRoleListResponse,
        Kind.UNARY,
        ("/v3/auth/role/list",),
    ),
    Method(
        "/etcdserverpb.Auth/RoleDelete",
        rpc.AuthRoleDeleteRequest,
        rpc.AuthRoleDeleteResponse,
        Kind.UNARY,
        ("/v3/auth/role/delete",),
    ),
    Method(
        "/etcdserverpb.Auth/RoleGrantPermission",
        rpc.AuthRoleGrantPermissionRequest,
        rpc.AuthRoleGrantPermissionResponse,
        Kind.UNARY,
        ("/v3/auth/role/grant",),
    ),
    Method(
        "/etcdserverpb.Auth/RoleRevokePermission",
        rpc.AuthRoleRevokePermissionRequest,
        rpc.AuthRoleRevokePermissionResponse,
        Kind.UNARY,
        ("/v3/auth/role/revoke",),
    ),
    Method(
        "/v3lockpb.Lock/Lock", lock.LockRequest, lock.LockResponse, Kind.UNARY, ("/v3/lock/lock",)
    ),
    Method(
        "/v3lockpb.Lock/Unlock",
        lock.UnlockRequest,
        lock.UnlockResponse,
        Kind.UNARY,
        ("/v3/lock/unlock",),
    ),
    Method(
        "/v3electionpb.Election/Campaign",
        election.CampaignRequest,
        election.CampaignResponse,
        Kind.UNARY,
        ("/v3/election/campaign",),
    ),
    Method(
        "/v3electionpb.Election/Proclaim",
        election.ProclaimRequest,
        election.ProclaimResponse,
        Kind.UNARY,
        ("/v3/election/proclaim",),
    ),
    Method(
        "/v3electionpb.Election/Leader",
        election.LeaderRequest,
        election.LeaderResponse,
        Kind.UNARY,
        ("/v3/election/leader",),
    ),
    Method(
        "/v3electionpb.Election/Observe",
        election.LeaderRequest,
        election.LeaderResponse,
        Kind.SERVER_STREAM,
        ("/v3/election/observe",),
    ),
    Method(
        "/v3electionpb.Election/Resign",
        election.ResignRequest,
        election.ResignResponse,
        Kind.UNARY,
        ("/v3/election/resign",),
    ),
    Method(
        "/grpc.health.v1.Health/Check",
        health.HealthCheckRequest,
        health.HealthCheckResponse,
        Kind.UNARY,
        (),
    ),
    Method(
        "/grpc.health.v1.Health/Watch",
        health.HealthCheckRequest,
        health.HealthCheckResponse,
        Kind.SERVER_STREAM,
        (),
    ),
    Method(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection.ServerReflectionRequest,
        reflection.ServerReflectionResponse,
        Kind.BIDI,
        (),
    ),
    Method(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        reflection_v1alpha.ServerReflectionRequest,
        reflection_v1alpha.ServerReflectionResponse,
        Kind.BIDI,
        (),
    ),
    Method(
        "/pyetcdpb.Times/RevisionAt",
        times.RevisionAtRequest,
        times.RevisionAtResponse,
        Kind.UNARY,
        (),
    ),
)

METHODS: dict[str, Method] = {row.path: row for row in _ROWS}
