"""Many watches on the same keys become one watch of the cluster. Pure.

Words. A *watcher* is what a client asked for. A *broadcast* is one watch of the cluster with the
watchers that it feeds. All broadcasts over the same keys are a group.

Strategy. `through` is the revision up to which a broadcast has given away every event of its keys.
A watcher that wants events from revision `next` on may ride on a broadcast with next > through: it
misses nothing, and what comes before `next` is left out for it. So a watcher from a past revision
gets a broadcast of its own, from there; a watcher from now on starts one as well, because only the
cluster knows what "now" is, or shares one that waits for the same word. After each answer a
broadcast looks whether its watchers may all ride on another one of the group; then they move, and
the cluster's watch is given up. (etcd takes the revision in the header for `through`. While a watch
catches up that one runs ahead of the events, and a move at that time would lose some.)

    watch k from 3   broadcast A: through 2
    put k (rev 7)    A gives it away: through 7
    watch k          broadcast B: created at revision 9, so through 9, next 10
                     9 >= 7 and next 10 > 7: B's watcher moves to A, B is given up
    watch k from 10  10 > 7: rides on A at once

Rules. A watcher hears "created" once, whatever happens to its broadcast. When the cluster refuses a
broadcast, only the watcher in whose name it was asked is told; the others ask again in their own.
After a compaction only those end that still wanted what is gone.
"""

from collections.abc import Callable, Iterable
from typing import Final

from pyetcd.proto import kv_pb2 as mvcc
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.store.events import varint

Range = tuple[bytes, bytes]
NO_PUT, NO_DELETE = (
    rpc.WatchCreateRequest.FilterType.NOPUT,
    rpc.WatchCreateRequest.FilterType.NODELETE,
)
_REFUSED_TYPE: Final = {NO_PUT: mvcc.Event.EventType.PUT, NO_DELETE: mvcc.Event.EventType.DELETE}


class Watcher:
    """One watch of a client. `send` takes serialised responses."""

    __slots__ = (
        "broadcast",
        "ended",
        "header",
        "id",
        "is_created",
        "next_revision",
        "range",
        "refused_types",
        "send",
        "token",
        "wants_prev_kv",
        "wants_progress",
    )

    def __init__(
        self,
        id: int,
        request: rpc.WatchCreateRequest,
        *,
        send: Callable[[bytes], None],
        token: str = "",
        ended: Callable[["Watcher"], None] = lambda watcher: None,
    ) -> None:
        self.id = id
        self.range: Range = (request.key, request.range_end)
        self.next_revision = max(0, request.start_revision)  # 0: from now on
        self.wants_progress = request.progress_notify
        self.wants_prev_kv = request.prev_kv
        self.refused_types = frozenset(_REFUSED_TYPE[one] for one in request.filters)
        self.send = send
        self.token = token
        self.ended = ended  # told when the cluster ends it
        self.is_created = False
        self.header = rpc.ResponseHeader()
        self.broadcast: Broadcast | None = None

    def say(self, response: rpc.WatchResponse) -> None:
        """A response of its own."""
        response.watch_id = self.id
        self.header = response.header
        self.send(response.SerializeToString())


class Broadcast:
    """One watch of the cluster. Changed by its hub only."""

    __slots__ = ("header", "is_created", "owner", "range", "through", "upstream", "watchers")

    def __init__(self, watcher: Watcher) -> None:
        self.range = watcher.range
        self.owner = watcher  # in whose name it is asked for
        self.through: int | None = watcher.next_revision - 1 if watcher.next_revision else None
        self.watchers: dict[Watcher, None] = {}
        self.is_created = False
        self.header = rpc.ResponseHeader()
        self.upstream: object = None  # the hub's host keeps what it needs here

    @property
    def start_revision(self) -> int:
        """From where to ask the cluster, now or again; 0: from now on."""
        return 0 if self.through is None else self.through + 1

    def takes(self, watcher: Watcher) -> bool:
        """Whether a watcher misses nothing here."""
        if watcher.next_revision == 0:
            return self.through is None
        return self.through is not None and watcher.next_revision > self.through


