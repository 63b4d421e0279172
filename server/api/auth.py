"""Auth: users, roles, permissions, the switch, and tokens for passwords.

All but Authenticate go through raft as they are, reading ones, too, and are judged when they are
applied. A password is hashed before it is proposed and wiped from the request: it stands in no log
entry, on no disk and in no line of ours.

Authenticate compares the password with the hash that this member has applied, then proposes the
token's first half; every member that applies the entry knows the token. If anything about users
has changed between the two, the password may have: it is compared again.
"""

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import Message

from pyetcd.proto.errors import AuthFailed, EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    AuthenticateRequest,
    AuthUserAddRequest,
    AuthUserChangePasswordRequest,
)
from pyetcd.server.access import Access
from pyetcd.server.api.base import Done, Headers, Proposer, answer_to, refuse
from pyetcd.server.clock import Rng
from pyetcd.server.logs import get
from pyetcd.server.passwords import Passwords
from pyetcd.server.reads import LinearizableReads
from pyetcd.server.wire.grpc import UnaryCall

LETTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TOKEN_LETTERS: Final = 16

# RPC -> field of InternalRaftRequest, for those that need nothing else.
_PLAIN: Final = {
    "AuthEnable": "auth_enable",
    "AuthDisable": "auth_disable",
    "AuthStatus": "auth_status",
    "UserGet": "auth_user_get",
    "UserList": "auth_user_list",
    "UserDelete": "auth_user_delete",
    "UserGrantRole": "auth_user_grant_role",
    "UserRevokeRole": "auth_user_revoke_role",
    "RoleAdd": "auth_role_add",
    "RoleGet": "auth_role_get",
    "RoleList": "auth_role_list",
    "RoleDelete": "auth_role_delete",
    "RoleGrantPermission": "auth_role_grant_permission",
    "RoleRevokePermission": "auth_role_revoke_permission",
}

Handler = Callable[[UnaryCall, Any], None]


class AuthApi:
    """The 17 methods of etcdserverpb.Auth. `rng` must not be guessable: it makes tokens."""

    def __init__(
        self,
        *,
        headers: Headers,
        proposer: Proposer,
        reads: LinearizableReads,
        access: Access,
        passwords: Passwords,
        rng: Rng,
    ) -> None:
        self._headers = headers
        self._proposer = proposer
        self._reads = reads
        self._access = access
        self._auth = access.auth
        self._passwords = passwords
        self._rng = rng
        self._log = get("auth")

    def handlers(self) -> dict[str, Handler]:
        """By path, for the dispatch table."""
        found = {name: self._plain(field) for name, field in _PLAIN.items()}
        found["UserAdd"] = self.user_add
        found["UserChangePassword"] = self.user_change_password
        found["Authenticate"] = self.authenticate
        return {f"/etcdserverpb.Auth/{name}": handler for name, handler in found.items()}

    def _plain(self, field: str) -> Handler:
        def handler(call: UnaryCall, request: Message) -> None:
            proposal = InternalRaftRequest()
            getattr(proposal, field).CopyFrom(request)
            getattr(proposal, field).SetInParent()
            self._propose(call, proposal)

        return handler

    def _propose(self, call: UnaryCall, proposal: InternalRaftRequest) -> None:
        if self._auth.enabled:
            try:
                self._access.sign(call, proposal)
            except EtcdError as error:
                return refuse(call, error)
        return self._proposer.propose(proposal, answer_to(call, self._headers))

    def user_add(self, call: UnaryCall, request: AuthUserAddRequest) -> None:
        if request.options.no_password:
            return self._propose(call, InternalRaftRequest(auth_user_add=request))
        return self._hash(call, request, "auth_user_add")

    def user_change_password(self, call: UnaryCall, request: AuthUserChangePasswordRequest) -> None:
        if not request.password:
            proposal = InternalRaftRequest(auth_user_change_password=request)
            return self._propose(call, proposal)
        return self._hash(call, request, "auth_user_change_password")

    def _hash(
        self,
        call: UnaryCall,
        request: AuthUserAddRequest | AuthUserChangePasswordRequest,
        field: str,
    ) -> None:
        password, request.password = request.password, ""

        def hashed(answer: str | EtcdError) -> None:
            if isinstance(answer, EtcdError):
                return refuse(call, answer)
            request.hashedPassword = answer
            proposal = InternalRaftRequest()
            getattr(proposal, field).CopyFrom(request)
            return self._propose(call, proposal)

        self._passwords.hash(password, hashed)

    # -- tokens

    def authenticate(self, call: UnaryCall, request: AuthenticateRequest) -> None:
        name, password = request.name, request.password
        request.password = ""  # CVE-2021-28235
        done = answer_to(call, self._headers)
        self._reads.wait(
            lambda error: done(error) if error is not None else self._check(name, password, done)
        )

    def _check(self, name: str, password: str, done: Done) -> None:
        try:
            hashed = self._auth.password_of(name)
        except EtcdError as error:
            return done(error)
        revision = self._auth.revision

        def checked(is_right: bool | EtcdError) -> None:
            if isinstance(is_right, EtcdError):
                return done(is_right)
            if not is_right:
                self._log.warn("invalid authentication was requested", user=name)
                return done(AuthFailed())
            return self._assign(name, password, revision, done)

        return self._passwords.verify(password, hashed, checked)

    def _assign(self, name: str, password: str, revision: int, done: Done) -> None:
        jwt = self._access.jwt
        proposal = InternalRaftRequest()
        proposal.authenticate.name = name
        if jwt is None:
            proposal.authenticate.simple_token = self._letters()

        def applied(answer: Any) -> None:
            if isinstance(answer, EtcdError):
                return done(answer)
            if self._auth.revision != revision:
                return self._check(name, password, done)
            if jwt is not None:
                try:
                    answer.token = jwt.sign(name, revision)
                except EtcdError as error:
                    return done(error)
            return done(answer)

        self._proposer.propose(proposal, applied)

    def _letters(self) -> str:
        return "".join(LETTERS[self._rng.randrange(len(LETTERS))] for _ in range(TOKEN_LETTERS))
