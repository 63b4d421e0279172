"""make-mirror: copies a prefix to another cluster, then each later change, until it is stopped.

First all keys as of one revision, in batches, then a watch from the next one on: what was changed
in one revision is changed there in one transaction. Leases are not mirrored, as etcdctl does not.
"""

import threading
import time
from collections.abc import Iterator
from typing import Final

import grpc

from pyetcd.cli import client as calls
from pyetcd.cli.client import Client, ClientError
from pyetcd.cli.context import Context
from pyetcd.cli.dial import KEEPALIVE_MIN_NS, Settings, ask_password
from pyetcd.cli.terminal import BAD_ARGS, ERROR, Exit
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.keys import FROM_KEY, prefix_end

BATCH_KEYS: Final = 1000
REPORT_S: Final = 30.0
RECONNECT_S: Final = 0.1
_COMPACTED: Final = "etcdserver: mvcc: required revision has been compacted"


class Mirror:
    """From where to where, and how many keys so far."""

    def __init__(self, source: Client, target: Client, prefix: bytes, becomes: bytes) -> None:
        self.total = 0
        self._source = source
        self._target = target
        self._prefix = prefix
        self._becomes = becomes

    def copy(self) -> int:
        """All keys, as of the revision that it returns."""
        first = self._source.call(calls.RANGE, rpc.RangeRequest(key=b"foo"), timeout_s=None)
        request = rpc.RangeRequest(
            key=self._prefix or FROM_KEY,
            range_end=prefix_end(self._prefix) if self._prefix else FROM_KEY,
            limit=BATCH_KEYS,
            revision=first.header.revision,
        )
        while True:
            found = self._source.call(calls.RANGE, request, timeout_s=None)
            for each in found.kvs:
                put = rpc.PutRequest(key=self._renamed(each.key), value=each.value)
                self._target.call(calls.PUT, put, timeout_s=None)
                self.total += 1
            if not found.more:
                return int(first.header.revision)
            request.key = found.kvs[-1].key + b"\0"

    def follow(self, revision: int) -> None:
        """Every change from this revision on; ends by ClientError."""
        while True:
            create = rpc.WatchCreateRequest(
                key=self._prefix or FROM_KEY,
                range_end=prefix_end(self._prefix) if self._prefix else FROM_KEY,
                start_revision=revision,
            )
            over = threading.Event()
            try:
                for answer in self._source.stream(
                    calls.WATCH, _requests(create, over), need_leader=True
                ):
                    if answer.compact_revision:
                        raise ClientError("OutOfRange", _COMPACTED, _COMPACTED)
                    if answer.canceled:
                        return
                    self._repeat(list(answer.events))
                    if answer.events:
                        revision = answer.events[-1].kv.mod_revision + 1
            except grpc.RpcError as failure:
                error = self._source.translate(failure)
                if error.code not in ("Unavailable", "Internal"):
                    raise error from None
            finally:
                over.set()
            time.sleep(RECONNECT_S)

    def _repeat(self, events: list[kv.Event]) -> None:
        """One transaction for each revision."""
        at = 0
        while at < len(events):
            revision = events[at].kv.mod_revision
            request = rpc.TxnRequest()
            while at < len(events) and events[at].kv.mod_revision == revision:
                request.success.append(self._operation(events[at]))
                at += 1
            self._target.call(calls.TXN, request, timeout_s=None)
            self.total += len(request.success)

    def _operation(self, event: kv.Event) -> rpc.RequestOp:
        key = self._renamed(event.kv.key)
        if event.type == kv.Event.DELETE:
            return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
        return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=event.kv.value))

    def _renamed(self, key: bytes) -> bytes:
        return key.replace(self._prefix, self._becomes, 1)


def _requests(create: rpc.WatchCreateRequest, over: threading.Event) -> Iterator[rpc.WatchRequest]:
    yield rpc.WatchRequest(create_request=create)
    over.wait()


def make_mirror(context: Context) -> None:
    """`make-mirror`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "make-mirror takes one destination argument")
    flags = context.flags
    target = context.dial([context.args[0]], _destination(context))
    source = context.client()
    becomes = _bytes(flags.text("dest-prefix"))
    prefix = _bytes(flags.text("prefix"))
    if flags.boolean("no-dest-prefix"):
        if becomes:
            text = "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time"
            raise context.fail(BAD_ARGS, f"{text}, choose one")
    else:
        becomes = becomes or prefix
    mirror = Mirror(source, target, prefix, becomes)
    threading.Thread(target=_report, args=(context, mirror), daemon=True).start()
    try:
        mirror.follow(mirror.copy() + 1)
    except ClientError as failure:
        raise context.fail(ERROR, failure.text) from None
    context.warn("Error: <nil>")  # etcdctl's end of a watch that the server ended without a word
    raise Exit(ERROR)


def _report(context: Context, mirror: Mirror) -> None:
    while True:
        time.sleep(REPORT_S)
        context.print(str(mirror.total))
        context.flush()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _destination(context: Context) -> Settings:
    """The dest flags; times and keep-alives are those of the source."""
    flags = context.flags
    user, password = flags.text("dest-user"), flags.text("dest-password")
    if user and not password:
        user, colon, password = user.partition(":")
        if not colon:
            password = ask_password(context, "Destination Password: ")
    return Settings(
        [context.args[0]],
        flags.integer("dial-timeout") / 1e9,
        max(flags.integer("keepalive-time"), KEEPALIVE_MIN_NS) // 10**6,
        flags.integer("keepalive-timeout") // 10**6,
        secure=not flags.boolean("dest-insecure-transport"),
        cert_file=flags.text("dest-cert"),
        key_file=flags.text("dest-key"),
        ca_file=flags.text("dest-cacert"),
        user=user,
        password=password,
    )
