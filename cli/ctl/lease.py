"""lease grant, revoke, timetolive, list, keep-alive."""

import queue
import time
from collections.abc import Iterator

import grpc

from pyetcd.cli import client as calls
from pyetcd.cli import gotext
from pyetcd.cli.client import Client, ClientError
from pyetcd.cli.context import Context, hex_id
from pyetcd.cli.gotext import ParseFailure
from pyetcd.cli.printers.base import About, TimeToLive
from pyetcd.cli.terminal import BAD_ARGS, BAD_CONNECTION, ERROR
from pyetcd.proto import rpc_pb2 as rpc

NOT_FOUND = "etcdserver: requested lease not found"
RECONNECT_S = 0.5  # clientv3 lease.go: retryConnWait
_HALT = "no more requests"


def grant(context: Context) -> None:
    """`lease grant`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "lease grant command needs TTL argument")
    try:
        ttl_s = gotext.parse_int(context.args[0], 10)
    except ParseFailure as failure:
        raise context.fail(BAD_ARGS, f"bad TTL ({failure})") from None
    context.start_timeout()
    client = context.client()
    request = rpc.LeaseGrantRequest(TTL=ttl_s)
    try:
        answer = client.call(calls.LEASE_GRANT, request, timeout_s=context.time_left_s())
    except ClientError as failure:
        raise context.fail(ERROR, f"failed to grant lease ({failure.text})") from None
    context.display().show("grant", answer)


def revoke(context: Context) -> None:
    """`lease revoke`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "lease revoke command needs 1 argument")
    lease_id = _lease_id(context)
    context.start_timeout()
    client = context.client()
    request = rpc.LeaseRevokeRequest(ID=lease_id)
    try:
        answer = client.call(calls.LEASE_REVOKE, request, timeout_s=context.time_left_s())
    except ClientError as failure:
        raise context.fail(ERROR, f"failed to revoke lease ({failure.text})") from None
    context.display().show("revoke", About(lease_id, answer))


def time_to_live(context: Context) -> None:
    """`lease timetolive`."""
    if len(context.args) != 1:
        text = "lease timetolive command needs lease ID as argument"
        raise context.fail(BAD_ARGS, text)
    keys = context.flags.boolean("keys")
    client = context.client()
    request = rpc.LeaseTimeToLiveRequest(ID=_lease_id(context), keys=keys)
    try:
        answer = client.call(calls.LEASE_TIME_TO_LIVE, request, timeout_s=None)
    except ClientError as failure:
        raise context.fail(BAD_CONNECTION, failure.text) from None
    context.display().show("time_to_live", TimeToLive(answer, keys))


def list_all(context: Context) -> None:
    """`lease list`."""
    client = context.client()
    try:
        answer = client.call(calls.LEASE_LEASES, rpc.LeaseLeasesRequest(), timeout_s=None)
    except ClientError as failure:
        raise context.fail(BAD_CONNECTION, failure.text) from None
    context.display().show("leases", answer)


def keep_alive(context: Context) -> None:
    """`lease keep-alive`: once, or every third of the lease's time until it is gone."""
    if len(context.args) != 1:
        text = "lease keep-alive command needs lease ID as argument"
        raise context.fail(BAD_ARGS, text)
    lease_id = _lease_id(context)
    client = context.client()
    display = context.display()
    once = context.flags.boolean("once")
    while True:
        try:
            for answer in renewals(client, lease_id, once=once):
                if answer.TTL <= 0:
                    break
                display.show("keep_alive", answer)
                context.flush()
                if once:
                    return
            else:
                continue
            break
        except ClientError as failure:
            if failure.code not in ("Unavailable", "Internal"):
                raise context.fail(BAD_CONNECTION, failure.text) from None
            time.sleep(RECONNECT_S)
    if once:
        raise context.fail(BAD_CONNECTION, NOT_FOUND)
    if display.format == "simple":
        context.print(f"lease {lease_id:016x} expired or revoked.")


def renewals(client: Client, lease_id: int, *, once: bool) -> Iterator[rpc.LeaseKeepAliveResponse]:
    """Answers of one stream; the next request leaves a third of the TTL after an answer."""
    waits: queue.SimpleQueue[float | str] = queue.SimpleQueue()  # at most one wait is in it

    def requests() -> Iterator[rpc.LeaseKeepAliveRequest]:
        yield rpc.LeaseKeepAliveRequest(ID=lease_id)
        while not isinstance(wait_s := waits.get(), str):
            time.sleep(wait_s)
            yield rpc.LeaseKeepAliveRequest(ID=lease_id)

    try:
        for answer in client.stream(calls.LEASE_KEEP_ALIVE, requests()):
            if not once and answer.TTL > 0:
                waits.put(answer.TTL / 3)
            yield answer
    except grpc.RpcError as failure:
        raise client.translate(failure) from None
    finally:
        waits.put(_HALT)


def _lease_id(context: Context) -> int:
    return hex_id(context, context.args[0], "bad lease ID arg", signed=True)