class Hub:
    """All groups. `open` asks the cluster for a broadcast, `close` gives it up."""

    def __init__(
        self, open: Callable[[Broadcast], None], close: Callable[[Broadcast], None]
    ) -> None:
        self._open, self._close = open, close
        self._groups: dict[Range, dict[Broadcast, None]] = {}
        self.watchers = 0
        self.events_coalesced_total = 0

    @property
    def broadcasts(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, watcher: Watcher) -> None:
        """A new watcher."""
        self.watchers += 1
        self._place(watcher)

    def remove(self, watcher: Watcher) -> None:
        """Its client has cancelled it, or is gone."""
        if watcher.broadcast is None:
            return
        self.watchers -= 1
        self._leave(watcher)

    def received(self, broadcast: Broadcast, response: rpc.WatchResponse) -> None:
        """The cluster's word on a broadcast, in order."""
        if response.canceled:
            self._canceled(broadcast, response)
            return
        broadcast.header = response.header
        if response.created:
            self._created(broadcast, response)
        if response.events:
            self._events(broadcast, response)
        elif not response.created:
            self._progress(broadcast, response)
        self._join_others(broadcast)

    def refused(self, broadcast: Broadcast, reason: str) -> None:
        """The cluster does not take it at all."""
        self._canceled(broadcast, rpc.WatchResponse(canceled=True, cancel_reason=reason))

    # Where a watcher rides

    def _place(self, watcher: Watcher) -> None:
        group = self._groups.setdefault(watcher.range, {})
        fitting = [one for one in group if one.takes(watcher)]
        if fitting:
            broadcast = max(fitting, key=lambda one: one.through or 0)
        else:
            broadcast = Broadcast(watcher)
            group[broadcast] = None
        self._ride(watcher, broadcast)
        if not fitting:
            self._open(broadcast)
        elif broadcast.is_created and not watcher.is_created:
            watcher.is_created = True
            watcher.say(rpc.WatchResponse(header=broadcast.header, created=True))

    def _ride(self, watcher: Watcher, broadcast: Broadcast) -> None:
        watcher.broadcast = broadcast
        broadcast.watchers[watcher] = None

    def _leave(self, watcher: Watcher) -> None:
        broadcast = watcher.broadcast
        assert broadcast is not None
        watcher.broadcast = None
        del broadcast.watchers[watcher]
        if not broadcast.watchers:
            self._forget(broadcast)
            self._close(broadcast)
        elif broadcast.owner is watcher:
            broadcast.owner = next(iter(broadcast.watchers))

    def _forget(self, broadcast: Broadcast) -> None:
        group = self._groups[broadcast.range]
        del group[broadcast]
        if not group:
            del self._groups[broadcast.range]

    def _join_others(self, broadcast: Broadcast) -> None:
        """The smaller of two moves to the larger when nothing is lost by it."""
        group = self._groups.get(broadcast.range, {})
        if len(group) < 2 or broadcast not in group:
            return
        for other in list(group):
            if other is broadcast or not other.is_created or not broadcast.is_created:
                continue
            larger = len(other.watchers) >= len(broadcast.watchers)
            source, goal = (broadcast, other) if larger else (other, broadcast)
            if all(goal.takes(watcher) for watcher in source.watchers):
                self._move(source, goal)
                if source is broadcast:
                    return

    def _move(self, source: Broadcast, goal: Broadcast) -> None:
        for watcher in list(source.watchers):
            self._ride(watcher, goal)
        source.watchers.clear()
        self._forget(source)
        self._close(source)

    # What the cluster says

    def _created(self, broadcast: Broadcast, response: rpc.WatchResponse) -> None:
        broadcast.is_created = True
        if broadcast.through is None:
            broadcast.through = response.header.revision
        for watcher in list(broadcast.watchers):
            if watcher.next_revision == 0:
                watcher.next_revision = broadcast.through + 1
            if not watcher.is_created:
                watcher.is_created = True
                watcher.say(rpc.WatchResponse(header=response.header, created=True))

    def _events(self, broadcast: Broadcast, response: rpc.WatchResponse) -> None:
        events = response.events
        first, last = events[0].kv.mod_revision, events[-1].kv.mod_revision
        shared = _Shared(response)
        for watcher in list(broadcast.watchers):
            watcher.header = response.header
            if watcher.next_revision <= first and not watcher.refused_types:
                watcher.send(shared.payload(watcher))
            else:
                _send_some(watcher, response)
            watcher.next_revision = max(watcher.next_revision, last + 1)
        self.events_coalesced_total += max(0, len(broadcast.watchers) - 1)
        broadcast.through = max(broadcast.through or 0, last)

    def _progress(self, broadcast: Broadcast, response: rpc.WatchResponse) -> None:
        revision = response.header.revision
        for watcher in list(broadcast.watchers):
            watcher.next_revision = max(watcher.next_revision, revision + 1)
            if watcher.wants_progress:
                watcher.say(rpc.WatchResponse(header=response.header))
        broadcast.through = max(broadcast.through or 0, revision)

    def _canceled(self, broadcast: Broadcast, response: rpc.WatchResponse) -> None:
        if broadcast not in self._groups.get(broadcast.range, {}):
            return
        self._forget(broadcast)
        self._close(broadcast)
        watchers, owner = list(broadcast.watchers), broadcast.owner
        broadcast.watchers.clear()
        compacted = response.compact_revision
        stay: list[Watcher] = []
        for watcher in watchers:
            watcher.broadcast = None
            is_hit = watcher.next_revision < compacted if compacted else watcher is owner
            if is_hit:
                self._end(watcher, response)
            else:
                stay.append(watcher)
        for watcher in stay:
            self._place(watcher)

    def _end(self, watcher: Watcher, response: rpc.WatchResponse) -> None:
        self.watchers -= 1
        copy = rpc.WatchResponse()
        copy.CopyFrom(response)
        copy.created = not watcher.is_created and response.created
        if not watcher.is_created and response.created:
            watcher.id = -1  # as etcd answers a watch that never was one
        watcher.say(copy)
        watcher.ended(watcher)


class _Shared:
    """One response for many watchers: all of it but the watch's id is serialised once."""

    def __init__(self, response: rpc.WatchResponse) -> None:
        self._response = response
        self._made: dict[bool, bytes] = {}

    def payload(self, watcher: Watcher) -> bytes:
        body = self._made.get(watcher.wants_prev_kv)
        if body is None:
            part = rpc.WatchResponse(header=self._response.header)
            part.events.extend(_shown(self._response.events, with_prev_kv=watcher.wants_prev_kv))
            body = self._made[watcher.wants_prev_kv] = part.SerializeToString()
        if watcher.id == 0:
            return body
        return body + b"\x10" + varint(watcher.id)  # field 2, watch_id


def _send_some(watcher: Watcher, response: rpc.WatchResponse) -> None:
    wanted = [
        event
        for event in response.events
        if event.kv.mod_revision >= watcher.next_revision
        and event.type not in watcher.refused_types
    ]
    if wanted:
        part = rpc.WatchResponse(header=response.header)
        part.events.extend(_shown(wanted, with_prev_kv=watcher.wants_prev_kv))
        watcher.say(part)


def _shown(events: Iterable[mvcc.Event], *, with_prev_kv: bool) -> Iterable[mvcc.Event]:
    if with_prev_kv:
        return events
    return [mvcc.Event(type=event.type, kv=event.kv) for event in events]
