"""What the v2 API tells of a node and of a change, and the last thousand changes.

Every change has an index of its own, one more than the last, and is an event in the history. So
the index of an event is its place there.

Bound: HISTORY_MAX events. Who asks for an older one is told that it is gone (error 401).
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pyetcd.store.v2error import EVENT_INDEX_CLEARED, V2Error

HISTORY_MAX: Final = 1000

GET: Final = "get"
CREATE: Final = "create"
SET: Final = "set"
UPDATE: Final = "update"
DELETE: Final = "delete"
COMPARE_AND_SWAP: Final = "compareAndSwap"
COMPARE_AND_DELETE: Final = "compareAndDelete"
EXPIRE: Final = "expire"

PERMANENT: Final = 0  # an expiration that never comes


@dataclass(slots=True)
class View:
    """A node as it was; `value` None for a directory, and for what was deleted."""

    key: str
    value: str | None = None
    is_dir: bool = False
    expiration_ns: int = PERMANENT
    ttl_s: int = 0
    nodes: "list[View] | None" = None
    modified_index: int = 0
    created_index: int = 0

    def to_row(self) -> list[Any]:
        """For the history in the file; a view there has no children."""
        return [
            self.key,
            self.value,
            self.is_dir,
            self.expiration_ns,
            self.ttl_s,
            self.modified_index,
            self.created_index,
        ]

    @classmethod
    def of_row(cls, row: list[Any]) -> "View":
        key, value, is_dir, expiration_ns, ttl_s, modified, created = row
        return cls(key, value, is_dir, expiration_ns, ttl_s, None, modified, created)


@dataclass(slots=True)
class Event:
    """A change, or the answer of a read. `etcd_index` is that of the tree at the time."""

    action: str
    node: View
    prev_node: View | None = None
    etcd_index: int = 0
    is_refresh: bool = False

    @property
    def index(self) -> int:
        return self.node.modified_index

    @property
    def is_created(self) -> bool:
        return self.action == CREATE or (self.action == SET and self.prev_node is None)

    def to_row(self) -> list[Any]:
        prev = None if self.prev_node is None else self.prev_node.to_row()
        return [self.action, self.node.to_row(), prev, self.is_refresh]

    @classmethod
    def of_row(cls, row: list[Any]) -> "Event":
        action, node, prev, is_refresh = row
        view = View.of_row(node)
        before = None if prev is None else View.of_row(prev)
        return cls(action, view, before, view.modified_index, is_refresh)


class History:
    """The last events, in order and without a gap."""

    __slots__ = ("_events",)

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._events: deque[Event] = deque(events, HISTORY_MAX)

    def add(self, event: Event) -> None:
        assert not self._events or event.index == self.last_index + 1, (event, self.last_index)
        self._events.append(event)

    @property
    def start_index(self) -> int:
        return self._events[0].index if self._events else 0

    @property
    def last_index(self) -> int:
        return self._events[-1].index if self._events else 0

    def since(self, index: int) -> list[Event]:
        """Those from `index` on that are still there."""
        events = self._events
        return [events[place] for place in range(max(index - self.start_index, 0), len(events))]

    def scan(self, key: str, index: int, *, recursive: bool) -> Event | None:
        """The first event from `index` on that a watch of `key` gets; V2Error for one too old."""
        start = self.start_index
        if index < start:
            cause = f"the requested history has been cleared [{start}/{index}]"
            raise V2Error(EVENT_INDEX_CLEARED, cause)
        below = key if key.endswith("/") else key + "/"
        for place in range(index - start, len(self._events)):
            event = self._events[place]
            if event.is_refresh:
                continue
            if event.node.key == key or (recursive and event.node.key.startswith(below)):
                return event
            prev = event.prev_node
            # As etcd: by the beginning of the text, so /ab is told of the end of directory /a.
            is_gone = event.action in (DELETE, EXPIRE) and prev is not None and prev.is_dir
            if is_gone and prev is not None and key.startswith(prev.key):
                return event
        return None
