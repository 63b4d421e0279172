"""The v2 store of a member: the tree, kept in kv.db, and changed by entries of the log.

Strategy. The tree is in memory (v2tree.py). Each node that changes is marked, and once an entry is
applied what was marked is written, with the event of the change, in the transaction of that entry.
So a restart finds tree and history as they were, and a snapshot has them.

Rules. The index is that of the last event. Members, their attributes and the cluster version are
written below /0, as etcd writes them, for each of these writes counts; nobody reads them there.

Limit. The history in the file holds the last HISTORY_MAX events, as that in memory.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from pyetcd.proto.errors import Code, EtcdError, RpcError
from pyetcd.proto.v2request_pb2 import Request
from pyetcd.store.backend import Backend
from pyetcd.store.v2error import V2Error
from pyetcd.store.v2event import HISTORY_MAX, PERMANENT, Event, History
from pyetcd.store.v2tree import Node, NotAFile, Tree, clean
from pyetcd.store.v2watch import Watcher

KEYS: Final = "/1"  # what clients call /
AUTH: Final = "/2"
_CLUSTER: Final = "/0"

_SAVE: Final = (
    "INSERT OR REPLACE INTO v2_nodes"
    " (path, value, expiration, modified_index, created_index) VALUES (?, ?, ?, ?, ?)"
)


def holds_keys(backend: Backend) -> bool:
    """Whether there is more in the file than what the cluster writes below /0."""
    below = "CAST(path AS TEXT) GLOB '/[^0]*/?*'"
    return bool(backend.query(f"SELECT 1 FROM v2_nodes WHERE {below} LIMIT 1"))


class V2Store:
    """The state, and what an entry does to it."""

    def __init__(self, backend: Backend, now_ns: Callable[[], int]) -> None:
        self.now_ns = now_ns
        self.tree = Tree(now_ns)
        self.tree.saved = self._mark_saved
        self.tree.dropped = self._mark_dropped
        # Of the entry that is being applied: by path, None for what is gone.
        self._changed: dict[str, Node | None] = {}
        self._written = 0  # the index of the last event in the file
        self.reload(backend)

    def reload(self, backend: Backend) -> None:
        """Read everything from the file, at the start and after a snapshot was installed."""
        self._backend = backend
        tree = self.tree
        tree.clear()
        rows: list[Any] = backend.query(
            "SELECT path, value, expiration, modified_index, created_index FROM v2_nodes"
            " ORDER BY path"
        )
        for path, value, expiration_ns, modified, created in rows:
            is_dir = value is None
            text = "" if is_dir else text_of(value)
            node = Node(text_of(path), text, is_dir=is_dir, index=created, parent=None)
            node.modified_index = modified
            node.expiration_ns = expiration_ns
            tree.restore(node)
        events: list[Any] = backend.query("SELECT data FROM v2_events ORDER BY event_index")
        history = History(Event.of_row(json.loads(row[0])) for row in events)
        known, self._written = self._written, history.last_index
        tree.index = self._written
        tree.hub.replace(history, known)

    @property
    def index(self) -> int:
        return self.tree.index

    # -- an entry

    def apply(self, request: Request) -> Event | EtcdError | None:
        """What the entry came to; None for SYNC."""
        try:
            return self._apply(request)
        except (V2Error, UnknownMethod) as error:
            return error
        except NotAFile as error:
            return RpcError(Code.UNKNOWN, str(error))
        finally:
            self._write()

    def _apply(self, request: Request) -> Event | None:
        tree, method = self.tree, request.Method
        refresh = request.Refresh
        path, value = text_of(request.Path), text_of(request.Val)
        prev_value = text_of(request.PrevValue)
        if method == "QGET":
            return tree.get(path, recursive=request.Recursive, is_sorted=request.Sorted)
        if method == "SYNC":
            tree.expire(request.Time)
            return None
        if method == "POST":
            return tree.create(
                path,
                is_dir=request.Dir,
                value=value,
                in_order=True,
                expiration_ns=request.Expiration,
            )
        if method == "DELETE":
            if request.PrevIndex or request.PrevValue:
                return tree.compare_and_delete(
                    path, prev_value=prev_value, prev_index=request.PrevIndex
                )
            return tree.delete(path, is_dir=request.Dir, recursive=request.Recursive)
        if method != "PUT":
            raise UnknownMethod
        compares = bool(request.PrevIndex or request.PrevValue)
        if request.HasField("PrevExist") and not request.PrevExist:
            return tree.create(
                path,
                is_dir=request.Dir,
                value=value,
                in_order=False,
                expiration_ns=request.Expiration,
            )
        if compares:
            return tree.compare_and_swap(
                path,
                prev_value=prev_value,
                prev_index=request.PrevIndex,
                value=value,
                expiration_ns=request.Expiration,
                refresh=refresh,
            )
        if request.HasField("PrevExist"):
            return tree.update(
                path,
                value=value,
                expiration_ns=request.Expiration,
                refresh=refresh,
            )
        return tree.set(
            path,
            is_dir=request.Dir,
            value=value,
            expiration_ns=request.Expiration,
            refresh=refresh,
        )

    # -- what the cluster writes of itself

    def set_member(self, id: int, raft_attributes: str) -> None:
        """A member was added, or its peer URLs or its kind have changed."""
        path = f"{_CLUSTER}/members/{id:x}/raftAttributes"
        try:
            self.tree.find(path)
        except V2Error:
            self.tree.create(
                path, is_dir=False, value=raft_attributes, in_order=False, expiration_ns=PERMANENT
            )
        else:
            self.tree.update(path, value=raft_attributes, expiration_ns=PERMANENT, refresh=False)
        self._write()

    def count_lookup(self) -> None:
        """etcd reads the members there before it changes them, and counts that."""
        for path in ("members", "removed_members"):
            try:
                self.tree.get(f"{_CLUSTER}/{path}", recursive=True)
            except V2Error:
                pass

    def remove_member(self, id: int) -> None:
        path = f"{_CLUSTER}/members/{id:x}"
        try:
            self.tree.delete(path, is_dir=True, recursive=True)
        except V2Error:
            pass  # of a file that was older than the v2 store
        self._set(f"{_CLUSTER}/removed_members/{id:x}", "")

    def set_attributes(self, id: int, attributes: str) -> None:
        self._set(f"{_CLUSTER}/members/{id:x}/attributes", attributes)

    def set_version(self, version: str) -> None:
        self._set(f"{_CLUSTER}/version", version)

    def _set(self, path: str, value: str) -> None:
        self.tree.set(path, is_dir=False, value=value, expiration_ns=PERMANENT, refresh=False)
        self._write()

    def reset(self) -> None:
        """As in a new cluster: a restored one begins without v2 keys, as etcd's does."""
        self._backend.execute("DELETE FROM v2_nodes")
        self._backend.execute("DELETE FROM v2_events")
        self.reload(self._backend)

    # -- reading

    def get(self, request: Request) -> Event:
        """From this member; V2Error."""
        return self.tree.get(request.Path, recursive=request.Recursive, is_sorted=request.Sorted)

    def watch(
        self, request: Request, sink: Callable[[Event | None], None]
    ) -> tuple[Watcher, Event | None]:
        """The watcher, and the event it need not wait for; V2Error if that is gone. The sink gets
        None if later ones are (v2watch.py)."""
        tree = self.tree
        watcher = Watcher(
            tree.hub,
            clean(request.Path),
            sink,
            recursive=request.Recursive,
            stream=request.Stream,
            since=request.Since or tree.index + 1,
        )
        try:
            return watcher, tree.hub.watch(watcher, tree.index)
        except V2Error as error:
            error.index = tree.index
            raise

    # -- the file

    def _mark_saved(self, node: Node) -> None:
        self._changed[node.path] = node

    def _mark_dropped(self, node: Node) -> None:
        self._changed[node.path] = None

    def _write(self) -> None:
        execute = self._backend.execute
        for path, node in self._changed.items():
            place = path if _is_sound(path) else _bytes(path)
            if node is None:
                execute("DELETE FROM v2_nodes WHERE path = ?", (place,))
                continue
            value = None if node.is_dir else _bytes(node.value)
            indexes = (node.modified_index, node.created_index)
            execute(_SAVE, (place, value, node.expiration_ns, *indexes))
        self._changed.clear()
        if self._written == self.tree.index:
            return
        for event in self.tree.hub.history.since(self._written + 1):
            data = json.dumps(event.to_row(), separators=(",", ":"))
            execute("INSERT INTO v2_events (event_index, data) VALUES (?, ?)", (event.index, data))
        self._written = self.tree.index
        oldest = self._written - HISTORY_MAX
        execute("DELETE FROM v2_events WHERE event_index <= ?", (oldest,))


def text_of(value: str | bytes) -> str:
    """Members of etcd take bytes that are no UTF-8; they stay what they are."""
    return value if isinstance(value, str) else value.decode(errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _is_sound(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class UnknownMethod(RpcError):
    """The same on every member: an entry of a program that is neither etcd nor pyetcd."""

    def __init__(self) -> None:
        super().__init__(Code.UNKNOWN, "etcdserver: unknown method")
