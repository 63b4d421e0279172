"""`txn`: three blocks of lines on stdin, compares, success requests, failure requests.

A compare is `target("key") op "value"`, a request a put, get or del as on the command line; an
empty line ends a block.
"""

import re
from collections.abc import Iterator

from pyetcd.cli import client as calls
from pyetcd.cli import gotext
from pyetcd.cli.client import ClientError
from pyetcd.cli.command import find, plain_usage
from pyetcd.cli.context import Context
from pyetcd.cli.ctl.kv import delete_request, get_request, put_request
from pyetcd.cli.ctl.tree import REQUESTS
from pyetcd.cli.flags import FlagError, FlagSet
from pyetcd.cli.gotext import ParseFailure
from pyetcd.cli.terminal import BAD_ARGS, ERROR, INVALID_INPUT, Exit
from pyetcd.proto import rpc_pb2 as rpc

PANIC = 2  # etcdctl dies of these compares, with this code
_WORD = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|[^'"\s]\S*[^'"\s]?""")
_RESULTS = {
    "=": rpc.Compare.EQUAL,
    "!=": rpc.Compare.NOT_EQUAL,
    ">": rpc.Compare.GREATER,
    "<": rpc.Compare.LESS,
}


def txn(context: Context) -> None:
    """`txn`."""
    if context.args:
        raise context.fail(BAD_ARGS, "txn command does not accept argument")
    client = context.client()
    request = rpc.TxnRequest()
    _prompt(context, "compares:")
    for line in _block(context):
        request.compare.append(_compare(context, line))
    _prompt(context, "success requests (get, put, del):")
    for line in _block(context):
        request.success.append(_request(context, line))
    _prompt(context, "failure requests (get, put, del):")
    for line in _block(context):
        request.failure.append(_request(context, line))
    try:
        answer = client.call(_method(request), request, timeout_s=None)
    except ClientError as failure:
        raise context.fail(ERROR, failure.text) from None
    context.display().show("txn", answer)


def _method(request: rpc.TxnRequest) -> calls.Rpc[rpc.TxnResponse]:
    """A txn that only reads may be sent again (clientv3 txn.go)."""
    writes = any(
        not part.HasField("request_range") for part in (*request.success, *request.failure)
    )
    return calls.TXN if writes else calls.READ_TXN


def _prompt(context: Context, text: str) -> None:
    if context.flags.boolean("interactive"):
        context.print(text)
        context.flush()


def _block(context: Context) -> Iterator[str]:
    """The lines up to the next empty one, each judged before the next is read."""
    while True:
        raw = context.stdin.readline()
        if not raw.endswith(b"\n"):
            raise context.fail(INVALID_INPUT, "EOF")
        line = raw.decode("utf-8", "surrogateescape").strip()
        if not line:
            return
        yield line


def _compare(context: Context, line: str) -> rpc.Compare:
    target, paren, rest = line.partition("(")
    if not paren:
        raise context.fail(INVALID_INPUT, f"malformed comparison: {line}")
    read = _scan(rest)
    if len(read) != 3:
        key, op, value = [*read, "", "", ""][:3]
        shown = f"{target}({_quote(key)}) {op} {_quote(value)}"
        raise context.fail(INVALID_INPUT, f"malformed comparison: {line}; got {shown}")
    key, op, value = read
    name = {"ver": "version", "c": "create", "m": "mod", "val": "value"}.get(target, target)
    if name not in ("version", "create", "mod", "value", "lease"):
        text = f"malformed comparison: {line} (unknown target {target})"
        raise context.fail(INVALID_INPUT, text)
    compare = rpc.Compare(key=_raw(key))
    if name == "value":
        compare.target, compare.value = rpc.Compare.VALUE, _raw(value)
    elif name == "lease":
        context.warn("panic: bad value")
        raise Exit(PANIC)
    else:
        _compare_number(context, compare, name, value, line)
    if op not in _RESULTS:
        context.warn("panic: Unknown result op")
        raise Exit(PANIC)
    compare.result = _RESULTS[op]
    return compare


def _compare_number(
    context: Context, compare: rpc.Compare, name: str, value: str, line: str
) -> None:
    try:
        number = gotext.parse_int(value, 10)
    except ParseFailure:
        text = f"invalid txn compare request: {line}"
        raise context.fail(INVALID_INPUT, text) from None
    if name == "version":
        compare.target, compare.version = rpc.Compare.VERSION, number
    elif name == "create":
        compare.target, compare.create_revision = rpc.Compare.CREATE, number
    else:
        compare.target, compare.mod_revision = rpc.Compare.MOD, number


def _scan(text: str) -> list[str]:
    """fmt.Sscanf with `%q) %s %q`: what it reads until something does not fit."""
    read: list[str] = []
    key = _scan_quoted(text.lstrip())
    if key is None:
        return read
    read.append(key[0])
    tail = key[1]
    if not tail.startswith((") ", ")\t")):
        return read
    word = re.match(r"\S+", tail[1:].lstrip())
    if word is None:
        return read
    read.append(word.group())
    tail = tail[1:].lstrip()[word.end() :]
    value = _scan_quoted(tail.lstrip())
    if value is not None:
        read.append(value[0])
    return read


def _scan_quoted(text: str) -> tuple[str, str] | None:
    """A Go string literal and what follows it."""
    raw = re.match(r"`([^`]*)`", text)
    if raw:
        return raw.group(1), text[raw.end() :]
    match = re.match(r'"(?:[^"\\]|\\.)*"', text)
    if match is None:
        return None
    try:
        return gotext.unquote(match.group()), text[match.end() :]
    except ParseFailure:
        return None


def _request(context: Context, line: str) -> rpc.RequestOp:
    words = split(context, line)
    if len(words) < 2:
        raise context.fail(INVALID_INPUT, f"invalid txn compare request: {line}")
    command, rest = find(REQUESTS, words)
    flags = FlagSet(command.local_flags())
    if command is REQUESTS:
        raise context.fail(INVALID_INPUT, f"invalid txn request: {line}")
    try:
        flags.parse(rest)
    except FlagError:
        context.warn(plain_usage(command))
        raise context.fail(INVALID_INPUT, f"invalid txn request: {line}") from None
    inner = context.nested(command, flags)
    if command.name == "put":
        return rpc.RequestOp(request_put=put_request(inner))
    if command.name == "get":
        return rpc.RequestOp(request_range=get_request(inner))
    return rpc.RequestOp(request_delete_range=delete_request(inner))


def split(context: Context, line: str) -> list[str]:
    """A line into words, as etcdctl does: quotes group, double quotes know Go's escapes."""
    words = []
    for word in _WORD.findall(line):
        if word[0] == "'":
            words.append(word[1:-1])
        elif word[0] == '"':
            try:
                words.append(gotext.unquote(word))
            except ParseFailure as failure:
                raise context.fail(INVALID_INPUT, str(failure)) from None
        else:
            words.append(word)
    return words


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _quote(text: str) -> str:
    return gotext.quote(_raw(text))
