"""Who may do what, in the dumbest way: dicts of users and roles, and a list of what was when.

It applies the requests of the log once, in order, and shares no code with the store. What a user
may do is looked up anew each time, piece by piece of the range that is asked for.
"""

import base64
from bisect import bisect_right
from typing import Any, NamedTuple

READ, WRITE, BOTH = 0, 1, 2

Result = tuple[Any, ...]


def _error(text: str) -> Result:
    return ("error", f"etcdserver: {text}")


USER_EMPTY = _error("user name is empty")
USER_NOT_FOUND = _error("user name not found")
USER_EXISTS = _error("user name already exists")
ROLE_EMPTY = _error("role name is empty")
ROLE_NOT_FOUND = _error("role name not found")
ROLE_EXISTS = _error("role name already exists")
ROLE_NOT_GRANTED = _error("role is not granted to the user")
NOT_GRANTED = _error("permission is not granted to the role")
INVALID = _error("invalid auth management")
DENIED = _error("permission denied")
OLD = _error("revision of auth store is old")
NOT_ENABLED = _error("authentication is not enabled")
FAILED = _error("authentication failed, invalid user ID or password")
NO_ROOT_USER = _error("root user does not exist")
NO_ROOT_ROLE = _error("root user does not have root role")
INVALID_TOKEN = _error("invalid auth token")
NO_PASSWORD = ("error", "auth: authentication failed, password was given for no password user")

TEXTS = frozenset(each[1] for each in (USER_EMPTY, DENIED, OLD, INVALID_TOKEN))


class User(NamedTuple):
    password: bytes
    no_password: bool
    roles: tuple[str, ...]


class Users(NamedTuple):
    """The state as it was from some entry on."""

    enabled: bool
    revision: int
    users: dict[str, User]
    roles: dict[str, frozenset[tuple[int, bytes, bytes]]]

    def is_root(self, name: str) -> bool:
        return name in self.users and "root" in self.users[name].roles

    def may(self, name: str, key: bytes, end: bytes, kind: int) -> bool:
        if self.is_root(name):
            return True
        if name not in self.users:
            return False
        granted = [
            _span(first, last)
            for role in self.users[name].roles
            for type, first, last in self.roles.get(role, ())
            if type in (kind, BOTH)
        ]
        low, high = _span(key, end)
        if high is not None and high <= low:
            high = low + b"\0"  # a range that holds no key is judged by its start
        edges = {low}
        for span in granted:
            edges.update(edge for edge in span if edge is not None and edge > low)
        inside = [edge for edge in sorted(edges) if high is None or edge < high]
        return all(
            any(first <= edge and (last is None or edge < last) for first, last in granted)
            for edge in inside
        )


def _span(key: bytes, end: bytes) -> tuple[bytes, bytes | None]:
    if end == b"\0":
        return key, None
    return key, end or key + b"\0"


class Token(NamedTuple):
    user: str
    since: int  # the entry that made it
    until: int | None  # the one that made it void


