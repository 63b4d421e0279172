"""A lease that lives as long as a command, and waiting for keys: what lock and elect share.

The main thread waits on one queue. Into it come the answers of the watch that is open (a thread
each), the end of the lease (the thread that renews it) and the signals that end the command. After
a break of the connection a watch goes on behind the last revision that it has seen.

Limits. The queue holds what a watch of one key brings while its reader prints. Whether the lease
has run out unseen, because no answer came, is looked at every half second.
"""

import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc

from pyetcd.cli import client as calls
from pyetcd.cli.client import Client, ClientError
from pyetcd.cli.ctl.lease import renewals
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc

DEFAULT_TTL_S: Final = 60  # clientv3/concurrency: defaultSessionTTL
LOOK_S: Final = 0.5
RECONNECT_S: Final = 0.1
_PASSING: Final = ("Unavailable", "Internal")


class Interrupted(Exception):
    """SIGINT or SIGTERM."""


class Session:
    """A lease, renewed in a thread. Raises ClientError."""

    def __init__(self, client: Client, *, ttl_s: int = DEFAULT_TTL_S) -> None:
        self.client = client
        granted = client.call(calls.LEASE_GRANT, rpc.LeaseGrantRequest(TTL=ttl_s), timeout_s=None)
        self.lease = granted.ID
        self.is_interrupted = False
        self._inbox: queue.SimpleQueue[tuple[object, Any]] = queue.SimpleQueue()
        self._has_ended = False
        self._deadline_s = time.monotonic() + granted.TTL
        threading.Thread(target=self._renew, daemon=True).start()

    def _renew(self) -> None:
        while not self._has_ended:
            try:
                for answer in renewals(self.client, self.lease, once=False):
                    if answer.TTL <= 0:
                        self._end()
                        return
                    self._deadline_s = time.monotonic() + answer.TTL
            except ClientError as failure:
                if failure.code not in _PASSING:
                    self._end()
                    return
            except ValueError:  # the channel was closed: the command is over
                return
            time.sleep(LOOK_S)

    def _end(self) -> None:
        self._has_ended = True
        self._inbox.put(("ended", None))

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM become Interrupted where the command waits. A signal that comes at
        another time is met at the next wait."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        old = [signal.signal(number, self._interrupt) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, old, strict=True):
                signal.signal(number, handler)

    def _interrupt(self, *_: object) -> None:
        self.is_interrupted = True
        self._inbox.put(("interrupted", None))

    def hold(self) -> bool:
        """Waits for a signal, or for the end of the lease: False."""
        while not self.is_interrupted:
            if self._has_ended or time.monotonic() > self._deadline_s:
                return False
            try:
                self._inbox.get(timeout=LOOK_S)
            except queue.Empty:
                continue
        return True

    def follow(self, key: bytes, range_end: bytes, revision: int) -> Iterator[rpc.WatchResponse]:
        """The answers of a watch; raises Interrupted, and ClientError when the server ends it."""
        watch = _Watch(self.client, self._inbox)
        threading.Thread(target=watch.run, args=(key, range_end, revision), daemon=True).start()
        try:
            while True:
                if self.is_interrupted:
                    raise Interrupted
                source, answer = self._inbox.get()
                if source is not watch:
                    continue  # an older watch, or the lease: that shows when the key is gone
                if isinstance(answer, ClientError):
                    raise answer
                yield answer
        finally:
            watch.stop()

    def get(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
        """One read."""
        return self.client.call(calls.RANGE, request, timeout_s=None)

    def wait_for_turn(self, prefix: bytes, revision: int) -> None:
        """Until no key below the prefix is older than this revision."""
        request = rpc.RangeRequest(
            key=prefix,
            range_end=_end_of(prefix),
            limit=1,
            sort_order=rpc.RangeRequest.DESCEND,
            sort_target=rpc.RangeRequest.CREATE,
            max_create_revision=revision - 1,
        )
        while (found := self.get(request)).kvs:
            for answer in self.follow(found.kvs[0].key, b"", found.header.revision):
                if any(event.type == kv.Event.DELETE for event in answer.events):
                    break


def _end_of(prefix: bytes) -> bytes:
    from pyetcd.proto.keys import prefix_end

    return prefix_end(prefix)


class _Watch:
    """A watch in a thread of its own, started again after a break."""

    def __init__(self, client: Client, inbox: "queue.SimpleQueue[tuple[object, Any]]") -> None:
        self._client = client
        self._inbox = inbox
        self._has_stopped = threading.Event()
        self._call: Any = None

    def stop(self) -> None:
        self._has_stopped.set()
        if self._call is not None:
            self._call.cancel()

    def run(self, key: bytes, range_end: bytes, revision: int) -> None:
        while not self._has_stopped.is_set():
            create = rpc.WatchCreateRequest(key=key, range_end=range_end, start_revision=revision)
            requests = self._requests(rpc.WatchRequest(create_request=create))
            try:
                self._call = self._client.stream(calls.WATCH, requests, need_leader=True)
                for answer in self._call:
                    if answer.canceled:
                        self._inbox.put((self, _canceled(answer)))
                        return
                    if answer.events:
                        revision = answer.events[-1].kv.mod_revision + 1
                        self._inbox.put((self, answer))
            except grpc.RpcError as failure:
                error = self._client.translate(failure)
                if error.code not in _PASSING:
                    self._inbox.put((self, error))
                    return
            except ValueError:  # the channel was closed
                return
            self._has_stopped.wait(RECONNECT_S)

    def _requests(self, first: rpc.WatchRequest) -> Iterator[rpc.WatchRequest]:
        yield first
        self._has_stopped.wait()


def _canceled(answer: rpc.WatchResponse) -> ClientError:
    text = answer.cancel_reason or "etcdserver: mvcc: required revision is a future revision"
    if answer.compact_revision:
        text = "etcdserver: mvcc: required revision has been compacted"
    return ClientError("OutOfRange", text, text)
