"""Who asks, and is he let in? Stands between the listener and the handlers while auth is on.

Strategy. A call names its user by a token in the metadata `token` or `authorization`, or, with
--client-cert-auth and without a token, by the CN of its certificate. `gate` and `stream_gate` wrap
a handler by the row that rules.py has for its method; handlers whose keys decide ask `permit_*`
themselves when they read, and `sign` what they propose, so that the state machine judges it
(store/permit.py). While auth is off none of this runs: a handler costs one attribute test more.

Rules. A simple token names the log index that made it. A member that has not applied that entry
yet waits for it instead of refusing the token, as etcd. A token is never written to a log, nor is
it said why it was not good.

Limits. How long a call waits for the index of its token, and how many do, is bounded (early.py);
beyond that the token is as good as unknown.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from pyetcd.proto import errors
from pyetcd.proto.errors import Code, EtcdError, RpcError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    AlarmRequest,
    RangeRequest,
    TxnRequest,
    WatchCreateRequest,
)
from pyetcd.server.api.rules import Rule, rule_of
from pyetcd.server.early import AppliedWait
from pyetcd.server.jwt_tokens import JwtTokens
from pyetcd.store import permit
from pyetcd.store.auth import NOBODY, AuthStore, Who
from pyetcd.store.lease import Lessor
from pyetcd.store.tokens import SimpleTokens, index_of

Handler = Callable[..., None]
StreamHandler = Callable[[Any], Awaitable[None]]

# What etcd answers from handlers that forget to translate the error.
_RAW: Final[dict[type[EtcdError], str]] = {
    errors.UserEmpty: "auth: user name is empty",
    errors.UserNotFound: "auth: user not found",
    errors.PermissionDenied: "auth: permission denied",
    errors.InvalidAuthToken: "auth: invalid auth token",
}


class Caller(Protocol):
    """A call of either kind."""

    @property
    def metadata(self) -> Mapping[str, str | bytes]: ...

    @property
    def common_name(self) -> str:
        """Of the verified certificate of this very connection; empty without one."""


class Access:
    """The rights of whoever calls this member."""

    def __init__(
        self,
        auth: AuthStore,
        tokens: SimpleTokens,
        lessor: Lessor,
        *,
        jwt: JwtTokens | None,
        client_cert_auth: bool,
        applied_index: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.auth = auth
        self.jwt = jwt
        self._tokens = tokens
        self._lessor = lessor
        self._client_cert_auth = client_cert_auth
        self._applied = AppliedWait(applied_index, loop)

    # -- who

    def who(self, caller: Caller) -> Who:
        """NOBODY without a token or certificate; raises InvalidAuthToken."""
        token = _token(caller)
        if token is not None:
            return self._holder(token)
        if not self._client_cert_auth or not caller.common_name:
            return NOBODY
        # A gateway calls with its own certificate, on behalf of somebody else (CVE-2018-16886).
        if "grpcgateway-accept" in caller.metadata:
            return NOBODY
        return Who(caller.common_name, self.auth.revision)

    def _holder(self, token: str) -> Who:
        if self.jwt is not None:
            return self.jwt.who(token)
        user = self._tokens.user(token)
        if user is None:
            raise errors.InvalidAuthToken
        return Who(user, self.auth.revision)

    def _early_index(self, caller: Caller) -> int | None:
        """Of the entry that made the caller's token, if it is still to be applied here."""
        token = _token(caller)
        if token is None or self.jwt is not None:
            return None
        index = index_of(token)
        return None if index is None or self._applied.is_applied(index) else index

    # -- gates

    def gate(self, path: str, handler: Handler) -> Handler:
        """`handler` of a unary method, for the time that auth is on."""
        rule = rule_of(path)
        if rule in (Rule.OPEN, Rule.INNER):
            return handler

        def admit(call: Any, request: Any) -> None:
            try:
                self._judge(rule, call, request)
                handler(call, request)
            except EtcdError as error:
                call.fail(error.code, error.text)

        def gated(call: Any, request: Any) -> None:
            index = self._early_index(call)
            if index is not None:
                return self._later(index, call, lambda: admit(call, request))
            return admit(call, request)

        return gated

    def stream_gate(self, path: str, handler: StreamHandler) -> StreamHandler:
        """The same for a stream, whose handler judges each request of it if the rule says so."""
        rule = rule_of(path)
        if rule in (Rule.OPEN, Rule.INNER):
            return handler

        async def gated(stream: Any) -> None:
            if self.auth.enabled:
                await self.caught_up(stream)
                if rule in (Rule.ROOT, Rule.ROOT_RAW, Rule.USER):
                    self._judge(rule, stream, None)
            await handler(stream)

        return gated

    def _judge(self, rule: Rule, caller: Caller, request: object) -> None:
        if rule in (Rule.LOGGED, Rule.KEYS):
            return  # they come to it, after their own checks, as in etcd
        if rule is Rule.ALARM:
            assert isinstance(request, AlarmRequest)
            rule = Rule.USER if request.action == AlarmRequest.GET else Rule.ROOT
        if rule is Rule.ROOT:
            self.auth.check_root(self.who(caller))
        elif rule is Rule.ROOT_RAW:
            try:
                self.auth.check_root(self.who(caller))
            except EtcdError as error:
                raise RpcError(Code.UNKNOWN, _RAW[type(error)]) from None
        else:
            self.require_user(caller)

    def require_user(self, caller: Caller) -> None:
        if self.auth.enabled and self.who(caller) is NOBODY:
            raise errors.UserEmpty

    # -- waiting for a token's entry

    def _later(self, index: int, call: Any, then: Callable[[], None]) -> None:
        def ready() -> None:
            if call.cancelled:
                call.fail(errors.InvalidAuthToken.code, errors.InvalidAuthToken.text)
            else:
                then()

        self._applied.wait(index, ready)

    async def caught_up(self, stream: Caller) -> None:
        """Until the entry of the stream's token is applied, if it may ever be."""
        index = self._early_index(stream)
        if index is not None:
            applied = asyncio.Event()
            self._applied.wait(index, applied.set)
            await applied.wait()

    # -- for handlers: call these only while auth is on

    def sign(self, caller: Caller, request: InternalRaftRequest) -> None:
        """Writes who asks into what is proposed. Raises InvalidAuthToken."""
        who = self.who(caller)
        request.header.username = who.name
        request.header.auth_revision = who.revision

    def permit(self, request: InternalRaftRequest) -> None:
        """What the state machine would say of a signed request now."""
        permit.permit(self.auth, self._lessor, request)

    def permit_range(self, caller: Caller, request: RangeRequest) -> None:
        permit.permit_range(self.auth, self.who(caller), request)

    def permit_txn(self, caller: Caller, request: TxnRequest) -> None:
        permit.permit_txn(self.auth, self._lessor, self.who(caller), request)

    def permit_renewal(self, caller: Caller, lease_id: int) -> None:
        self.require_user(caller)
        permit.permit_lease(self.auth, self._lessor, self.who(caller), lease_id)

    def permit_reading(self, caller: Caller, keys: Iterable[bytes]) -> None:
        who = self.who(caller)
        if not self.auth.is_root(who.name):
            permit.permit_reading(self.auth, who, keys)

    def refusal_of_watch(self, caller: Caller, request: WatchCreateRequest) -> str:
        """Why the watch is cancelled at once, in the words of etcd; empty if it is not. The one
        of these that may also be asked while auth is off."""
        if not self.auth.enabled:
            return ""
        try:
            self.auth.check_read(self.who(caller), request.key or b"\x00", request.range_end)
        except EtcdError as error:
            code = error.code.name.title().replace("_", "")
            return f"rpc error: code = {code} desc = {error.text}"
        return ""

    def stable(self, done: Callable[[Any], None]) -> Callable[[Any], None]:
        """`done`, but an answer is refused if rights have changed while it was made."""
        revision = self.auth.revision

        def checked(answer: Any) -> None:
            done(answer if self.auth.revision == revision else errors.AuthOldRevision())

        return checked


class Switch(Protocol):
    """Whether auth is on: an AuthStore, or what stands for one that never is."""

    enabled: bool


class AlwaysOff:
    """For a handler without an Access."""

    enabled = False


OFF: Final = AlwaysOff()


def _token(caller: Caller) -> str | None:
    metadata = caller.metadata
    token = metadata.get("token")
    if token is None:
        token = metadata.get("authorization")
    if not isinstance(token, str):
        return None
    return token.removeprefix("Bearer ")
