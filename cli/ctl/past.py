"""All that happened to a key, or to the keys with a prefix, as far back as the server remembers.

How. Only a watch tells of deletions: a read at a revision finds no key, but not when it went, or
whether it was there in between. So one watch is made from revision 1. A server that has compacted
its history refuses it and names the compact revision C; then a read at C gives what there was at
that moment, and a second watch gives what happened from C on.

When it is over. A watch has no end. Of one key that exists, the end is its last change, which is
known from a read before. Else it is what the server says of its progress, up to the revision R that
the first read found. But etcd before 3.5.8 answers a question for progress at once, even if events
of the past are still to come (etcd#15220). So a second watch goes the same way, twice, one after
the other: a mark, of which it is known that an answer must come. Such an etcd looks at all watches
that are behind in one round, in which the answers go out. Since the first mark that comes back ends
in a round after the watch was made, all events of the watch are there before the second. Measured
with etcd 3.5.1 and a deleted key: without marks none of 15 histories was whole, with one mark 1,
with two all.

etcd's grpc-proxy passes no question for progress on: behind it the marks alone must do.

Limits. In etcd before 3.5.8 with more than 512 watches that are behind at a time, a round is not of
all of them. Who may read only a key that is gone, in a cluster that never compacted, gets no mark:
then ANSWERS questions, each a moment after the answer to the one before, must have given the server
the time for a round, which is due every 100 ms.
"""

import queue
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import grpc

from pyetcd.cli import client as calls
from pyetcd.cli.client import ClientError
from pyetcd.cli.context import Context
from pyetcd.cli.ctl.pages import Reader, Walk
from pyetcd.cli.terminal import ERROR
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.keys import FROM_KEY

ASK_S: Final = 0.1  # between an answer about progress and the next question
REPEAT_S: Final = 1.0  # a question that has no answer by then is asked again
GRACE_S: Final = 1.0
UNMARKED_GRACE_S: Final = 5.0
ANSWERS: Final = 10
MARKS: Final = 2
_COMPACTED: Final = "etcdserver: mvcc: required revision has been compacted"


class Step(NamedTuple):
    """One change."""

    is_delete: bool
    pair: kv.KeyValue


class Past:
    """Iterate over it once: the steps from the oldest on. `compact_revision` is known from the
    first step on; 0 is a history that is whole."""

    def __init__(self, context: Context, reader: Reader, key: bytes, range_end: bytes) -> None:
        self._context = context
        self._reader = reader
        self._key, self._range_end = key, range_end
        is_one = not range_end
        request = rpc.RangeRequest(
            key=key, range_end=range_end, keys_only=is_one, count_only=not is_one
        )
        answer = reader.range(request)
        self.revision = answer.header.revision
        self.compact_revision = 0
        self._last = answer.kvs[0].mod_revision if answer.kvs else 0  # the last change, if known
        self._stream = _Stream(context, reader)
        self._watch = 0
        self._newest: kv.KeyValue | None = None  # that has been seen
        self._mark = 0
        self._marks = 0  # that have come back since the last event
        self._progress = 0
        self._answers_left = 0  # about progress, that must come yet

    def __iter__(self) -> Iterator[Step]:
        if self.revision <= 1:  # nothing was ever written
            return
        self._watch = self._stream.create(self._key, self._range_end, 1)
        try:
            for answer in self._stream:
                yield from self._take(answer)
                if self._is_over():
                    return
        finally:
            self._stream.close()

    def _is_over(self) -> bool:
        newest = self._newest.mod_revision if self._newest else 0
        if newest >= self.revision or (
            self._last and max(newest, self.compact_revision) >= self._last
        ):
            return True
        return self._marks >= MARKS and self._progress >= self.revision and self._answers_left <= 0

    def _take(self, answer: rpc.WatchResponse) -> Iterable[Step]:
        name = self._stream.name_of(answer)
        if name and name == self._watch:
            if answer.canceled:
                return self._start_again(answer)
            if answer.events:
                self._newest = answer.events[-1].kv
                self._send_mark(first=True)
                return self._steps(answer.events)
            if answer.created:
                self._send_mark(first=True)
        elif name and name == self._mark:
            if answer.canceled or answer.events:
                self._stream.cancel(self._mark)
                self._marks += 1
                self._stream.is_enough = self._marks >= MARKS
                self._send_mark(first=False)
        elif answer.watch_id < 0:
            self._progress = answer.header.revision
            self._answers_left -= 1
        return ()

    def _steps(self, events: Iterable[kv.Event]) -> Iterator[Step]:
        for event in events:
            is_delete = event.type == kv.Event.DELETE
            revision = event.kv.mod_revision
            is_known = revision <= self.compact_revision and not is_delete
            if revision <= self.revision and not is_known:
                yield Step(is_delete, event.kv)

    def _start_again(self, answer: rpc.WatchResponse) -> Iterator[Step]:
        """The watch was refused: what there was at the compact revision, and a watch from there."""
        if not answer.compact_revision:
            raise self._context.fail(ERROR, answer.cancel_reason or "watch is canceled")
        if self.compact_revision:
            # Compacted once more, and what is between has been lost.
            raise self._context.fail(ERROR, _COMPACTED)
        self.compact_revision = answer.compact_revision
        self._stream.cancel(self._watch)
        self._watch = self._stream.create(self._key, self._range_end, self.compact_revision)
        walk = Walk(
            self._reader, self._key, self._range_end, self.compact_revision, keys_only=False
        )
        for pair in walk:
            if pair.mod_revision <= self.revision:
                yield Step(False, pair)

    def _send_mark(self, *, first: bool) -> None:
        if first:
            self._marks = self._answers_left = 0
            self._stream.is_enough, self._stream.grace_s = False, GRACE_S
            self._stream.cancel(self._mark)
        self._mark = 0
        if self._marks >= MARKS or self._last:
            return
        if self.compact_revision > 1:
            self._mark = self._stream.create(self._key, self._range_end, 1)
            return
        known = self._newest or self._any_pair()
        if known is not None:
            self._mark = self._stream.create(known.key, b"", known.mod_revision)
            return
        self._marks, self._answers_left = MARKS, ANSWERS
        self._stream.is_enough, self._stream.grace_s = True, UNMARKED_GRACE_S

    def _any_pair(self) -> kv.KeyValue | None:
        """Some key with the revision of an event of it. With no key left, there was one at 2,
        if nothing was compacted."""
        for revision in (0, 2):
            request = rpc.RangeRequest(
                key=FROM_KEY, range_end=FROM_KEY, revision=revision, limit=1, keys_only=True
            )
            self._context.start_timeout()
            try:
                answer = self._reader.client.ask(
                    calls.RANGE, request, timeout_s=self._context.time_left_s()
                )
            except ClientError:  # permission denied, or compacted, which the watch will tell
                return None
            if answer.kvs:
                return answer.kvs[0]
        return None


