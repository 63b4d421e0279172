"""lock and elect: as the concurrency package of clientv3 does it, so that holders of both kinds
queue up behind each other. The oldest key below NAME/ holds the lock, or leads; each waits for the
one before it."""

import os
from typing import Final

from pyetcd.cli import client as calls
from pyetcd.cli.client import ClientError
from pyetcd.cli.context import Context
from pyetcd.cli.ctl.session import Interrupted, Session
from pyetcd.cli.terminal import BAD_ARGS, ERROR
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.keys import prefix_end

_CANCELED: Final = "context canceled"


def lock(context: Context) -> None:
    """`lock`: with a command until it ends, else until a signal."""
    if not context.args:
        text = "lock takes a lock name argument and an optional command to execute"
        raise context.fail(BAD_ARGS, text)
    client = context.client()
    try:
        session = Session(client, ttl_s=context.flags.integer("ttl"))
        with session.signals():
            key, revision = _acquire(session, context.arg(0) + b"/")
            if len(context.args) > 1:
                _run(context, session, key, revision)
            else:
                _hold(context, session, key)
    except ClientError as failure:
        raise context.fail(ERROR, failure.text) from None
    except Interrupted:
        raise context.fail(ERROR, _CANCELED) from None


def _acquire(session: Session, prefix: bytes) -> tuple[bytes, int]:
    """The key that holds the lock, and the revision of the answer that said so."""
    key = prefix + b"%x" % session.lease
    owner = rpc.RequestOp(
        request_range=rpc.RangeRequest(
            key=prefix,
            range_end=prefix_end(prefix),
            limit=1,
            sort_order=rpc.RangeRequest.ASCEND,
            sort_target=rpc.RangeRequest.CREATE,
        )
    )
    request = _unless_there(key, b"", session.lease)
    request.success.append(owner)
    request.failure.append(owner)
    answer = session.client.call(calls.TXN, request, timeout_s=None)
    mine = answer.header.revision
    if not answer.succeeded:
        mine = answer.responses[0].response_range.kvs[0].create_revision
    owners = answer.responses[1].response_range.kvs
    if not owners or owners[0].create_revision == mine:
        return key, answer.header.revision
    try:
        session.wait_for_turn(prefix, mine)
        found = session.get(rpc.RangeRequest(key=key))
    except (ClientError, Interrupted):
        _delete(session, key)
        raise
    if not found.kvs:
        raise ClientError("", "", "mutex: session is expired")
    return key, found.header.revision


def _unless_there(key: bytes, value: bytes, lease: int) -> rpc.TxnRequest:
    compare = rpc.Compare(
        key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0
    )
    put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))
    get = rpc.RequestOp(request_range=rpc.RangeRequest(key=key))
    return rpc.TxnRequest(compare=[compare], success=[put], failure=[get])


def _delete(session: Session, key: bytes) -> None:
    session.client.call(calls.DELETE_RANGE, rpc.DeleteRangeRequest(key=key), timeout_s=None)


def _hold(context: Context, session: Session, key: bytes) -> None:
    found = session.get(rpc.RangeRequest(key=key))
    if not found.kvs:
        raise context.fail(ERROR, "lock lost on init")
    context.display().show("get", found)
    context.flush()
    if not session.hold():
        raise context.fail(ERROR, "session expired")
    _delete(session, key)


def _run(context: Context, session: Session, key: bytes, revision: int) -> None:
    """The command under the lock; its exit code is ours."""
    env: dict[bytes, bytes] = {b"ETCD_LOCK_KEY": key, b"ETCD_LOCK_REV": b"%d" % revision}
    env |= {os.fsencode(name): os.fsencode(value) for name, value in context.env.items()}
    context.flush()
    text, code = "", 0
    try:
        done = context.run_command(context.args[1:], env)
    except OSError as failure:
        text, code = _not_started(context.args[1], failure), ERROR
    else:
        code = done
        if done > 0:
            text = f"exit status {done}"
        elif done < 0:
            # Go's ExitStatus of a process that a signal ended is -1.
            text, code = f"signal: {_signal_name(-done)}", 255
    _delete(session, key)
    if text:
        raise context.fail(code, text)


