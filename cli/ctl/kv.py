"""put, get, del, compaction."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyetcd.cli import client as calls
from pyetcd.cli import gotext
from pyetcd.cli.client import Client, ClientError
from pyetcd.cli.context import Context
from pyetcd.cli.flags import FlagSet
from pyetcd.cli.gotext import ParseFailure
from pyetcd.cli.terminal import BAD_ARGS, BAD_FEATURE, ERROR, Exit
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.keys import FROM_KEY, prefix_end

if TYPE_CHECKING:
    from pyetcd.cli.printers.base import Display

_BOTH = "`--prefix` and `--from-key` cannot be set at the same time, choose one"
_TOO_MANY = "too many arguments, only accept one argument when `--prefix` or `--from-key` is set"
_PUT_ARGS = "put command needs 1 argument and input from stdin or 2 arguments"
_TARGETS = {
    "": rpc.RangeRequest.KEY,
    "KEY": rpc.RangeRequest.KEY,
    "CREATE": rpc.RangeRequest.CREATE,
    "MODIFY": rpc.RangeRequest.MOD,
    "VALUE": rpc.RangeRequest.VALUE,
    "VERSION": rpc.RangeRequest.VERSION,
}
_ORDERS = {
    "": rpc.RangeRequest.NONE,
    "ASCEND": rpc.RangeRequest.ASCEND,
    "DESCEND": rpc.RangeRequest.DESCEND,
}


def put(context: Context) -> None:
    """`put`."""
    request = put_request(context)
    context.start_timeout()
    answer = call(context, calls.PUT, request)
    context.display().show("put", answer)


def get(context: Context) -> None:
    """`get`."""
    request = get_request(context)
    moment = _moment(context)
    context.start_timeout()
    client = context.client()
    if moment is not None:
        request.revision = moment(client)
    if context.flags.boolean("stream"):
        answer = _streamed(context, client, request)
    else:
        answer = _called(context, client, calls.RANGE, request)
    display = decoding(context)
    display.keys_only = request.keys_only
    if context.flags.boolean("count-only") and display.format != "fields":
        raise context.fail(BAD_ARGS, "--count-only is only for `--write-out=fields`")
    if context.flags.boolean("print-value-only"):
        if display.format != "simple":
            raise context.fail(BAD_ARGS, "print-value-only is only for `--write-out=simple`")
        display.value_only = True
    display.show("get", answer)


def _moment(context: Context) -> Callable[[Client], int] | None:
    """What asks for the revision of --at."""
    text = context.flags.text("at")
    if not text:
        return None
    if context.flags.integer("rev"):
        text = "`--at` and `--rev` cannot be set at the same time, choose one"
        raise context.fail(BAD_ARGS, text)
    from pyetcd.cli.ctl import moment

    request = moment.read(context, text)
    return lambda client: moment.revision_at(context, client, request)


def decoding(context: Context, more: FlagSet | None = None) -> "Display":
    """The printer; with --decode, which alone means json, one that makes bytes readable. `more`:
    the flags of a line of `watch -i`."""
    display = context.display()
    if any(flags is not None and flags.boolean("decode") for flags in (context.flags, more)):
        if display.format == "simple":
            display.format = "json"
        if display.format not in ("json", "yaml"):
            text = "--decode is only for `--write-out=json` and `--write-out=yaml`"
            raise context.fail(BAD_ARGS, text)
        display.decodes = True
    return display


def _streamed(context: Context, client: Client, request: rpc.RangeRequest) -> rpc.RangeResponse:
    """The pieces of a RangeStream as one answer."""
    import grpc

    answer = rpc.RangeResponse()
    try:
        for piece in client.server_stream(
            calls.RANGE_STREAM, request, timeout_s=context.time_left_s()
        ):
            answer.MergeFrom(piece.range_response)
    except grpc.RpcError as failure:
        raise context.fail(ERROR, client.translate(failure).text) from None
    except ClientError as failure:
        raise context.fail(ERROR, failure.text) from None
    return answer


def delete(context: Context) -> None:
    """`del`."""
    request = delete_request(context)
    context.start_timeout()
    answer = call(context, calls.DELETE_RANGE, request)
    context.display().show("delete", answer)


def compaction(context: Context) -> None:
    """`compaction`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "compaction command needs 1 argument")
    try:
        revision = gotext.parse_int(context.args[0], 10)
    except ParseFailure as failure:
        raise context.fail(ERROR, str(failure)) from None
    request = rpc.CompactionRequest(revision=revision, physical=context.flags.boolean("physical"))
    context.start_timeout()
    call(context, calls.COMPACT, request)
    context.print(f"compacted revision {revision}")


def call(
    context: Context, method: calls.Rpc[calls.Response], request: calls.Message
) -> calls.Response:
    """One request with a client for all endpoints; exits with the server's error."""
    return _called(context, context.client(), method, request)


