"""A watch stream: the watchers of one client stream, and the bounded queue of what it is owed.

The stream decides what a request means (ids, refusals, cancelling, progress) and holds replies in
order; the hub (watch.py) decides who gets which events. The server takes replies when it can send.

Bounds. The queue is full at REPLIES_MAX replies or BYTES_MAX bytes; the reply that fills it still
goes in. Events do not enter a full queue (the hub blocks the watcher), answers to requests do: so
whoever reads requests must stop while `is_full`, which bounds them too. It is drained, and its
watchers go on, at half of that: not at each reply taken.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from pyetcd.proto import errors
from pyetcd.proto.keys import is_empty
from pyetcd.proto.rpc_pb2 import WatchCreateRequest
from pyetcd.store.events import EventSet, Reply
from pyetcd.store.mvcc import PUT, Change

REPLIES_MAX: Final = 1024  # etcd: 128, before gRPC's own buffers
BYTES_MAX: Final = 4 << 20
# Watchers of a member; one beyond is refused. etcd has no bound. Each costs about 1 KB.
WATCHERS_MAX: Final = 1_000_000
# Ids of watchers that compaction ended. Clients cancel those too and wait for the answer.
ENDED_MAX: Final = 1024

NO_ID: Final = -1  # of a refused watcher, and of an answer that speaks for the whole stream

# What cancel_reason says; the first two are plain texts of etcd's store, the others of its API.
EMPTY_RANGE: Final = "mvcc: watcher range is empty"
DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"
NEGATIVE_START: Final = errors.Compacted.text
TOO_MANY: Final = errors.TooManyRequests.text


class Watcher:
    """One watch. Everything below next_revision that it watches was delivered."""

    __slots__ = (
        "has_filters",
        "id",
        "is_blocked",
        "is_idle",
        "is_synced",
        "key",
        "may_fragment",
        "next_revision",
        "prev_kv",
        "range_end",
        "start_revision",
        "stream",
        "wants_progress",
        "without_deletes",
        "without_puts",
    )

    def __init__(
        self, stream: "WatchStream", id: int, request: WatchCreateRequest, revision: int
    ) -> None:
        self.stream = stream
        self.id = id
        self.key = request.key or b"\x00"  # the smallest key there is
        self.range_end = request.range_end
        self.start_revision = request.start_revision
        self.next_revision = request.start_revision or revision + 1
        self.prev_kv = request.prev_kv
        self.may_fragment = request.fragment
        self.wants_progress = request.progress_notify
        self.without_puts = WatchCreateRequest.NOPUT in request.filters
        self.without_deletes = WatchCreateRequest.NODELETE in request.filters
        self.has_filters = self.without_puts or self.without_deletes
        self.is_synced = False
        self.is_blocked = False
        self.is_idle = True  # no event since the last progress interval

    def wants(self, change: Change) -> bool:
        """Whether a change of a key it watches is new to it and passes its filters."""
        if change.mod_revision < self.next_revision:
            return False
        return not (self.without_puts if change.type == PUT else self.without_deletes)


class Hub(Protocol):
    """What a stream needs of the hub."""

    streams: int
    watchers: int
    pending_events: int

    @property
    def revision(self) -> int: ...

    def add(self, watcher: Watcher) -> None: ...

    def remove(self, watcher: Watcher) -> None: ...

    def touch(self, stream: "WatchStream") -> None: ...

    def leave(self, stream: "WatchStream") -> None: ...

    def resume(self, watchers: Iterable[Watcher]) -> None: ...

    def has_caught_up(self, watcher: Watcher) -> bool: ...


class WatchStream:
    """The watchers of one client stream. `sink` is called, by the hub's step, when there is
    something to take and was nothing before; it may take at once or later, until nothing is left.
    """

    __slots__ = ("_ended", "_hub", "_next_id", "_queue", "blocked", "queued_bytes", "sink",
                 "watchers")  # fmt: skip

    def __init__(self, hub: Hub, sink: Callable[[], None]) -> None:
        self._hub = hub
        self.sink = sink
        self.watchers: dict[int, Watcher] = {}
        self.blocked: dict[Watcher, None] = {}
        self.queued_bytes = 0
        self._queue: deque[Reply] = deque()
        self._next_id = 0
        self._ended: dict[int, None] = {}
        hub.streams += 1

    # -- requests

    def watch(self, request: WatchCreateRequest) -> int:
        """Create a watcher; its id, or NO_ID if it was refused. The reply is queued."""
        hub = self._hub
        if request.start_revision < 0:
            return self.refuse(NEGATIVE_START)
        if is_empty(request.key or b"\x00", request.range_end):
            return self.refuse(EMPTY_RANGE)
        if hub.watchers >= WATCHERS_MAX:
            return self.refuse(TOO_MANY)
        id = request.watch_id
        if id == 0:
            while self._is_used(self._next_id):
                self._next_id += 1
            id = self._next_id
            self._next_id += 1
        elif self._is_used(id):
            return self.refuse(DUPLICATE_ID)
        watcher = Watcher(self, id, request, hub.revision)
        self.watchers[id] = watcher
        # The reply first: no event of a watcher may come before it.
        self._push(Reply(id, hub.revision, created=True))
        hub.add(watcher)
        return id

    def refuse(self, reason: str) -> int:
        """Answer a create request with a cancelled watcher."""
        reply = Reply(NO_ID, self._hub.revision, created=True, canceled=True, reason=reason)
        self._push(reply)
        return NO_ID

    def cancel(self, id: int) -> None:
        """End a watcher; an id that nobody has is ignored without an answer."""
        watcher = self.watchers.pop(id, None)
        if watcher is not None:
            self._hub.remove(watcher)
        elif id in self._ended:
            del self._ended[id]
        else:
            return
        self._push(Reply(id, self._hub.revision, canceled=True))

    def request_progress(self) -> None:
        """One answer for all watchers, if all have caught up; otherwise none, as from 3.5.8 on.
        3.5.1 answered always, and so ahead of events (etcd#15220)."""
        caught_up = all(map(self._hub.has_caught_up, self.watchers.values()))
        if self.watchers and caught_up and not self.is_full:
            self._push(Reply(NO_ID, self._hub.revision))

    def notify_progress(self) -> None:
        """The progress interval has passed: tell those that asked for it and heard nothing."""
        for watcher in self.watchers.values():
            if not watcher.wants_progress:
                continue
            if watcher.is_idle and self._hub.has_caught_up(watcher) and not self.is_full:
                self._push(Reply(watcher.id, self._hub.revision))
            watcher.is_idle = True

    def close(self) -> None:
        """The client is gone: forget everything."""
        for watcher in self.watchers.values():
            self._hub.remove(watcher)
        self.watchers.clear()
        self._hub.pending_events -= sum(len(reply.events.chunks) for reply in self._queue)
        self._queue.clear()
        self.queued_bytes = 0
        self._hub.leave(self)
        self._hub.streams -= 1

    # -- the queue

    @property
    def is_full(self) -> bool:
        return self.queued_bytes >= BYTES_MAX or len(self._queue) >= REPLIES_MAX

    @property
    def has_replies(self) -> bool:
        return bool(self._queue)

    @property
    def next_bytes(self) -> int:
        """Size of the events of the next reply, 0 if there is none."""
        return self._queue[0].events.size_bytes if self._queue else 0

    def take(self, bytes_max: int = BYTES_MAX) -> list[Reply]:
        """Replies in order, with no more than bytes_max of events unless the first has more."""
        queue = self._queue
        if self.queued_bytes <= bytes_max:
            taken = list(queue)
            queue.clear()
            self.queued_bytes = 0
        else:
            taken = []
            size_bytes = 0
            while queue:
                if taken and size_bytes + queue[0].events.size_bytes > bytes_max:
                    break
                reply = queue.popleft()
                size_bytes += reply.events.size_bytes
                taken.append(reply)
            self.queued_bytes -= size_bytes
        self._hub.pending_events -= sum([len(reply.events.chunks) for reply in taken])
        if self.blocked and self._is_half_empty():
            self._hub.resume(list(self.blocked))
        return taken

    def offer(self, watcher: Watcher, revision: int, events: EventSet) -> bool:
        """For the hub: queue events, unless the queue is full. Once for each watcher of each
        write, so all in one place: half the time of a few calls (measured)."""
        queue = self._queue
        if self.queued_bytes >= BYTES_MAX or len(queue) >= REPLIES_MAX:
            return False
        if not queue:
            self._hub.touch(self)
        watcher.is_idle = False
        self._hub.pending_events += len(events.chunks)
        queue.append(Reply(watcher.id, revision, events, watcher.may_fragment))
        self.queued_bytes += events.size_bytes
        return True

    def push_compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """For the hub: the history that this watcher needs is gone. The reply has no revision
        in its header and no reason, as etcd's."""
        self._hub.remove(watcher)
        del self.watchers[watcher.id]
        if len(self._ended) >= ENDED_MAX:
            del self._ended[next(iter(self._ended))]  # a late cancel of it stays unanswered
        self._ended[watcher.id] = None
        self._push(Reply(watcher.id, 0, canceled=True, compact_revision=compact_revision))

    def _push(self, reply: Reply) -> None:
        if not self._queue:
            self._hub.touch(self)
        self._queue.append(reply)
        self.queued_bytes += reply.events.size_bytes

    def _is_half_empty(self) -> bool:
        return self.queued_bytes <= BYTES_MAX // 2 and len(self._queue) <= REPLIES_MAX // 2

    def _is_used(self, id: int) -> bool:
        return id in self.watchers or id in self._ended
