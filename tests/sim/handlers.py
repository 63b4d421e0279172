"""The production handlers behind the calls of clients, gated as Serving gates them where there are
users (server/serving.py), and the v2 API behind its router."""

from collections.abc import Callable
from typing import Any

from pyetcd.server.http.router import Router

Handler = Callable[[Any, Any], None]

# What a call is named here: the service of the process, and the path that its rule goes by.
_PATHS = {
    "range": ("kv", "KV/Range"),
    "put": ("kv", "KV/Put"),
    "delete_range": ("kv", "KV/DeleteRange"),
    "txn": ("kv", "KV/Txn"),
    "compact": ("kv", "KV/Compact"),
    "lease_grant": ("lease", "Lease/LeaseGrant"),
    "lease_revoke": ("lease", "Lease/LeaseRevoke"),
    "member_add": ("cluster", "Cluster/MemberAdd"),
    "member_promote": ("cluster", "Cluster/MemberPromote"),
    "member_remove": ("cluster", "Cluster/MemberRemove"),
    "member_update": ("cluster", "Cluster/MemberUpdate"),
    "alarm": ("maintenance", "Maintenance/Alarm"),
    "defragment": ("maintenance", "Maintenance/Defragment"),
    "hash_kv": ("maintenance", "Maintenance/HashKV"),
    "move_leader": ("maintenance", "Maintenance/MoveLeader"),
}


def handler_of(process: Any, kind: str, told: Callable[[int], None], *, is_gated: bool) -> Handler:
    """`told` hears the id of what the handler proposes before it returns."""
    if kind in _PATHS:
        service, path = _PATHS[kind]
        path = f"/etcdserverpb.{path}"
        handler = getattr(getattr(process, service), kind)
    else:
        name = "".join(each.title() for each in kind.split("_"))
        if kind not in ("auth_enable", "auth_disable", "auth_status"):
            name = name.removeprefix("Auth") if kind != "authenticate" else name
        path = f"/etcdserverpb.Auth/{name}"
        handler = process.auth_handlers[path]

    def traced(call: Any, request: Any) -> None:
        process.tap.told = told
        try:
            handler(call, request)
        finally:
            process.tap.told = lambda id: None

    if not is_gated:
        return traced
    core = process.core
    gated = core.access.gate(path, traced)
    guarded: Handler = core.guard.unary(traced, auth=core.machine.auth, gated=gated)
    return guarded


def v2_of(core: Any) -> Router:
    router = Router()
    core.v2_api().add_to(router)
    return router