def _called(
    context: Context, client: Client, method: calls.Rpc[calls.Response], request: calls.Message
) -> calls.Response:
    try:
        return client.call(method, request, timeout_s=context.time_left_s())
    except ClientError as failure:
        raise context.fail(ERROR, failure.text) from None


def put_request(context: Context) -> rpc.PutRequest:
    """What `put` asks for: on the command line or as a line of a txn."""
    flags, args = context.flags, context.args
    if not args:
        raise context.fail(BAD_ARGS, _PUT_ARGS)
    ignore_value = flags.boolean("ignore-value")
    if ignore_value and len(args) > 1:
        text = "put command needs only 1 argument when 'ignore-value' is set"
        raise context.fail(BAD_ARGS, text)
    value = b""
    if not ignore_value:
        value = context.arg_or_stdin(1)
        if not value and len(args) < 2:
            raise context.fail(BAD_ARGS, _PUT_ARGS)
    try:
        lease = gotext.parse_int(flags.text("lease"), 16)
    except ParseFailure as failure:
        raise context.fail(BAD_ARGS, f"bad lease ID ({failure}), expecting ID in Hex") from None
    return rpc.PutRequest(
        key=context.arg(0),
        value=value,
        lease=lease,
        prev_kv=flags.boolean("prev-kv"),
        ignore_value=ignore_value,
        ignore_lease=flags.boolean("ignore-lease"),
    )


def get_request(context: Context) -> rpc.RangeRequest:
    """What `get` asks for."""
    flags, args = context.flags, context.args
    if not args:
        text = "get command needs one argument as key and an optional argument as range_end"
        raise context.fail(BAD_ARGS, text)
    if flags.boolean("prefix") and flags.boolean("from-key"):
        raise context.fail(BAD_ARGS, _BOTH)
    if flags.boolean("keys-only") and flags.boolean("count-only"):
        text = "`--keys-only` and `--count-only` cannot be set at the same time, choose one"
        raise context.fail(BAD_ARGS, text)
    consistency = flags.text("consistency")
    if consistency not in ("l", "s"):
        quoted = gotext.quote(consistency.encode("utf-8", "surrogateescape"))
        raise context.fail(BAD_FEATURE, f"unknown consistency flag {quoted}")
    if len(args) > 1 and (flags.boolean("prefix") or flags.boolean("from-key")):
        raise context.fail(BAD_ARGS, _TOO_MANY)
    order, target = flags.text("order"), flags.text("sort-by")
    if order.upper() not in _ORDERS:
        raise context.fail(BAD_FEATURE, f"bad sort order {order}")
    if target.upper() not in _TARGETS:
        raise context.fail(BAD_FEATURE, f"bad sort target {target}")
    sort_order, sort_target = _ORDERS[order.upper()], _TARGETS[target.upper()]
    if (sort_order, sort_target) == (rpc.RangeRequest.ASCEND, rpc.RangeRequest.KEY):
        sort_order = rpc.RangeRequest.NONE  # clientv3: the server sorts so by itself
    key, range_end = _interval(context)
    return rpc.RangeRequest(
        key=key,
        range_end=range_end,
        limit=flags.integer("limit"),
        revision=max(flags.integer("rev"), 0),
        sort_order=sort_order,
        sort_target=sort_target,
        serializable=consistency == "s",
        keys_only=flags.boolean("keys-only"),
        count_only=flags.boolean("count-only"),
        min_create_revision=flags.integer("min-create-rev"),
        max_create_revision=flags.integer("max-create-rev"),
        min_mod_revision=flags.integer("min-mod-rev"),
        max_mod_revision=flags.integer("max-mod-rev"),
    )


def delete_request(context: Context) -> rpc.DeleteRangeRequest:
    """What `del` asks for."""
    flags, args = context.flags, context.args
    if not 1 <= len(args) <= 2:
        text = "del command needs one argument as key and an optional argument as range_end"
        raise context.fail(BAD_ARGS, text)
    if flags.boolean("prefix") and flags.boolean("from-key"):
        raise context.fail(BAD_ARGS, _BOTH)
    if len(args) > 1 and (flags.boolean("prefix") or flags.boolean("from-key")):
        raise context.fail(BAD_ARGS, _TOO_MANY)
    key, range_end = _interval(context)
    return rpc.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=flags.boolean("prev-kv"))


def _interval(context: Context) -> tuple[bytes, bytes]:
    key = context.arg(0)
    if len(context.args) > 1:
        return key, context.arg(1)
    if context.flags.boolean("prefix") and key:
        return key, prefix_end(key)
    if context.flags.boolean("prefix") or context.flags.boolean("from-key"):
        return key or FROM_KEY, FROM_KEY
    return key, b""


__all__ = ["Exit", "call", "compaction", "delete", "get", "put"]
