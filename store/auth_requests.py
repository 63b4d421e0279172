"""The requests of the Auth service as they come out of the log: one table, request to answer.

Reading requests are entries, too, as in etcd: what they answer is what stood at their place in the
log. The caller has judged the permission and sets the header's revision.
"""

from collections.abc import Callable
from typing import Any, Final

from pyetcd.proto import errors
from pyetcd.proto.raft_internal_pb2 import InternalAuthenticateRequest, InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    AuthDisableResponse,
    AuthEnableResponse,
    AuthenticateResponse,
    AuthRoleAddResponse,
    AuthRoleDeleteResponse,
    AuthRoleGetRequest,
    AuthRoleGetResponse,
    AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse,
    AuthRoleListResponse,
    AuthRoleRevokePermissionRequest,
    AuthRoleRevokePermissionResponse,
    AuthStatusResponse,
    AuthUserAddRequest,
    AuthUserAddResponse,
    AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse,
    AuthUserDeleteResponse,
    AuthUserGetRequest,
    AuthUserGetResponse,
    AuthUserGrantRoleRequest,
    AuthUserGrantRoleResponse,
    AuthUserListResponse,
    AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse,
)
from pyetcd.store.auth import AuthStore
from pyetcd.store.backend import Backend
from pyetcd.store.tokens import SimpleTokens

# Any: each takes the message of its own field, and answers with one that has a header.
Handler = Callable[["AuthRequests", Any], Any]


class AuthRequests:
    """Applies them to the auth store and to the tokens that every member keeps."""

    def __init__(self, auth: AuthStore, tokens: SimpleTokens) -> None:
        self._auth = auth
        self._tokens = tokens
        self._index = 0
        auth.password_changed = tokens.forget_user

    def apply(self, request: InternalRaftRequest, index: int) -> Any:
        """The answer; raises NotCapable for a request that is none of these."""
        self._index = index
        for field, handler in _HANDLERS:
            if request.HasField(field):
                return handler(self, getattr(request, field))
        raise errors.NotCapable

    def reload(self, backend: Backend) -> None:
        """A snapshot was installed: whose password changed meanwhile is not known, so all tokens
        go if anything changed. (etcd keeps them, also that of a user deleted meanwhile.)"""
        before = (self._auth.enabled, self._auth.revision)
        self._auth.reload(backend)
        if (self._auth.enabled, self._auth.revision) != before:
            self._tokens.clear()

    # -- the switch

    def _enable(self, request: Any) -> Any:
        self._auth.enable()
        return AuthEnableResponse()

    def _disable(self, request: Any) -> Any:
        self._auth.disable()
        self._tokens.clear()
        return AuthDisableResponse()

    def _status(self, request: Any) -> Any:
        return AuthStatusResponse(enabled=self._auth.enabled, authRevision=self._auth.revision)

    def _authenticate(self, request: InternalAuthenticateRequest) -> Any:
        """Without a simple token in it, the member that was asked signs one itself (JWT)."""
        self._auth.check_authenticates(request.name)
        if not request.simple_token:
            return AuthenticateResponse()
        token = f"{request.simple_token}.{self._index}"
        self._tokens.assign(token, request.name)
        return AuthenticateResponse(token=token)

    # -- users

    def _user_add(self, request: AuthUserAddRequest) -> Any:
        self._auth.add_user(
            request.name,
            request.password,
            request.hashedPassword,
            no_password=request.options.no_password,
        )
        return AuthUserAddResponse()

    def _user_delete(self, request: Any) -> Any:
        self._auth.delete_user(request.name)
        return AuthUserDeleteResponse()

    def _user_change_password(self, request: AuthUserChangePasswordRequest) -> Any:
        self._auth.change_password(request.name, request.password, request.hashedPassword)
        return AuthUserChangePasswordResponse()

    def _user_get(self, request: AuthUserGetRequest) -> Any:
        return AuthUserGetResponse(roles=self._auth.user(request.name).roles)

    def _user_list(self, request: Any) -> Any:
        return AuthUserListResponse(users=self._auth.users())

    def _user_grant_role(self, request: AuthUserGrantRoleRequest) -> Any:
        self._auth.grant_role(request.user, request.role)
        return AuthUserGrantRoleResponse()

    def _user_revoke_role(self, request: AuthUserRevokeRoleRequest) -> Any:
        self._auth.revoke_role(request.name, request.role)
        return AuthUserRevokeRoleResponse()

    # -- roles

    def _role_add(self, request: Any) -> Any:
        self._auth.add_role(request.name)
        return AuthRoleAddResponse()

    def _role_delete(self, request: Any) -> Any:
        self._auth.delete_role(request.role)
        return AuthRoleDeleteResponse()

    def _role_get(self, request: AuthRoleGetRequest) -> Any:
        return AuthRoleGetResponse(perm=self._auth.role(request.role).keyPermission)

    def _role_list(self, request: Any) -> Any:
        return AuthRoleListResponse(roles=self._auth.roles())

    def _role_grant_permission(self, request: AuthRoleGrantPermissionRequest) -> Any:
        if not request.HasField("perm"):
            raise errors.PermissionNotGiven
        self._auth.grant_permission(request.name, request.perm)
        return AuthRoleGrantPermissionResponse()

    def _role_revoke_permission(self, request: AuthRoleRevokePermissionRequest) -> Any:
        self._auth.revoke_permission(request.role, request.key, request.range_end)
        return AuthRoleRevokePermissionResponse()


_HANDLERS: Final[tuple[tuple[str, Handler], ...]] = (
    ("authenticate", AuthRequests._authenticate),
    ("auth_user_get", AuthRequests._user_get),
    ("auth_role_get", AuthRequests._role_get),
    ("auth_enable", AuthRequests._enable),
    ("auth_disable", AuthRequests._disable),
    ("auth_status", AuthRequests._status),
    ("auth_user_add", AuthRequests._user_add),
    ("auth_user_delete", AuthRequests._user_delete),
    ("auth_user_change_password", AuthRequests._user_change_password),
    ("auth_user_list", AuthRequests._user_list),
    ("auth_user_grant_role", AuthRequests._user_grant_role),
    ("auth_user_revoke_role", AuthRequests._user_revoke_role),
    ("auth_role_add", AuthRequests._role_add),
    ("auth_role_delete", AuthRequests._role_delete),
    ("auth_role_list", AuthRequests._role_list),
    ("auth_role_grant_permission", AuthRequests._role_grant_permission),
    ("auth_role_revoke_permission", AuthRequests._role_revoke_permission),
)
