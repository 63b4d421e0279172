"""The tree of v2 keys: directories and files, their indexes, and when they run out.

Strategy. Nodes are in memory, each knows its parent; what changes is told to `saved` and `dropped`,
which write it to the file (v2.py). Every change makes an event: into the history, and to watchers.

Rules, etcd's (server/etcdserver/api/v2store), also where they surprise:
- The index grows by one with each change that succeeds, and by nothing else.
- A set makes a new node: its created index is the new index. An update or a swap keeps the old one.
- A write makes the directories above it; they get the index of the write, and no event.
- A refresh keeps the value, and is in the history, but tells nobody.
- Some refusals are counted as successes: that of a read-only path, of a comparison before a delete.
- The clock shows in one number only, the seconds left that an answer or event tells. What expires,
  and when, is said by an entry of the log (`expire`), the same for every member.

Limits. All nodes are in memory, about 400 bytes each beside key and value.
"""

import heapq
import posixpath
from collections.abc import Callable, Iterator
from typing import Final

from pyetcd.store import v2event as ev
from pyetcd.store.v2error import (
    COMPARE_FAILED,
    DIR_NOT_EMPTY,
    KEY_NOT_FOUND,
    NODE_EXISTS,
    NOT_DIR,
    NOT_FILE,
    ROOT_READ_ONLY,
    V2Error,
)
from pyetcd.store.v2event import PERMANENT, Event, View
from pyetcd.store.v2watch import Hub

SECOND_NS: Final = 1_000_000_000
EXPIRATION_MIN_NS: Final = 946_684_800 * SECOND_NS  # 2000-01-01: what is earlier never expires
READ_ONLY: Final = frozenset(("/", "/0", "/1"))


class NotAFile(Exception):
    """etcd's own stumble over updating a directory: an error without a number."""


class Node:
    """A file, or a directory if it has `children`."""

    __slots__ = (
        "children",
        "created_index",
        "expiration_ns",
        "modified_index",
        "parent",
        "path",
        "value",
    )

    def __init__(
        self,
        path: str,
        value: str,
        *,
        is_dir: bool,
        index: int,
        parent: "Node | None",
        expiration_ns: int = PERMANENT,
    ) -> None:
        self.path = path
        self.value = value
        self.children: dict[str, Node] | None = {} if is_dir else None
        self.created_index = index
        self.modified_index = index
        self.parent = parent
        self.expiration_ns = expiration_ns

    @property
    def is_dir(self) -> bool:
        return self.children is not None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


STATS: Final = ("gets", "sets", "delete", "update", "create", "compareAndSwap", "compareAndDelete")


class Stats:
    """How many of each kind succeeded and failed on this member, since it started."""

    def __init__(self) -> None:
        self.success = dict.fromkeys(STATS, 0)
        self.fail = dict.fromkeys(STATS, 0)
        self.expired = 0
        self.reads: dict[str, int] = {}
        self.writes_astray: dict[str, int] = {}  # a file was on the way: counted once more

    def writes(self) -> dict[str, int]:
        """By action, as etcd's metrics count them."""
        astray = self.writes_astray
        found = {}
        for kind in STATS[1:]:
            action = ev.SET if kind == "sets" else kind
            found[action] = self.success[kind] + self.fail[kind] + astray.get(action, 0)
        found[ev.SET] -= sum(astray.values())
        return found


