"""member add, remove, update, promote, list."""

from pyetcd.cli import client as calls
from pyetcd.cli.context import Context, hex_id
from pyetcd.cli.ctl.kv import call
from pyetcd.cli.gotext import quote
from pyetcd.cli.gourl import BadURL, member_urls
from pyetcd.cli.printers.base import About
from pyetcd.cli.terminal import BAD_ARGS, ERROR
from pyetcd.proto import rpc_pb2 as rpc


def add(context: Context) -> None:
    """`member add`: in the simple format also the variables that start the new member."""
    args = context.args
    if not args:
        raise context.fail(BAD_ARGS, "member name not provided")
    if len(args) > 1:
        text = "too many arguments"
        for word in args:
            if word.lower().startswith("http"):
                text += f", did you mean --peer-urls={word}"
        raise context.fail(BAD_ARGS, text)
    peer_urls = context.flags.text("peer-urls")
    if not peer_urls:
        raise context.fail(BAD_ARGS, "member peer urls not provided")
    learner = context.flags.boolean("learner")
    request = rpc.MemberAddRequest(peerURLs=peer_urls.split(","), isLearner=learner)
    answer = _change(context, calls.MEMBER_ADD, request, peer_urls)
    display = context.display()
    display.show("member_add", About(answer.member.ID, answer))
    if display.format == "simple":
        cluster = [
            f"{args[0] if member.ID == answer.member.ID else member.name}={url}"
            for member in answer.members
            for url in member.peerURLs
        ]
        context.print("")
        context.print(f"ETCD_NAME={_quote(args[0])}")
        context.print(f"ETCD_INITIAL_CLUSTER={_quote(','.join(cluster))}")
        context.print(f"ETCD_INITIAL_ADVERTISE_PEER_URLS={_quote(peer_urls)}")
        context.print('ETCD_INITIAL_CLUSTER_STATE="existing"')


def remove(context: Context) -> None:
    """`member remove`."""
    member_id = _member_id(context)
    context.start_timeout()
    answer = call(context, calls.MEMBER_REMOVE, rpc.MemberRemoveRequest(ID=member_id))
    context.display().show("member_remove", About(member_id, answer))


def update(context: Context) -> None:
    """`member update`."""
    member_id = _member_id(context)
    peer_urls = context.flags.text("peer-urls")
    if not peer_urls:
        raise context.fail(BAD_ARGS, "member peer urls not provided")
    request = rpc.MemberUpdateRequest(ID=member_id, peerURLs=peer_urls.split(","))
    answer = _change(context, calls.MEMBER_UPDATE, request, peer_urls)
    context.display().show("member_update", About(member_id, answer))


def promote(context: Context) -> None:
    """`member promote`."""
    member_id = _member_id(context)
    context.start_timeout()
    answer = call(context, calls.MEMBER_PROMOTE, rpc.MemberPromoteRequest(ID=member_id))
    context.display().show("member_promote", About(member_id, answer))


def list_all(context: Context) -> None:
    """`member list`."""
    context.start_timeout()
    answer = call(context, calls.MEMBER_LIST, rpc.MemberListRequest(linearizable=True))
    context.display().show("member_list", answer)


def _change(
    context: Context, method: calls.Rpc[calls.Response], request: calls.Message, peer_urls: str
) -> calls.Response:
    """A call whose URLs clientv3 checks before it sends them."""
    context.start_timeout()
    client = context.client()
    try:
        member_urls(peer_urls.split(","))
    except BadURL as mistake:
        raise context.fail(ERROR, str(mistake)) from None
    try:
        return client.call(method, request, timeout_s=context.time_left_s())
    except calls.ClientError as failure:
        raise context.fail(ERROR, failure.text) from None


def _member_id(context: Context) -> int:
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "member ID is not provided")
    return hex_id(context, context.args[0], "bad member ID arg", signed=False)


def _quote(text: str) -> str:
    return quote(text.encode("utf-8", "surrogateescape"))