class AuthModel:
    def __init__(self) -> None:
        self.now = Users(False, 1, {}, {})
        self.tokens: dict[str, Token] = {}
        self.index = 0  # of the entry that is applied
        self.hashed: list[tuple[int, int, str, bytes]] = []  # index, id, user, hash
        self._changed_at = [0]
        self._states = [self.now]

    @property
    def is_used(self) -> bool:
        return len(self._states) > 1

    def changed(self, index: int) -> bool:
        """Whether the entry at that index changed anything."""
        place = bisect_right(self._changed_at, index) - 1
        return self._changed_at[place] == index

    def at(self, index: int) -> Users:
        return self._states[bisect_right(self._changed_at, index) - 1]

    def indexes(self, first: int, last: int) -> list[int]:
        """One for each state that was from one entry to another, and the last for its tokens."""
        return [first, *(index for index in self._changed_at if first < index <= last), last]

    def holder(self, token: str, index: int) -> str:
        """Whose it was then; nobody's before it was made and after it was made void."""
        found = self.tokens.get(token)
        if found is None or found.since > index:
            return ""
        return "" if found.until is not None and found.until <= index else found.user

    # Before an entry is done

    def note(self, request: Any, index: int) -> None:
        """Passwords in the log, whatever comes of them."""
        for kind in ("auth_user_add", "auth_user_change_password"):
            asked_for = getattr(request, kind)
            if request.HasField(kind) and asked_for.hashedPassword:
                hashed = base64.b64decode(asked_for.hashedPassword)
                self.hashed.append((index, request.header.ID, asked_for.name, hashed))

    def refusal(self, request: Any, model: Any) -> Result | None:
        now = self.now
        if not now.enabled:
            return None
        name, revision = request.header.username, request.header.auth_revision
        for kind in ("auth_user_get", "auth_role_get", *ADMIN):
            if request.HasField(kind):
                return self._refusal_of_admin(request, kind, name)
        for key, end, access in asked(request, model):
            if not revision:
                return USER_EMPTY
            if revision < now.revision:
                return OLD
            if not now.may(name, key, end, access):
                return DENIED
        return None

    def _refusal_of_admin(self, request: Any, kind: str, name: str) -> Result | None:
        now = self.now
        if kind == "auth_user_get" and request.auth_user_get.name == name:
            return None
        if kind == "auth_role_get":
            user = now.users.get(name)
            if user is not None and request.auth_role_get.role in user.roles:
                return None
        return root_refusal(now, name)

    # An entry

    def apply(self, request: Any, index: int) -> Result | None:
        self.index = index
        for kind in ("authenticate", "auth_user_get", "auth_role_get", *ADMIN):
            if request.HasField(kind):
                before = self.now
                result: Result = getattr(self, f"_{kind}")(getattr(request, kind))
                if self.now is not before:
                    self._changed_at.append(index)
                    self._states.append(self.now)
                return result
        return None

    def _change(self, **changes: Any) -> None:
        self.now = self.now._replace(revision=self.now.revision + 1, **changes)

    def _set_user(self, name: str, **changes: Any) -> None:
        user = self.now.users.get(name, User(b"", False, ()))._replace(**changes)
        self._change(users={**self.now.users, name: user})

    def _void(self, name: str | None) -> None:
        for token, found in self.tokens.items():
            if found.until is None and name in (None, found.user):
                self.tokens[token] = found._replace(until=self.index)

    def _auth_enable(self, request: Any) -> Result:
        root = self.now.users.get("root")
        if not self.now.enabled:
            if root is None:
                return NO_ROOT_USER
            if "root" not in root.roles:
                return NO_ROOT_ROLE
            self.now = self.now._replace(enabled=True)
        return ("auth_enable",)

    def _auth_disable(self, request: Any) -> Result:
        if self.now.enabled:
            self._change(enabled=False)
        self._void(None)
        return ("auth_disable",)

    def _auth_status(self, request: Any) -> Result:
        return ("auth_status", self.now.enabled, self.now.revision)

    def _authenticate(self, request: Any) -> Result:
        if not self.now.enabled:
            return NOT_ENABLED
        user = self.now.users.get(request.name)
        if user is None or user.no_password:
            return FAILED
        token = f"{request.simple_token}.{self.index}"
        self.tokens[token] = Token(request.name, self.index, None)
        return ("authenticate", token)

    def _auth_user_add(self, request: Any) -> Result:
        if not request.name:
            return USER_EMPTY
        if request.name in self.now.users:
            return USER_EXISTS
        no_password = request.options.no_password
        password = b"" if no_password else base64.b64decode(request.hashedPassword)
        self._set_user(request.name, password=password, no_password=no_password)
        return ("auth_user_add",)

    def _auth_user_delete(self, request: Any) -> Result:
        if self.now.enabled and request.name == "root":
            return INVALID
        if request.name not in self.now.users:
            return USER_NOT_FOUND
        self._change(users={k: v for k, v in self.now.users.items() if k != request.name})
        self._void(request.name)
        return ("auth_user_delete",)

    def _auth_user_change_password(self, request: Any) -> Result:
        user = self.now.users.get(request.name)
        if user is None:
            return USER_NOT_FOUND
        password = b"" if user.no_password else base64.b64decode(request.hashedPassword)
        self._set_user(request.name, password=password)
        self._void(request.name)
        return ("auth_user_change_password",)

    def _auth_user_get(self, request: Any) -> Result:
        user = self.now.users.get(request.name)
        return USER_NOT_FOUND if user is None else ("auth_user_get", user.roles)

    def _auth_user_list(self, request: Any) -> Result:
        return ("auth_user_list", tuple(sorted(self.now.users)))

    def _auth_user_grant_role(self, request: Any) -> Result:
        user = self.now.users.get(request.user)
        if user is None:
            return USER_NOT_FOUND
        if request.role != "root" and request.role not in self.now.roles:
            return ROLE_NOT_FOUND
        if request.role not in user.roles:
            self._set_user(request.user, roles=tuple(sorted((*user.roles, request.role))))
        return ("auth_user_grant_role",)

    def _auth_user_revoke_role(self, request: Any) -> Result:
        if self.now.enabled and request.name == request.role == "root":
            return INVALID
        user = self.now.users.get(request.name)
        if user is None:
            return USER_NOT_FOUND
        if request.role not in user.roles:
            return ROLE_NOT_GRANTED
        self._set_user(request.name, roles=tuple(r for r in user.roles if r != request.role))
        return ("auth_user_revoke_role",)

    def _auth_role_add(self, request: Any) -> Result:
        if not request.name:
            return ROLE_EMPTY
        if request.name in self.now.roles:
            return ROLE_EXISTS
        self._change(roles={**self.now.roles, request.name: frozenset()})
        return ("auth_role_add",)

    def _auth_role_delete(self, request: Any) -> Result:
        name = request.role
        if self.now.enabled and name == "root":
            return INVALID
        if name not in self.now.roles:
            return ROLE_NOT_FOUND
        users = {
            each: user._replace(roles=tuple(r for r in user.roles if r != name))
            for each, user in self.now.users.items()
        }
        self._change(roles={k: v for k, v in self.now.roles.items() if k != name}, users=users)
        return ("auth_role_delete",)

    def _auth_role_get(self, request: Any) -> Result:
        role = self.now.roles.get(request.role)
        return ROLE_NOT_FOUND if role is None else ("auth_role_get", tuple(sorted(role)))

    def _auth_role_list(self, request: Any) -> Result:
        return ("auth_role_list", tuple(sorted(self.now.roles)))

    def _auth_role_grant_permission(self, request: Any) -> Result:
        perm = request.perm
        if not perm.key or (perm.range_end not in (b"", b"\0") and perm.range_end <= perm.key):
            return INVALID
        role = self.now.roles.get(request.name)
        if role is None:
            return ROLE_NOT_FOUND
        kept = {each for each in role if each[1:] != (perm.key, perm.range_end)}
        kept.add((perm.permType, perm.key, perm.range_end))
        self._change(roles={**self.now.roles, request.name: frozenset(kept)})
        return ("auth_role_grant_permission",)

    def _auth_role_revoke_permission(self, request: Any) -> Result:
        role = self.now.roles.get(request.role)
        if role is None:
            return ROLE_NOT_FOUND
        kept = frozenset(p for p in role if p[1:] != (request.key, request.range_end))
        if kept == role:
            return NOT_GRANTED
        self._change(roles={**self.now.roles, request.role: kept})
        return ("auth_role_revoke_permission",)


