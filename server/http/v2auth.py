"""v2 users and roles: who may use which keys, and /v2/auth.

Users and roles are JSON documents below /2 in the tree, as etcd keeps them, where no key of a
client is: so they are replicated as keys are, and members of both kinds read each other's. A
request names its user by HTTP basic authentication; one without a name is a guest's.

A pattern that ends in a star is a prefix, any other one a key. Passwords are compared in a thread
(server/passwords.py), once for each request, as in etcd.
"""

import asyncio
import base64
import binascii
import json
import posixpath
from typing import Any, Final
from urllib.parse import unquote

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.v2request_pb2 import Request
from pyetcd.server.http.v2base import (
    JSON,
    HttpError,
    Pairs,
    V2Base,
    allows,
    fail_http,
    send_json,
)
from pyetcd.server.http.v2json import dump, sound
from pyetcd.server.passwords import Passwords
from pyetcd.server.wire.http1 import HttpRequest, HttpResponder
from pyetcd.store.v2 import AUTH
from pyetcd.store.v2error import KEY_NOT_FOUND, NODE_EXISTS, V2Error
from pyetcd.store.v2tree import clean

ROOT: Final = "root"
GUEST: Final = "guest"
PREFIX: Final = "/v2/auth"
_ALL: Final = {"read": ["/*"], "write": ["/*"]}

Doc = dict[str, Any]


def _refusal(status: int, text: str) -> HttpError:
    return HttpError(status, f"auth: {text}")


def _role(name: str, kv: Doc) -> Doc:
    return {"role": name, "permissions": {"kv": kv}}


class V2Auth:
    """The documents, and what they allow. `certified`: names of certificates count."""

    def __init__(self, base: V2Base, passwords: Passwords, *, certified: bool) -> None:
        self._base = base
        self._passwords = passwords
        self._certified = certified
        self._is_ensured = False

    # -- may somebody do something

    @property
    def enabled(self) -> bool:
        try:
            return self._local("/enabled") is True
        except V2Error:
            return False

    async def may_use(self, request: HttpRequest, key: str, *, recursive: bool) -> bool:
        """Whether who asks may use the key."""
        user: Doc | None = None
        if "authorization" in request.headers:
            user = await self._by_password(request)
            if user is None:
                return False
        elif self._certified:
            user = self._by_certificate(request)
        kind = "read" if request.method in ("GET", "HEAD") else "write"
        if user is None:
            return self._allows(GUEST, kind, key, recursive=False)
        return any(
            self._allows(role, kind, key, recursive=recursive) for role in user["roles"] or ()
        )

    async def is_root(self, request: HttpRequest) -> bool:
        if not self.enabled:
            return True
        if "authorization" not in request.headers and self._certified:
            user = self._by_certificate(request)
        else:
            user = await self._by_password(request)
        return user is not None and ROOT in (user["roles"] or ())

    async def require_root(self, request: HttpRequest) -> None:
        if not await self.is_root(request):
            raise HttpError(401, "Insufficient credentials", plain=True)

    def _allows(self, role: str, kind: str, key: str, *, recursive: bool) -> bool:
        if role == ROOT:
            return True
        try:
            patterns = self._local(f"/roles/{role}")["permissions"]["kv"][kind] or ()
        except V2Error:
            return False
        for pattern in patterns:
            if pattern.endswith("*"):
                if key.startswith(pattern[:-1]):
                    return True
            elif key == pattern and not recursive:
                return True
        return False

    async def _by_password(self, request: HttpRequest) -> Doc | None:
        named = basic_credentials(request.headers.get("authorization", ""))
        if named is None:
            return None
        name, password = named
        try:
            user = self._local_user(name)
        except HttpError:
            user = {"user": "", "password": "", "roles": []}
        checked: asyncio.Future[Any] = self._base.loop.create_future()
        hashed = user.get("password", "").encode() or None
        self._passwords.verify(password, hashed, checked.set_result)
        return user if await checked is True else None

    def _by_certificate(self, request: HttpRequest) -> Doc | None:
        if not request.common_name:
            return None
        try:
            return self._local_user(request.common_name)
        except HttpError:
            return None

    # -- documents

    def _local(self, place: str) -> Any:
        """As this member has it; V2Error."""
        event = self._base.store.get(Request(Path=clean(AUTH + place)))
        return json.loads(event.node.value or "null")

    def _local_user(self, name: str) -> Doc:
        try:
            return _user(name, self._local(f"/users/{name}"))
        except V2Error as error:
            raise _absent(error, f"User {name} does not exist.") from None

    def role(self, name: str) -> Doc:
        if name == ROOT:
            return _role(ROOT, _ALL)
        try:
            return _as_role(self._local(f"/roles/{name}"))
        except V2Error as error:
            raise _absent(error, f"Role {name} does not exist.") from None

    def names(self, place: str) -> list[str]:
        try:
            event = self._base.store.get(Request(Path=clean(AUTH + place)))
        except V2Error as error:
            if error.number == KEY_NOT_FOUND:
                return []
            raise
        return sorted(posixpath.basename(view.key) for view in event.node.nodes or ())

    async def _quorum(self, place: str) -> Any:
        event = await self._base.ask(Request(Method="QGET", Path=clean(AUTH + place)))
        return json.loads(event.node.value or "null")

    async def quorum_user(self, name: str) -> Doc:
        try:
            return _user(name, await self._quorum(f"/users/{name}"))
        except V2Error as error:
            raise _absent(error, f"User {name} does not exist.") from None

    async def quorum_role(self, name: str) -> Doc:
        if name == ROOT:
            return self.role(ROOT)
        try:
            return _as_role(await self._quorum(f"/roles/{name}"))
        except V2Error as error:
            raise _absent(error, f"Role {name} does not exist.") from None

    async def put(self, place: str, value: Any, *, exists: bool) -> None:
        await self._ensure()
        path = clean(AUTH + place)
        text = dump(value)
        await self._base.ask(Request(Method="PUT", Path=path, Val=text, PrevExist=exists))

    async def delete(self, place: str) -> None:
        await self._ensure()
        path = clean(AUTH + place)
        await self._base.ask(Request(Method="DELETE", Path=path, PrevExist=True))

    async def _ensure(self) -> None:
        """The directories, before the first write of this process."""
        if self._is_ensured:
            return
        places = [Request(Path=AUTH + place, Dir=True) for place in ("", "/users/", "/roles/")]
        for request in (*places, Request(Path=AUTH + "/enabled", Val="false")):
            request.Method, request.PrevExist = "PUT", False
            try:
                await self._base.ask(request)
            except V2Error as error:
                if error.number != NODE_EXISTS:
                    raise
        self._is_ensured = True

    async def hash(self, password: str) -> str:
        hashed: asyncio.Future[str | EtcdError] = self._base.loop.create_future()
        self._passwords.hash(password, hashed.set_result)
        found = await hashed
        if isinstance(found, EtcdError):
            raise found
        return base64.b64decode(found).decode()


