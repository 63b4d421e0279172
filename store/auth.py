"""Users, roles, permissions: who may do what, as the log has made it.

Strategy. Everything is in memory as the messages that etcd stores, and written through to the
tables auth_users and auth_roles and two rows of meta, in the transaction of the entry that changed
it. A member that installs a snapshot reads all of it anew (etcd#14571). What a user may do is
merged at its first request after a change (grants.py) and kept until the next change.

Rules. The revision starts at 1 and grows by one with each change of a user, role or permission and
when authentication is switched off; not when it is switched on, nor by a grant that is there
already. A request carries the revision at which its user was known: if that is older, it is refused
(time of check, time of use). Passwords arrive hashed: nothing here takes long but one case, a log
entry of etcd before 3.5, whose plain password is hashed here, with a salt that follows from it, so
that members agree.

Limits. All users and roles are in memory: 1,000,000 users would be about 1 GB.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple

from pyetcd.proto import errors
from pyetcd.proto.auth_pb2 import Permission, Role, User
from pyetcd.proto.errors import Code
from pyetcd.store.backend import Backend
from pyetcd.store.grants import READ, WRITE, Grants, is_permission_range

ROOT: Final = "root"

_ENABLED: Final = "auth_enabled"  # rows of meta
_REVISION: Final = "auth_revision"

# Go's base64 over an alphabet of its own, as bcrypt writes salts.
_BCRYPT: Final = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
)


class NoPasswordUser(errors.RpcError):
    """etcd's map of errors has none for it: the raw text, as Unknown."""

    def __init__(self) -> None:
        text = "auth: authentication failed, password was given for no password user"
        super().__init__(Code.UNKNOWN, text)


class Who(NamedTuple):
    """In whose name a request is made, and at which revision that was found out."""

    name: str
    revision: int


NOBODY: Final = Who("", 0)