class _Stream:
    """A watch stream with many watches, that asks for progress again and again.

    A server that says nothing for the command's time while it is waited for ends the command; for
    `grace_s`, if `is_enough`, it ends the stream.
    """

    def __init__(self, context: Context, reader: Reader) -> None:
        self._context = context
        self._reader = reader
        self._requests: queue.SimpleQueue[rpc.WatchRequest | None] = queue.SimpleQueue()
        self._last = 0
        self._names: dict[int, int] = {}  # by the ids that the server gave
        self._unnamed: deque[int] = deque()  # created; answered in this order
        self._unwanted: set[int] = set()
        self._call: Any = None
        self.is_enough = False
        self.grace_s = GRACE_S
        self._waits_since_s = 0.0  # 0: nobody waits
        self._asked_at_s = 0.0  # about progress; 0: there was an answer
        self._patience_s = context.flags.integer("command-timeout") / 1e9

    def create(self, key: bytes, range_end: bytes, revision: int) -> int:
        """Makes a watch; its name here."""
        self._last += 1
        self._unnamed.append(self._last)
        create = rpc.WatchCreateRequest(key=key, range_end=range_end, start_revision=revision)
        self._requests.put(rpc.WatchRequest(create_request=create))
        return self._last

    def name_of(self, answer: rpc.WatchResponse) -> int:
        """Which watch it is about; 0 for none."""
        return self._names.get(answer.watch_id, 0)

    def cancel(self, name: int) -> None:
        """Also of a watch that the server has ended: some servers count it until they are told."""
        known = [watch_id for watch_id, other in self._names.items() if other == name]
        for watch_id in known:
            del self._names[watch_id]
            cancel = rpc.WatchCancelRequest(watch_id=watch_id)
            self._requests.put(rpc.WatchRequest(cancel_request=cancel))
        if not known and name in self._unnamed:
            self._unwanted.add(name)

    def _learn(self, answer: rpc.WatchResponse) -> None:
        """The id that the server gave to the next watch that was asked for."""
        name = self._unnamed.popleft()
        self._names[answer.watch_id] = name
        if name in self._unwanted:
            self._unwanted.remove(name)
            self.cancel(name)

    def close(self) -> None:
        self._requests.put(None)
        if self._call is not None:
            self._call.cancel()

    def __iter__(self) -> Iterator[rpc.WatchResponse]:
        self._call = self._reader.client.stream(calls.WATCH, self._send(), need_leader=True)
        answers = iter(self._call)
        while True:
            self._waits_since_s = time.monotonic()
            try:
                answer = next(answers, None)
            except grpc.RpcError as failure:
                error = self._reader.client.translate(failure)
                if error.code == "Canceled" and self.is_enough:
                    return
                text = "context deadline exceeded" if error.code == "Canceled" else error.text
                raise self._context.fail(ERROR, text) from None
            self._waits_since_s = 0.0
            if answer is None:
                raise self._context.fail(ERROR, "watch is canceled by the server")
            if answer.created:
                self._learn(answer)
            elif answer.watch_id < 0:
                self._asked_at_s = 0.0
            yield answer

    def _send(self) -> Iterator[rpc.WatchRequest]:
        """Runs in a thread of grpc's."""
        while True:
            try:
                request = self._requests.get(timeout=ASK_S)
            except queue.Empty:
                now_s = time.monotonic()
                since_s = self._waits_since_s
                patience_s = self.grace_s if self.is_enough else self._patience_s
                if since_s and self._call and now_s - since_s > patience_s:
                    self._call.cancel()
                if now_s - self._asked_at_s < REPEAT_S:
                    continue
                self._asked_at_s = now_s
                request = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())
            if request is None:
                return
            yield request
