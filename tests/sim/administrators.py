"""Who makes users, roles and permissions, and switches authentication on and off.

Each is a client like the others. At first one does what the manual says: root, some users and
roles, then the switch; from then on anything comes in any order, mostly as root.
"""

from typing import Any

from sim.checkers import Operation
from sim.login import USERS
from sim.workload import Client

from pyetcd.proto import rpc_pb2 as rpc

ROLES = ("one", "two", "all", "root")
KINDS = {
    "user_add": 4, "user_delete": 2, "user_change_password": 4, "user_get": 2, "user_list": 1,
    "user_grant_role": 6, "user_revoke_role": 4, "role_add": 4, "role_delete": 2, "role_get": 2,
    "role_list": 1, "role_grant_permission": 8, "role_revoke_permission": 6, "enable": 5,
    "disable": 1, "status": 1,
}  # fmt: skip
_MESSAGES = {
    "enable": "AuthEnable", "disable": "AuthDisable", "status": "AuthStatus",
}  # fmt: skip


class Administrator(Client):
    def __init__(self, world: Any, number: int) -> None:
        super().__init__(world, 0)
        self.name = f"a{number}"
        self._reads_only = False
        self._kinds, self._weights = list(KINDS), list(KINDS.values())
        self._pace_s = self.rng.choice((0.02, 0.05, 0.2, 0.5))
        self._script = self._first() if number == 1 and self.rng.random() < 0.8 else []
        self._step: tuple[str, Any] | None = None  # of the script; until it is answered

    def _first(self) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = [("role_add", {"name": role}) for role in ROLES[:3]]
        found += [("user_add", {"name": user, "password": self._password()}) for user in USERS]
        found.append(("user_grant_role", {"user": "root", "role": "root"}))
        for user, role in zip(USERS, ROLES[:3], strict=False):
            found.append(("user_grant_role", {"user": user, "role": role}))
            found.append(("role_grant_permission", {"name": role, "perm": self._permission()}))
        everything = rpc.AuthRoleGrantPermissionRequest(name="all").perm
        everything.permType, everything.key, everything.range_end = 2, b"\0", b"\0"
        found.append(("role_grant_permission", {"name": "all", "perm": everything}))
        found.append(("enable", {}))
        return found

    def next(self) -> None:
        if self.is_stopped:
            return
        assert self.login is not None
        if self.rng.random() < 0.1:
            self.login.common_name = self.rng.choice(("root", "root", "root", "ann", ""))
        if self._script and self._step is None:
            self._step = self._script.pop(0)
        if self._step is not None:
            self.login.common_name = "root"
        if self.rng.random() < 0.1:
            self._at = self.rng.choice(list(self.world.members.values()))
        op = self.call("admin", self._at)
        self.world.say(self.name, f"asks {op.member}: {op.kind} {str(op.request).split()}")

    def think_s(self) -> float:
        return 0.02 if self._script else self.rng.expovariate(1 / self._pace_s)

    def answered(self, op: Operation, answer: Any, response: Any) -> None:
        text = answer[1] if isinstance(answer, tuple) else "done"
        self.world.say(self.name, f"{op.kind}: {text}")
        is_known = not any(word in text for word in ("timed out", "deadline", "leader", "stopped"))
        if is_known:
            self._step = None
        if (text == "done" or not is_known) and getattr(op.request, "password", ""):
            self.world.passwords.setdefault(op.request.name, []).append(op.request.password)
        super().answered(op, answer, response)

    def _password(self) -> str:
        self._sequence += 1
        return f"{self.name}-{self._sequence}"

    def _permission(self) -> Any:
        made = rpc.AuthRoleGrantPermissionRequest().perm
        made.permType = self.rng.choice((0, 1, 2, 2))
        first, end = self._span()
        made.key = first if self.rng.random() < 0.98 else b""
        made.range_end = end if self.rng.random() < 0.7 else b""
        return made

    def _admin(self) -> tuple[str, Any, Any]:
        kind, fields = self._step or self._any()
        name = _MESSAGES.get(kind) or "Auth" + "".join(each.title() for each in kind.split("_"))
        request = getattr(rpc, f"{name}Request")(**fields)
        return f"auth_{kind}", request, getattr(rpc, f"{name}Response")

    def _any(self) -> tuple[str, Any]:
        rng, now = self.rng, self.world.history.model.auth.now
        kind = rng.choices(self._kinds, self._weights)[0]
        user, role = rng.choice(USERS), rng.choice(ROLES)
        if kind not in ("user_add", "role_add") and rng.random() < 0.8:  # one that there is
            user = rng.choice(sorted(now.users) or USERS)
            role = rng.choice(sorted(now.roles) or ROLES)
        if kind == "user_add":
            if rng.random() < 0.1:
                return kind, {"name": user, "options": {"no_password": True}}
            return kind, {"name": user, "password": self._password()}
        if kind == "user_change_password":
            return kind, {"name": user, "password": self._password()}
        if kind == "user_grant_role":
            if user != "root" and role == "root" and rng.random() < 0.8:
                role = "one"
            return kind, {"user": user, "role": role}
        if kind == "user_revoke_role":
            return kind, {"name": user, "role": role}
        if kind == "role_grant_permission":
            return kind, {"name": role, "perm": self._permission()}
        if kind == "role_revoke_permission":
            return kind, self._revocation(role)
        if kind in ("user_delete", "user_get"):
            return kind, {"name": user}
        if kind == "role_add":
            return kind, {"name": role}
        if kind in ("role_delete", "role_get"):
            return kind, {"role": role}
        return kind, {}

    def _revocation(self, role: str) -> Any:
        known = sorted(self.world.history.model.auth.now.roles.get(role, ()))
        if known and self.rng.random() < 0.8:
            _, key, end = self.rng.choice(known)
        else:
            key, end = self._span()
        return {"role": role, "key": key, "range_end": end}
