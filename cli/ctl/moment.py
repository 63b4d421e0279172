"""`get --at`: from a time to a revision.

A revision of etcd has no time. A member of pyetcd notes down which revision was its last one in
each second and answers from that; any other server is told apart by not knowing the question.
"""

from datetime import UTC, datetime

from pyetcd.cli import client as calls
from pyetcd.cli import gotext
from pyetcd.cli.client import Client, ClientError
from pyetcd.cli.context import Context
from pyetcd.cli.gotext import ParseFailure
from pyetcd.cli.terminal import BAD_ARGS, BAD_FEATURE, ERROR
from pyetcd.proto import times_pb2 as times

REVISION_AT = calls.Rpc("/pyetcdpb.Times/RevisionAt", times.RevisionAtResponse, True)


def read(context: Context, text: str) -> times.RevisionAtRequest:
    """A time as it was typed: how long ago, or a date with its zone."""
    try:
        ago_s, rest_ns = divmod(gotext.parse_duration_ns(text), 10**9)
    except ParseFailure:
        pass
    else:
        if ago_s < 0:
            raise context.fail(BAD_ARGS, f"bad time ({text}), expecting one in the past")
        return times.RevisionAtRequest(seconds=ago_s + bool(rest_ns), is_ago=True)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None:
        quoted = gotext.quote(text.encode("utf-8", "surrogateescape"))
        wanted = "a duration as 10m or a time with its zone as 2006-01-02T15:04:05Z"
        raise context.fail(BAD_ARGS, f"bad time ({quoted}), expecting {wanted}")
    return times.RevisionAtRequest(seconds=int(moment.timestamp() // 1))


def revision_at(context: Context, client: Client, request: times.RevisionAtRequest) -> int:
    """The revision, as the server knows it; says which one it is."""
    try:
        answer = client.ask(REVISION_AT, request, timeout_s=context.time_left_s())
    except ClientError as failure:
        if failure.code == "Unimplemented":
            text = "the server does not know the times of its revisions: --at needs pyetcd"
            raise context.fail(BAD_FEATURE, text) from None
        try:  # once more, with all that is done about a failure
            answer = client.call(REVISION_AT, request, timeout_s=context.time_left_s())
        except ClientError as again:
            raise context.fail(ERROR, again.text) from None
    asked = _shown(answer.asked)
    if answer.asked > answer.now:
        raise context.fail(ERROR, f"{asked} is to come: the server has {_shown(answer.now)}")
    if not answer.revision:
        known = f"from {_shown(answer.first)} on" if answer.first else "of no time"
        raise context.fail(ERROR, f"no revision is known of {asked}: the server knows {known}")
    context.warn(f"at {asked}: revision {answer.revision}, of {_shown(answer.written)}")
    return answer.revision


def _shown(second: int) -> str:
    try:
        moment = datetime.fromtimestamp(second, UTC)
    except (ValueError, OverflowError, OSError):
        return f"second {second}"
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