class AuthStore:
    """The auth state of one member. `password_changed` hears of users whose tokens are void."""

    def __init__(self, backend: Backend) -> None:
        self.password_changed: Callable[[str], None] = lambda user: None
        self.enabled = False
        self.revision = 1
        self._users: dict[str, User] = {}
        self._roles: dict[str, Role] = {}
        self._grants: dict[str, Grants] = {}
        self.reload(backend)

    def reload(self, backend: Backend) -> None:
        """Read everything from the file, at the start and after a snapshot was installed."""
        self._backend = backend
        self.enabled = bool(backend.meta_get(_ENABLED))
        revision = backend.meta_get(_REVISION)
        assert revision is None or isinstance(revision, int), revision
        self.revision = revision or 1
        self._users = {}
        for row in backend.query("SELECT user FROM auth_users"):
            user = User.FromString(_blob(row[0]))
            self._users[user.name.decode()] = user
        self._roles = {}
        for row in backend.query("SELECT role FROM auth_roles"):
            role = Role.FromString(_blob(row[0]))
            self._roles[role.name.decode()] = role
        self._grants = {}

    # -- asking

    def check(self, who: Who, key: bytes, range_end: bytes, kind: int) -> None:
        """Raises unless `who` may READ or WRITE the range; nothing is refused while disabled."""
        if not self.enabled:
            return
        if who.revision == 0:
            raise errors.UserEmpty
        if who.revision < self.revision:
            raise errors.AuthOldRevision
        grants = self._grants_of(who.name)
        if grants is None:
            raise errors.PermissionDenied
        ranges = grants.read if kind == READ else grants.write
        if not (grants.is_root or ranges.covers(key, range_end)):
            raise errors.PermissionDenied

    def check_read(self, who: Who, key: bytes, range_end: bytes) -> None:
        self.check(who, key, range_end, READ)

    def check_write(self, who: Who, key: bytes, range_end: bytes) -> None:
        self.check(who, key, range_end, WRITE)

    def check_root(self, who: Who) -> None:
        """Raises unless `who` has the role root."""
        if not self.enabled:
            return
        if not who.name:
            raise errors.UserEmpty
        if who.name not in self._users:
            raise errors.UserNotFound
        if not self.is_root(who.name):
            raise errors.PermissionDenied

    def is_root(self, name: str) -> bool:
        grants = self._grants_of(name)
        return grants is not None and grants.is_root

    def has_role(self, name: str, role: str) -> bool:
        user = self._users.get(name)
        return user is not None and role in user.roles

    def user(self, name: str) -> User:
        user = self._users.get(name)
        if user is None:
            raise errors.UserNotFound
        return user

    def role(self, name: str) -> Role:
        role = self._roles.get(name)
        if role is None:
            raise errors.RoleNotFound
        return role

    def users(self) -> list[str]:
        return sorted(self._users)

    def roles(self) -> list[str]:
        return sorted(self._roles)

    def password_of(self, name: str) -> bytes | None:
        """The hash to compare with; None for a user that does not exist. Raises when there can be
        no password: authentication is off, or the user has none."""
        if not self.enabled:
            raise errors.AuthNotEnabled
        user = self._users.get(name)
        if user is None:
            return None
        if user.options.no_password:
            raise NoPasswordUser
        return user.password

    def check_authenticates(self, name: str) -> None:
        """At apply: whether the user whose password was found right is still one with a password
        (a password changed since is told by the revision)."""
        if not self.enabled:
            raise errors.AuthNotEnabled
        user = self._users.get(name)
        if user is None or user.options.no_password:
            raise errors.AuthFailed

    # -- switching

    def enable(self) -> None:
        if self.enabled:
            return
        user = self._users.get(ROOT)
        if user is None:
            raise errors.RootUserNotExist
        if ROOT not in user.roles:
            raise errors.RootRoleNotExist
        self.enabled = True
        self._backend.meta_put(_ENABLED, 1)

    def disable(self) -> None:
        if not self.enabled:
            return
        self.enabled = False
        self._backend.meta_put(_ENABLED, 0)
        self._changed()

    # -- users

    def add_user(self, name: str, password: str, hashed: str, *, no_password: bool) -> None:
        if not name:
            raise errors.UserEmpty
        if name in self._users:
            raise errors.UserAlreadyExist
        user = User(name=name.encode())
        user.options.no_password = no_password
        if not no_password:
            user.password = _password(name, password, hashed)
        self._put_user(name, user)
        self._changed()

    def delete_user(self, name: str) -> None:
        if self.enabled and name == ROOT:
            raise errors.InvalidAuthMgmt
        self.user(name)
        del self._users[name]
        self._backend.execute("DELETE FROM auth_users WHERE name = ?", (name.encode(),))
        self._changed()
        self.password_changed(name)

    def change_password(self, name: str, password: str, hashed: str) -> None:
        user = self.user(name)
        made = b"" if user.options.no_password else _password(name, password, hashed)
        user.password = made
        self._put_user(name, user)
        self._changed()
        self.password_changed(name)

    def grant_role(self, name: str, role: str) -> None:
        user = self.user(name)
        if role != ROOT:
            self.role(role)
        if role in user.roles:
            return
        roles = sorted([*user.roles, role])
        del user.roles[:]
        user.roles.extend(roles)
        self._put_user(name, user)
        self._changed()

    def revoke_role(self, name: str, role: str) -> None:
        if self.enabled and name == ROOT and role == ROOT:
            raise errors.InvalidAuthMgmt
        user = self.user(name)
        if role not in user.roles:
            raise errors.RoleNotGranted
        self._take_role(name, user, role)
        self._changed()

    # -- roles

    def add_role(self, name: str) -> None:
        if not name:
            raise errors.RoleEmpty
        if name in self._roles:
            raise errors.RoleAlreadyExist
        self._put_role(name, Role(name=name.encode()))
        self._changed()

    def delete_role(self, name: str) -> None:
        if self.enabled and name == ROOT:
            raise errors.InvalidAuthMgmt
        self.role(name)
        del self._roles[name]
        self._backend.execute("DELETE FROM auth_roles WHERE name = ?", (name.encode(),))
        for user_name, user in self._users.items():
            if name in user.roles:
                self._take_role(user_name, user, name)
        self._changed()

    def grant_permission(self, name: str, permission: Permission) -> None:
        """One permission for each range: a second grant changes its type. etcd looks at the first
        range with the same start only, and may then keep a second, older one."""
        if not is_permission_range(permission.key, permission.range_end):
            raise errors.InvalidAuthMgmt
        role = self.role(name)
        for kept in role.keyPermission:
            if kept.key == permission.key and kept.range_end == permission.range_end:
                kept.permType = permission.permType
                break
        else:
            self._set_permissions(role, _with(list(role.keyPermission), permission))
        self._put_role(name, role)
        self._changed()

    def revoke_permission(self, name: str, key: bytes, range_end: bytes) -> None:
        role = self.role(name)
        kept = [p for p in role.keyPermission if (p.key, p.range_end) != (key, range_end)]
        if len(kept) == len(role.keyPermission):
            raise errors.PermissionNotGranted
        self._set_permissions(role, kept)
        self._put_role(name, role)
        self._changed()

    # -- within

    def _grants_of(self, name: str) -> Grants | None:
        grants = self._grants.get(name)
        if grants is None:
            user = self._users.get(name)
            if user is None:
                return None
            # The role root may be granted without existing.
            roles = [self._roles[role] for role in user.roles if role in self._roles]
            permissions = [p for role in roles for p in role.keyPermission]
            grants = self._grants[name] = Grants(permissions, is_root=ROOT in user.roles)
        return grants

    def _take_role(self, name: str, user: User, role: str) -> None:
        user.roles.remove(role)
        self._put_user(name, user)

    def _set_permissions(self, role: Role, permissions: list[Permission]) -> None:
        copies = [Permission.FromString(p.SerializeToString()) for p in permissions]
        del role.keyPermission[:]
        role.keyPermission.extend(copies)

    def _put_user(self, name: str, user: User) -> None:
        self._users[name] = user
        self._backend.execute(
            "INSERT OR REPLACE INTO auth_users (name, user) VALUES (?, ?)",
            (name.encode(), user.SerializeToString()),
        )

    def _put_role(self, name: str, role: Role) -> None:
        self._roles[name] = role
        self._backend.execute(
            "INSERT OR REPLACE INTO auth_roles (name, role) VALUES (?, ?)",
            (name.encode(), role.SerializeToString()),
        )

    def _changed(self) -> None:
        self._grants.clear()
        self.revision += 1
        self._backend.meta_put(_REVISION, self.revision)


