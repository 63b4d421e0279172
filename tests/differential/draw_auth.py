"""Draws calls of users, roles and rights, and requests in their names, where etcd 3.5.1 and pyetcd
should agree: what later 3.5 releases closed is never drawn (it has tests of its own)."""

import random

from pyetcd.proto import auth_pb2 as auth
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.services import METHODS

USERS = ["root", "ann", "bob", "cy", ""]
ROLES = ["root", "r1", "r2", "r3", ""]
PASSWORDS = ["one", "two", "", "a longer one, with spaces and ü"]
KEYS = [b"a", b"b", b"b1", b"b2", b"c", b"d", b"\x00", b"\xff"]
ENDS = [b"", b"", b"", b"b", b"c", b"d", b"e", b"\x00", b"a"]
LEASES = [7, 8, 9]
NOBODY, FORGED = "nobody", "forged"
AUTH = "/etcdserverpb.Auth/"
KV = "/etcdserverpb.KV/"
LEASE = "/etcdserverpb.Lease/"
MAINTENANCE = "/etcdserverpb.Maintenance/"
WATCH = "/etcdserverpb.Watch/Watch"
# Weighted: what gives rights more often than what takes everything away.
AUTH_KINDS = [
    *["UserAdd", "UserGrantRole", "RoleAdd", "RoleGrantPermission"] * 3,
    *["RoleGrantPermission", "UserGrantRole"] * 3,
    *["UserGet", "RoleGet", "UserRevokeRole", "RoleRevokePermission", "UserChangePassword"],
    *["UserDelete", "RoleDelete", "UserList", "RoleList", "AuthStatus", "AuthEnable"],
    "AuthDisable",
]


