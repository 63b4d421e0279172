"""What the v2 API promises, in the dumbest way: a dict of paths, and the index of the last change.

It applies the requests of the log once, in order, and shares no code with the store. What the
cluster writes of itself, below /0, counts, and is not kept here. Only what the workload sends is
known: clean paths below /1.
"""

from bisect import bisect_right
from typing import Any, NamedTuple

NOT_FOUND, COMPARE, NOT_FILE, NOT_DIR = 100, 101, 102, 104
EXISTS, READ_ONLY, NOT_EMPTY = 105, 107, 108
STATUS = {NOT_FOUND: 404, COMPARE: 412, NOT_FILE: 403, EXISTS: 412, NOT_EMPTY: 403}
ROOT = "/1"
ADD, REMOVE, UPDATE = 0, 1, 2  # kinds of changes of the membership
YEAR_2000_NS = 946_684_800 * 10**9

Result = tuple[Any, ...]
# key, value (None: none shown), whether it is a directory, expiration, modified, created, children
Shown = tuple[Any, ...]


class Node(NamedTuple):
    value: str | None  # None for a directory
    expiration_ns: int
    modified: int
    created: int


class Happened(NamedTuple):
    """An event as a watcher is told of it."""

    at: int
    action: str
    node: Shown
    prev: Shown | None
    is_refresh: bool


class Refused(Exception):
    pass


class V2Model:
    def __init__(self) -> None:
        self.index = 0
        self.nodes = {ROOT: Node(None, 0, 0, 0)}
        self.members: dict[int, None] = {}
        self.events: dict[int, Happened] = {}
        # As it was from each entry on that changed it.
        self._changed_at = [0]
        self._states: list[tuple[int, dict[str, Node]]] = [(0, dict(self.nodes))]

    def changed(self, index: int) -> bool:
        """Whether the entry at that index changed anything."""
        place = bisect_right(self._changed_at, index) - 1
        return self._changed_at[place] == index

    def at(self, log_index: int) -> tuple[int, dict[str, Node]]:
        return self._states[bisect_right(self._changed_at, log_index) - 1]

    def keep(self, log_index: int) -> None:
        if self.index != self._states[-1][0]:
            self._changed_at.append(log_index)
            self._states.append((self.index, dict(self.nodes)))

    # The cluster's own

    def member_changed(self, kind: int, id: int) -> None:
        """A change that was valid: a member added or another is one write, one gone is two."""
        if kind == REMOVE:
            del self.members[id]
            self.index += 2
        else:
            self.members[id] = None
            self.index += 1

    def attributes_set(self, id: int) -> None:
        self.index += id in self.members

    def version_set(self) -> None:
        self.index += 1

    # Clients'

    def apply(self, request: Any) -> Result | None:
        try:
            return self._apply(request)
        except Refused as refused:
            number, cause = refused.args
            return ("v2error", number, cause, self.index)

    def _apply(self, request: Any) -> Result | None:
        method, path = request.Method, request.Path
        has_exist, compares = request.HasField("PrevExist"), request.PrevIndex or request.PrevValue
        if method == "SYNC":
            self._expire(request.Time)
            return None
        if method == "QGET":
            return read(self.index, self.nodes, path, recursive=request.Recursive)
        if method == "POST":
            return self._create(f"{path}/{self.index + 1:020d}", request)
        if method == "DELETE":
            return self._delete(path, request)
        if has_exist and not request.PrevExist:
            return self._create(path, request)
        if compares or has_exist:
            return self._update(path, request, "compareAndSwap" if compares else "update")
        return self._set(path, request)

    def _create(self, path: str, request: Any) -> Result:
        return self._make("create", path, request, request.Val, None)

    def _set(self, path: str, request: Any) -> Result:
        value, prev = request.Val, None
        try:
            find(self.nodes, path)
        except Refused as refused:
            if refused.args[0] != NOT_FOUND or request.Refresh:
                raise
        else:
            prev = self._show(path)
            if request.Refresh:
                value = self.nodes[path].value or ""
        return self._make("set", path, request, value, prev)

    def _make(self, action: str, path: str, request: Any, value: str, prev: Shown | None) -> Result:
        if path == ROOT:
            raise Refused(READ_ONLY, "/")
        missing = []
        above = path.rpartition("/")[0]
        while above not in self.nodes:
            missing.append(above)
            above = above.rpartition("/")[0]
        if self.nodes[above].value is not None:
            raise Refused(NOT_DIR, above)
        if path in self.nodes:
            if action == "create":
                raise Refused(EXISTS, path)
            if self.nodes[path].value is None:
                raise Refused(NOT_FILE, path)
        self.index += 1
        for each in missing:
            self.nodes[each] = Node(None, 0, self.index, self.index)
        expiration = request.Expiration if request.Expiration >= YEAR_2000_NS else 0
        held = None if request.Dir else value
        self.nodes[path] = Node(held, expiration, self.index, self.index)
        return self._happened(action, self._show(path), prev, request.Refresh)

    def _update(self, path: str, request: Any, action: str) -> Result:
        if path == ROOT:
            raise Refused(READ_ONLY, "/")
        find(self.nodes, path)
        old = self.nodes[path]
        if action == "update" and old.value is None and not request.Val:
            return ("error", f"nodePath {path} : Not a file ()")
        if old.value is None:
            raise Refused(NOT_FILE, path)
        if action == "compareAndSwap":
            self._compare(old, request)
        prev = self._show(path)
        self.index += 1
        value = old.value if request.Refresh else request.Val
        self.nodes[path] = Node(value, request.Expiration, self.index, old.created)
        return self._happened(action, self._show(path), prev, request.Refresh)

    def _compare(self, old: Node, request: Any) -> None:
        causes = []
        if request.PrevValue and request.PrevValue != old.value:
            causes.append(f"[{request.PrevValue} != {old.value}]")
        if request.PrevIndex and request.PrevIndex != old.modified:
            causes.append(f"[{request.PrevIndex} != {old.modified}]")
        if causes:
            raise Refused(COMPARE, " ".join(causes))

    def _delete(self, path: str, request: Any) -> Result:
        compares = request.PrevIndex or request.PrevValue
        if path == ROOT and not compares:
            raise Refused(READ_ONLY, "/")
        find(self.nodes, path)
        old = self.nodes[path]
        if compares:
            if old.value is None:
                raise Refused(NOT_FILE, path)
            self._compare(old, request)
            return self._take(path, "compareAndDelete")
        if old.value is None and not (request.Dir or request.Recursive):
            raise Refused(NOT_FILE, path)
        if not request.Recursive and any(each.startswith(path + "/") for each in self.nodes):
            raise Refused(NOT_EMPTY, path)
        return self._take(path, "delete")

    def _take(self, path: str, action: str) -> Result:
        old, prev = self.nodes[path], self._show(path)
        self.index += 1
        for each in list(self.nodes):
            if each == path or each.startswith(path + "/"):
                del self.nodes[each]
        shown = (path, None, old.value is None, 0, self.index, old.created, ())
        return self._happened(action, shown, prev, False)

    def _expire(self, until_ns: int) -> None:
        while True:
            due = [(n.expiration_ns, n.modified, path) for path, n in self.nodes.items()
                   if n.expiration_ns and n.expiration_ns <= until_ns]  # fmt: skip
            if not due:
                return
            self._take(min(due)[2], "expire")

    def _happened(self, action: str, node: Shown, prev: Shown | None, is_refresh: bool) -> Result:
        self.events[self.index] = Happened(self.index, action, node, prev, is_refresh)
        return ("v2", action, node, prev, self.index)

    def _show(self, path: str) -> Shown:
        return show(path, self.nodes[path])


