"""Who waits for changes of v2 keys.

A watcher waits at one path. A change of a key goes to the watchers of that key, to the recursive
ones of every directory above it, and, when a directory goes with what is in it, to the watchers of
all that was below. Names that begin with `_` are seen only by who names them. Who waits while a
snapshot is installed is told what happened meanwhile (in etcd he misses it).

Bound: one watcher for each request that waits, and connections are bounded (server/listen.py). What
a watcher cannot take is its own affair: its sink must not wait.
"""

import posixpath
from collections.abc import Callable

from pyetcd.store.v2event import DELETE, EXPIRE, Event, History

# None, once and last: there may have been an event, and nobody knows it any more.
Sink = Callable[[Event | None], None]


class Watcher:
    """One that waits; `cancel` it when its client has gone."""

    __slots__ = ("_hub", "is_waiting", "key", "recursive", "since", "sink", "start_index", "stream")

    def __init__(
        self, hub: "Hub", key: str, sink: Sink, *, recursive: bool, stream: bool, since: int
    ) -> None:
        self.key = key
        self.sink = sink
        self.recursive = recursive
        self.stream = stream  # wants more than one event
        self.start_index = 0  # of the tree when it began
        self.is_waiting = False
        self._hub = hub
        self.since = since

    def takes(self, event: Event, *, is_key: bool, is_deleted: bool) -> bool:
        return (self.recursive or is_key or is_deleted) and event.index >= self.since

    def cancel(self) -> None:
        if self.is_waiting:
            self._hub.remove(self)


class Hub:
    """The watchers by path, and the history in which a new one looks first."""

    def __init__(self) -> None:
        self.history = History()
        self.count = 0
        self.requests_total = 0
        self._watchers: dict[str, dict[Watcher, None]] = {}

    def watch(self, watcher: Watcher, index: int) -> Event | None:
        """The event that it waits for, if it has been; else it waits from now on. `index` is the
        tree's."""
        self.requests_total += 1
        watcher.start_index = index
        event = self.history.scan(watcher.key, watcher.since, recursive=watcher.recursive)
        if event is None:
            self._watchers.setdefault(watcher.key, {})[watcher] = None
            self.count += 1
            watcher.is_waiting = True
        return event

    def remove(self, watcher: Watcher) -> None:
        assert watcher.is_waiting
        watcher.is_waiting = False
        self.count -= 1
        at = self._watchers[watcher.key]
        del at[watcher]
        if not at:
            del self._watchers[watcher.key]

    def replace(self, history: History, known: int) -> None:
        """A snapshot was installed: its history, and to the watchers what comes in it after
        `known`. They are let go if it does not reach back so far."""
        self.history = history
        if history.start_index > known + 1:
            for watcher in [watcher for at in self._watchers.values() for watcher in at]:
                self.remove(watcher)
                watcher.sink(None)
            return
        for event in history.since(known + 1) if self._watchers else ():
            if event.is_refresh:
                continue
            prev = event.prev_node
            if event.action in (DELETE, EXPIRE) and prev is not None and prev.is_dir:
                # What was below it is not in the history.
                below = event.node.key + "/"
                for path in [path for path in self._watchers if path.startswith(below)]:
                    self.notify_at(event, path, is_deleted=True)
            self._tell(event)

    def add(self, event: Event) -> None:
        """Into the history only."""
        self.history.add(event)

    def notify(self, event: Event) -> None:
        """Into the history, and to the watchers of the key and of all above it."""
        self.history.add(event)
        self._tell(event)

    def _tell(self, event: Event) -> None:
        self.notify_at(event, "/", is_deleted=False)
        path = ""
        for segment in event.node.key.split("/")[1:]:
            path += "/" + segment
            self.notify_at(event, path, is_deleted=False)

    def notify_at(self, event: Event, path: str, *, is_deleted: bool) -> None:
        """To the watchers of one path."""
        at = self._watchers.get(path)
        if at is None:
            return
        is_key = event.node.key == path
        if not is_key and is_hidden(path, event.node.key):
            return
        for watcher in list(at):
            if watcher.takes(event, is_key=is_key, is_deleted=is_deleted):
                if not watcher.stream:
                    self.remove(watcher)
                watcher.sink(event)


def is_hidden(watched: str, key: str) -> bool:
    """Whether a name below `watched`, on the way to `key`, begins with an underscore."""
    if len(watched) > len(key):
        return False
    return "/_" in posixpath.normpath("/" + key[len(watched) :])