class Calls:
    """Draws calls; knows of the state what it must to stay where both should agree."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.enabled = False
        self.passwords = {}
        self.holders = set()  # of a token
        self.valid = set()  # whose token is still good
        self.granted = {}  # role -> ranges, in order
        self.revision = 1

    # -- names

    def name(self):
        """In whose name: somebody with a token, or with none, or a forged one."""
        if not self.enabled:
            return NOBODY  # 3.5.1 looks at tokens also while auth is off
        draw = self.random.random()
        if draw < 0.05:
            return NOBODY
        if draw < 0.1:
            return FORGED
        if draw < 0.4 and "root" in self.holders:
            return "root"
        return self.random.choice(sorted(self.holders) or [NOBODY])

    def manager(self):
        """Mostly root, so that something happens."""
        usual = self.enabled and "root" in self.holders and self.random.random() < 0.8
        return "root" if usual else self.name()

    # -- auth

    def auth(self):
        draw = self.random
        user, role = draw.choice(USERS), draw.choice(ROLES)
        kind = draw.choice(AUTH_KINDS)
        if kind == "UserAdd":
            request = rpc.AuthUserAddRequest(name=user, password=draw.choice(PASSWORDS))
            if draw.random() < 0.15:
                request.options.no_password = True
        elif kind == "UserChangePassword":
            request = rpc.AuthUserChangePasswordRequest(name=user, password=draw.choice(PASSWORDS))
        elif kind == "UserGrantRole":
            request = rpc.AuthUserGrantRoleRequest(user=user, role=role)
        elif kind == "UserRevokeRole":
            request = rpc.AuthUserRevokeRoleRequest(name=user, role=role)
        elif kind in ("UserDelete", "UserGet", "RoleAdd"):
            request = METHODS[AUTH + kind].request(name=role if kind == "RoleAdd" else user)
        elif kind in ("RoleDelete", "RoleGet"):
            request = METHODS[AUTH + kind].request(role=role)
        elif kind == "RoleGrantPermission":
            request = self.grant(role)
        elif kind == "RoleRevokePermission":
            key, end = draw.choice(KEYS), draw.choice(ENDS)
            if self.granted.get(role) and draw.random() < 0.7:
                key, end = draw.choice(self.granted[role])
            request = rpc.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=end)
        else:
            request = METHODS[AUTH + kind].request()
        return AUTH + kind, request, self.manager()

    def grant(self, role):
        draw = self.random
        if draw.random() < 0.05:
            return rpc.AuthRoleGrantPermissionRequest(name=role)
        kept_all = self.granted.get(role, [])
        first = dict(reversed(kept_all))  # of each start, for 3.5.1 knows only that again
        while True:
            key, end = draw.choice(KEYS), draw.choice(ENDS)
            if len(kept_all) > 10:  # more than 12, and their order would be chance
                key, end = draw.choice(sorted(first.items()))
            if end not in (b"", b"\x00") and key >= end:
                continue  # grants nothing: refused from 3.5.8 on
            if (key, end) not in kept_all or first[key] == end:
                break
        kind = draw.choice([auth.Permission.READ, auth.Permission.WRITE, auth.Permission.READWRITE])
        permission = auth.Permission(permType=kind, key=key, range_end=end)
        return rpc.AuthRoleGrantPermissionRequest(name=role, perm=permission)

    def authenticate(self):
        user = self.random.choice(USERS)
        password = self.random.choice(PASSWORDS)
        if self.random.random() < 0.8:
            password = self.passwords.get(user, password)
        request = rpc.AuthenticateRequest(name=user, password=password)
        return AUTH + "Authenticate", request, NOBODY

    def restore(self):
        """One of the steps to a cluster with root and auth on."""
        request = self.random.choice(
            [
                rpc.AuthUserAddRequest(name="root", password="one"),
                rpc.AuthUserGrantRoleRequest(user="root", role="root"),
                rpc.AuthEnableRequest(),
            ]
        )
        kind = type(request).__name__.removeprefix("Auth").removesuffix("Request")
        return AUTH + ("AuthEnable" if kind == "Enable" else kind), request, NOBODY

    # -- what rights are for

    def span(self):
        """A range that may hold a key. Whether an empty one is refused depends in etcd on the shape
        of its interval tree."""
        while True:
            key, end = self.random.choice(KEYS), self.random.choice(ENDS)
            if end in (b"", b"\x00") or key < end:
                return {"key": key, "range_end": end}

    def range(self):
        request = rpc.RangeRequest(**self.span(), serializable=self.random.random() < 0.3)
        return KV + "Range", request, self.name()

    def put_request(self, *, nested=False):
        draw = self.random
        request = rpc.PutRequest(key=draw.choice(KEYS), value=b"v")
        if not nested:  # in a transaction, 3.5.1 judges only the key
            request.prev_kv = draw.random() < 0.2
            request.lease = draw.choice([0, 0, 0, *LEASES])
        return request

    def put(self):
        return KV + "Put", self.put_request(), self.name()

    def delete_request(self):
        return rpc.DeleteRangeRequest(**self.span(), prev_kv=self.random.random() < 0.3)

    def delete(self):
        return KV + "DeleteRange", self.delete_request(), self.name()

    def txn(self):
        draw = self.random
        request = rpc.TxnRequest()
        for _ in range(draw.randrange(2)):
            span = self.span() if draw.random() < 0.2 else {"key": draw.choice(KEYS)}
            request.compare.add(**span, target=rpc.Compare.VERSION, result=rpc.Compare.GREATER)
        for branch in (request.success, request.failure):
            for _ in range(draw.randrange(3)):
                branch.append(self.op())
        return KV + "Txn", request, self.name()

    def op(self):
        kind = self.random.randrange(3)
        if kind == 0:
            return rpc.RequestOp(request_put=self.put_request(nested=True))
        if kind == 1:
            return rpc.RequestOp(request_range=self.range()[1])
        return rpc.RequestOp(request_delete_range=self.delete_request())

    def lease(self):
        draw = self.random
        id, name = draw.choice(LEASES), self.name()
        kind = draw.randrange(3)
        if kind == 0 and name != NOBODY:
            return LEASE + "LeaseGrant", rpc.LeaseGrantRequest(ID=id, TTL=3600), name
        if kind == 1 and name != NOBODY:
            return LEASE + "LeaseRevoke", rpc.LeaseRevokeRequest(ID=id), name
        if self.enabled:
            name = "root" if "root" in self.valid else FORGED  # 3.5.1 lets anybody
        if kind == 2 and name != FORGED:
            return LEASE + "LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=id, keys=True), name
        return self.put()

    def watch(self):
        span = self.span()
        while span["range_end"] == b"\x00":  # judged as one key by 3.5.1
            span = self.span()
        return WATCH, rpc.WatchRequest(create_request=span), self.name()

    def root_only(self):
        kind = self.random.choice(["Defragment", "HashKV"])
        return MAINTENANCE + kind, METHODS[MAINTENANCE + kind].request(), self.name()

    def next(self):
        draw = self.random.random()
        if not self.enabled and draw < 0.25:
            return self.restore()
        if self.enabled and not self.holders and draw < 0.5:
            return self.authenticate()
        if draw < 0.4:
            return self.auth()
        if draw < 0.5:
            return self.authenticate()
        draws = [self.range, self.put, self.put, self.delete, self.txn, self.lease, self.watch]
        return self.random.choice([*draws, *draws, *draws, self.root_only])()

    # -- what came of it

    def learn(self, path, request, answer):
        kind = path.removeprefix(AUTH)
        if kind == "AuthEnable":
            self.enabled = True
        elif kind == "AuthDisable":
            self.enabled = False
            self.holders.clear()
            self.valid.clear()
        elif kind == "Authenticate":
            self.holders.add(request.name)
            self.valid.add(request.name)
        elif kind == "UserAdd":
            self.passwords[request.name] = request.password
        elif kind == "UserChangePassword":
            self.passwords[request.name] = request.password
            self.valid.discard(request.name)
        elif kind == "UserDelete":
            self.valid.discard(request.name)
        elif kind == "RoleDelete":
            self.granted.pop(request.role, None)
        elif kind == "RoleGet":
            self.granted[request.role] = [(p.key, p.range_end) for p in answer.perm]