def find(nodes: dict[str, Node], path: str) -> None:
    at = ROOT
    for name in path.split("/")[2:]:
        if nodes[at].value is not None:
            raise Refused(NOT_DIR, at)
        at = f"{at}/{name}"
        if at not in nodes:
            raise Refused(NOT_FOUND, at)


def show(path: str, node: Node, children: tuple[Shown, ...] = ()) -> Shown:
    is_dir = node.value is None
    return (path, node.value, is_dir, node.expiration_ns, node.modified, node.created, children)


def read(index: int, nodes: dict[str, Node], path: str, *, recursive: bool) -> Result:
    """What a GET is answered."""
    try:
        find(nodes, path)
    except Refused as refused:
        number, cause = refused.args
        return ("v2error", number, cause, index)
    return ("v2", "get", _listed(nodes, path, 1 << 30 if recursive else 1), None, index)


def _listed(nodes: dict[str, Node], path: str, depth: int) -> Shown:
    below = []
    if depth:
        for each in sorted(nodes):
            above, _, name = each.rpartition("/")
            if above == path and not name.startswith("_"):
                below.append(_listed(nodes, each, depth - 1))
    return show(path, nodes[path], tuple(below))


# Production's words in the model's; the seconds that are left are told by a clock, and are not
# looked at, nor is the order of children: both may differ.


def shown_of(view: Any) -> Shown:
    children = tuple(sorted(shown_of(child) for child in view.nodes or ()))
    return (view.key, view.value, view.is_dir, view.expiration_ns, view.modified_index,
            view.created_index, children)  # fmt: skip


def result_of_event(event: Any) -> Result:
    prev = None if event.prev_node is None else shown_of(event.prev_node)
    return ("v2", event.action, shown_of(event.node), prev, event.etcd_index)


def result_of_error(error: Any) -> Result:
    if hasattr(error, "number"):
        return ("v2error", error.number, error.cause, error.index)
    return ("error", error.text)


def tree_of(machine: Any) -> tuple[int, dict[str, Node]]:
    """What a member holds, as V2Model.at tells it."""
    tree = machine.v2.tree
    found = {}
    for node in tree.nodes():
        if node.path == ROOT or node.path.startswith(ROOT + "/"):
            value = None if node.is_dir else node.value
            found[node.path] = Node(
                value, node.expiration_ns, node.modified_index, node.created_index
            )
    return tree.index, found