class Tree:
    """The tree itself. `now_ns` is the wall clock."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.hub = Hub()
        self.stats = Stats()
        self.saved: Callable[[Node], None] = lambda node: None
        self.dropped: Callable[[Node], None] = lambda node: None
        self._now_ns = now_ns
        self.clear()

    def clear(self) -> None:
        """As in a new cluster; watchers go on waiting."""
        self.index = 0
        self.root = Node("/", "", is_dir=True, index=0, parent=None)
        assert self.root.children is not None
        for name in ("0", "1"):
            node = Node("/" + name, "", is_dir=True, index=0, parent=self.root)
            self.root.children[name] = node
        self._expiring: list[tuple[int, int, str, Node]] = []

    # -- reading

    def get(self, path: str, *, recursive: bool = False, is_sorted: bool = False) -> Event:
        kind = "getRecursive" if recursive else ev.GET
        self.stats.reads[kind] = self.stats.reads.get(kind, 0) + 1
        try:
            node = self.find(path)
        except V2Error:
            self.stats.fail["gets"] += 1
            raise
        self.stats.success["gets"] += 1
        view = self._view(node)
        view.key = clean(path)
        if node.is_dir:
            view.nodes = self._children(node, recursive=recursive, is_sorted=is_sorted)
        return Event(ev.GET, view, etcd_index=self.index)

    def find(self, path: str) -> Node:
        """The node; V2Error if there is none, or a file is on the way."""
        node = self.root
        for name in _names(path):
            if node.children is None:
                raise V2Error(NOT_DIR, node.path, self.index)
            child = node.children.get(name)
            if child is None:
                raise V2Error(KEY_NOT_FOUND, posixpath.join(node.path, name), self.index)
            node = child
        return node

    @property
    def next_expiration_ns(self) -> int | None:
        """Of the node that runs out first."""
        self._skip_stale()
        return self._expiring[0][0] if self._expiring else None

    def nodes(self) -> Iterator[Node]:
        """All, parents first."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend((node.children or {}).values())

    def _children(self, node: Node, *, recursive: bool, is_sorted: bool) -> list[View]:
        views = []
        for child in (node.children or {}).values():
            if child.name.startswith("_"):
                continue
            view = self._view(child)
            if recursive and child.is_dir:
                view.nodes = self._children(child, recursive=True, is_sorted=is_sorted)
            views.append(view)
        if is_sorted:
            views.sort(key=lambda view: view.key.encode(errors="surrogateescape"))
        return views

    def _view(self, node: Node) -> View:
        return View(
            node.path,
            None if node.is_dir else node.value,
            node.is_dir,
            node.expiration_ns,
            self._ttl_s(node.expiration_ns),
            None,
            node.modified_index,
            node.created_index,
        )

    def _ttl_s(self, expiration_ns: int) -> int:
        if expiration_ns == PERMANENT:
            return 0
        return -((self._now_ns() - expiration_ns) // SECOND_NS)

    # -- writing

    def create(
        self, path: str, *, is_dir: bool, value: str, in_order: bool, expiration_ns: int
    ) -> Event:
        """`in_order`: below `path`, with the new index as its name."""
        try:
            if in_order:
                path = f"{path}/{self.index + 1:020d}"
            event = self._make(path, is_dir, value, expiration_ns, ev.CREATE)
        except V2Error:
            self.stats.fail["create"] += 1
            raise
        self.stats.success["create"] += 1
        self.hub.notify(event)
        return event

    def set(
        self, path: str, *, is_dir: bool, value: str, expiration_ns: int, refresh: bool
    ) -> Event:
        prev: View | None = None
        try:
            try:
                node = self.find(path)
            except V2Error as error:
                if error.number != KEY_NOT_FOUND or refresh:
                    raise
            else:
                prev = self._view(node)
                if refresh:
                    value = node.value
            event = self._make(path, is_dir, value, expiration_ns, ev.SET)
        except V2Error:
            self.stats.fail["sets"] += 1
            raise
        self.stats.success["sets"] += 1
        event.prev_node = prev
        self._tell(event, refresh=refresh)
        return event

    def update(self, path: str, *, value: str, expiration_ns: int, refresh: bool) -> Event:
        path = clean(path)
        if path in READ_ONLY:
            self.stats.success["update"] += 1
            raise V2Error(ROOT_READ_ONLY, "/", self.index)
        try:
            node = self.find(path)
        except V2Error:
            self.stats.fail["update"] += 1
            raise
        self.stats.success["update"] += 1
        if node.is_dir and value:
            raise V2Error(NOT_FILE, path, self.index)
        if node.is_dir:
            raise NotAFile(f"nodePath {path} : Not a file ()")
        return self._rewrite(node, ev.UPDATE, value, expiration_ns, refresh=refresh)

    def compare_and_swap(
        self,
        path: str,
        *,
        prev_value: str,
        prev_index: int,
        value: str,
        expiration_ns: int,
        refresh: bool,
    ) -> Event:
        path = clean(path)
        if path in READ_ONLY:
            self.stats.success["compareAndSwap"] += 1
            raise V2Error(ROOT_READ_ONLY, "/", self.index)
        try:
            node = self.find(path)
            if node.is_dir:
                raise V2Error(NOT_FILE, path, self.index)
            self._compare(node, prev_value, prev_index)
        except V2Error:
            self.stats.fail["compareAndSwap"] += 1
            raise
        self.stats.success["compareAndSwap"] += 1
        return self._rewrite(node, ev.COMPARE_AND_SWAP, value, expiration_ns, refresh=refresh)

    def delete(self, path: str, *, is_dir: bool, recursive: bool) -> Event:
        path = clean(path)
        if path in READ_ONLY:
            self.stats.success["delete"] += 1
            raise V2Error(ROOT_READ_ONLY, "/", self.index)
        try:
            node = self.find(path)
            if node.is_dir and not (is_dir or recursive):
                raise V2Error(NOT_FILE, path, self.index)
            if node.children and not recursive:
                raise V2Error(DIR_NOT_EMPTY, path, self.index)
        except V2Error:
            self.stats.fail["delete"] += 1
            raise
        self.stats.success["delete"] += 1
        return self._take_away(node, ev.DELETE)

    def compare_and_delete(self, path: str, *, prev_value: str, prev_index: int) -> Event:
        path = clean(path)
        try:
            node = self.find(path)
        except V2Error:
            self.stats.fail["compareAndDelete"] += 1
            raise
        self.stats.success["compareAndDelete"] += 1
        if node.is_dir:
            raise V2Error(NOT_FILE, path, self.index)
        self._compare(node, prev_value, prev_index)
        return self._take_away(node, ev.COMPARE_AND_DELETE)

    def expire(self, until_ns: int) -> None:
        """Take away what has run out; who calls says when that is."""
        while True:
            self._skip_stale()
            if not self._expiring or self._expiring[0][0] > until_ns:
                return
            self.stats.expired += 1
            self._take_away(self._expiring[0][3], ev.EXPIRE)

    # -- parts of it

    def _make(self, path: str, is_dir: bool, value: str, expiration_ns: int, action: str) -> Event:
        path = clean(path)
        if path in READ_ONLY:
            raise V2Error(ROOT_READ_ONLY, "/", self.index)
        if expiration_ns < EXPIRATION_MIN_NS:
            expiration_ns = PERMANENT
        try:
            parent = self._parent_of(path)
        except V2Error:
            self.stats.fail["sets"] += 1  # as well as what was asked
            self.stats.writes_astray[action] = self.stats.writes_astray.get(action, 0) + 1
            raise
        assert parent.children is not None
        name = path.rpartition("/")[2]
        old = parent.children.get(name)
        if old is not None:
            if action == ev.CREATE:
                raise V2Error(NODE_EXISTS, path, self.index)
            if old.is_dir:
                raise V2Error(NOT_FILE, path, self.index)
            self._unlink(old)
        self.index += 1
        node = Node(
            path,
            "" if is_dir else value,
            is_dir=is_dir,
            index=self.index,
            parent=parent,
            expiration_ns=expiration_ns,
        )
        parent.children[name] = node
        self.saved(node)
        self._watch_expiration(node)
        return Event(action, self._view(node), etcd_index=self.index)

    def _parent_of(self, path: str) -> Node:
        """The directory of `path`; made, with those above it, where it is missing."""
        node = self.root
        for name in _names(path.rpartition("/")[0]):
            assert node.children is not None
            child = node.children.get(name)
            if child is None:
                place = posixpath.join(node.path, name)
                child = Node(place, "", is_dir=True, index=self.index + 1, parent=node)
                node.children[name] = child
                self.saved(child)
            elif not child.is_dir:
                raise V2Error(NOT_DIR, child.path, self.index)
            node = child
        return node

    def _rewrite(
        self, node: Node, action: str, value: str, expiration_ns: int, *, refresh: bool
    ) -> Event:
        prev = self._view(node)
        self.index += 1
        node.value = node.value if refresh else value
        node.modified_index = self.index
        node.expiration_ns = expiration_ns
        self.saved(node)
        self._watch_expiration(node)
        event = Event(action, self._view(node), prev, self.index)
        self._tell(event, refresh=refresh)
        return event

    def _compare(self, node: Node, prev_value: str, prev_index: int) -> None:
        causes = []
        if prev_value and node.value != prev_value:
            causes.append(f"[{prev_value} != {node.value}]")
        if prev_index and node.modified_index != prev_index:
            causes.append(f"[{prev_index} != {node.modified_index}]")
        if causes:
            raise V2Error(COMPARE_FAILED, " ".join(causes), self.index)

    def _take_away(self, node: Node, action: str) -> Event:
        """The node and all below it, with one event, of which the watchers below hear first."""
        prev = self._view(node)
        self.index += 1
        view = View(node.path, is_dir=node.is_dir)
        view.modified_index = self.index
        view.created_index = node.created_index
        event = Event(action, view, prev, self.index)
        for gone in _below(node):
            self._unlink(gone)
            self.hub.notify_at(event, gone.path, is_deleted=True)
        self.hub.notify(event)
        return event

    def _unlink(self, node: Node) -> None:
        assert node.parent is not None and node.parent.children is not None
        del node.parent.children[node.name]
        node.parent = None  # what `_expiring` has of it is stale
        self.dropped(node)

    def _tell(self, event: Event, *, refresh: bool) -> None:
        if refresh:
            event.is_refresh = True
            self.hub.add(event)
        else:
            self.hub.notify(event)

    def _watch_expiration(self, node: Node) -> None:
        if node.expiration_ns != PERMANENT:
            item = (node.expiration_ns, node.modified_index, node.path, node)
            heapq.heappush(self._expiring, item)

    def _skip_stale(self) -> None:
        heap = self._expiring
        while heap and (heap[0][3].parent is None or heap[0][3].expiration_ns != heap[0][0]):
            heapq.heappop(heap)

    def restore(self, node: Node) -> None:
        """A node from the file, after its parent."""
        parent = self.find(posixpath.dirname(node.path))
        assert parent.children is not None
        node.parent = parent
        parent.children[node.name] = node
        self._watch_expiration(node)


def clean(path: str) -> str:
    """Go's path.Clean of an absolute path."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _names(path: str) -> list[str]:
    return [name for name in clean(path).split("/") if name]


def _below(node: Node) -> Iterator[Node]:
    """Children before their directory."""
    for child in list((node.children or {}).values()):
        yield from _below(child)
    yield node
