"""The error catalogue: one class per error that etcd's API can answer, with its code and text.

An EtcdError crosses all layers unchanged: the store raises it, the listener writes `code` and
`text` into the trailers, the client prints `text`. Codes and texts are those of etcd 3.5.1; where a
later release added one, the class says so. Two errors leave a real etcd 3.5.1 with code Unknown,
because its server map names them wrongly; so they do here (MemberNotEnoughStarted and
TooManyRequests): the code is what the reference sends.
"""

from enum import IntEnum


class Code(IntEnum):
    """gRPC status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class EtcdError(Exception):
    """An answer that is an error: `code` and `text` are what the client sees."""

    code: Code = Code.UNKNOWN
    text: str = ""

    def __init__(self) -> None:
        super().__init__(self.text)


class RpcError(EtcdError):
    """An error outside the catalogue: a raw internal text, or one read off the wire."""

    def __init__(self, code: Code, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__()


class WatchCanceled(EtcdError):
    code = Code.CANCELLED
    text = "etcdserver: watch canceled"


class Canceled(EtcdError):
    """Not in 3.4."""

    code = Code.CANCELLED
    text = "etcdserver: request canceled"


class EmptyKey(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: key is not provided"


class KeyNotFound(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: key not found"


class ValueProvided(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: value is provided"


class LeaseProvided(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: lease is provided"


class TooManyOps(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: too many operations in txn request"


class DuplicateKey(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: duplicate key given in txn request"


class MemberBadURLs(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: given member URLs are invalid"


class RequestTooLarge(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: request is too large"


class UserEmpty(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: user name is empty"


class RoleEmpty(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: role name is empty"


class AuthFailed(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: authentication failed, invalid user ID or password"


class PermissionNotGiven(EtcdError):
    """Not in 3.4."""

    code = Code.INVALID_ARGUMENT
    text = "etcdserver: permission not given"


class InvalidAuthMgmt(EtcdError):
    code = Code.INVALID_ARGUMENT
    text = "etcdserver: invalid auth management"


class WrongDowngradeVersionFormat(EtcdError):
    """Not in 3.4."""

    code = Code.INVALID_ARGUMENT
    text = "etcdserver: wrong downgrade target version format"


class InvalidDowngradeTargetVersion(EtcdError):
    """Not in 3.4."""

    code = Code.INVALID_ARGUMENT
    text = "etcdserver: invalid downgrade target version"


class AuthOldRevision(EtcdError):
    """In 3.4.23 and 3.5.x later than 3.5.1."""

    code = Code.INVALID_ARGUMENT
    text = "etcdserver: revision of auth store is old"


class InvalidClientAPIVersion(EtcdError):
    """3.6+."""

    code = Code.INVALID_ARGUMENT
    text = "etcdserver: invalid client api version"


class InvalidSortOption(EtcdError):
    """3.6+."""

    code = Code.INVALID_ARGUMENT
    text = "etcdserver: invalid sort option"


class DeadlineExceeded(EtcdError):
    """Not in 3.4."""

    code = Code.DEADLINE_EXCEEDED
    text = "etcdserver: context deadline exceeded"


class LeaseNotFound(EtcdError):
    code = Code.NOT_FOUND
    text = "etcdserver: requested lease not found"


class MemberNotFound(EtcdError):
    code = Code.NOT_FOUND
    text = "etcdserver: member not found"


class PermissionDenied(EtcdError):
    code = Code.PERMISSION_DENIED
    text = "etcdserver: permission denied"


class NoSpace(EtcdError):
    code = Code.RESOURCE_EXHAUSTED
    text = "etcdserver: mvcc: database space exceeded"


class TooManyRequests(EtcdError):
    code = Code.UNKNOWN
    text = "etcdserver: too many requests"


class LeaseExist(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: lease already exists"


class MemberExist(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: member ID already exist"


class PeerURLExist(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: Peer URLs already exists"


class MemberNotEnoughStarted(EtcdError):
    code = Code.UNKNOWN
    text = "etcdserver: re-configuration failed due to not enough started members"


class MemberNotLearner(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: can only promote a learner member"


class LearnerNotReady(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: can only promote a learner member which is in sync with leader"


class TooManyLearners(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: too many learner members in cluster"


class RootUserNotExist(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: root user does not exist"


class RootRoleNotExist(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: root user does not have root role"


class UserAlreadyExist(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: user name already exists"


class UserNotFound(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: user name not found"


class RoleAlreadyExist(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: role name already exists"


class RoleNotFound(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: role name not found"


class RoleNotGranted(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: role is not granted to the user"


class PermissionNotGranted(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: permission is not granted to the role"


class AuthNotEnabled(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: authentication is not enabled"


class NotLeader(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: not leader"


class BadLeaderTransferee(EtcdError):
    code = Code.FAILED_PRECONDITION
    text = "etcdserver: bad leader transferee"


class DowngradeInProcess(EtcdError):
    """Not in 3.4."""

    code = Code.FAILED_PRECONDITION
    text = "etcdserver: cluster has a downgrade job in progress"


class NoInflightDowngrade(EtcdError):
    """Not in 3.4."""

    code = Code.FAILED_PRECONDITION
    text = "etcdserver: no inflight downgrade job"


class ClusterIdMismatch(EtcdError):
    """3.5.x later than 3.5.1."""

    code = Code.FAILED_PRECONDITION
    text = "etcdserver: cluster ID mismatch"


class Compacted(EtcdError):
    code = Code.OUT_OF_RANGE
    text = "etcdserver: mvcc: required revision has been compacted"


class FutureRev(EtcdError):
    code = Code.OUT_OF_RANGE
    text = "etcdserver: mvcc: required revision is a future revision"


class LeaseTTLTooLarge(EtcdError):
    code = Code.OUT_OF_RANGE
    text = "etcdserver: too large lease TTL"


class NoLeader(EtcdError):
    code = Code.UNAVAILABLE
    text = "etcdserver: no leader"


class LeaderChanged(EtcdError):
    code = Code.UNAVAILABLE
    text = "etcdserver: leader changed"


class NotCapable(EtcdError):
    """FailedPrecondition in 3.6+."""

    code = Code.UNAVAILABLE
    text = "etcdserver: not capable"


class Stopped(EtcdError):
    code = Code.UNAVAILABLE
    text = "etcdserver: server stopped"


class Timeout(EtcdError):
    code = Code.UNAVAILABLE
    text = "etcdserver: request timed out"


class TimeoutDueToLeaderFail(EtcdError):
    code = Code.UNAVAILABLE
    text = "etcdserver: request timed out, possibly due to previous leader failure"


class TimeoutDueToConnectionLost(EtcdError):
    code = Code.UNAVAILABLE
    text = "etcdserver: request timed out, possibly due to connection lost"


class Unhealthy(EtcdError):
    code = Code.UNAVAILABLE
    text = "etcdserver: unhealthy cluster"


class NotSupportedForLearner(EtcdError):
    """FailedPrecondition in 3.6+."""

    code = Code.UNAVAILABLE
    text = "etcdserver: rpc not supported for learner"


class ClusterVersionUnavailable(EtcdError):
    """Not in 3.4; FailedPrecondition in 3.6+."""

    code = Code.UNAVAILABLE
    text = "etcdserver: cluster version not found during downgrade"


class TimeoutWaitAppliedIndex(EtcdError):
    """In 3.4.23 and 3.5.x later than 3.5.1."""

    code = Code.UNAVAILABLE
    text = "etcdserver: request timed out, waiting for the applied index took too long"


class Corrupt(EtcdError):
    code = Code.DATA_LOSS
    text = "etcdserver: corrupt cluster"


class InvalidAuthToken(EtcdError):
    code = Code.UNAUTHENTICATED
    text = "etcdserver: invalid auth token"


class ContextDeadlineExceeded(EtcdError):
    """A proposal that no leader took in time: etcd lets the raw context error through."""

    text = "context deadline exceeded"


CATALOGUE: dict[str, type[EtcdError]] = {
    kind.text: kind for kind in EtcdError.__subclasses__() if kind.text.startswith("etcdserver: ")
}


def from_status(code: int, text: str) -> EtcdError:
    """The error a client got off the wire, as its class where the catalogue has the text."""
    kind = CATALOGUE.get(text)
    if kind is not None and kind.code == code:
        return kind()
    return RpcError(Code(code) if code in Code._value2member_map_ else Code.UNKNOWN, text)