def basic_credentials(header: str) -> tuple[str, str] | None:
    """Name and password; None for what is no basic authentication."""
    if header[:6].lower() != "basic ":
        return None
    try:
        text = base64.b64decode(header[6:], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    name, colon, password = text.partition(":")
    return (name, password) if colon else None


def _absent(error: V2Error, text: str) -> HttpError | V2Error:
    return _refusal(404, text) if error.number == KEY_NOT_FOUND else error


def _user(name: str, found: Doc) -> Doc:
    roles = found.get("roles")  # None is not the same as none of them: see _update_user
    if name == ROOT and ROOT not in (roles or ()):
        roles = [*(roles or ()), ROOT]
    return {"user": found.get("user", ""), "password": found.get("password", ""), "roles": roles}


def _as_role(found: Doc) -> Doc:
    kv = found.get("permissions", {}).get("kv", {})
    return _role(found.get("role", ""), {"read": kv.get("read"), "write": kv.get("write")})


class AuthHandler:
    """Everything below /v2/auth."""

    def __init__(self, base: V2Base, auth: V2Auth) -> None:
        self._base = base
        self._auth = auth
        self._headers: Pairs = (*base.cluster, *JSON)

    def handle(self, request: HttpRequest, responder: HttpResponder) -> None:
        path = posixpath.normpath(unquote(request.path)[len(PREFIX) :])
        pieces = path.split("/")[1:]
        kind = pieces[0]
        if len(pieces) > 2:
            return fail_http(responder, (), HttpError(400, "Invalid path"))
        one = len(pieces) == 2
        if not allows(request, responder, *(("GET", "PUT", "DELETE") if one else ("GET",))):
            return None
        name = pieces[1] if one else ""
        work = {"users": self._users, "roles": self._roles}[kind]
        return self._base.serve(responder, self._headers, work(request, responder, name))

    def enable(self, request: HttpRequest, responder: HttpResponder) -> None:
        if allows(request, responder, "GET", "PUT", "DELETE"):
            work = self._enable(request, responder)
            self._base.serve(responder, self._headers, work)

    async def _enable(self, request: HttpRequest, responder: HttpResponder) -> None:
        auth = self._auth
        enabled = auth.enabled
        if request.method == "GET":
            return self._send(responder, {"enabled": enabled})
        await auth.require_root(request)
        if request.method == "PUT":
            if enabled:
                raise _refusal(409, "already enabled")
            try:
                await auth.quorum_user(ROOT)
            except (HttpError, V2Error):
                text = "No root user available, please create one"
                raise _refusal(409, text) from None
            try:
                await auth.quorum_role(GUEST)
            except (HttpError, V2Error):
                await self._create_role(_role(GUEST, _ALL))
            await auth.put("/enabled", True, exists=True)
        else:
            if not enabled:
                raise _refusal(409, "already disabled")
            await auth.put("/enabled", False, exists=True)
        return responder.send(200, self._headers)

    # -- users

    async def _users(self, request: HttpRequest, responder: HttpResponder, name: str) -> None:
        auth = self._auth
        await auth.require_root(request)
        if not name:
            users = [self._shown(auth._local_user(each)) for each in auth.names("/users/")]
            return self._send(responder, {"users": users or None})
        if request.method == "GET":
            user = auth._local_user(name)
            return self._send(responder, self._shown(user, strict=True))
        if request.method == "PUT":
            return await self._put_user(request, responder, name)
        if auth.enabled and name == ROOT:
            raise _refusal(403, "Cannot delete root user while auth is enabled.")
        try:
            await auth.delete(f"/users/{name}")
        except V2Error as error:
            raise _absent(error, f"User {name} does not exist") from None
        return responder.send(200, self._headers)

    def _shown(self, user: Doc, *, strict: bool = False) -> Doc:
        """With its roles written out; without its password."""
        roles = []
        for role in user["roles"] or ():
            try:
                roles.append(self._auth.role(role))
            except HttpError:
                if strict:
                    raise
        shown: Doc = {"user": user["user"]}
        if roles:
            shown["roles"] = roles
        return shown

    async def _put_user(self, request: HttpRequest, responder: HttpResponder, name: str) -> None:
        asked = _document(request)
        user = str(asked.get("user", ""))
        if user != name:
            raise HttpError(400, "User JSON name does not match the name in the URL")
        password, roles = asked.get("password", ""), asked.get("roles")
        grant, revoke = asked.get("grant"), asked.get("revoke")
        created = False
        if not grant and not revoke:
            exists = not roles
            if exists:
                try:
                    await self._auth.quorum_user(name)
                except (HttpError, V2Error):
                    exists = False
                    created = True
            if exists:
                out = await self._update_user(name, password, (), ())
            else:
                out = await self._create_user(name, password, roles)
        else:
            if roles:
                raise HttpError(400, "User JSON contains both roles and grant/revoke")
            out = await self._update_user(name, password, grant or (), revoke or ())
        shown = {"user": out["user"], "roles": out["roles"]}
        return self._send(responder, shown, status=201 if created else 200)

    async def _create_user(self, name: str, password: str, roles: list[str] | None) -> Doc:
        if name == ROOT and ROOT not in (roles or ()):
            roles = [*(roles or ()), ROOT]
        if not password:
            raise _refusal(400, f"Cannot create user {name} with an empty password")
        hashed = await self._auth.hash(password)
        user = {"user": name, "password": hashed, "roles": roles}
        try:
            await self._auth.put(f"/users/{name}", user, exists=False)
        except V2Error as error:
            if error.number == NODE_EXISTS:
                raise _refusal(409, f"User {name} already exists.") from None
            raise
        return user

    async def _update_user(self, name: str, password: str, grant: Any, revoke: Any) -> Doc:
        old = await self._auth.quorum_user(name)
        hashed = await self._auth.hash(password) if password else old["password"]
        roles = set(old["roles"] or ())
        for role in grant:
            if role in roles:
                raise _refusal(409, f"Granting duplicate role {role} for user {name}")
            roles.add(role)
        for role in revoke:
            if role not in roles:
                raise _refusal(409, f"Revoking ungranted role {role} for user {name}")
            roles.remove(role)
        new = {"user": name, "password": hashed, "roles": sorted(roles)}
        if new == old:
            text = "User not updated. Use grant/revoke/password to update the user."
            raise _refusal(400, text)
        await self._auth.put(f"/users/{name}", new, exists=True)
        return new

    # -- roles

    async def _roles(self, request: HttpRequest, responder: HttpResponder, name: str) -> None:
        auth = self._auth
        await auth.require_root(request)
        if not name:
            names = sorted([ROOT, *auth.names("/roles/")])
            return self._send(responder, {"roles": [auth.role(each) for each in names]})
        if request.method == "GET":
            return self._send(responder, auth.role(name))
        if request.method == "PUT":
            return await self._put_role(request, responder, name)
        if name == ROOT:
            raise _refusal(403, f"Cannot modify role {name}: is root role.")
        try:
            await auth.delete(f"/roles/{name}")
        except V2Error as error:
            raise _absent(error, f"Role {name} doesn't exist.") from None
        return responder.send(200, self._headers)

    async def _put_role(self, request: HttpRequest, responder: HttpResponder, name: str) -> None:
        asked = _document(request)
        if asked.get("role", "") != name:
            raise HttpError(400, "Role JSON name does not match the name in the URL")
        kv = _kv(asked.get("permissions"))
        grant, revoke = _kv(asked.get("grant")), _kv(asked.get("revoke"))
        if _is_empty(grant) and _is_empty(revoke):
            role = _role(name, kv)
            for field in ("grant", "revoke"):
                if asked.get(field) is not None:
                    role[field] = {"kv": _kv(asked[field])}
            await self._create_role(role)
            return self._send(responder, role, status=201)
        if not _is_empty(kv):
            raise HttpError(400, "Role JSON contains both permissions and grant/revoke")
        if name == ROOT:
            raise _refusal(403, f"Cannot modify role {name}: is root role.")
        old = await self._auth.quorum_role(name)
        new = _merged(old, asked, grant, revoke)
        if new == old:
            raise _refusal(400, "Role not updated. Use grant/revoke to update the role.")
        await self._auth.put(f"/roles/{name}", new, exists=True)
        return self._send(responder, new)

    async def _create_role(self, role: Doc) -> None:
        name = role["role"]
        if name == ROOT:
            raise _refusal(403, f"Cannot modify role {name}: is root role.")
        try:
            await self._auth.put(f"/roles/{name}", role, exists=False)
        except V2Error as error:
            if error.number == NODE_EXISTS:
                raise _refusal(409, f"Role {name} already exists.") from None
            raise

    def _send(self, responder: HttpResponder, value: Any, *, status: int = 200) -> None:
        send_json(responder, status, self._headers, value)


def _document(request: HttpRequest) -> Doc:
    """Go's decoder reads one value and does not look behind it."""
    try:
        found, _ = json.JSONDecoder().raw_decode(request.body.decode().lstrip(" \t\r\n"))
    except (ValueError, RecursionError):
        raise HttpError(400, "Invalid JSON in request body.") from None
    found = {} if found is None else sound(found)
    if not isinstance(found, dict) or not _has_types(found):
        raise HttpError(400, "Invalid JSON in request body.")
    return found


def _has_types(found: Doc) -> bool:
    texts = (found.get("user", ""), found.get("password", ""), found.get("role", ""))
    if not all(isinstance(text, str) for text in texts):
        return False
    for field in ("permissions", "grant", "revoke", "roles"):
        value = found.get(field)
        if isinstance(value, dict):
            kv = value.get("kv") or {}
            if not isinstance(kv, dict):
                return False
            lists = [kv.get("read") or [], kv.get("write") or []]
        else:
            lists = [value or []]
        for each in lists:
            if not isinstance(each, list) or not all(isinstance(name, str) for name in each):
                return False
    return True


def _kv(permissions: Any) -> Doc:
    kv = (permissions.get("kv") if isinstance(permissions, dict) else None) or {}
    return {"read": kv.get("read"), "write": kv.get("write")}


def _is_empty(kv: Doc) -> bool:
    return not kv["read"] and not kv["write"]


def _merged(old: Doc, asked: Doc, grant: Doc, revoke: Doc) -> Doc:
    kv = old["permissions"]["kv"]
    for field, change in (("grant", grant), ("revoke", revoke)):
        if asked.get(field) is None:
            continue
        made = {}
        for kind in ("read", "write"):
            patterns = set(kv[kind] or ())
            for pattern in change[kind] or ():
                if field == "revoke":
                    patterns.discard(pattern)
                elif pattern in patterns:
                    raise _refusal(409, f"Granting duplicate {kind} permission {pattern}")
                else:
                    patterns.add(pattern)
            made[kind] = sorted(patterns)
        kv = made
    return _role(old["role"], kv)
