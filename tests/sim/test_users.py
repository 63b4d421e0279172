"""Seeds with users and v2 keys: which they are, and that their checks see what is wrong."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sim.auth_model import READ, AuthModel, User, Users
from sim.checks.access import check_access
from sim.checks.keys import check_keys, check_poll
from sim.checks.log import History, Operation
from sim.checks.violation import Violation
from sim.model import Model, result_of
from sim.runner import Task, first_found
from sim.shape import has
from sim.v2_model import ROOT, result_of_error, tree_of
from sim.v2_traffic import Asked

from pyetcd.proto.auth_pb2 import Permission
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import RangeRequest, RangeResponse
from pyetcd.server.http.v2json import event_json
from pyetcd.store.backend import Backend
from pyetcd.store.grants import Grants
from pyetcd.store.v2 import V2Store
from pyetcd.store.v2event import Event

KEYS = (b"", b"\0", b"a", b"a\0", b"b", b"b\0", b"c", b"d")


def test_one_seed_in_four() -> None:
    for kind in ("auth", "v2"):
        assert 200 < sum(has(kind, seed) for seed in range(1000)) < 300
    assert [seed for seed in range(1, 20) if has("auth", seed)] == [7, 10]


@pytest.mark.parametrize(
    ("bug", "kind", "check"),
    [("auth_revision_not_persisted", "auth", "users"), ("v2_children_stay", "v2", "v2")],
)
def test_a_bug_is_found_at_once(bug: str, kind: str, check: str) -> None:
    seeds = [seed for seed in range(1, 40) if has(kind, seed)]
    found, tried = first_found(seeds[:5], Task(bug=bug), jobs=1)
    assert found is not None, f"not in {tried} seeds"
    assert found.check == check, found.broken


def test_rights_are_what_the_store_makes_of_them() -> None:
    rng = random.Random(1)
    for _ in range(200):
        spans = []
        while len(spans) < rng.randint(0, 4):
            key, end = rng.choice(KEYS[1:]), rng.choice(KEYS)
            if end in (b"", b"\0") or end > key:
                spans.append((key, end))
        granted = [Permission(permType=READ, key=key, range_end=end) for key, end in spans]
        ranges = Grants(granted, is_root=False).read
        role = frozenset((READ, key, end) for key, end in spans)
        users = Users(True, 1, {"ann": User(b"", False, ("one",))}, {"one": role})
        for key in KEYS[1:]:
            for end in KEYS:
                assert users.may("ann", key, end, READ) == ranges.covers(key, end), (key, end)


# What a member decides by itself


def history_of(users: Users) -> History:
    history = History(Model(1))
    history.model.auth._changed_at.append(5)
    history.model.auth._states.append(users)
    return history


def read_by(name: str, answer: Any) -> Operation:
    request = RangeRequest(key=b"k")
    op = Operation("c1", "range", request, 0.0, 5, 1, common_name=name, answer=answer)
    op.served_index = op.answered_index = 5
    return op


ON = Users(True, 2, {"ann": User(b"", False, ())}, {})
READER = Users(
    True, 2, {"ann": User(b"", False, ("one",))}, {"one": frozenset({(READ, b"k", b"")})}
)


@pytest.mark.parametrize(
    ("users", "name", "text", "is_right"),
    [
        (ON, "ann", "", False),
        (ON, "ann", "permission denied", True),
        (ON, "", "", False),
        (ON, "", "user name is empty", True),
        (ON, "ann", "user name is empty", False),
        (READER, "ann", "", True),
        (READER, "ann", "permission denied", False),
        (READER, "bob", "", False),
        (READER._replace(enabled=False), "bob", "", True),
        (READER, "ann", "revision of auth store is old", False),
    ],
)
def test_who_is_let_in_wrongly_or_kept_out_is_seen(
    users: Users, name: str, text: str, is_right: bool
) -> None:
    op = read_by(name, (7, f"etcdserver: {text}") if text else RangeResponse())
    if is_right:
        return check_access(history_of(users), op)
    with pytest.raises(Violation, match="access"):
        check_access(history_of(users), op)
    return None


def test_a_token_is_void_once_the_password_changes() -> None:
    auth = AuthModel()

    def apply(index: int, **fields: Any) -> None:
        auth.apply(InternalRaftRequest(**fields), index)

    apply(1, auth_user_add={"name": "root"})
    apply(2, auth_user_grant_role={"user": "root", "role": "root"})
    apply(3, auth_enable={})
    apply(4, authenticate={"name": "root", "simple_token": "x"})
    apply(6, auth_user_change_password={"name": "root"})
    held = [auth.holder("x.4", index) for index in (3, 4, 5, 6)]
    assert held == ["", "root", "root", ""]


# v2 keys


def test_a_random_tree_is_the_model_s(tmp_path: Path) -> None:
    """The model and the store, without a cluster: 2,000 requests, among them odd ones."""
    rng, model = random.Random(5), Model(1)
    backend = Backend.open(str(tmp_path / "kv.db"), create=True)
    store = V2Store(backend, lambda: 1_700_000_000 * 10**9)
    places = ("", "/a", "/b", "/d", "/d/x", "/d/_s", "/d/e/z", "/a/under")
    for index in range(1, 2001):
        request = InternalRaftRequest()
        v2 = request.v2
        v2.Method = rng.choice(("PUT", "PUT", "PUT", "POST", "DELETE", "QGET", "SYNC"))
        v2.Path = ROOT + rng.choice(places)
        v2.Val = rng.choice(("", "v", "w"))
        v2.Dir, v2.Recursive = rng.random() < 0.2, rng.random() < 0.3
        v2.Refresh = rng.random() < 0.1
        v2.PrevValue = rng.choice(("", "", "", "v"))
        v2.PrevIndex = rng.choice((0, 0, 0, model.v2.index))
        v2.Time = rng.choice((0, 5, 9)) + 1_700_000_000 * 10**9
        v2.Expiration = rng.choice((0, 0, v2.Time + 3 + index, 1))
        if rng.random() < 0.3:
            v2.PrevExist = rng.random() < 0.5
        _agree(model, store, request, index)
    assert store.index == model.v2.index > 300
    backend.close()


def _agree(model: Model, store: V2Store, request: Any, index: int) -> None:
    expected = model.apply(request, index)
    found = store.apply(request.v2)
    if isinstance(found, Event):
        assert result_of(found) == expected, request
    elif found is not None:
        assert result_of_error(found) == expected, request
    else:
        assert expected is None
    assert tree_of(SimpleNamespace(v2=store)) == model.v2.at(index), request


@pytest.fixture
def told(tmp_path: Path) -> Any:
    """Two sets of one key: the history, and what a member of production tells of each."""
    history, backend = History(Model(1)), Backend.open(str(tmp_path / "kv.db"), create=True)
    store = V2Store(backend, lambda: 1_700_000_000 * 10**9)
    bodies = []
    for index, value in ((1, "v"), (2, "w")):
        request = InternalRaftRequest()
        request.v2.Method, request.v2.Path, request.v2.Val = "PUT", "/1/a", value
        history.result_by_index[index] = history.model.apply(request, index)
        history.index_by_id[index] = index
        event = store.apply(request.v2)
        assert isinstance(event, Event)
        bodies.append(event_json(event).encode())
    yield history, bodies
    backend.close()


def answer(asked: Asked, status: int, index: int, body: bytes) -> Operation:
    op = Operation("v1", "v2", asked, 0.0, 0, 1, request_id=2)
    op.answered_index = 2
    op.answer = (status, {"X-Etcd-Index": str(index)}, body)
    return op


def test_an_answer_that_is_not_the_model_s_is_seen(told: Any) -> None:
    history, bodies = told
    asked = Asked("PUT", "a", {"value": "w"})
    assert check_keys(history, answer(asked, 200, 2, bodies[1])) is not None
    for status, index, body in (
        (200, 1, bodies[0]),
        (201, 2, bodies[1]),
        (200, 2, bodies[1].replace(b"w", b"x")),
        (404, 2, b'{"errorCode":100,"cause":"/a","index":2}'),
    ):
        with pytest.raises(Violation, match="v2"):
            check_keys(history, answer(asked, status, index, body))
    lost = answer(asked, 200, 2, bodies[1])
    lost.request_id = 3
    with pytest.raises(Violation, match="no member has applied it"):
        check_keys(history, lost)


def test_an_event_that_was_left_out_is_seen(told: Any) -> None:
    history, bodies = told
    asked = Asked("GET", "a", {"wait": "true", "waitIndex": "1"})
    assert check_poll(history, answer(asked, 200, 2, bodies[0])) == 1
    with pytest.raises(Violation, match="is told of 2"):
        check_poll(history, answer(asked, 200, 2, bodies[1]))
    asked.fields["waitIndex"] = "2"
    assert check_poll(history, answer(asked, 200, 2, bodies[1])) == 2
    with pytest.raises(Violation, match="is told"):
        check_poll(history, answer(asked, 200, 2, bodies[0]))