def _with(permissions: list[Permission], added: Permission) -> list[Permission]:
    """Sorted by key as Go 1.16 does it, with which etcd 3.5.1 is built: of up to 12, one pass with
    a gap of 6, then by insertion. Among equal keys the order has no meaning, but a client sees it.
    """
    permissions.append(added)
    if 6 < len(permissions) <= 12 and added.key < permissions[-7].key:
        permissions[-1], permissions[-7] = permissions[-7], added
    permissions.sort(key=lambda each: each.key)
    return permissions


def _password(name: str, password: str, hashed: str) -> bytes:
    """The hash to store. Raises before anything was changed."""
    if password and not hashed:
        return _hash_for_the_log(name, password)
    try:
        return base64.b64decode(hashed, validate=True)
    except (binascii.Error, ValueError):
        raise NoPasswordUser from None  # so says etcd


def _hash_for_the_log(name: str, password: str) -> bytes:
    import bcrypt  # for the logs of etcd before 3.5 alone

    plain = password.encode()[:72]
    seed = hashlib.sha256(name.encode() + b"\x00" + plain).digest()[:16]
    salt = base64.b64encode(seed).rstrip(b"=").translate(_BCRYPT)
    return bcrypt.hashpw(plain, b"$2a$10$" + salt)


def _blob(value: object) -> bytes:
    assert isinstance(value, bytes), value
    return value