ADMIN = (
    "auth_enable", "auth_disable", "auth_status", "auth_user_add", "auth_user_delete",
    "auth_user_change_password", "auth_user_grant_role", "auth_user_revoke_role",
    "auth_user_list", "auth_role_add", "auth_role_delete", "auth_role_list",
    "auth_role_grant_permission", "auth_role_revoke_permission",
)  # fmt: skip


def root_refusal(now: Users, name: str) -> Result | None:
    if not name:
        return USER_EMPTY
    if name not in now.users:
        return USER_NOT_FOUND
    return None if now.is_root(name) else DENIED


Asked = tuple[bytes, bytes, int]


def asked(request: Any, model: Any) -> list[Asked]:
    """The ranges that a request of the log reads and writes."""
    if request.HasField("put"):
        return _of_put(request.put, model)
    if request.HasField("delete_range"):
        return _of_delete(request.delete_range)
    if request.HasField("lease_revoke"):
        return _of_lease(request.lease_revoke.ID, model)
    if request.HasField("txn"):
        return of_txn(request.txn, model)
    return []


def of_txn(request: Any, model: Any) -> list[Asked]:
    found = [(compare.key, compare.range_end, READ) for compare in request.compare]
    for op in (*request.success, *request.failure):
        if op.HasField("request_put"):
            found += _of_put(op.request_put, model)
        elif op.HasField("request_delete_range"):
            found += _of_delete(op.request_delete_range)
        else:
            found.append((op.request_range.key, op.request_range.range_end, READ))
    return found


def _of_put(request: Any, model: Any) -> list[Asked]:
    found = [(request.key, b"", WRITE)]
    if request.lease:
        found += _of_lease(request.lease, model)
    if request.prev_kv:
        found.append((request.key, b"", READ))
    return found


def _of_delete(request: Any) -> list[Asked]:
    found = [(request.key, request.range_end, WRITE)]
    if request.prev_kv:
        found.append((request.key, request.range_end, READ))
    return found


def _of_lease(id: int, model: Any) -> list[Asked]:
    return [(key, b"", WRITE) for key, kv in sorted(model.current.items()) if kv.lease == id]


def result_of_auth(kind: str, response: Any) -> Result | None:
    """A response in the model's words; `kind` is the field of the request."""
    if kind == "authenticate":
        return (kind, response.token)
    if kind == "auth_status":
        return (kind, response.enabled, response.authRevision)
    if kind == "auth_user_get":
        return (kind, tuple(response.roles))
    if kind == "auth_user_list":
        return (kind, tuple(response.users))
    if kind == "auth_role_list":
        return (kind, tuple(response.roles))
    if kind == "auth_role_get":
        return (kind, tuple(sorted((p.permType, p.key, p.range_end) for p in response.perm)))
    return (kind,)


def users_of(machine: Any) -> Users:
    """What a member holds."""
    auth = machine.auth
    users, roles = {}, {}
    for name in auth.users():
        user = auth.user(name)
        users[name] = User(user.password, user.options.no_password, tuple(user.roles))
    for name in auth.roles():
        permissions = auth.role(name).keyPermission
        roles[name] = frozenset((p.permType, p.key, p.range_end) for p in permissions)
        assert len(roles[name]) == len(permissions), f"a permission twice in {name}"
    return Users(auth.enabled, auth.revision, users, roles)