def _not_started(program: str, failure: OSError) -> str:
    if "/" in program:
        return f"fork/exec {program}: {(failure.strerror or '').lower()}"
    return f'exec: "{program}": executable file not found in $PATH'


def _signal_name(number: int) -> str:
    import signal

    return (signal.strsignal(number) or str(number)).lower()


def elect(context: Context) -> None:
    """`elect`: campaigns with a proposal, or with -l shows who leads."""
    if len(context.args) not in (1, 2):
        text = "elect takes one election name argument and an optional proposal argument"
        raise context.fail(BAD_ARGS, text)
    listens = context.flags.boolean("listen")
    client = context.client()
    if len(context.args) == 1 and not listens:
        raise context.fail(BAD_ARGS, "no proposal argument but -l not set")
    if len(context.args) == 2 and listens:
        raise context.fail(BAD_ARGS, "proposal given but -l is set")
    prefix = context.arg(0) + b"/"
    try:
        session = Session(client)
        with session.signals():
            if listens:
                _observe(context, session, prefix)
            else:
                _campaign(context, session, prefix)
    except ClientError as failure:
        raise context.fail(ERROR, failure.text) from None
    except Interrupted:
        if not listens:
            raise context.fail(ERROR, _CANCELED) from None


def _campaign(context: Context, session: Session, prefix: bytes) -> None:
    key = prefix + b"%x" % session.lease
    answer = session.client.call(
        calls.TXN, _unless_there(key, context.arg(1), session.lease), timeout_s=None
    )
    revision = answer.header.revision
    if not answer.succeeded:  # only a repeated request meets its own key
        revision = answer.responses[0].response_range.kvs[0].create_revision
    try:
        session.wait_for_turn(prefix, revision)
    except Interrupted:
        _resign(session, key, revision)
        raise
    context.display().show("get", session.get(rpc.RangeRequest(key=key)))
    context.flush()
    if not session.hold():
        raise context.fail(ERROR, "elect: session expired")
    _resign(session, key, revision)


def _resign(session: Session, key: bytes, revision: int) -> None:
    compare = rpc.Compare(
        key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=revision
    )
    delete = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
    request = rpc.TxnRequest(compare=[compare], success=[delete])
    session.client.call(calls.TXN, request, timeout_s=None)


def _observe(context: Context, session: Session, prefix: bytes) -> None:
    """Every leader, and every value that a leader proclaims, until a signal."""
    display = context.display()
    request = rpc.RangeRequest(
        key=prefix,
        range_end=prefix_end(prefix),
        limit=1,
        sort_order=rpc.RangeRequest.ASCEND,
        sort_target=rpc.RangeRequest.CREATE,
    )
    try:
        while True:
            found = session.get(request)
            shown = found
            if not found.kvs:
                shown = _first_leader(session, prefix, found.header.revision)
            display.show("get", rpc.RangeResponse(header=shown.header, kvs=shown.kvs))
            context.flush()
            for answer in session.follow(shown.kvs[0].key, b"", shown.header.revision + 1):
                for event in answer.events:
                    if event.type == kv.Event.DELETE:
                        break
                    found.header.CopyFrom(answer.header)
                    del found.kvs[:]
                    found.kvs.append(event.kv)
                    display.show("get", found)
                    context.flush()
                else:
                    continue
                break
    except ClientError:
        raise context.fail(ERROR, "elect: observer lost") from None


def _first_leader(session: Session, prefix: bytes, revision: int) -> rpc.RangeResponse:
    for answer in session.follow(prefix, prefix_end(prefix), revision):
        for event in answer.events:
            if event.type == kv.Event.PUT:
                answer.header.revision = event.kv.mod_revision
                return rpc.RangeResponse(header=answer.header, kvs=[event.kv])
    raise AssertionError("a watch ends by an exception")
