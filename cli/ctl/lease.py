"""lease grant, revoke, timetolive, list, keep-alive."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

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
FIRST_ANSWER_S = 1.0  # beside the time to dial; lease.go: firstKeepAliveTimeout
_FIRST_ANSWER_UNDIALED_S = 5.0
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
    """`lease keep-alive`: once, or every third of the lease's time until it is gone, or no answer
    has come for so long that it may be."""
    if len(context.args) != 1:
        text = "lease keep-alive command needs lease ID as argument"
        raise context.fail(BAD_ARGS, text)
    lease_id = _lease_id(context)
    client = context.client()
    display = context.display()
    once = context.flags.boolean("once")
    keeper = Keeper(client, lease_id, once=once)
    wait_s = None if once else _first_answer_s(context)
    try:
        while True:
            try:
                answer = keeper.inbox.get(timeout=wait_s)
            except queue.Empty:
                break
            if isinstance(answer, ClientError):
                raise context.fail(BAD_CONNECTION, answer.text)
            if answer.TTL <= 0:
                break
            display.show("keep_alive", answer)
            context.flush()
            if once:
                return
            wait_s = float(answer.TTL)
    finally:
        keeper.stop()
    if once:
        raise context.fail(BAD_CONNECTION, NOT_FOUND)
    if display.format == "simple":
        context.print(f"lease {lease_id:016x} expired or revoked.")


def _first_answer_s(context: Context) -> float:
    dial_s = context.flags.integer("dial-timeout") / 1e9
    return max(0.0, dial_s + FIRST_ANSWER_S) if dial_s else _FIRST_ANSWER_UNDIALED_S


class Keeper:
    """Renews a lease in a thread of its own. What came, and the error that ended it, is in `inbox`:
    an answer or two for each TTL."""

    def __init__(self, client: Client, lease_id: int, *, once: bool) -> None:
        self.inbox: queue.SimpleQueue[rpc.LeaseKeepAliveResponse | ClientError]
        self.inbox = queue.SimpleQueue()
        self._client, self._lease_id, self._once = client, lease_id, once
        self._has_stopped = threading.Event()
        self._call: Any = None
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """No renewal leaves after this."""
        self._has_stopped.set()
        if self._call is not None:
            self._call.cancel()

    def _run(self) -> None:
        while not self._has_stopped.is_set():
            try:
                for answer in renewals(
                    self._client, self._lease_id, once=self._once, opened=self._note
                ):
                    self.inbox.put(answer)
                    if answer.TTL <= 0:
                        return
            except ClientError as failure:
                if failure.code not in ("Unavailable", "Internal"):
                    self.inbox.put(failure)
                    return
            except ValueError:  # the channel was closed: the command is over
                return
            self._has_stopped.wait(RECONNECT_S)

    def _note(self, call: object) -> None:
        self._call = call


def renewals(
    client: Client, lease_id: int, *, once: bool, opened: Callable[[object], None] | None = None
) -> Iterator[rpc.LeaseKeepAliveResponse]:
    """Answers of one stream; the next request leaves a third of the TTL after an answer. `opened`
    gets the stream, which can be cancelled."""
    waits: queue.SimpleQueue[float | str] = queue.SimpleQueue()  # at most one wait is in it

    def requests() -> Iterator[rpc.LeaseKeepAliveRequest]:
        yield rpc.LeaseKeepAliveRequest(ID=lease_id)
        while not isinstance(wait_s := waits.get(), str):
            time.sleep(wait_s)
            yield rpc.LeaseKeepAliveRequest(ID=lease_id)

    try:
        stream = client.stream(calls.LEASE_KEEP_ALIVE, requests())
        if opened is not None:
            opened(stream)
        for answer in stream:
            if not once and answer.TTL > 0:
                waits.put(answer.TTL / 3)
            yield answer
    except grpc.RpcError as failure:
        raise client.translate(failure) from None
    finally:
        waits.put(_HALT)


def _lease_id(context: Context) -> int:
    return hex_id(context, context.args[0], "bad lease ID arg", signed=True)
