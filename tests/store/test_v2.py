"""The v2 store: what each operation does to the tree, the index, the history and the watchers."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.v2request_pb2 import Request
from pyetcd.store.backend import Backend
from pyetcd.store.v2 import V2Store
from pyetcd.store.v2error import V2Error
from pyetcd.store.v2event import HISTORY_MAX, Event

NOW_NS = 1_700_000_000 * 10**9
SECOND_NS = 10**9


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    backend = Backend.open(str(tmp_path / "kv.db"), create=True)
    yield backend
    backend.close()


@pytest.fixture
def store(backend: Backend) -> V2Store:
    return V2Store(backend, lambda: NOW_NS)


def ask(store: V2Store, method: str, path: str, **fields: Any) -> Event:
    found = store.apply(Request(Method=method, Path="/1" + path, **fields))
    if isinstance(found, EtcdError):
        raise found
    assert found is not None
    return found


def refused(store: V2Store, method: str, path: str, **fields: Any) -> tuple[int, str]:
    index = store.index
    with pytest.raises(V2Error) as raised:
        ask(store, method, path, **fields)
    assert store.index == index == raised.value.index
    return raised.value.number, raised.value.cause


def everything(store: V2Store) -> Any:
    nodes = sorted(
        (node.path, node.is_dir, node.value, node.expiration_ns, node.modified_index)
        for node in store.tree.nodes()
    )
    return store.index, nodes, [event.to_row() for event in store.tree.hub.history.since(0)]


def test_indexes(store: V2Store) -> None:
    first = ask(store, "PUT", "/a/b", Val="1")
    assert (first.action, first.node.modified_index, first.node.created_index) == ("set", 1, 1)
    assert first.is_created and store.tree.find("/1/a").modified_index == 1
    second = ask(store, "PUT", "/a/b", Val="2")
    assert (second.node.created_index, second.prev_node.value) == (2, "1")  # type: ignore[union-attr]
    third = ask(store, "PUT", "/a/b", Val="3", PrevExist=True)
    assert (third.action, third.node.created_index, third.node.modified_index) == ("update", 2, 3)
    fourth = ask(store, "POST", "/queue", Val="x")
    assert fourth.node.key == "/1/queue/00000000000000000004"
    assert ask(store, "DELETE", "/a", Recursive=True).node.is_dir
    assert store.index == 5


def test_refusals(store: V2Store) -> None:
    ask(store, "PUT", "/d/f", Val="v")
    assert refused(store, "QGET", "/x") == (100, "/1/x")
    assert refused(store, "QGET", "/d/f/x") == (104, "/1/d/f")
    assert refused(store, "PUT", "/d", Val="v") == (102, "/1/d")
    assert refused(store, "PUT", "/d", Dir=True) == (102, "/1/d")
    assert refused(store, "PUT", "/d/f", Val="v", PrevExist=False) == (105, "/1/d/f")
    assert refused(store, "PUT", "/", Val="v") == (107, "/")
    assert refused(store, "DELETE", "/d") == (102, "/1/d")
    assert refused(store, "DELETE", "/d", Dir=True) == (108, "/1/d")
    assert refused(store, "PUT", "/d/f", PrevValue="w") == (101, "[w != v]")
    assert refused(store, "PUT", "/d/f", PrevIndex=7) == (101, "[7 != 1]")
    assert refused(store, "DELETE", "/d/f", PrevIndex=7, PrevValue="w") == (
        101,
        "[w != v] [7 != 1]",
    )
    with pytest.raises(EtcdError, match="nodePath /1/d : Not a file"):
        ask(store, "PUT", "/d", PrevExist=True)
    with pytest.raises(EtcdError, match="unknown method"):
        ask(store, "PATCH", "/d")


def test_expiry_is_said_by_an_entry(store: V2Store) -> None:
    event = ask(store, "PUT", "/a", Val="v", Expiration=NOW_NS + 3 * SECOND_NS // 2)
    assert event.node.ttl_s == 2
    ask(store, "PUT", "/d", Dir=True, Expiration=NOW_NS + SECOND_NS)
    ask(store, "PUT", "/d/f", Val="v")
    ask(store, "PUT", "/kept", Val="v", Expiration=NOW_NS + SECOND_NS)
    ask(store, "PUT", "/kept", Val="v", PrevExist=True)
    assert store.tree.next_expiration_ns == NOW_NS + SECOND_NS
    store.apply(Request(Method="SYNC", Time=NOW_NS + 2 * SECOND_NS))
    assert store.index == 7 and store.tree.next_expiration_ns is None
    assert [event.node.key for event in store.tree.hub.history.since(6)] == ["/1/d", "/1/a"]
    assert [view.key for view in ask(store, "QGET", "/").node.nodes or []] == ["/1/kept"]


def watch(store: V2Store, path: str, **fields: Any) -> list[str]:
    got: list[str] = []

    def sink(event: Event) -> None:
        got.append(f"{event.action} {event.node.key} {event.index}")

    _, event = store.watch(Request(Path="/1" + path, **fields), sink)
    if event is not None:
        sink(event)
    return got


def test_watchers(store: V2Store) -> None:
    once = watch(store, "/d/f")
    stream = watch(store, "/d", Recursive=True, Stream=True)
    plain = watch(store, "/d")
    ask(store, "PUT", "/d/f", Val="1")
    ask(store, "PUT", "/d/_hidden/f", Val="1")
    ask(store, "PUT", "/d/f", Val="1", Refresh=True, Expiration=NOW_NS + SECOND_NS)
    below = watch(store, "/d/f")
    assert store.tree.hub.count == 3
    ask(store, "DELETE", "/d", Recursive=True)
    assert once == ["set /1/d/f 1"]
    assert stream == ["set /1/d/f 1", "delete /1/d 4", "delete /1/d 4"]  # twice, as etcd
    assert plain == below == ["delete /1/d 4"]
    assert store.tree.hub.count == 1
    assert watch(store, "/d/f", Since=1) == ["set /1/d/f 1"]
    assert watch(store, "/d/f", Since=2) == ["delete /1/d 4"]
    assert watch(store, "/d/f", Since=5) == []


def told_over_a_snapshot(
    store: V2Store, tmp_path: Path, path: str, places: list[str], **fields: Any
) -> list[int | None]:
    """What a watcher of `store` hears when the state after writes to these places is installed."""
    told: list[int | None] = []

    def sink(event: Event | None) -> None:
        told.append(None if event is None else event.index)

    ask(store, "PUT", "/a", Val="v")
    store.watch(Request(Path="/1" + path, **fields), sink)
    other = Backend.open(str(tmp_path / "other.db"), create=True)
    newer = V2Store(other, store.now_ns)
    for place in ["/a", *places]:
        ask(newer, "PUT", place, Val="v")
    ask(newer, "DELETE", "/d", Recursive=True)
    store.reload(other)
    ask(store, "PUT", "/a", Val="then")
    other.close()
    return told


@pytest.mark.parametrize(
    ("path", "fields", "told"),
    [
        ("/a", {}, [3]),
        ("/a", {"Stream": True}, [3, 5, 7]),
        ("/a", {"Since": 4}, [5]),
        ("/a", {"Since": 6}, [7]),
        ("", {"Recursive": True, "Stream": True}, [2, 3, 5, 6, 7]),
        ("/d/x", {"Stream": True}, [2, 6]),
        ("/e", {}, []),
    ],
)
def test_watchers_over_a_snapshot(
    store: V2Store, tmp_path: Path, path: str, fields: Any, told: list[int]
) -> None:
    """What happened meanwhile they are told, in its order and once."""
    places = ["/d/x", "/a", "/_h", "/a"]
    assert told_over_a_snapshot(store, tmp_path, path, places, **fields) == told
    assert store.tree.hub.count == (path == "/e" or "Stream" in fields)


def test_a_watcher_whose_events_are_gone_is_ended(store: V2Store, tmp_path: Path) -> None:
    places = ["/d", *["/b"] * HISTORY_MAX]
    assert told_over_a_snapshot(store, tmp_path, "/a", places, Stream=True) == [None]
    assert store.tree.hub.count == 0


def test_the_history_is_bounded(store: V2Store, backend: Backend) -> None:
    for number in range(HISTORY_MAX + 32):
        ask(store, "PUT", "/a", Val=str(number))
    with pytest.raises(V2Error, match=r"history has been cleared \[33/5\]") as raised:
        watch(store, "/a", Since=5)
    assert (raised.value.number, raised.value.index) == (401, HISTORY_MAX + 32)
    assert watch(store, "/a", Since=33) == ["set /1/a 33"]
    assert backend.query("SELECT count(*) FROM v2_events")[0][0] == HISTORY_MAX


def test_what_the_cluster_writes(store: V2Store) -> None:
    store.set_member(0xAB, "{}")
    store.set_attributes(0xAB, "{}")
    store.set_version("3.5.0")
    assert store.index == 3  # as on a fresh single etcd
    store.set_member(0xAB, '{"peerURLs":null}')
    store.remove_member(0xAB)
    assert store.index == 6
    store.reset()
    assert store.index == 0


def random_request(rng: random.Random) -> Request:
    names = ("a", "b", "_c")
    path = "/1" + "".join("/" + rng.choice(names) for _ in range(rng.randrange(4)))
    request = Request(Method=rng.choice(("PUT",) * 4 + ("POST", "DELETE", "SYNC")), Path=path)
    if request.Method == "SYNC":
        request.Time = NOW_NS + rng.randrange(10) * SECOND_NS
        return request
    request.Dir = rng.random() < 0.3
    request.Recursive = rng.random() < 0.3
    request.Val = rng.choice(("", "1", "2"))
    if rng.random() < 0.3:
        request.PrevExist = rng.random() < 0.7
    if rng.random() < 0.2:
        request.PrevValue = rng.choice("12")
    if rng.random() < 0.2:
        request.PrevIndex = rng.randrange(40)
    if rng.random() < 0.3:
        request.Expiration = NOW_NS + rng.randrange(-5, 20) * SECOND_NS
        request.Refresh = rng.random() < 0.3
    return request


def test_bytes_of_an_etcd_member(store: V2Store, backend: Backend) -> None:
    """Its clients may write what is no UTF-8; protobuf gives that as bytes."""
    encoded = b"\x12\x03PUT\x1a\x05/1/\xfe\xff\x22\x02\xff1"
    for index in (1, 2):
        found = store.apply(Request.FromString(encoded))
        assert isinstance(found, Event)
        assert found.node.value == "\udcff1" and found.node.key == "/1/\udcfe\udcff"
        assert found.is_created == (index == 1)
    assert everything(V2Store(backend, lambda: NOW_NS)) == everything(store)
    assert backend.query("SELECT count(*) FROM v2_nodes")[0][0] == 1
    gone = b"\x12\x06DELETE\x1a\x05/1/\xfe\xff"
    assert isinstance(store.apply(Request.FromString(gone)), Event)
    assert backend.query("SELECT count(*) FROM v2_nodes")[0][0] == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_restart_finds_everything(seed: int, store: V2Store, backend: Backend) -> None:
    rng = random.Random(seed)
    for _ in range(1500):
        before = store.index
        found = store.apply(random_request(rng))
        assert store.index - before in (0, 1) or found is None
    assert store.index > HISTORY_MAX // 4
    again = V2Store(backend, lambda: NOW_NS)
    assert everything(again) == everything(store)
    assert again.tree.next_expiration_ns == store.tree.next_expiration_ns
    json.dumps(everything(store))
