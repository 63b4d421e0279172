"""The gRPC client of `ctl`: one connection to the endpoints, retries, tokens, error texts.

What etcd's clientv3 does, as far as its user sees it: several endpoints are balanced by round robin
over those that answer; a call waits for a connection until its time is over; a read is sent again
when the server was not available; a write never is, since its outcome is unknown. Each failed try
of a unary call is one JSON line on stderr, with clientv3's wording.

Unary calls go over a connection of their own (`direct.py`) as long as that one does; whatever goes
wrong with it, and every stream, is grpc's, which is loaded only then. No asyncio here: a command is
one thread that waits.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the C core would log on our stderr

from google.protobuf.message import Message

from pyetcd.cli.dial import (
    BadSettings,
    Settings,
    check_files,
    connection_failure,
    has_choice,
    open_channel,
    open_directly,
    read_settings,
)
from pyetcd.proto import rpc_pb2 as rpc

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc

    from pyetcd.cli.direct import Direct

__all__ = ["BadSettings", "Client", "ClientError", "Message", "Rpc", "Settings", "read_settings"]

Response = TypeVar("Response", bound=Message)

RETRIES_MAX = 100  # clientv3 options.go: defaultUnaryMaxRetries
RETRY_PAUSE_S, RETRY_JITTER = 0.025, 0.10  # clientv3: between rounds over a quorum of endpoints
LEFT_MAX = 4  # channels that were given up and may still carry a stream; older ones close
REFRESHES_MAX = 3  # new tokens for one call: a token that is refused at once would never do
_GO_NAMES = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound"),
    *("AlreadyExists", "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted"),
    *("OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)


class Rpc(NamedTuple, Generic[Response]):
    """A method that `ctl` calls; `repeatable` ones may be sent twice."""

    path: str
    response: type[Response]
    repeatable: bool = False


RANGE = Rpc("/etcdserverpb.KV/Range", rpc.RangeResponse, True)
PUT = Rpc("/etcdserverpb.KV/Put", rpc.PutResponse)
DELETE_RANGE = Rpc("/etcdserverpb.KV/DeleteRange", rpc.DeleteRangeResponse)
TXN = Rpc("/etcdserverpb.KV/Txn", rpc.TxnResponse)
READ_TXN = Rpc("/etcdserverpb.KV/Txn", rpc.TxnResponse, True)
COMPACT = Rpc("/etcdserverpb.KV/Compact", rpc.CompactionResponse)
WATCH = Rpc("/etcdserverpb.Watch/Watch", rpc.WatchResponse)
LEASE_GRANT = Rpc("/etcdserverpb.Lease/LeaseGrant", rpc.LeaseGrantResponse, True)
LEASE_REVOKE = Rpc("/etcdserverpb.Lease/LeaseRevoke", rpc.LeaseRevokeResponse, True)
LEASE_TIME_TO_LIVE = Rpc("/etcdserverpb.Lease/LeaseTimeToLive", rpc.LeaseTimeToLiveResponse, True)
LEASE_LEASES = Rpc("/etcdserverpb.Lease/LeaseLeases", rpc.LeaseLeasesResponse, True)
LEASE_KEEP_ALIVE = Rpc("/etcdserverpb.Lease/LeaseKeepAlive", rpc.LeaseKeepAliveResponse, True)
MEMBER_ADD = Rpc("/etcdserverpb.Cluster/MemberAdd", rpc.MemberAddResponse)
MEMBER_REMOVE = Rpc("/etcdserverpb.Cluster/MemberRemove", rpc.MemberRemoveResponse)
MEMBER_UPDATE = Rpc("/etcdserverpb.Cluster/MemberUpdate", rpc.MemberUpdateResponse)
MEMBER_PROMOTE = Rpc("/etcdserverpb.Cluster/MemberPromote", rpc.MemberPromoteResponse)
MEMBER_LIST = Rpc("/etcdserverpb.Cluster/MemberList", rpc.MemberListResponse, True)
ALARM = Rpc("/etcdserverpb.Maintenance/Alarm", rpc.AlarmResponse, True)
STATUS = Rpc("/etcdserverpb.Maintenance/Status", rpc.StatusResponse, True)
HASH_KV = Rpc("/etcdserverpb.Maintenance/HashKV", rpc.HashKVResponse, True)
SNAPSHOT = Rpc("/etcdserverpb.Maintenance/Snapshot", rpc.SnapshotResponse)
RANGE_STREAM = Rpc("/etcdserverpb.KV/RangeStream", rpc.RangeStreamResponse, True)
DOWNGRADE = Rpc("/etcdserverpb.Maintenance/Downgrade", rpc.DowngradeResponse)
DEFRAGMENT = Rpc("/etcdserverpb.Maintenance/Defragment", rpc.DefragmentResponse)
MOVE_LEADER = Rpc("/etcdserverpb.Maintenance/MoveLeader", rpc.MoveLeaderResponse, True)
AUTHENTICATE = Rpc("/etcdserverpb.Auth/Authenticate", rpc.AuthenticateResponse)
AUTH_ENABLE = Rpc("/etcdserverpb.Auth/AuthEnable", rpc.AuthEnableResponse)
AUTH_DISABLE = Rpc("/etcdserverpb.Auth/AuthDisable", rpc.AuthDisableResponse)
AUTH_STATUS = Rpc("/etcdserverpb.Auth/AuthStatus", rpc.AuthStatusResponse)
USER_ADD = Rpc("/etcdserverpb.Auth/UserAdd", rpc.AuthUserAddResponse)
USER_DELETE = Rpc("/etcdserverpb.Auth/UserDelete", rpc.AuthUserDeleteResponse)
USER_GET = Rpc("/etcdserverpb.Auth/UserGet", rpc.AuthUserGetResponse, True)
USER_LIST = Rpc("/etcdserverpb.Auth/UserList", rpc.AuthUserListResponse, True)
USER_CHANGE_PASSWORD = Rpc(
    "/etcdserverpb.Auth/UserChangePassword", rpc.AuthUserChangePasswordResponse
)
USER_GRANT_ROLE = Rpc("/etcdserverpb.Auth/UserGrantRole", rpc.AuthUserGrantRoleResponse)
USER_REVOKE_ROLE = Rpc("/etcdserverpb.Auth/UserRevokeRole", rpc.AuthUserRevokeRoleResponse)
ROLE_ADD = Rpc("/etcdserverpb.Auth/RoleAdd", rpc.AuthRoleAddResponse)
ROLE_DELETE = Rpc("/etcdserverpb.Auth/RoleDelete", rpc.AuthRoleDeleteResponse)
ROLE_GET = Rpc("/etcdserverpb.Auth/RoleGet", rpc.AuthRoleGetResponse, True)
ROLE_LIST = Rpc("/etcdserverpb.Auth/RoleList", rpc.AuthRoleListResponse, True)
ROLE_GRANT_PERMISSION = Rpc(
    "/etcdserverpb.Auth/RoleGrantPermission", rpc.AuthRoleGrantPermissionResponse
)
ROLE_REVOKE_PERMISSION = Rpc(
    "/etcdserverpb.Auth/RoleRevokePermission", rpc.AuthRoleRevokePermissionResponse
)


_TOKEN_REFUSED = {
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
    "etcdserver: user name is empty",
}


class ClientError(Exception):
    """A call that failed; `text` is what etcdctl prints for it."""

    def __init__(self, code: str, description: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.description = description
        self.text = text


class Client:
    """Calls to one set of endpoints. `warn` gets the log lines of failed tries."""

    def __init__(
        self,
        endpoints: "Sequence[str]",
        settings: Settings,
        *,
        warn: Callable[[str], None],
        logger: str = "etcd-client",
        label: str = "",
    ) -> None:
        if not endpoints:
            raise BadSettings(2, "etcdclient: no available endpoints")
        self.endpoints = list(endpoints)
        self._settings = settings
        self._warn = warn
        self._logger = logger
        self._label = label or _authority(endpoints[0])
        self._token = settings.token
        check_files(settings)
        self._directs: dict[int, Direct | None] = {}  # by endpoint; None: took no connection
        self._direct_lock = threading.Lock()  # who finds it taken goes through grpc
        self._wants_direct = True
        self._turn = os.getpid()  # so that many short commands are spread as well
        self._opened: list[grpc.Channel | None] = []  # the channel, once it is opened
        self._children: list[Client] = []
        self._left: list[grpc.Channel] = []

    def at(self, endpoint: str) -> "Client":
        """A client for this endpoint alone, with the same identity."""
        child = Client(
            [endpoint], self._settings, warn=self._warn, logger=self._logger, label=self._label
        )
        child._token = self._token
        self._children.append(child)
        return child

    def close(self) -> None:
        """Closes the connections."""
        for child in self._children:
            child.close()
        self._leave_direct()
        for channel in (*self._left, *self._opened):
            if channel is not None:
                channel.close()

    @property
    def is_worn(self) -> bool:
        """Whether its own connection is gone, or was never: who keeps a client for long and has
        seen a failure does better with a new one, since grpc waits ever longer before it tries an
        address again."""
        return not self._wants_direct

    @property
    def _channel(self) -> "grpc.Channel | None":
        if not self._opened:
            self._opened.append(open_channel(self.endpoints, self._settings))
        return self._opened[0]

    def authenticate(self) -> None:
        """Gets a token for the user, if there is one; a cluster without auth is no failure."""
        user, password = self._settings.user, self._settings.password
        if not user or not password:
            return
        request = rpc.AuthenticateRequest(name=user, password=password)
        try:
            answer = self.call(AUTHENTICATE, request, timeout_s=self._settings.dial_timeout_s)
        except ClientError as failure:
            if failure.description == "etcdserver: authentication is not enabled":
                return
            raise
        self._token = answer.token

    def call(self, method: Rpc[Response], request: Message, *, timeout_s: float | None) -> Response:
        """One unary call, with its retries; raises ClientError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        quorum = len(self.endpoints) // 2 + 1
        refreshes = 0
        for attempt in range(RETRIES_MAX):
            if attempt and attempt % quorum == 0:
                from random import uniform

                time.sleep(RETRY_PAUSE_S * uniform(1 - RETRY_JITTER, 1 + RETRY_JITTER))
            left_s = None if deadline is None else deadline - time.monotonic()
            try:
                return self._call_once(method, request, left_s)
            except ClientError as failure:
                self._log(attempt, failure)
                last = failure
            if last.code == "Unavailable" and has_choice(self.endpoints, self._settings):
                self._choose_again()
            if self._wants_token(last) and refreshes < REFRESHES_MAX:
                # Refused before anything was done, so that a write may be sent again, too.
                refreshes += 1
                self.renew()
                continue
            if not method.repeatable or last.code != "Unavailable":
                break
            if deadline is not None and time.monotonic() >= deadline:
                break
        raise last

    def ask(self, method: Rpc[Response], request: Message, *, timeout_s: float | None) -> Response:
        """One try of a unary call, whose failure is not logged; raises ClientError."""
        return self._call_once(method, request, timeout_s)

    def _choose_again(self) -> None:
        """A channel to an endpoint that is there now; streams may still use the old one."""
        self._left += [channel for channel in self._opened if channel is not None]
        while len(self._left) > LEFT_MAX:
            self._left.pop(0).close()
        self._opened.clear()

    def _wants_token(self, failure: ClientError) -> bool:
        """Whether a new token may do: this one has run out, its server has forgotten it in a
        restart, or users have changed."""
        return bool(self._settings.user and self._settings.password) and (
            failure.description in _TOKEN_REFUSED
        )

    def _call_once(
        self, method: Rpc[Response], request: Message, timeout_s: float | None
    ) -> Response:
        data = request.SerializeToString()
        largest = self._settings.send_bytes_max
        if len(data) > largest:
            text = f"trying to send message larger than max ({len(data)} vs. {largest})"
            raise _error("ResourceExhausted", text)
        if self._wants_direct and self._direct_lock.acquire(blocking=False):
            try:
                raw = self._call_directly(method.path, data, timeout_s)
            finally:
                self._direct_lock.release()
            if raw is not None:
                return method.response.FromString(raw)
        import grpc

        if self._channel is None:
            time.sleep(timeout_s or 0)
            raise self._timeout()
        unary = self._channel.unary_unary(method.path, None, method.response.FromString)
        try:
            answer: Response = unary(
                data, timeout=timeout_s, metadata=self._metadata(), wait_for_ready=True
            )
        except grpc.RpcError as failure:
            raise self._translate(failure) from None
        return answer

    def _call_directly(self, path: str, data: bytes, timeout_s: float | None) -> bytes | None:
        """The answer; None when the call is to go through grpc."""
        from pyetcd.cli.direct import Failed, Lost, NotReady, Overdue

        direct = self._next_direct()
        if direct is None:
            self._wants_direct = False
            return None
        try:
            return direct.call(
                path,
                data,
                self._metadata(),
                timeout_s=timeout_s,
                receive_bytes_max=self._settings.receive_bytes_max,
            )
        except NotReady:
            self._leave_direct()
            return None
        except Overdue:
            raise self._timeout() from None
        except Lost:
            self._leave_direct()
            raise self._failure("Unavailable", "") from None
        except Failed as failure:
            error = self.failure(failure.code, failure.text)
            if error.code == "Unavailable":
                self._leave_direct()
            raise error from None
        except BaseException:  # ^C in the middle of a frame
            self._leave_direct()
            raise

    def _next_direct(self) -> "Direct | None":
        """Round robin over the endpoints that take a connection."""
        for _ in self.endpoints:
            self._turn = (self._turn + 1) % len(self.endpoints)
            if self._turn not in self._directs:
                endpoint = self.endpoints[self._turn]
                self._directs[self._turn] = open_directly(endpoint, self._settings)
            if (direct := self._directs[self._turn]) is not None:
                return direct
        return None

    def _leave_direct(self) -> None:
        self._wants_direct = False
        for direct in self._directs.values():
            if direct is not None:
                direct.close()
        self._directs.clear()

    def stream(
        self, method: Rpc[Response], requests: Iterator[Message], *, need_leader: bool = False
    ) -> Iterable[Response]:
        """A bidirectional stream; its iterator raises grpc.RpcError, see `translate`."""
        if self._channel is None:
            while True:
                time.sleep(3600)  # clientv3 waits for a connection that cannot come
        open_stream = self._channel.stream_stream(
            method.path, _serialize, method.response.FromString
        )
        metadata = self._metadata()
        if need_leader:
            metadata = (*metadata, ("hasleader", "true"))
        answers: Iterable[Response] = open_stream(requests, metadata=metadata, wait_for_ready=True)
        return answers

    def server_stream(
        self, method: Rpc[Response], request: Message, *, timeout_s: float | None
    ) -> Iterable[Response]:
        """Many answers to one request; its iterator raises grpc.RpcError, see `translate`."""
        if self._channel is None:
            time.sleep(3600 if timeout_s is None else timeout_s)
            raise self._timeout()
        call = self._channel.unary_stream(method.path, _serialize, method.response.FromString)
        answers: Iterable[Response] = call(
            request, timeout=timeout_s, metadata=self._metadata(), wait_for_ready=True
        )
        return answers

    def failure(self, code: int, text: str) -> ClientError:
        """A status as ClientError."""
        return self._failure(_GO_NAMES[code] if 0 <= code < len(_GO_NAMES) else "Unknown", text)

    def note(self, failure: ClientError, attempt: int = 0) -> None:
        """Logs a try that failed, of a call that somebody else made for this client."""
        self._log(attempt, failure)

    @property
    def token(self) -> str:
        """What the calls show; empty without a user."""
        return self._token

    def is_stale(self, failure: ClientError) -> bool:
        """Whether a call that failed so may be sent again with a token of `renew`."""
        return self._wants_token(failure)

    def renew(self) -> None:
        """Gets a new token; raises ClientError."""
        self._token = ""
        self.authenticate()

    def _metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return (("token", self._token),) if self._token else ()

    def translate(self, failure: "grpc.RpcError") -> ClientError:
        """What a stream raised, as ClientError."""
        return self._translate(failure)

    def _translate(self, failure: "grpc.RpcError") -> ClientError:
        import grpc

        assert isinstance(failure, grpc.Call)
        return self._failure(_GO_NAMES[failure.code().value[0]], failure.details() or "")

    def _failure(self, code: str, text: str) -> ClientError:
        if code == "DeadlineExceeded":
            return self._timeout()
        if code == "Unavailable" and not text.startswith("etcdserver:"):
            text = "transport is closing"
        return _error(code, text)

    def _timeout(self) -> ClientError:
        return self._end("DeadlineExceeded", "context deadline exceeded")

    def cancelled(self) -> ClientError:
        """What became of a call that was left by ^C."""
        return self._end("Canceled", "context canceled")

    def _end(self, code: str, text: str) -> ClientError:
        """The end of the call's time: its log line names why there is no connection."""
        reason = connection_failure(self.endpoints, self._settings)
        description = f"latest balancer error: last connection error: {reason}" if reason else text
        return ClientError(code, description, text)

    def _log(self, attempt: int, failure: ClientError) -> None:
        import json

        now = time.time()
        if self._logger == "etcd-client":
            millis = int(now * 1000) % 1000
            stamp = time.strftime(f'"%Y-%m-%dT%H:%M:%S.{millis:03d}Z"', time.gmtime(now))
        else:
            stamp = f"{now:.6f}"  # `endpoint health` logs with another logger
        error = f"rpc error: code = {failure.code} desc = {failure.description}"
        target = f"etcd-endpoints://0xc{id(self) & 0xFFFFFFFFF:09x}/{self._label}"
        self._warn(
            f'{{"level":"warn","ts":{stamp},"logger":"{self._logger}",'
            f'"caller":"v3/retry_interceptor.go:62","msg":"retrying of unary invoker failed",'
            f'"target":{json.dumps(target)},"attempt":{attempt},'
            f'"error":{json.dumps(error, ensure_ascii=False)}}}'
        )


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _authority(endpoint: str) -> str:
    scheme, separator, rest = endpoint.partition("://")
    if separator:
        return rest
    return scheme.removeprefix("unixs:").removeprefix("unix:")


def _error(code: str, description: str) -> ClientError:
    """etcd's own errors print as their text alone; others with their gRPC code."""
    if description in _catalogue():
        return ClientError(code, description, description)
    return ClientError(code, description, f"rpc error: code = {code} desc = {description}")


def _catalogue() -> set[str]:
    from pyetcd.proto import errors

    found: set[str] = set()
    waiting: list[type[errors.EtcdError]] = [errors.EtcdError]
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        if error.text:
            found.add(error.text)
    return found
